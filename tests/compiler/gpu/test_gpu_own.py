"""GPU kernels of one's own: CUDA C, PTX, cubins, Triton's output become bundles, without a GPU."""

import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tunefarm_compiler.cache import BuildCache
from tunefarm_compiler.gpu import nvrtc, triton
from tunefarm_compiler.gpu.assemble import ptxas
from tunefarm_compiler.gpu.cubin import read_cubin
from tunefarm_compiler.gpu.entries import read_ptx
from tunefarm_compiler.gpu.geometry import CARDS
from tunefarm_compiler.gpu.own import build
from tunefarm_compiler.targets import GPU_LEVELS, resolve
from tunefarm_device import ptx as machine
from tunefarm_proto import errors, extras
from tunefarm_proto.bundle import Bundle, choose_library
from tunefarm_proto.v1 import common_pb2 as pb

try:
    import triton.language as tl
except ImportError:
    tl = None

AXPY = """
#include "scale.h"
__global__ void axpy(const float *x, float *y) {
  __shared__ float part[128];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  part[threadIdx.x] = x[i];
  __syncthreads();
  y[i] += SCALE * part[127 - threadIdx.x];
}
extern "C" __global__ void fill(float *y, int n) { if (threadIdx.x < n) y[threadIdx.x] = 1; }
"""
ARGS = "x:float32[1024] y:out:float32[1024]"
PTX = """//
.version 7.8
.target sm_80
.address_size 64
.visible .entry scale(
  .param .u64 .ptr .global .align 1 scale_param_0, // x
  .param .u64 scale_param_1
)
.maxntid 256, 1, 1
{ ret; }
.visible .entry scalar(.param .u64 a, .param .f32 b) .reqntid 64 { ret; }
.visible .entry by_value(.param .align 8 .b8 a[24]) { ret; }
.visible .entry nothing() { ret; }
/* .entry gone(.param .u64 a) { */
"""


def has_nvrtc() -> bool:
    found = subprocess.run(
        [sys.executable, "-c", "from cuda.bindings import nvrtc; nvrtc.nvrtcVersion()"],
        capture_output=True,
        check=False,
    )
    return found.returncode == 0


needs_nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="needs tunefarm[nvrtc]")


@pytest.fixture
def axpy(tmp_path: Path) -> Path:
    (tmp_path / "scale.h").write_text("#define SCALE 3\n")
    (tmp_path / "axpy.cu").write_text(AXPY)
    return tmp_path / "axpy.cu"


@pytest.fixture
def ptx(tmp_path: Path) -> Path:
    (tmp_path / "scale.ptx").write_text(PTX)
    return tmp_path / "scale.ptx"


def launch_of(bundle: Bundle, number: int = 0):
    (function,) = bundle.manifest.functions
    (launch,) = bundle.manifest.libraries[number].launches[function.name].launches
    return launch


def run(bundle: Bundle, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What a bundle's PTX makes of its arguments, on the machine that runs it here."""
    (function,) = bundle.manifest.functions
    library = bundle.manifest.libraries[0]
    plan, memory = library.launches[function.name], machine.Memory()
    module = machine.Module(bundle.library(library).decode())
    places = [memory.put(array) for array in arrays]
    places += [memory.allocate(size) for size in plan.scratch_bytes]
    for one in plan.launches:
        machine.launch(
            module.kernels[one.kernel], tuple(one.grid), tuple(one.block), one.shared_bytes,
            [places[place] for place in one.arguments], memory,
        )  # fmt: skip
    pairs = zip(arrays, places, strict=False)
    return [memory.get(place, array.dtype, array.shape) for array, place in pairs]


def device(level: str, *more: str) -> pb.Target:
    return pb.Target(
        triple="nvptx64-nvidia-cuda", cpu=level, features=[*resolve(level).features, *more]
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("cu13/include/cuda_fp16.h", "cu13/include/crt/mma.h", "cu13/include/cccl/cub.h",
          "cuda_nvcc/include/crt/mma.h"), ["cu13/include", "cu13/include/cccl"]),
        (("cuda_runtime/include/cuda_fp16.h", "cuda_nvcc/include/crt/mma.h",
          "cuda_nvrtc/include/nvrtc.h"), ["cuda_runtime/include", "cuda_nvcc/include"]),
    ],
)  # fmt: skip
def test_headers_of_packages_are_found(monkeypatch, tmp_path, files, expected):
    """Those of CUDA 13 lie in one folder, those of CUDA 12 in one for each package."""
    for name in files:
        tmp_path.joinpath("nvidia", name).parent.mkdir(parents=True, exist_ok=True)
        tmp_path.joinpath("nvidia", name).touch()
    monkeypatch.setattr(nvrtc.site, "getsitepackages", lambda: [str(tmp_path)])
    found = nvrtc._includes([])
    assert found == [tmp_path / "nvidia" / name for name in expected]


@pytest.mark.parametrize(("bindings", "extra"), [("12.9.10", "nvrtc12"), ("13.0.1", "nvrtc")])
def test_the_nvrtc_that_goes_with_the_bindings_is_asked_for(monkeypatch, bindings, extra):
    monkeypatch.setattr(nvrtc.importlib.metadata, "version", lambda name: bindings)
    assert nvrtc.install() == extras.install(extra)


@needs_nvrtc
def test_cuda_c_of_cudas_headers_alone_is_kept(axpy, tmp_path):
    cache = BuildCache(tmp_path / "cache")
    text = "#include <cuda_fp16.h>\n" + axpy.read_text().replace('#include "scale.h"\n', "")

    def made(**more):
        before, words = cache.hits, {"grid": 8, "block": 128, "flags": "-DSCALE=3"} | more
        return build(axpy, "sm_80", ARGS, **words, cache=cache).digest, cache.hits > before

    axpy.write_text(text)
    first, hit = made()
    assert not hit and made() == (first, True)
    for more in ({"grid": 4}, {"shared": 64}, {"flags": "-DSCALE=4"}):
        assert not made(**more)[1]
    # A file of the user's, by whatever way: nothing tells whether that one changed.
    for taken in ('#include "scale.h"', "#include <scale.h>", "#define X <scale.h>\n#include X"):
        axpy.write_text(f"{taken}\n{text}")
        assert not made(flags="")[1] and not made(flags="")[1]
    axpy.write_text(text)
    assert not made(flags="-DSCALE=3 -I.")[1] and not made(flags="-DSCALE=3 -I.")[1]
    assert made() == (first, True)
    (tmp_path / "cuda_fp16.h").write_text("#define MINE\n")  # it is found before CUDA's
    assert not made()[1]


def test_ptx_is_kept_by_its_text(ptx, tmp_path):
    cache, digests = BuildCache(tmp_path / "cache"), []
    for text in (PTX, PTX, PTX + "// more\n"):
        ptx.write_text(text)
        args = "x:float32[64] y:out:float32[64]"
        digests.append(build(ptx, "local", args, grid=4, block=32, cache=cache).digest)
    assert digests[0] == digests[1] != digests[2] and (cache.hits, cache.misses) == (1, 2)


@needs_nvrtc
def test_cuda_c_is_compiled_for_several_targets_to_the_same_bytes(axpy, tmp_path):
    def made(path: Path) -> Bundle:
        return build(path, ["sm_75", "h100"], ARGS, grid=8, block=128)

    first = made(axpy)
    elsewhere = tmp_path / "another folder"
    elsewhere.mkdir()
    for name in ("axpy.cu", "scale.h"):
        (elsewhere / name).write_text((tmp_path / name).read_text())
    assert made(elsewhere / "axpy.cu").data == first.data
    assert str(tmp_path).encode() not in first.data
    (function,) = first.manifest.functions
    assert function.name == "axpy" and [a.output for a in function.arguments] == [False, True]
    assert [entry.path for entry in first.manifest.libraries] == [
        "lib/0.ptx", "lib/1.cubin", "lib/2.ptx", "lib/3.cubin",
    ]  # fmt: skip
    launch = launch_of(first)
    assert (launch.kernel, [*launch.grid], [*launch.block]) == (
        "_Z4axpyPKfPf", [8, 1, 1], [128, 1, 1],
    )  # fmt: skip
    assert [*launch.arguments] == [0, 1]
    assert launch.resources.registers > 0 and launch.resources.shared_bytes == 512
    text = first.library(first.manifest.libraries[2]).decode()
    assert ".target sm_90" in text and launch.kernel in text


@needs_nvrtc
@pytest.mark.parametrize("level", ["sm_75", "sm_90"])
def test_cuda_c_computes_what_it_says(axpy, level):
    x, y = (np.random.default_rng(n).random(1024, np.float32) for n in (0, 1))
    made = run(build(axpy, level, ARGS, grid=8, block=128), [x, y])[1]
    turned = x.reshape(8, 128)[:, ::-1].reshape(1024)
    np.testing.assert_allclose(made, y + 3 * turned, rtol=1e-6)


@needs_nvrtc
def test_a_device_takes_machine_code_of_its_kind_and_text_otherwise(axpy):
    manifest = build(axpy, ["sm_80", "sm_90"], ARGS, grid=8, block=128).manifest

    def taken(target: pb.Target) -> str:
        return choose_library(manifest, target).path

    assert taken(device("sm_80", "cubin_8")) == "lib/1.cubin"
    assert taken(device("sm_89", "cubin_8")) == "lib/1.cubin"
    assert taken(device("sm_89")) == "lib/0.ptx"  # where nothing runs machine code
    assert taken(device("sm_87", "cubin_87")) == "lib/0.ptx"
    assert taken(device("sm_90", "cubin_9", "sm_90a")) == "lib/3.cubin"
    assert taken(device("sm_120", "cubin_12")) == "lib/2.ptx"
    with pytest.raises(errors.TargetMismatchError, match="needs sm_80"):
        choose_library(manifest, device("sm_75", "cubin_7"))


@needs_nvrtc
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("__global__ void f(float *a) { b[0] = 1; }", r'f\.cu:1: identifier "b" is undefined'),
        ("__global__ void f(float *a) {\n a[0] = 1 }", r'f\.cu:2: expected a ";"'),
        ('#include "gone.h"', r'f\.cu:1: (could not|cannot) open source file "gone\.h"'),
        ("__global__ void f(float *a) { __shared__ float b[1 << 20]; b[threadIdx.x] = a[0]; "
         "__syncthreads(); a[1] = b[a[2] > 0]; }", r"f\.cu: .*too much shared data"),
        ("__device__ int f;", r"f\.cu: no kernel is named f"),
        ("__global__ void g(float *a) {} __global__ void h(float *a) {}", "it has (g, h|h, g)"),
        ("template<class T> __global__ void f(T *a) {} template __global__ void f<int>(int *);"
         "template __global__ void f<float>(float *);", "several kernels are named f"),
    ],
)  # fmt: skip
def test_what_does_not_compile_is_told_in_one_line(tmp_path, source, said):
    (tmp_path / "f.cu").write_text(source)
    with pytest.raises(errors.BuildFailedError, match=said) as caught:
        build(tmp_path / "f.cu", "sm_80", "a:float32[4]", grid=1, block=32)
    assert len(str(caught.value).splitlines()) == 1


@needs_nvrtc
def test_headers_of_the_toolkit_are_found_where_there_is_one(tmp_path):
    if not nvrtc._includes(nvrtc._toolkits()):
        pytest.skip("no CUDA headers here")
    (tmp_path / "h.cu").write_text(
        '#include <cuda_fp16.h>\nextern "C" __global__ void h(__half *a) { a[0] = hexp(a[0]); }'
    )
    made = build(tmp_path / "h.cu", "sm_80", "a:out:float16[1]", grid=1, block=1)
    assert launch_of(made).kernel == "h"


@needs_nvrtc
@pytest.mark.parametrize("level", GPU_LEVELS)
def test_a_cubin_tells_its_kernels_and_what_they_take(axpy, tmp_path, level):
    made = nvrtc.compile_cuda(axpy, level)
    code = read_cubin(made.cubin)
    assert code.target == level == read_ptx(made.ptx.decode()).target
    told = made.resources
    for entry in code.entries:
        assert entry.resources.registers == told[entry.symbol].registers
        assert entry.resources.shared_bytes == told[entry.symbol].shared_bytes
        assert [one.pointer for one in entry.parameters] == [True, entry.name == "axpy"]
    (tmp_path / "axpy.cubin").write_bytes(made.cubin)
    bundle = build(tmp_path / "axpy.cubin", "local", ARGS, grid=8, block=128)
    (library,) = bundle.manifest.libraries
    assert library.path == "lib/0.cubin" and library.target.cpu == level
    with pytest.raises(errors.BuildFailedError, match="parameter 2 of fill is no pointer"):
        build(tmp_path / "axpy.cubin", "local", ARGS, "fill", grid=8, block=128)


@needs_nvrtc
def test_a_damaged_cubin_is_refused_in_one_line(axpy, tmp_path):
    whole = nvrtc.compile_cuda(axpy, "sm_80").cubin
    path = tmp_path / "axpy.cubin"
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(errors.BuildFailedError) as caught:
            build(path, "sm_80", ARGS, grid=8, block=128)
        assert len(str(caught.value).splitlines()) == 1
    path.write_bytes(whole)
    with pytest.raises(errors.BuildFailedError, match="for sm_80, which sm_90 does not run"):
        build(path, "sm_90", ARGS, grid=8, block=128)


def test_ptx_is_taken_as_it_is(ptx):
    made = build(ptx, "local", "x:float32[64] y:out:float32[64]", grid=(4, 2), block=256, shared=64)
    (library,) = made.manifest.libraries
    assert made.library(library) == ptx.read_bytes()
    assert library.target == resolve("sm_80").to_proto()
    launch = launch_of(made)
    assert ([*launch.grid], launch.shared_bytes) == ([4, 2, 1], 64)
    for_older = build(ptx, "rtx4090", "x:float32[64] y:out:float32[64]", grid=4, block=32)
    assert for_older.manifest.libraries[0].target.cpu == "sm_89"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"args": "x:float32[4]"}, errors.BuildFailedError, "2 parameters, and 1 argument is"),
        ({"function": "scalar"}, errors.BuildFailedError, "parameter 2 of scalar is no pointer"),
        ({"function": "by_value"}, errors.BuildFailedError, "1 of by_value is no pointer"),
        ({"function": "gone"}, errors.BuildFailedError, "no kernel is named gone"),
        ({"function": "a b"}, errors.InvalidRequestError, "no name of a function"),
        ({"grid": 0}, errors.InvalidRequestError, "--grid 0"),
        ({"grid": (1, 70000)}, errors.InvalidRequestError, "--grid 1,70000"),
        ({"grid": (1, 1, 1, 1)}, errors.InvalidRequestError, "--grid 1,1,1,1"),
        ({"block": 2048}, errors.InvalidRequestError, "--block 2048"),
        ({"block": (64, 32)}, errors.InvalidRequestError, "a block of 2048 threads"),
        ({"block": 512}, errors.InvalidRequestError, "up to 256 threads"),
        ({"block": ()}, errors.InvalidRequestError, "needs the threads of a block"),
        ({"shared": 1 << 20}, errors.InvalidRequestError, "bytes of shared memory"),
        ({"shared": -1}, errors.InvalidRequestError, "bytes of shared memory"),
        ({"target": "sm_75"}, errors.BuildFailedError, "for sm_80, which sm_75 does not run"),
        ({"target": "rasp4b"}, errors.InvalidRequestError, "target rasp4b is aarch64"),
        ({"target": ["sm_80", "a100"]}, errors.InvalidRequestError, "named once"),
        ({"flags": "-O3"}, errors.InvalidRequestError, "--flags are for CUDA C"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_line(ptx, given, error, said):
    words = {
        "target": "sm_80", "args": "x:float32[4] y:out:float32[4]", "grid": 8, "block": 128,
    } | given  # fmt: skip
    with pytest.raises(error, match=said) as caught:
        build(ptx, words.pop("target"), words.pop("args"), **words)
    assert len(str(caught.value).splitlines()) == 1 and caught.value.hint


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x7fELF\x02", "no PTX"),
        (b"\xff\xfe", "no text"),
        (b"int main;", "no .version"),
        (PTX.replace("address_size 64", "address_size 32").encode(), "32 bits"),
        (PTX.replace("sm_80", "sm_90a").encode(), "for sm_90a, which sm_80 does not run"),
    ],
)
def test_what_is_no_ptx_is_refused(tmp_path, data, said):
    (tmp_path / "scale.ptx").write_bytes(data)
    with pytest.raises(errors.BuildFailedError, match=said):
        build(tmp_path / "scale.ptx", "sm_80", "a:int8[1] b:int8[1]", grid=1, block=1)


@pytest.mark.skipif(not ptxas(), reason="there is no ptxas on this machine")
def test_ptxas_says_what_ptx_takes_and_what_is_wrong_with_it(ptx):
    args = "x:float32[64] y:out:float32[64]"
    assert launch_of(build(ptx, "sm_90", args, grid=1, block=32)).resources.registers > 0
    newer = PTX.replace(".version 7.8", ".version 99.9")
    ptx.write_text(newer)  # it may know no more of it than that
    assert not launch_of(build(ptx, "sm_90", args, grid=1, block=32)).HasField("resources")
    ptx.write_text(PTX.replace("{ ret; }", "{ jump; }", 1))
    with pytest.raises(
        errors.BuildFailedError, match=r"scale\.ptx: ptxas refused .*jump"
    ) as caught:
        build(ptx, "sm_90", args, grid=1, block=32)
    assert len(str(caught.value).splitlines()) == 1


def test_a_block_that_the_kernel_fixes_may_be_left_out(ptx):
    fixed = PTX.replace(".param .f32 b", ".param .u64 b")
    ptx.write_text(fixed)
    args = "x:float32[4] y:out:float32[4]"
    assert [*launch_of(build(ptx, "sm_80", args, "scalar", grid=1)).block] == [64, 1, 1]
    with pytest.raises(errors.InvalidRequestError, match="compiled for blocks of 64,1,1"):
        build(ptx, "sm_80", args, "scalar", grid=1, block=128)


def test_without_nvrtc_one_line_says_what_to_install(axpy, monkeypatch, tmp_path):
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "__init__.py").write_text("")  # no bindings in it
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(errors.BuildFailedError, match="needs NVRTC, and cuda-bindings") as caught:
        build(axpy, "sm_80", ARGS, grid=8, block=128)
    assert caught.value.hint == nvrtc.install()


Metadata = namedtuple("Metadata", "name num_warps shared num_ctas global_scratch_size")


def compiled(parameters: int, **changed: object) -> SimpleNamespace:
    """As Triton's versions give it: the PTX with so many pointers."""
    names = ", ".join(f".param .u64 .ptr .global .align 1 k_{n}" for n in range(parameters))
    text = (
        ".version 8.0\n.target sm_90a\n.address_size 64\n"
        f".visible .entry k({names}) .reqntid 128 {{ ret; }}\n"
    )
    metadata = Metadata("k", 4, 1024, 1, 0)._replace(**changed)
    return SimpleNamespace(asm={"ptx": text}, metadata=metadata)


def test_what_triton_compiled_is_launched_with_the_scratch_that_it_takes():
    words = "a:float32[64] b:out:float32[64]"
    for more in (0, 1, 2):
        made = triton.bundle(compiled(2 + more, global_scratch_size=8), words, grid=(3, 2))
        launch = launch_of(made)
        plan = made.manifest.libraries[0].launches["k"]
        assert [*plan.scratch_bytes] == [48, 16][:more]
        assert [*launch.arguments] == [*range(2 + more)]
        assert ([*launch.block], launch.shared_bytes) == ([128, 1, 1], 1024)
    assert made.manifest.libraries[0].target.cpu == "sm_90a"
    with pytest.raises(errors.BuildFailedError, match="5 parameters with 2 of scratch, and 2 arg"):
        triton.bundle(compiled(5), words, grid=1)
    with pytest.raises(errors.BuildFailedError, match="clusters"):
        triton.bundle(compiled(2, num_ctas=2), words, grid=1)
    for nothing in (None, 5, SimpleNamespace(asm={"hsaco": b""}, metadata={"name": "k"})):
        with pytest.raises(errors.InvalidRequestError, match=r"no asm\['ptx'\]"):
            triton.bundle(nothing, words, grid=1)
    scalar = compiled(2)
    scalar.src = SimpleNamespace(signature={"a": "*fp32", "n": "i64", "BLOCK": "constexpr"})
    with pytest.raises(errors.BuildFailedError, match=r"n is no pointer \(i64\)") as caught:
        triton.bundle(scalar, words, grid=1)
    assert "tl.constexpr" in caught.value.hint


def test_what_the_real_triton_compiles_computes_what_it_says(monkeypatch, tmp_path):
    real = pytest.importorskip("triton", reason="needs the package triton")
    from triton.backends.compiler import GPUTarget

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    source = real.compiler.ASTSource(
        fn=real.jit(triton_add),
        signature=dict.fromkeys(("x", "y", "out"), "*fp32") | {"n": "constexpr"},
        constexprs={"n": 1000},
    )
    made = real.compile(source, target=GPUTarget("cuda", 80, 32))
    words = "x:float32[1000] y:float32[1000] out:out:float32[1000]"
    bundle = triton.bundle(made, words, grid=4)
    assert [one.path for one in bundle.manifest.libraries] == ["lib/0.ptx", "lib/1.cubin"]
    assert launch_of(bundle).resources.registers > 0
    x, y = (np.random.default_rng(n).random(1000, np.float32) for n in (0, 1))
    np.testing.assert_array_equal(run(bundle, [x, y, np.zeros_like(x)])[2], x + y)


def triton_add(x, y, out, n):
    """Compiled by Triton, from this text."""
    at = tl.program_id(0) * 256 + tl.arange(0, 256)
    there = at < n
    tl.store(out + at, tl.load(x + at, mask=there) + tl.load(y + at, mask=there), mask=there)


def test_cards_are_known_for_all_levels():
    assert set(CARDS) == set(GPU_LEVELS)
    assert CARDS["sm_80"].blocks_at_once(256, 32, 0) == 8
    assert CARDS["sm_80"].blocks_at_once(256, 128, 0) == 2  # by registers
    assert CARDS["sm_80"].blocks_at_once(32, 32, 40 << 10) == 4  # by shared memory
    assert CARDS["sm_86"].blocks_at_once(1024, 32, 0) == 1
    assert CARDS["sm_75"].blocks_at_once(1024, 128, 0) == 0
