"""What LLVM's nvptx back end writes, run: the forms that our compiler's kernels come in."""

import llvmlite.binding as llvm
import numpy as np
import pytest
from ptx_harness import run
from tunefarm_device import ptx

TEXT = """
target triple = "nvptx64-nvidia-cuda"
@tile = internal addrspace(3) global [1024 x float] undef, align 16
@more = external addrspace(3) global [0 x i8], align 16
@table = internal addrspace(1) constant [4 x float]
  [float 1.0, float 2.0, float 3.0, float 4.0], align 16
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)
declare float @llvm.fma.f32(float, float, float)
declare half @llvm.fma.f16(half, half, half)
declare float @llvm.nvvm.ex2.approx.f(float)
declare float @llvm.nvvm.shfl.sync.bfly.f32(i32, float, i32, i32)
declare void @llvm.nvvm.cp.async.cg.shared.global.16(ptr addrspace(3), ptr addrspace(1))
declare void @llvm.nvvm.cp.async.commit.group()
declare void @llvm.nvvm.cp.async.wait.group(i32)
define ptx_kernel void @k(ptr %a, ptr %b, i32 %n, i32 %rounds) {
entry:
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %c = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %m = mul i32 %c, 64
  %i = add i32 %m, %t
  %ga = addrspacecast ptr %a to ptr addrspace(1)
  %gb = addrspacecast ptr %b to ptr addrspace(1)
  %i64 = zext i32 %i to i64
  %pa = getelementptr <4 x float>, ptr addrspace(1) %ga, i64 %i64
  %pb = getelementptr <4 x float>, ptr addrspace(1) %gb, i64 %i64
  %ps = getelementptr <4 x float>, ptr addrspace(3) @more, i32 %t
  call void @llvm.nvvm.cp.async.cg.shared.global.16(ptr addrspace(3) %ps, ptr addrspace(1) %pa)
  call void @llvm.nvvm.cp.async.commit.group()
  call void @llvm.nvvm.cp.async.wait.group(i32 0)
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  %other = xor i32 %t, 63
  %po = getelementptr <4 x float>, ptr addrspace(3) @more, i32 %other
  %v = load <4 x float>, ptr addrspace(3) %po, align 16
  br label %loop
loop:
  %k = phi i32 [0, %entry], [%next, %loop]
  %acc = phi <4 x float> [zeroinitializer, %entry], [%sum, %loop]
  %twice = fmul <4 x float> %acc, <float 0.5, float 0.5, float 0.5, float 0.5>
  %sum = fadd <4 x float> %twice, %v
  %next = add i32 %k, 1
  %done = icmp eq i32 %next, %rounds
  br i1 %done, label %out, label %loop
out:
  %x = extractelement <4 x float> %sum, i32 0
  %y = extractelement <4 x float> %sum, i32 1
  %z = extractelement <4 x float> %sum, i32 2
  %e = call float @llvm.nvvm.ex2.approx.f(float %x)
  %h = fptrunc float %y to half
  %h2 = call half @llvm.fma.f16(half %h, half %h, half %h)
  %hf = fpext half %h2 to float
  %bf = fptrunc float %z to bfloat
  %bf2 = fadd bfloat %bf, %bf
  %bff = fpext bfloat %bf2 to float
  %w = getelementptr float, ptr addrspace(3) @tile, i32 %t
  store float %e, ptr addrspace(3) %w
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  %wo = getelementptr float, ptr addrspace(3) @tile, i32 %other
  %eo = load float, ptr addrspace(3) %wo
  %s = call float @llvm.nvvm.shfl.sync.bfly.f32(i32 -1, float %eo, i32 16, i32 31)
  %which = and i32 %t, 3
  %pt = getelementptr float, ptr addrspace(1) @table, i32 %which
  %tv = load float, ptr addrspace(1) %pt
  %r0 = insertelement <4 x float> poison, float %s, i32 0
  %r1 = insertelement <4 x float> %r0, float %hf, i32 1
  %r2 = insertelement <4 x float> %r1, float %bff, i32 2
  %r3 = insertelement <4 x float> %r2, float %tv, i32 3
  %in = icmp ult i32 %i, %n
  br i1 %in, label %store, label %end
store:
  store <4 x float> %r3, ptr addrspace(1) %pb, align 16
  br label %end
end:
  ret void
}
"""


def compiled(opt: int, features: str) -> str:
    """The text as PTX for sm_80."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("nvptx64-nvidia-cuda")
    machine = target.create_target_machine(cpu="sm_80", opt=opt, features=features)
    made: str = machine.emit_assembly(llvm.parse_assembly(TEXT))
    return made


def test_a_kernel_of_llvm_gives_what_numpy_gives() -> None:
    rng = np.random.default_rng(1)
    given = rng.standard_normal((192, 4)).astype(np.float32)
    for opt, features in ((3, "+ptx70"), (0, "+ptx78")):
        text = compiled(opt, features)
        after, statistics = run(
            text, [given, np.zeros_like(given)], grid=3, block=64, shared=1024, more=(150, 5),
            statistics=True,
        )  # fmt: skip
        turned = given.reshape(3, 64, 4)[:, ::-1].reshape(192, 4)
        acc = np.zeros_like(turned)
        for _ in range(5):
            acc = acc * np.float32(0.5) + turned
        half = acc[:, 1].astype(np.float16)
        want = np.zeros_like(given)
        exponent = np.exp2(acc[:, 0].astype(np.float64)).astype(np.float32)
        place = np.arange(192)
        want[:, 0] = exponent[(place ^ 63) ^ 16]
        want[:, 1] = (half.astype(np.float64) * half + half).astype(np.float16)
        cut = acc[:, 2].view(np.uint32)
        cut = (cut + 0x7FFF + ((cut >> 16) & 1)) & 0xFFFF0000
        want[:, 2] = 2 * cut.view(np.float32)
        want[:, 3] = place % 4 + 1
        want[150:] = 0
        assert np.array_equal(after[1], want)
        assert statistics.barriers == 3 * 2 * 2 and statistics.bank_conflicts == 0


def test_a_kernel_of_llvm_without_its_last_barrier_races() -> None:
    text = compiled(3, "+ptx70")
    before, _, after = text.rpartition("bar.sync \t0;")
    given = np.zeros((192, 4), np.float32)
    with pytest.raises(ptx.SharedRaceError, match=r"ld\.shared\.b32 .*warp 1 wrote"):
        run(before + after, [given, given], grid=3, block=64, shared=1024, more=(150, 5))
