"""A kernel that does nothing but multiply-add: what a GPU can reach at all in float32."""

from tunefarm_proto.bundle import Bundle, Library, pack
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler.codegen import assembly, module_text
from tunefarm_compiler.gpu import assemble
from tunefarm_compiler.gpu.kernels import GpuCode, GpuLaunch
from tunefarm_compiler.targets import TargetSpec

CHAINS = 8  # of each thread, which depend on nothing of one another
ROUNDS, UNROLL = 256, 4
THREADS, BLOCKS = 256, 1056  # as many for each multiprocessor, of 132 or 108 and less, or nearly


def gpu_peak_bundle(spec: TargetSpec) -> Bundle:
    """Function `peak(x)`, x a float32[2] of (0.5, 0.5) and out a float32 of each thread.

    Chains of t = t * x[0] + x[1] in every thread, started at 1 and so staying there. The manifest
    states its operations.
    """
    source = module_text(_text(), spec)
    ptx = assembly(source, spec)
    _, resources = assemble.assemble(ptx, spec)
    launch = GpuLaunch("peak", (BLOCKS, 1, 1), (THREADS, 1, 1), (0, 1))
    plan = GpuCode(source, (launch,)).plan(resources)
    threads = BLOCKS * THREADS
    arguments = [
        bpb.ArgumentSignature(name="x", dtype="float32", shape=[2]),
        bpb.ArgumentSignature(name="out", dtype="float32", shape=[threads], output=True),
    ]
    operations = 2 * ROUNDS * UNROLL * CHAINS * threads
    function = bpb.FunctionSignature(name="peak", arguments=arguments, operations=operations)
    manifest = bpb.BundleManifest(workload="peak", functions=[function])
    return pack(manifest, [Library(spec.to_proto(), ptx.encode(), launches={"peak": plan})])


def _text() -> str:
    """LLVM text of the kernel."""
    last = UNROLL - 1
    lines = [
        "define ptx_kernel void @peak(ptr addrspace(1) %in, ptr addrspace(1) %out)"
        f' nounwind "nvvm.reqntid"="{THREADS},1,1" {{',
        "entry:",
        "  %x = load float, ptr addrspace(1) %in, align 4",
        "  %second = getelementptr float, ptr addrspace(1) %in, i32 1",
        "  %y = load float, ptr addrspace(1) %second, align 4",
        "  br label %loop",
        "loop:",
        "  %i = phi i32 [ 0, %entry ], [ %n, %loop ]",
    ]
    lines += [
        f"  %t{c} = phi float [ 1.0, %entry ], [ %t{c}.{last}, %loop ]" for c in range(CHAINS)
    ]
    for step in range(UNROLL):
        for c in range(CHAINS):
            before = f"%t{c}" if step == 0 else f"%t{c}.{step - 1}"
            lines.append(
                f"  %t{c}.{step} = call float @llvm.fma.f32(float {before}, float %x, float %y)"
            )
    lines += [
        "  %n = add nuw nsw i32 %i, 1",
        f"  %more = icmp ult i32 %n, {ROUNDS}",
        "  br i1 %more, label %loop, label %done",
        "done:",
        "  %thread = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()",
        "  %block = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()",
        f"  %first = mul i32 %block, {THREADS}",
        "  %at = add i32 %first, %thread",
        "  %place = getelementptr float, ptr addrspace(1) %out, i32 %at",
    ]
    total = f"%t0.{last}"
    for c in range(1, CHAINS):
        # Kept alive by a maximum, which leaves the ones that they all are.
        lines.append(f"  %c{c} = fcmp ogt float {total}, %t{c}.{last}")
        lines.append(f"  %m{c} = select i1 %c{c}, float {total}, float %t{c}.{last}")
        total = f"%m{c}"
    lines += [f"  store float {total}, ptr addrspace(1) %place, align 4", "  ret void", "}"]
    declared = ["tid.x", "ctaid.x"]
    lines += [f"declare i32 @llvm.nvvm.read.ptx.sreg.{one}()" for one in declared]
    return "\n".join([*lines, "declare float @llvm.fma.f32(float, float, float)"]) + "\n"
