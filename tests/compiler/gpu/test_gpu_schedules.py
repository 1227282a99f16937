"""Schedules for GPUs: as text, refused in one line, shown; what is made of them."""

import dataclasses

import gpu_kernels as kernels
import pytest
from tunefarm_compiler import (
    Schedule,
    build,
    default_schedule,
    defaults,
    space,
    targets,
    te,
    workload,
)
from tunefarm_compiler.binding import Gpu
from tunefarm_compiler.codegen import assembly, lowered
from tunefarm_compiler.gpu import assemble, compile_function
from tunefarm_compiler.schedule import Attach, Pack
from tunefarm_device.cuda.facts import features
from tunefarm_proto.bundle import choose_library
from tunefarm_proto.errors import BuildFailedError, InvalidScheduleError, UnknownTargetError
from tunefarm_proto.v1 import common_pb2 as pb

needs_ptxas = pytest.mark.skipif(not assemble.ptxas(), reason="there is no ptxas on this machine")
BINDS = ("block", "block", "thread", "thread")
SQUARE = Schedule((("i", 64), ("j", 64), ("i", 4), ("j", 4)), 4, gpu=Gpu(BINDS))
ROWS = Schedule((("i", 1), ("r", 1024), ("r", 4)), 4, vector="r", gpu=Gpu(("block", "", "thread")))
ONE_BY_ONE = Schedule((("d1", 1), ("d2", 1)), 1)
SHOWN = """\
  kernel kernel, 3 blocks of 128 threads:
    blocks over i in 0..3 by 1:
      stage A.shared:
        with d1 at 0..32:
          threads over d1 in 0..32 by 1:
            tile of A.shared: d0 1 x d1 1, vectors of 1 along d1
        with d1 at 32..40:
          threads over d1 in 0..8 by 1:
            tile of A.shared: d0 1 x d1 1, vectors of 1 along d1
      threads over r.1 in 0..128 by 1:
        tile of C: i 1 over r.0 1, r.rest 1, vectors of 1 along i"""


def ptx(text, schedule=None, target="sm_80"):
    spec, parsed = targets.resolve(target), workload.parse(text)
    return assembly(lowered(parsed, spec, schedule or default_schedule(parsed, spec)), spec)


def with_gpu(schedule, *binds, **more):
    return dataclasses.replace(schedule, gpu=Gpu(binds, **more))


def test_the_text_of_a_schedule_is_read_back():
    own = Schedule((("d1", 32), ("d1", 1)), 1, gpu=Gpu(("", "thread"), pad=1))
    schedule = dataclasses.replace(SQUARE, stages=(Attach("A.shared", 2, own),))
    text = schedule.to_json()
    assert '"gpu":{"binds":["","thread"],"pad":1}' in text
    assert Schedule.from_json(text) == schedule
    assert Schedule.from_json(text).to_json() == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"loops": [], "lanes": 1, "gpu": {}}', "it has no binds"),
        ('{"loops": [], "lanes": 1, "gpu": {"binds": [], "warps": 2}}',
         "unknown field 'warps' of gpu"),
        ('{"loops": [], "lanes": 1, "gpu": 5}', "'5' is where gpu is to be an object"),
        ('{"loops": [], "lines": 1}', "unknown field 'lines'"),
        ("{loops}", "Expecting property name"),
        ("[1]", r"\[1\] is no object"),
        ("[" * 100_000, "recursion"),
        ('{"loops": 5, "lanes": 1}', "is not where it should be"),
    ],
)  # fmt: skip
def test_what_is_no_gpu_schedule_is_refused(text, says):
    with pytest.raises(InvalidScheduleError, match=f"^not a schedule: .*{says}") as caught:
        Schedule.from_json(text)
    assert "\n" not in str(caught.value) and "Error(" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "schedule", "says"),
    [
        ("matmul:m=64,n=64,k=8", Schedule((), 4), "says nothing of blocks and threads"),
        ("matmul:m=64,n=64,k=8", with_gpu(SQUARE, "block"), "1 binds for the 4 loops of C"),
        ("matmul:m=64,n=64,k=8", with_gpu(SQUARE, *BINDS[:3], "warp"), "no bind 'warp'"),
        ("matmul:m=64,n=64,k=8", with_gpu(SQUARE, *BINDS[::-1]), "lies inside of another one"),
        (
            "matmul:m=64,n=64,k=8",
            Schedule((("i", 64), ("j", 64), ("i", 1), ("j", 1)), 1, gpu=Gpu(BINDS)),
            "4096 threads in a block, 1024 is the limit",
        ),
        (
            "matmul:m=64,n=64,k=8",
            dataclasses.replace(SQUARE, packs=(Pack("B", 0),)),
            "are for processors",
        ),
        ("matmul:m=64,n=64,k=8", dataclasses.replace(SQUARE, threads=4), "are for processors"),
        (
            "matmul:m=64,n=64,k=8",
            Schedule((("q", 64),), 4, gpu=Gpu(("block",))),
            "no axis 'q'",
        ),
        ("sum:m=8,n=64", with_gpu(ROWS, "block", "block", "thread"), "which blocks cannot share"),
        (
            "sum:m=8,n=64",
            dataclasses.replace(ROWS, loops=(("i", 1), ("r", 96), ("r", 4))),
            "24 threads share r, which is no power of two",
        ),
        (
            "sum:m=8,n=64",
            dataclasses.replace(ROWS, loops=(("i", 1), ("r", 64), ("r", 5))),
            "block 5 of r does not divide 64",
        ),
        (
            "transpose:m=512,n=512",
            Schedule(
                (("i", 512), ("j", 512), ("i", 1), ("j", 1)),
                1,
                stages=(Attach("A.shared", 2, with_gpu(ONE_BY_ONE, "", "thread")),),
                gpu=Gpu(("block", "block", "", "thread")),
            ),
            "a block needs 1048576 bytes of shared memory, sm_80 has 166912",
        ),
        (
            "transpose:m=64,n=64",
            Schedule(
                (("i", 64), ("j", 64), ("j", 1)),
                1,
                stages=(Attach("A.shared", 3, Schedule((), 1, gpu=Gpu())),),
                gpu=Gpu(("block", "block", "thread")),
            ),
            "stage A.shared at depth 3 lies inside a thread",
        ),
        (
            "transpose:m=64,n=64",
            Schedule(
                (("i", 64), ("j", 1)),
                1,
                stages=(Attach("A.shared", 1, with_gpu(SQUARE, *BINDS)),),
                gpu=Gpu(("block", "thread")),
            ),
            "stage A.shared lies inside a block and has loops over blocks",
        ),
    ],
)
def test_a_schedule_that_no_gpu_can_run_gets_one_line(text, schedule, says):
    with pytest.raises(InvalidScheduleError) as refused:
        ptx(text, schedule)
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert refused.value.hint


def test_a_schedule_for_the_other_kind_of_device_is_refused():
    parsed = workload.parse("matmul:m=64,n=64,k=8")
    with pytest.raises(InvalidScheduleError, match="it is for a GPU, this is none"):
        build(parsed, "rasp4b", SQUARE)
    with pytest.raises(InvalidScheduleError, match="says nothing of blocks and threads"):
        build(parsed, "sm_80", default_schedule(parsed, targets.resolve("rasp4b")))


def test_a_gpu_is_named_by_its_level_alone():
    with pytest.raises(UnknownTargetError, match="those of its level"):
        targets.resolve("h100+nosm_90")
    newest = pb.Target(
        triple="nvptx64-nvidia-cuda",
        cpu="sm_103",
        features=[*targets.resolve("b200").features, "cubin_10", "sm_103a"],
    )
    assert targets.from_device(newest) == targets.resolve("sm_100")


def test_accesses_of_sixteen_bytes():
    for text, loads, stores in (
        ("add:n=4096", "ld.global.nc.v4.b32", "st.global.v4.b32"),
        ("add:n=4096,dtype=float16", "ld.global.nc.v4.b32", "st.global.v4.b32"),
        ("relu:n=4096,dtype=int8", "ld.global.nc.v4.b32", "st.global.v4.b32"),
        ("sum:m=64,n=4096", "ld.global.nc.v4.b32", "st.global.b32"),
        ("depthwise_conv2d:c=64,h=8,w=8,r=3,s=3", "ld.global.nc.v4.b32", "st.global.v4.b32"),
    ):
        made = ptx(text)
        assert loads in made and stores in made, text
    # The last three of 4099 are read one by one, all before as ever.
    assert "ld.global.nc.v4.b32" in ptx("add:n=4099")
    # Rows of 67 elements begin anywhere.
    assert ".v4" not in ptx("bias_act:m=16,n=67")


def test_sums_are_shared_by_shuffles_and_then_by_shared_memory():
    warp = ptx("sum:m=4096,n=128")
    assert "shfl.sync.bfly" in warp and "bar.sync" not in warp
    block = ptx("sum:m=4096,n=16384")
    assert "shfl.sync.bfly" in block and "bar.sync" in block


def test_the_bundle_says_how_kernels_are_launched():
    bundle = build("softmax:m=100,n=512", ["a100", "rasp4b"])
    device = pb.Target(
        triple="nvptx64-nvidia-cuda", cpu="sm_90", features=targets.resolve("h100").features
    )
    library = choose_library(bundle.manifest, device)
    assert library.path.endswith(".ptx") and library.target.cpu == "sm_80"
    (launch,) = library.launches["softmax"].launches
    assert launch.kernel == "softmax" and list(launch.arguments) == [0, 1]
    assert launch.grid[0] * launch.block[0] >= 100 * 32
    assert launch.shared_bytes >= 512 * 4
    assert f".entry {launch.kernel}(" in bundle.library(library).decode()
    if assemble.ptxas():
        assert 0 < launch.resources.registers <= 255


def test_a_device_gets_the_instructions_that_it_alone_has():
    def of(major, minor):
        told = pb.Target(
            triple="nvptx64-nvidia-cuda", cpu=f"sm_{major}{minor}", features=features(major, minor)
        )
        return targets.from_device(told)

    assert of(9, 0) == targets.resolve("h100") == targets.resolve("sm_90a")
    assert of(9, 0) != targets.resolve("sm_90")
    # Where kernels use none of them, code of the level runs on later ones too.
    assert [of(8, 6).cpu, of(10, 0).cpu, of(10, 3).cpu] == ["sm_86", "sm_100", "sm_100"]
    tuned = space(workload.parse("matmul:m=512,n=512,k=512,dtype=float16"), of(9, 0), 60)
    kinds = {one.gpu.contract.mma for one in tuned if one.gpu.contract}
    assert "wgmma" in kinds


def test_a_stage_of_its_own_is_a_launch_of_its_own():
    a = te.placeholder("A", (64, 48))
    r, k = te.reduce_axis("r", 48), te.reduce_axis("k", 64)
    total = te.compute("T", (("i", 64),), lambda i: te.sum_of(a[i, r], r))
    output = te.compute("C", (("j", 48),), lambda j: te.sum_of(a[k, j] * total[k], k))
    spec = targets.resolve("sm_80")
    code = compile_function("f", output, defaults.default(output, spec), spec)
    first, second = code.launches
    assert code.scratch_bytes == (256,)
    assert first.arguments == (0, 2) and sorted(second.arguments) == [0, 1, 2]


@pytest.mark.parametrize("text", ["sum:m=1,n=1000000", "max:m=300000,n=5,axis=0,dtype=int8"])
def test_a_few_long_sums_take_two_launches(text):
    parsed, spec = workload.parse(text), targets.resolve("h100")
    code = compile_function("f", parsed.output, default_schedule(parsed, spec), spec)
    first, second = code.launches
    assert first.grid[0] >= 64 and first.arguments == (0, 2)
    assert second.arguments == (2, 1)


def test_the_loops_are_shown():
    copy = Schedule((("d1", 32), ("d1", 1)), 1, gpu=Gpu(("", "thread")))
    schedule = Schedule(
        (("i", 1), ("r", 128), ("r", 1)),
        1,
        stages=(Attach("A.shared", 1, copy),),
        gpu=Gpu(("block", "", "thread")),
    )
    shown = te.show(workload.parse("sum:m=3,n=40").output, schedule, "sm_80")
    assert shown.split("after:\n")[1] == SHOWN


def test_what_ptxas_says_is_read():
    said = """\
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 368 bytes cmem[0]"""
    used = assemble.parse(said)["k"]
    assert (used.registers, used.spill_store_bytes, used.spill_load_bytes) == (40, 12, 8)
    assert (used.stack_bytes, used.shared_bytes) == (16, 2048)


@needs_ptxas
def test_what_ptxas_refuses_is_named_with_its_line():
    spec, text = targets.resolve("sm_80"), ptx("add:n=64")
    broken = text.replace("add.rn.f32", "add.rm.f99", 1)
    with pytest.raises(BuildFailedError, match=r"ptxas refused the code: .*`add\.rm\.f99") as error:
        assemble.assemble(broken, spec)
    assert len(str(error.value).splitlines()) == 1


@needs_ptxas
def test_a_kernel_that_spills_can_be_refused():
    # 256 sums of each thread, and no more than 255 registers.
    loops = (("i", 64), ("j", 64), ("i", 16), ("j", 16))
    made = ptx("matmul:m=64,n=64,k=64", Schedule(loops, 4, 4, gpu=Gpu(BINDS)))
    spec = targets.resolve("sm_80")
    used = assemble.assemble(made, spec)[1]["matmul"]
    assert used.spill_store_bytes > 0
    with pytest.raises(BuildFailedError, match="spills"):
        assemble.assemble(made, spec, spilling=False)


def test_without_ptxas_bundles_are_made_all_the_same(monkeypatch):
    monkeypatch.setattr(assemble, "ptxas", lambda: "")
    (library,) = build("add:n=100", "sm_80").manifest.libraries
    (launch,) = library.launches["add"].launches
    assert launch.block[0] == 32 and not launch.HasField("resources")


def test_a_stage_of_a_block_that_lies_in_the_padding_reads_nothing_beyond_its_tensor():
    # Each row of the output is a block; the first and the last one have no row of the input.
    own = Schedule((("d3", 32), ("d3", 1)), 1, gpu=Gpu(("", "thread")))
    schedule = Schedule(
        (("n", 1), ("y", 2), ("c", 32), ("y", 1), ("c", 1)), 1, vector="c",
        gpu=Gpu(("block", "block", "block", "", "thread")), stages=(Attach("A.shared", 3, own),),
    )  # fmt: skip
    parsed = workload.parse("avg_pool2d:c=14,h=1,w=5,r=1,s=5,n=3,pad=1")
    assert kernels.wrong([kernels.candidate(parsed, "sm_80", "k", schedule)], "sm_80") == []
