"""Backends by name and by file, and the example of the documentation, really run."""

import array
import asyncio
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from device_harness import boxed
from tunefarm_device import backend
from tunefarm_device import runner as runner_code
from tunefarm_device.building import Options, choose_backend
from tunefarm_device.counters import Counters
from tunefarm_device.facts import find_facts
from tunefarm_device.server import start
from tunefarm_device.session import DeviceSession
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto import errors
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

ROOT = Path(__file__).parents[2]
KERNELS = b"""
def add(a, b, c):
    a, b, c = (view.cast("f") for view in (a, b, c))
    for i in range(len(c)):
        c[i] = a[i] + b[i]

def fail(x):
    raise ValueError("it hurts")

def loop(x):
    while True:
        pass

def status(x):
    return 7
"""


def example() -> str:
    return (ROOT / "docs/backends.md").read_text().split("```python\n")[1].split("```")[0]


def several() -> str:
    """The example with what the documentation adds for several units."""
    added = (ROOT / "docs/backends.md").read_text().split("```python\n")[2].split("```")[0]
    return f"{example()}\n{added}"


def bundle(library: bytes) -> bundle_file.Bundle:
    manifest = bpb.BundleManifest()
    for name in ("add", "fail", "loop", "status"):
        function = manifest.functions.add(name=name)
        for argument in "abc" if name == "add" else "x":
            function.arguments.add(name=argument, dtype="float32", shape=[4], output=True)
    return bundle_file.pack(manifest, [(pb.Target(triple="python-unknown-unknown"), library)])


def by_path(folder: Path) -> tuple[str, dict[str, str]]:
    """A file anywhere, named by its path."""
    file = folder / "json.py"  # a name that Python has, too
    file.write_text(example())
    return str(file), {}


def by_name(folder: Path) -> tuple[str, dict[str, str]]:
    """A file among the backends of an installation, and nothing else changed."""
    for part, package in (("device_server", "tunefarm_device"), ("proto", "tunefarm_proto")):
        shutil.copytree(ROOT / part / package, folder / "installed" / package)
    (folder / "installed/tunefarm_device/backends/python.py").write_text(example())
    return "python", {"PYTHONPATH": str(folder / "installed")}


@pytest.mark.parametrize("place", [by_path, by_name])
def test_the_example_of_the_documentation_runs_kernels(tmp_path, place):
    name, env = place(tmp_path)
    for box in boxed(tmp_path, "--backend", name, **env):
        target = box.tracker.reports[0].facts.target
        assert target.triple == "python-unknown-unknown"
        client, whole = box.lease(), bundle(KERNELS)
        broken = bundle(KERNELS.replace(b"def loop", b"def endless"))
        client.upload(whole.data)
        client.upload(broken.data)
        session = client.session()
        module, arrays = session.load(whole.digest), [session.empty(4) for _ in range(3)]
        for each in arrays[:2]:
            session.write(each, array.array("f", [1, 2, 3, 4]).tobytes())
        session.call(module, "add", *arrays)
        assert list(array.array("f", session.read(arrays[2]))) == [2, 4, 6, 8]
        timing = session.time(module, "add", *arrays, number=3, repeat=4)
        assert (timing.number, len(timing.samples_s)) == (3, 4)
        with pytest.raises(errors.KernelFailedError, match="7"):
            session.call(module, "status", arrays[0])
        with pytest.raises(errors.BundleInvalidError, match="KeyError: 'loop'"):
            session.load(broken.digest)
        with pytest.raises(errors.KernelCrashedError, match="ValueError: it hurts"):
            session.call(module, "fail", arrays[0])
        module, x = session.load(whole.digest), session.empty(4)
        with pytest.raises(errors.KernelTimeoutError):
            session.call(module, "loop", x, timeout=0.3)
        assert session.load(whole.digest)
        session.close()
        client.close()


@pytest.mark.parametrize(
    ("key", "expected"), [("py", ["first", "second"]), ("py:unit=second", ["second"])]
)
def test_each_unit_of_a_backend_is_a_device(tmp_path, monkeypatch, key, expected):
    monkeypatch.setenv("TUNEFARM_CLAIMS", f"{uuid.uuid4()}-")
    file, own = tmp_path / "units.py", bundle(b"def add(*_): return\n" + KERNELS)
    file.write_text(several())

    async def chunks() -> AsyncIterator[bytes]:
        yield own.data

    async def run() -> list[tuple[str, str]]:
        options = Options(state_dir=tmp_path / "state", backend=str(file))
        server = await start(key, "127.0.0.1:9", options=options)
        found = []
        for device in server.devices:
            await device.bench.blobs.receive(own.digest, len(own.data), 0, chunks())
            session = DeviceSession(device.bench)
            module, x = await session.load(own.digest), await session.allocate("float32", [4])
            with pytest.raises(errors.KernelCrashedError, match=r"on unit \w+") as crash:
                await session.call(module, "fail", [x])
            found.append((device.bench.facts.extra["unit"], str(crash.value).split()[-1]))
            await session.close()
        await server.stop()
        return found

    # As its server tells the tracker, and as the kernel's own process knows it.
    assert asyncio.run(run()) == [(unit, unit) for unit in expected]


@pytest.mark.parametrize("use", ["time", "compare"])
def test_a_first_call_that_does_not_end_gives_the_turn_back_as_a_call_does(
    tmp_path, monkeypatch, use
):
    monkeypatch.setenv("TUNEFARM_CLAIMS", f"{uuid.uuid4()}-")
    monkeypatch.setattr("tunefarm_device.session.CALL_S", 0.7)
    file, own = tmp_path / "python.py", bundle(KERNELS)
    file.write_text(example())

    async def chunks() -> AsyncIterator[bytes]:
        yield own.data

    async def run() -> None:
        options = Options(state_dir=tmp_path / "state", backend=str(file))
        server = await start("py", "127.0.0.1:9", options=options)
        (device,) = server.devices
        await device.bench.blobs.receive(own.digest, len(own.data), 0, chunks())
        session, timing = DeviceSession(device.bench), pb.TimingOptions(number=1, repeat=2)
        module, x = await session.load(own.digest), await session.allocate("float32", [4])
        adding, looping = (module, "add", [x, x, x]), (module, "loop", [x])
        await session.call(*adding)
        with pytest.raises(errors.KernelTimeoutError, match=r"than the 0\.7 s"):
            if use == "time":
                await session.time(*looping, timing)
            else:
                await session.compare([adding, looping], timing, [])
        async with device.bench.timing:
            await session.close()
        await server.stop()

    asyncio.run(run())


def test_an_unknown_name_lists_the_known_ones(capfd, tmp_path):
    from tunefarm.cli import main

    assert main(["device", "--key", "box", "--backend", "cuba", "--state", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "there is no backend 'cuba'" in said
    assert "cuda, native, nullgpu, wasm" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "no class Backend"),
        ("class Backend:\n    pass", "no class Backend"),
        ("import nothing_of_the_kind", "ModuleNotFoundError"),
        ("def (", "SyntaxError"),
        (
            "from tunefarm_device import backend\nclass Backend(backend.Backend):\n    pass",
            "TypeError",
        ),
        (
            "from tunefarm_device import backend\nclass Backend(backend.Backend):\n"
            "    def open(self): ...\n    def lacking(self): return 'it is Sunday; come back'",
            "does not work here: it is Sunday; come back",
        ),
    ],
)
def test_a_file_that_is_no_backend_is_refused_in_a_line(tmp_path, text, words):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(errors.InvalidRequestError, match=words) as caught:
        choose_backend(str(file))
    assert "\n" not in str(caught.value)


def test_a_board_needs_no_wasmtime(monkeypatch):
    """The server starts without it, and says what `--backend wasm` lacks."""
    extras = "{'wasmtime', 'cuda', 'pynvml', 'numpy'}"
    script = f"import tunefarm_device.server, sys; assert not {extras} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, env=dict(os.environ))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.InvalidRequestError, match="pip install wasmtime"):
        choose_backend("wasm")


def test_what_a_backend_runs_is_told_with_the_machine_s_facts():
    described = backend.Description("wasm32-unknown-unknown", "generic", ("simd128",), "wasmtime 1")
    plain, facts = find_facts(), find_facts(description=described)
    assert facts.target == pb.Target(
        triple="wasm32-unknown-unknown", cpu="generic", features=["simd128"]
    )
    assert facts.cpu_model == f"wasmtime 1 on {plain.cpu_model}"
    assert facts.memory_bytes == plain.memory_bytes
    assert find_facts(emulator="qemu-user", description=described).emulated


@pytest.mark.parametrize("own", [True, False])
def test_a_device_empties_its_own_caches_or_the_runner_the_processor_s(monkeypatch, own):
    class Device(backend.Device):
        flushed = 0

        def array(self, size): ...

        def load(self, path, functions): ...

        def flush(self):
            self.flushed += 1
            return own

    class Kernel(backend.Kernel):
        def run(self, number):
            return 0

        def sample(self, number):  # by a clock of the device's own
            return 0.25 * number

    monkeypatch.setattr(runner_code, "largest_cache", lambda: 4096)
    device = Device()
    runner = runner_code.Runner(device, Counters())
    answer = runner.samples(Kernel(), {"number": 1, "repeat": 3, "cache": "cold"})
    assert answer["samples_s"] == [0.25] * 3
    assert device.flushed == 3
    assert (runner.evicting is None) == own
