"""The real device server under qemu-user, and full cross-compiled measurements through it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ziglang
from tunefarm import Bundle, Tracker, request_device
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm.errors import KernelCrashedError, KernelTimeoutError, TargetMismatchError
from tunefarm_compiler import build
from tunefarm_device import emulation
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

pytestmark = pytest.mark.emulation

DEPLOY = Path(__file__).parents[2] / "deploy" / "emulated-pi"
ARCH_OF_KEY = {"rasp3b": "arm64", "rasp3b-32": "armhf"}
TRIPLE_OF_KEY = {
    "rasp3b": "aarch64-unknown-linux-gnu",
    "rasp3b-32": "armv7-unknown-linux-gnueabihf",
}
ZIG_OF_KEY = {"rasp3b": "aarch64-linux-gnu", "rasp3b-32": "arm-linux-gnueabihf"}
KEYS = sorted(ARCH_OF_KEY)


@dataclass(frozen=True)
class EmulatedFarm:
    """A tracker and an emulated board of each of KEYS."""

    address: str
    processes: LocalFarm


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedFarm]:
    for arch in ARCH_OF_KEY.values():
        if lacking := emulation.available(arch):
            pytest.skip(lacking)
    folder = tmp_path_factory.mktemp("farm")
    address = f"127.0.0.1:{free_port(0)}"
    with LocalFarm(folder) as processes:
        processes.start(
            "tracker", "tracker", "--port", address.split(":")[1], "--state", str(folder / "t")
        )
        processes.wait_for_tracker(address)
        for key, arch in ARCH_OF_KEY.items():
            words = [sys.executable, str(DEPLOY / "run.py"), "--key", key, "--arch", arch]
            state = str(folder / f"state of {key}")  # a space must do no harm
            processes.start_command(key, [*words, "--tracker", address, "--state", state])
        processes.wait_for_devices(address, KEYS)
        yield EmulatedFarm(address, processes)


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[[str, str], Bundle]:
    """Compile `int32_t kernel(void *const *args)` from C for a key: one float32[16] argument."""

    def build_c(key: str, body: str) -> Bundle:
        source = tmp_path / "kernel.c"
        source.write_text(f"#include <stdint.h>\nint32_t kernel(void *const *args) {{ {body} }}\n")
        library = source.with_suffix(".so")
        zig = str(Path(ziglang.__file__).parent / "zig")
        flags = ["-target", ZIG_OF_KEY[key], "-shared", "-O1", "-fno-sanitize=all"]
        subprocess.run([zig, "cc", *flags, "-o", library, source], check=True)
        argument = bpb.ArgumentSignature(name="x", dtype="float32", shape=[16], output=True)
        function = bpb.FunctionSignature(name="kernel", arguments=[argument])
        manifest = bpb.BundleManifest(workload="hostile", functions=[function])
        target = pb.Target(triple=TRIPLE_OF_KEY[key])
        return bundle_file.pack(manifest, [(target, library.read_bytes())])

    return build_c


@pytest.mark.parametrize("key", KEYS)
def test_a_board_says_what_it_is(farm, key):
    with Tracker(farm.address) as tracker:
        (device,) = tracker.devices(key)
    assert device.facts.emulated
    assert device.facts.emulator == "qemu-user"
    assert device.facts.target.triple == TRIPLE_OF_KEY[key]
    assert device.facts.target.cpu == "cortex-a53"
    assert "neon" in device.facts.target.features


@pytest.mark.parametrize("key", KEYS)
def test_a_cross_compiled_matmul_agrees_with_numpy(farm, key):
    rng = np.random.default_rng(7)
    x = rng.standard_normal((96, 64), np.float32)
    y = rng.standard_normal((64, 80), np.float32)
    with request_device(key, tracker=farm.address, timeout=30) as device:
        module = device.load(build("matmul:m=96,n=80,k=64", key))
        a, b, c = device.array(x), device.array(y), device.empty((96, 80), "float32")
        module["matmul"](a, b, c)
        timing = module.time_evaluator("matmul", number=2, repeat=3)(a, b, c)
        out = c.numpy()
    np.testing.assert_allclose(out, x @ y, rtol=1e-5, atol=1e-5)
    assert (timing.number, len(timing.samples)) == (2, 3)
    assert timing.emulated
    assert "emulated" in str(timing)


@pytest.mark.parametrize("key", KEYS)
def test_a_board_outlives_its_kernels(farm, kernel, key):
    crash = kernel(key, "*(volatile int *)0 = 1; return 0;")
    endless = kernel(key, 'for (;;) { __asm__ volatile(""); } return 0;')
    with request_device(key, tracker=farm.address, timeout=30) as device:
        with pytest.raises(KernelCrashedError):
            device.load(crash)["kernel"](device.empty(16))
        with pytest.raises(KernelTimeoutError):
            device.load(endless)["kernel"](device.empty(16), timeout=2)
    fine = kernel(key, "((float *)args[0])[3] = 5; return 0;")
    with request_device(key, tracker=farm.address, timeout=30) as device:
        x = device.array(np.zeros(16, np.float32))
        device.load(fine)["kernel"](x)
        assert x.numpy().tolist() == [0, 0, 0, 5] + [0] * 12


def test_a_bundle_for_the_other_board_is_refused(farm):
    other = build("add:n=16", "rasp3b")
    with (
        request_device("rasp3b-32", tracker=farm.address, timeout=30) as device,
        pytest.raises(TargetMismatchError),
    ):
        device.load(other)


def test_two_that_build_one_root_at_once_share_it(tmp_path):
    if lacking := emulation.available("arm64"):
        pytest.skip(lacking)
    words = [sys.executable, str(DEPLOY / "build.py"), "--arch", "arm64"]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    assert ended[0][0] == ended[1][0]
    root = Path(ended[0][0].strip())
    assert (root / "usr/bin/python3").exists()
    folders = [path.name for path in root.parent.iterdir() if path.is_dir()]
    assert folders == [root.name]
    assert sum("Debian packages" in told for _, told in ended) == 1
