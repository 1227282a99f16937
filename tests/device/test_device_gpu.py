"""GPU boxes without a GPU: cuda.bindings and NVML over a driver of our own, in C (libcuda.c)."""

import array
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_harness import Box, Client, SessionClient, boxed
from gpu_bundles import TARGET, bundle, launch
from tunefarm_compiler.gpu import own
from tunefarm_compiler.linker import zig_program
from tunefarm_device.cuda import probe
from tunefarm_proto import errors
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

pytest.importorskip("cuda.bindings", reason="the extra `cuda` is not installed")
pytest.importorskip("pynvml", reason="the extra `cuda` is not installed")

HERE = Path(__file__).parent
HEAD = ".version 7.8\n.target sm_75\n.address_size 64\n"
OTHER = HEAD + ".visible .entry NAME(.param .u64 x)\n{\n  ret;\n}\n"


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the driver's libraries."""
    folder = tmp_path_factory.mktemp("driver")
    made = folder / "libcuda.so.1"
    flags = ("-w", "-shared", "-fPIC", "-O1")
    subprocess.run([zig_program(), "cc", *flags, "-o", made, HERE / "libcuda.c"], check=True)
    (folder / "libnvidia-ml.so.1").write_bytes(made.read_bytes())
    return folder


def settings(driver: Path, **more: str) -> dict[str, str]:
    """A server's environment: this driver, and GPUs that no other test's server has claimed."""
    return {"LD_LIBRARY_PATH": str(driver), "TUNEFARM_CLAIMS": f"{uuid.uuid4()}-", **more}


@pytest.fixture(scope="session")
def box(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    state = tmp_path_factory.mktemp("gpu")
    yield from boxed(state, "--backend", "cuda", STUB_LOG="launched.txt", **settings(driver))


@pytest.fixture
def client(box: Box) -> Iterator[Client]:
    client = box.lease()
    yield client
    client.close()
    box.end()


def loaded(session: SessionClient, made) -> int:
    if session.client.missing(made.digest) is not None:
        session.client.upload(made.data)
    return session.load(made.digest)


def counted(session: SessionClient) -> list[float]:
    """What three calls leave: whether this session computes."""
    module, x = loaded(session, bundle({"count": launch("count")})), session.empty(16)
    for _ in range(3):
        session.call(module, "count", x)
    return list(array.array("f", session.read(x)))[:2]


def launched(session: SessionClient) -> list[str]:
    """What the driver was told to launch in this session."""
    answer = session.ask(read_file=dpb.ReadFile(name="launched.txt"))
    pieces = [answer.data.data]
    while not answer.data.last:
        answer = session.next()
        pieces.append(answer.data.data)
    return b"".join(pieces).decode().splitlines()


def test_it_tells_what_the_gpu_is(box):
    facts = box.tracker.reports[0].facts
    assert facts.target.triple == "nvptx64-nvidia-cuda" and facts.target.cpu == "sm_90"
    assert {"sm_75", "sm_90", "sm_90a", "cubin_9"} <= set(facts.target.features)
    assert facts.cpu_model.startswith("Stub 0 on ")
    assert (facts.memory_bytes, facts.max_frequency_hz) == (1 << 30, 1_980_000_000)
    assert not facts.emulated and not facts.governor
    told = dict(facts.extra)
    expected = {
        "gpu": "Stub 0", "compute_capability": "9.0", "multiprocessors": "132", "cuda": "13.0",
        "gpu_driver": "580.1", "power_limit_w": "350", "mig": "off", "ecc": "on", "unit": "0",
    }  # fmt: skip
    assert expected.items() <= told.items()


def test_it_computes_inside_the_sandbox(box, client):
    """The driver begins there: its threads, its libraries, in what a runner may see and do."""
    assert "seccomp" in box.tracker.reports[0].facts.isolation
    session = client.session()
    assert counted(session) == [3, 0]
    big = session.empty(3, 1 << 19)
    assert session.read(big) == bytes(6 << 20)
    session.write(big, b"abcd", offset=(5 << 20) + 4)
    assert session.read(big)[(5 << 20) + 4 :][:4] == b"abcd"


def test_cuda_begins_in_runners_alone(box, client):
    """Not in the server, which must not hang with the driver, nor in what runners are forked of."""
    session = client.session()
    assert counted(session) == [3, 0]
    server, zygote = box.device.process.pid, box.device.zygote()
    (runner,) = box.device.children() - {zygote}
    mapped = ["libcuda.so" in Path(f"/proc/{pid}/maps").read_text() for pid in (server, zygote)]
    assert mapped == [False, False]
    assert "libcuda.so" in Path(f"/proc/{runner}/maps").read_text()


def test_launches_get_what_the_plan_says(client):
    plan = bpb.LaunchPlan(
        launches=[
            launch("count", [2], grid=[2, 3, 4], block=[32, 2]),
            launch("add", [0, 0, 1], block=[16], shared_bytes=100_000),
        ],
        scratch_bytes=[64],
    )
    session = client.session()
    module = loaded(session, bundle({"both": plan}, shapes=((16,), (16,))))
    x, y = session.empty(16), session.empty(16)
    session.write(x, array.array("f", range(16)).tobytes())
    session.call(module, "both", x, y)
    assert list(array.array("f", session.read(y))) == [2.0 * n for n in range(16)]
    assert launched(session) == ["count 2 3 4 32 2 1 0", "add 1 1 1 16 1 1 100000"]


def test_a_cubin_is_chosen_loaded_and_launched(client, tmp_path):
    """Of real ones, for two levels: CUDA C by NVRTC, as `tunefarm build` makes its bundles."""
    source = tmp_path / "add.cu"
    source.write_text(
        'extern "C" __global__ void add(const float *a, const float *b, float *c) {\n'
        "  c[threadIdx.x] = a[threadIdx.x] + b[threadIdx.x];\n}\n"
    )
    words = "a:float32[16] b:float32[16] c:out:float32[16]"
    try:
        made = own.build(source, ["sm_80", "sm_90"], words, grid=1, block=16)
    except errors.BuildFailedError as error:
        pytest.skip(error.message)
    session = client.session()
    module = loaded(session, made)
    a, b, c = (session.empty(16) for _ in range(3))
    session.write(a, array.array("f", range(16)).tobytes())
    session.write(b, array.array("f", range(0, 160, 10)).tobytes())
    session.call(module, "add", a, b, c)
    assert list(array.array("f", session.read(c))) == [11.0 * n for n in range(16)]
    assert launched(session) == ["cubin for sm_90", "add 1 1 1 16 1 1 0"]
    of_80 = made.manifest.libraries[1]
    (tmp_path / "add.cubin").write_bytes(made.library(of_80))
    alone = own.build(tmp_path / "add.cubin", "sm_80", words, grid=1, block=16)
    with pytest.raises(errors.TargetMismatchError, match="cubin_8"):
        loaded(session, alone)


def test_a_cubin_that_is_none_for_this_gpu_is_refused_in_the_drivers_words(client):
    """What its bundle says of it is not true."""
    target = pb.Target(triple=TARGET.triple, cpu="sm_90", features=["cubin_9"])
    head = bytearray(128)
    head[:5], head[18] = b"\x7fELF\x02", 190
    head[40], head[48], head[60] = 64, 80, 1  # sections, level, how many
    session = client.session()
    for changed, words in ((18, "INVALID_IMAGE"), (None, "NO_BINARY_FOR_GPU")):
        data = bytes(0 if place == changed else byte for place, byte in enumerate(head))
        made = bundle({"count": launch("count")}, data, target=target)
        with pytest.raises(errors.BundleInvalidError, match=f"CUDA_ERROR_{words}"):
            loaded(session, made)
    assert counted(session) == [3, 0]


def test_many_calls_are_graphs_and_no_call_is_lost(client):
    session = client.session()
    module, x = loaded(session, bundle({"count": launch("count")})), session.empty(16)
    timing = session.time(module, "count", x, number=150, repeat=2)
    taken = len(timing.samples_s) + len(timing.discarded_s)
    calls = 1 + timing.warmup_calls + 150 * taken
    assert array.array("f", session.read(x))[0] == calls
    said = launched(session)
    assert said[0] == "count 1 1 1 1 1 1 0"
    tail = [line for line in said if "graph of" in line][-3 * taken :]
    assert tail == ["graph of 64", "graph of 64", "graph of 22"] * taken


def test_a_round_says_clocks_power_and_temperature(client):
    session = client.session()
    module, x = loaded(session, bundle({"count": launch("count")})), session.empty(16)
    timing = session.time(module, "count", x, number=5, repeat=3, cache="cold")
    after = timing.rounds[0].after
    assert (after.frequency_hz, after.memory_frequency_hz) == (1_755_000_000, 2_619_000_000)
    assert (after.temperature_celsius, after.power_watts) == (51, 123.4)
    assert after.memory_free_bytes and not after.throttle_reasons
    assert not timing.rounds[0].disturbed


def test_what_holds_clocks_down_is_told_once_it_happened(driver):
    """Reasons of this moment, and times that have grown since the last reading."""
    script = """
import json, os
from tunefarm_device.cuda.nvml import Card, CardSensor
sensor = CardSensor(Card("10101010-1010-1010-1010-101010101010"))
told = []
for reasons, hot in ((0, 0), (5, 0), (0, 1), (0, 0), (0x41, 1)):
    os.environ.update(STUB_REASONS=str(reasons), STUB_HOT=str(hot))
    os.putenv("STUB_REASONS", str(reasons))
    told.append(sensor.read().throttled)
print(json.dumps(told))
print(json.dumps(CardSensor(Card("no such")).read().frequency_hz is None))
"""
    env = {**os.environ, **settings(driver)}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    power, heat = "software power cap", "hardware thermal slowdown"
    assert json.loads(ended.stdout.splitlines()[0]) == [[], [power], [heat], [], [heat]]


@pytest.mark.parametrize("kernel", ["trap", "wild_write", "misaligned"])
def test_a_kernel_that_faults_ends_its_runner_alone(client, kernel):
    session = client.session()
    module = loaded(session, bundle({kernel: launch(kernel), "count": launch("count")}))
    x = session.empty(16)
    with pytest.raises(errors.KernelCrashedError, match="CUDA_ERROR_ILLEGAL_ADDRESS: an illegal"):
        session.call(module, kernel, x)
    with pytest.raises(errors.UnknownHandleError, match="lost when the kernel crashed"):
        session.call(module, "count", x)
    assert counted(session) == [3, 0]
    session.close()
    assert counted(client.session()) == [3, 0]


def test_an_endless_kernel_is_ended_at_its_time_limit(client):
    session = client.session()
    module, x = loaded(session, bundle({"loop": launch("loop")})), session.empty(16)
    with pytest.raises(errors.KernelTimeoutError):
        session.call(module, "loop", x, timeout=0.5)
    assert counted(session) == [3, 0]


def test_more_memory_than_there_is(client):
    session = client.session()
    with pytest.raises(errors.OutOfMemoryError, match="the device has"):
        session.empty(1 << 28, 2)
    plan = bpb.LaunchPlan(launches=[launch("count")], scratch_bytes=[1 << 40])
    with pytest.raises(errors.OutOfMemoryError, match="scratch memory: CUDA_ERROR_OUT_OF_MEMORY"):
        loaded(session, bundle({"count": plan}))
    assert counted(session) == [3, 0]


def test_ptx_of_a_newer_cuda_is_refused_saying_what_helps(client):
    session = client.session()
    text = OTHER.replace("NAME", "count").replace("7.8", "9.4")
    with pytest.raises(errors.BundleInvalidError, match="UNSUPPORTED_PTX_VERSION") as caught:
        loaded(session, bundle({"count": launch("count")}, text))
    said = str(caught.value)
    assert "\n" not in said
    assert "PTX is of version 9.4, which this driver, of CUDA 13.0, does not know" in said
    assert "--target sm_90" in said and said.endswith("or update the driver")
    assert counted(session) == [3, 0]


@pytest.mark.parametrize(
    ("plan", "text", "words"),
    [
        (launch("count", [0, 0]), "", "takes 1 parameters, its launch gives 2"),
        (launch("absent"), "", "kernel absent: CUDA_ERROR_NOT_FOUND"),
        (launch("count", shared_bytes=300_000), "", "300000 bytes of shared memory of 232448"),
        (launch("count"), "nonsense", "CUDA_ERROR_INVALID_PTX: ptxas fatal: no .version here"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_the_drivers_words(client, plan, text, words):
    session = client.session()
    made = bundle({"count": plan}, text) if text else bundle({"count": plan})
    with pytest.raises(errors.BundleInvalidError, match=words) as caught:
        loaded(session, made)
    assert "\n" not in str(caught.value)
    assert counted(session) == [3, 0]


def test_a_launch_that_is_refused_harms_nothing(client):
    session = client.session()
    text = OTHER.replace("NAME", "greedy")
    module, x = loaded(session, bundle({"f": launch("greedy")}, text)), session.empty(16)
    with pytest.raises(errors.BundleInvalidError, match="LAUNCH_OUT_OF_RESOURCES"):
        session.call(module, "f", x)
    assert session.read(x) == bytes(64)


def test_what_kernels_print_is_kept_and_has_an_end(box, client):
    """A driver's runner may have large files; its output, which the server holds, is none."""
    session = client.session()
    text = OTHER.replace("NAME", "prints")
    module, x = loaded(session, bundle({"f": launch("prints")}, text)), session.empty(16)
    for _ in range(2):
        session.call(module, "f", x)
    said = session.ask(log=dpb.ReadLog(source=dpb.ReadLog.SOURCE_RUNNER)).data.data
    assert len(said) == 1 << 20 and said.splitlines()[14] == b"%065535d" % 14
    held = [one.stat() for one in Path(f"/proc/{box.device.process.pid}/fd").iterdir()
            if "memfd:output" in str(one.readlink())]  # fmt: skip
    assert held and max(one.st_blocks * 512 for one in held) <= 2 << 20


def probed(driver: Path, **env: str) -> dict[str, object]:
    command = [sys.executable, "-I", probe.__file__]
    settings = {**os.environ, "LD_LIBRARY_PATH": str(driver), **env}
    ended = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


def test_what_is_lacking_is_said_in_one_line(driver, tmp_path):
    assert len(probed(driver, STUB_GPUS="3")["gpus"]) == 3
    none = probed(driver, STUB_GPUS="0")["lacking"]
    assert none == "the CUDA driver says CUDA_ERROR_NO_DEVICE: cuInit"
    if not Path("/dev/nvidiactl").exists():
        without = probed(tmp_path)["lacking"]
        assert without.startswith("the CUDA driver cannot be loaded: ") and "\n" not in without


def examined(*command: str, **env: str) -> dict[str, dict[str, object]]:
    """What the doctor says of GPUs, by name."""
    ended = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **env}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {one["name"]: one for one in json.loads(ended.stdout) if "GPU" in one["area"]}
    assert all(bool(one["fix"]) != one["ok"] for one in found.values())
    return found


def test_the_doctor_tells_what_a_gpu_box_has(driver):
    words = ("-m", "tunefarm", "doctor", "--only", "machine", "--json")
    told = examined(*words, LD_LIBRARY_PATH=str(driver), STUB_GPUS="2")
    lines = {name: (one["ok"], one["detail"]) for name, one in told.items()}
    assert lines["driver"] == (True, "of CUDA 13.0")
    assert lines["GPU 1"] == (True, "Stub 1, compute capability 9.0")
    assert lines["NVML"] == (True, "of driver 580.1")
    assert {"ptxas", "NVRTC"} <= set(lines)


def test_the_doctor_tells_what_installs_what_a_gpu_box_lacks(driver, tmp_path):
    """Here packages that are not there, and so no NVRTC; and a driver that shows no GPU."""
    for name in ("cuda", "pynvml"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('no')\n")
    script = (
        "import json, dataclasses; from tunefarm.cli import doctor\n"
        "print(json.dumps([dataclasses.asdict(one) for one in doctor._gpus()]))"
    )
    told = examined(
        "-c", script, LD_LIBRARY_PATH=str(driver), STUB_GPUS="0",
        PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    )  # fmt: skip
    assert told["driver"]["detail"] == "the CUDA driver says CUDA_ERROR_NO_DEVICE: cuInit"
    assert told["driver"]["fix"] == "NVIDIA's driver, and see docs/gpu.md"
    assert not told["NVML"]["ok"]
    assert told["NVRTC"]["detail"] == "cuda-bindings is not installed; it compiles CUDA C"
    assert told["NVRTC"]["fix"].startswith("pip install '") and "[nvrtc" in told["NVRTC"]["fix"]


def test_a_driver_that_begins_only_outside_of_a_runner_is_told_at_the_start(driver, tmp_path):
    """As where it lacks a file in the sandbox: better now than in every session."""
    command = [sys.executable, "-m", "tunefarm_device", "--key", "rtx:gpu=0", "--state", tmp_path]
    env = {**os.environ, **settings(driver, STUB_SHUT_OUT="1")}
    ended = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    said = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode != 0
    assert "rtx: no runner could be started: DriverError: CUDA_ERROR_UNKNOWN" in said
    assert "--isolation basic" in said


@pytest.mark.skipif(not Path("/etc/alternatives").is_dir(), reason="no Debian")
def test_a_driver_that_is_an_alternative_of_debians_is_found():
    """There libcuda.so.1 is a link into /etc/alternatives."""
    script = """
import os
from tunefarm_device import sandbox
from tunefarm_device.backend import find
backend = find("cuda")
sandbox.enter(sandbox.probe(), backend.readable(), [], backend.devices(), driver=backend.driver)
print(bool(os.listdir("/etc/alternatives")))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.stdout == "True\n", ended.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_gpu_fails_where_there_is_no_gpu(driver):
    """Its tests would all be skipped."""
    root, programs = Path(__file__).parents[2], Path(sys.executable).parent
    env = {**os.environ, "LD_LIBRARY_PATH": str(driver), "STUB_GPUS": "0"}
    command = ["make", "-o", "install", "gpu", f"BIN={programs}"]
    ended = subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode != 0
    said = "make gpu needs a GPU: the CUDA driver says CUDA_ERROR_NO_DEVICE: cuInit"
    assert ended.stderr.splitlines()[0] == said


def test_without_a_driver_the_server_says_so_and_ends(tmp_path):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver")
    command = [sys.executable, "-m", "tunefarm_device", "--key", "rtx:gpu=0", "--state", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    (line,) = [one for one in ended.stderr.splitlines() if "cuda" in one]
    assert "backend 'cuda' does not work here: the CUDA driver cannot be loaded" in line
