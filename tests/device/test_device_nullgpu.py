"""GPUs that are none: launch plans, graphs, copies, units, over the driver that runs PTX here."""

import array
import asyncio
import contextlib
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator

import pytest
from gpu_bundles import bundle, launch
from tunefarm_compiler import targets
from tunefarm_device.backend import KernelEnded, RunnerError, find
from tunefarm_device.building import Options
from tunefarm_device.cuda import anchors
from tunefarm_device.cuda.device import CHUNK_BYTES, Array, Device, Graphs, Kernel
from tunefarm_device.cuda.driver import DriverError, named
from tunefarm_device.cuda.facts import LEVELS, SHARED_KIB, features
from tunefarm_device.cuda.fake import FakeDriver
from tunefarm_device.launches import Plan, plan_of
from tunefarm_device.plans import plans
from tunefarm_device.server import start
from tunefarm_device.session import DeviceSession
from tunefarm_proto import errors
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

pytestmark = pytest.mark.skipif(bool(find("nullgpu").lacking()), reason=find("nullgpu").lacking())

COUNT = {"count": launch("count")}


def plans_of(made: Bundle) -> dict[str, Plan]:
    """As the server checks them and the runner reads them."""
    checked = plans(made.manifest, made.manifest.libraries[0])
    return {name: plan_of(plan.data()) for name, plan in checked.items()}


@pytest.fixture
def device() -> Device:
    device = Device(FakeDriver())
    device.begin()
    return device


def kernel(device: Device, tmp_path, made: Bundle, name: str, arrays: list[Array]):
    path = tmp_path / "x.ptx"
    path.write_bytes(made.library(made.manifest.libraries[0]))
    return device.load_plans(str(path), plans_of(made)).kernel(name, arrays)


@pytest.mark.parametrize(
    ("capability", "kib"),
    [("7.5", 64), ("8.0", 163), ("8.6", 99), ("8.7", 163), ("8.9", 99), ("9.0", 227),
     ("10.0", 227), ("10.3", 227), ("12.0", 99), ("12.1", 99)],
)  # fmt: skip
def test_a_block_gets_the_shared_memory_of_its_level(monkeypatch, tmp_path, capability, kib):
    """As CUDA's programming guide tells, and as the compiler counts on."""
    monkeypatch.setenv("TUNEFARM_NULL_GPUS", f"1:{capability}")
    backend = find("nullgpu")
    description = backend.describe()
    assert description.facts["shared_bytes"] == str(kib << 10)
    assert targets.resolve(description.cpu).shared_bytes == kib << 10
    device = backend.open()
    device.begin()
    x = device.array(64)
    for more in (0, 16):
        made = bundle({"count": launch("count", shared_bytes=(kib << 10) + more)})
        if more:
            with pytest.raises(RunnerError, match=f"shared memory of {kib << 10}"):
                kernel(device, tmp_path, made, "count", [x])
        else:
            kernel(device, tmp_path, made, "count", [x]).run(1)
    assert floats(x, 1) == [1]


def floats(of: Array, number: int) -> list[float]:
    return list(array.array("f", of.read(0, 4 * number)))


def test_copies_larger_than_the_staging_buffers_go_in_pieces(device):
    size = 3 * CHUNK_BYTES + 5
    x = device.array(size)
    assert x.read(0, size) == bytes(size)
    data = bytes(range(251)) * (size // 251 + 1)
    x.write(7, data[: size - 7])
    assert x.read(0, size) == bytes(7) + data[: size - 7]
    assert x.read(CHUNK_BYTES - 2, CHUNK_BYTES + 9) == data[CHUNK_BYTES - 9 : CHUNK_BYTES + 2]


@pytest.mark.parametrize("number", [1, 2, 63, 64, 65, 129, 200])
def test_every_call_of_a_sample_is_made(device, tmp_path, number):
    x = device.array(64)
    count = kernel(device, tmp_path, bundle(COUNT), "count", [x])
    assert count.sample(number) > 0
    assert floats(x, 1) == [number]
    assert count.run(number) == 0
    assert floats(x, 1) == [2 * number]


@pytest.mark.parametrize(
    ("launches", "number", "graphs"), [(8, 1, 0), (9, 1, 1), (9, 2, 1), (2, 1, 0), (3000, 1, 0)]
)
def test_what_takes_long_to_put_on_the_stream_is_a_graph(device, launches, number, graphs):
    """Or the time of one call would be the host's."""
    done, run, made = [], device.driver.run_graph, []
    device.driver.run_graph = lambda graph: (made.append(1), run(graph))
    one = [lambda: device.driver._put(lambda: done.append(1))]
    Kernel(device.driver, device.clock, one * launches).sample(number)
    assert (len(done), len(made)) == (launches * number, graphs)


def test_only_the_last_two_graphs_are_kept(device):
    made = []
    graphs = Graphs(device.driver, lambda: made.append(1))
    kept = [graphs.of(number) for number in (64, 3, 64, 5)]
    assert len(made) == 64 + 3 + 5
    assert graphs.of(64) is kept[0] and graphs.of(5) is kept[3]
    assert len(made) == 64 + 3 + 5


def test_launches_share_arguments_and_scratch(device, tmp_path):
    """c = a + b into scratch, then scratch + scratch: two launches, one of them twice."""
    plan = bpb.LaunchPlan(
        launches=[
            launch("add", [0, 1, 3], block=[16]),
            launch("add", [3, 3, 4], block=[16]),
            launch("add", [4, 3, 2], block=[16]),
        ],
        scratch_bytes=[64, 256],
    )
    made = bundle({"triple": plan}, shapes=((16,),) * 3)
    a, b, c = (device.array(64) for _ in range(3))
    for each in (a, b):
        each.write(0, array.array("f", range(16)).tobytes())
    kernel(device, tmp_path, made, "triple", [a, b, c]).sample(3)
    assert floats(c, 16) == [6.0 * n for n in range(16)]


def test_the_stream_is_dead_after_a_fault(device, tmp_path):
    x = device.array(64)
    made = bundle({"trap": launch("trap"), **COUNT})
    with pytest.raises(KernelEnded, match="CUDA_ERROR_LAUNCH_FAILED") as caught:
        kernel(device, tmp_path, made, "trap", [x]).sample(1)
    assert caught.value.kind == "crash"
    for use in (lambda: x.read(0, 4), lambda: device.array(4), device.flush):
        with pytest.raises(KernelEnded):
            use()


def test_refusals_leave_the_stream_alive(device, tmp_path):
    x = device.array(64)
    with pytest.raises(RunnerError, match="OUT_OF_MEMORY") as caught:
        device.array(1 << 40)
    assert caught.value.kind == "memory"
    with pytest.raises(RunnerError, match="nothing of how") as caught:
        device.load("x", ["count"])
    assert caught.value.kind == "library"
    kernel(device, tmp_path, bundle(COUNT), "count", [x]).sample(1)
    assert floats(x, 1) == [1.0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CUDA_ERROR_OUT_OF_MEMORY", "memory"),
        ("CUDA_ERROR_INVALID_PTX", "library"),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", "crash"),
        ("CUDA_ERROR_LAUNCH_TIMEOUT", "crash"),
        ("CUDA_ERROR_OF_A_LATER_DRIVER", "crash"),
    ],
)
def test_errors_of_the_driver_get_the_runners_names(name, kind):
    error = named(DriverError(name, "words"), "there")
    assert error.kind == kind and str(error) == f"there: {name}: words"


def test_the_anchors_run_and_are_told(device):
    assert anchors.copied_bytes(1 << 20) == anchors.LEAST_COPIED
    for name in ("compute", "memory"):
        assert device.anchor(name).sample(2) > 0


@pytest.mark.parametrize(
    ("capability", "has", "has_not"),
    [
        ((7, 5), {"sm_75", "cubin_7"}, {"sm_80"}),
        ((8, 6), {"sm_75", "sm_80", "sm_86", "cubin_8"}, {"sm_87", "sm_86a"}),
        ((8, 7), {"sm_86", "sm_87", "cubin_87"}, {"cubin_8", "sm_89"}),
        ((9, 0), {"sm_75", "sm_89", "sm_90", "sm_90a", "cubin_9"}, {"sm_100"}),
        ((10, 3), {"sm_100", "sm_103a", "cubin_10"}, {"sm_100a", "sm_120"}),
    ],
)
def test_a_gpu_runs_what_is_for_it_and_for_older_ones(capability, has, has_not):
    found = set(features(*capability))
    assert has <= found and not has_not & found
    assert not any(one.startswith("cubin") for one in features(*capability, cubins=False))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (bpb.LaunchPlan(), "0 launches"),
        (launch(""), "names no kernel"),
        (launch("count", [1]), "argument 1 of 1"),
        (launch("count", grid=[0]), r"grid of \[0\]"),
        (launch("count", grid=[1, 70_000]), r"grid of \[1, 70000\]"),
        (launch("count", grid=[]), r"grid of \[\]"),
        (launch("count", block=[2048]), r"block of \[2048\]"),
        (launch("count", block=[64, 64]), "4096 threads"),
        (launch("count", block=[1, 1, 1, 1]), "block of"),
        (bpb.LaunchPlan(launches=[launch("count")], scratch_bytes=[0]), "none of 0 bytes"),
    ],
)
def test_a_plan_without_sense_is_refused(plan, words):
    made = bundle({"count": plan})
    with pytest.raises(errors.BundleInvalidError, match=words):
        plans(made.manifest, made.manifest.libraries[0])


def test_a_function_without_a_plan_is_refused():
    made = bundle(COUNT)
    made.manifest.functions.add(name="other")
    with pytest.raises(errors.BundleInvalidError, match="no launch plan for other"):
        plans(made.manifest, made.manifest.libraries[0])
    entry = bpb.BundleLibrary(target=pb.Target(triple="x86_64-unknown-linux-gnu"))
    assert plans(made.manifest, entry) == {}


def test_a_processor_has_no_use_for_plans():
    with pytest.raises(RunnerError, match="for a GPU"):
        find("native").open().load_plans("x", {})


def test_each_gpu_is_a_device_and_a_key_names_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEFARM_NULL_GPUS", "3:9.0")
    monkeypatch.setenv("TUNEFARM_CLAIMS", f"{uuid.uuid4()}-")
    made = bundle(COUNT)

    async def chunks() -> AsyncIterator[bytes]:
        yield made.data

    async def run(keys: list[str]) -> list[str]:
        options = Options(state_dir=tmp_path / "state", backend="nullgpu")
        server = await start(keys, "127.0.0.1:9", options=options)
        units = []
        async with contextlib.AsyncExitStack() as turns:
            for device in server.devices:  # none waits for another one's kernel to end
                await asyncio.wait_for(turns.enter_async_context(device.bench.timing), 60)
        for device in server.devices:
            await device.bench.blobs.receive(made.digest, len(made.data), 0, chunks())
            session = DeviceSession(device.bench)
            module, x = await session.load(made.digest), await session.allocate("float32", [16])
            await session.call(module, "count", [x])
            assert array.array("f", b"".join([p async for p in session.read(x)]))[0] == 1
            facts = device.bench.facts
            assert device.bench.beats is not device.bench.conditions  # which heartbeats must spare
            assert facts.emulated and facts.extra["compute_capability"] == "9.0"
            units.append(facts.extra["unit"])
            await session.close()
        await server.stop()
        return units

    assert asyncio.run(run(["rtx"])) == ["0", "1", "2"]
    assert asyncio.run(run(["rtx:gpu=2", "spare:unit=0"])) == ["2", "0"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("rtx:gpu=0,unit=0", "gpu and unit are one thing"),
        ("rtx:backend=nullgpu,gpu=7", "no unit '7'"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(tmp_path, key, words):
    options = Options(state_dir=tmp_path / "state")
    with pytest.raises(errors.InvalidRequestError, match=words):
        asyncio.run(start(key, "127.0.0.1:9", options=options))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("two", "as in 2:9.0"),
        ("0:9.0", "as in 2:9.0"),
        ("-1", "as in 2:9.0"),
        ("1:6.1", "compute capability 6.1, and 7.5 is the oldest"),
    ],
)
def test_a_setting_without_sense_is_said(monkeypatch, setting, words):
    monkeypatch.setenv("TUNEFARM_NULL_GPUS", setting)
    assert words in find("nullgpu").lacking()


def test_levels_and_their_shared_memory_are_those_of_the_compiler():
    """The device server imports no compiler, so each has its table."""
    assert tuple(f"sm_{level}" for level in LEVELS) == targets.GPU_LEVELS
    counted = {level: targets.resolve(f"sm_{level}").shared_bytes >> 10 for level in LEVELS}
    assert counted == SHARED_KIB


def test_nothing_of_cuda_is_imported_by_the_base(tmp_path):
    """The server's own modules, and those of a runner, without the package."""
    import subprocess
    import sys

    script = (
        "import sys; sys.modules['cuda'] = sys.modules['pynvml'] = sys.modules['numpy'] = None\n"
        "import tunefarm_device.server, tunefarm_device.runner\n"
        "from tunefarm_device import backend\n"
        "print(*backend.known())\n"
        "print(backend.find('cuda').lacking())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[0] == "cuda native nullgpu wasm"


def test_no_part_of_the_farm_imports_cuda_unasked():
    parts = "tunefarm, tunefarm.cli, tunefarm_tracker.server, tunefarm_compiler, tunefarm_tuner"
    script = f"import sys, {parts}; assert not {{'cuda', 'pynvml'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
