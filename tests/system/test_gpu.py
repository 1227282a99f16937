"""A GPU box through real processes, as a user has one; its GPU runs PTX on this processor."""

import importlib.util
import json
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass

import numpy as np
import pytest
from tunefarm import Bundle, request_device
from tunefarm.cli import main
from tunefarm.cli.processes import READY_S, LocalFarm, free_port
from tunefarm.errors import KernelCrashedError
from tunefarm_compiler import build
from tunefarm_compiler.gpu import own
from tunefarm_compiler.gpu.assemble import ptxas
from tunefarm_tuner import records

QUICK = ("--device", "rtx", "--repeat", "3", "--number", "1")
AXPY = """
.version 7.8
.target sm_80
.address_size 64
.visible .entry axpy(.param .u64 axpy_x, .param .u64 axpy_y)
{
  .reg .b32 %r<5>; .reg .b64 %a<7>; .reg .f32 %f<4>;
  ld.param.u64 %a1, [axpy_x]; ld.param.u64 %a2, [axpy_y];
  cvta.to.global.u64 %a1, %a1; cvta.to.global.u64 %a2, %a2;
  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
  mad.lo.s32 %r4, %r1, %r2, %r3;
  mul.wide.s32 %a3, %r4, 4; add.s64 %a4, %a1, %a3; add.s64 %a5, %a2, %a3;
  ld.global.f32 %f1, [%a4]; ld.global.f32 %f2, [%a5];
  fma.rn.f32 %f3, %f1, 0f40000000, %f2;
  st.global.f32 [%a5], %f3;
  ret;
}
"""
ARGS = "x:float32[256] y:out:float32[256]"


@dataclass(frozen=True)
class Box:
    """A running tracker and its GPU box."""

    address: str
    processes: LocalFarm

    def run(self, *words):
        """`tunefarm WORDS --tracker ...` as a user runs it."""
        command = [sys.executable, "-m", "tunefarm", *words, "--tracker", self.address]
        return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)

    def json(self, *words):
        """What a command prints with --json."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    """A tracker, and a device server with a GPU of compute capability 8.0 under the key rtx."""
    folder = tmp_path_factory.mktemp("gpu-farm")
    address = f"127.0.0.1:{free_port(0)}"
    with LocalFarm(folder) as processes:
        port = address.split(":")[1]
        processes.start("tracker", "tracker", "--port", port, "--state", str(folder / "t"))
        processes.wait_for_tracker(address)
        words = ["--key", "rtx", "--backend", "nullgpu", "--state", str(folder / "d")]
        command = [sys.executable, "-m", "tunefarm", "device", *words, "--tracker", address]
        processes.start_command("rtx", command, {"TUNEFARM_CLAIMS": address})
        processes.wait_for_devices(address, ["rtx"])
        yield Box(address, processes)


@pytest.fixture
def axpy(tmp_path):
    (tmp_path / "axpy.ptx").write_text(AXPY)
    return tmp_path / "axpy.ptx"


def one_line(done):
    """What a command that failed said, which is one line."""
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_bench_gives_the_right_answer_by_one_launch_and_by_several(gpu):
    for text in ("matmul:m=32,n=32,k=32", "softmax:m=4,n=64"):
        told = gpu.json("bench", text, *QUICK)
        assert told["correct"] is True and told["emulated"]
        assert told["target"] == "nvptx64-nvidia-cuda sm_80"
        assert "binds" in told["schedule"]
        assert [one["block"] for one in told["kernels"]]


def test_one_bundle_serves_a_gpu_as_it_serves_a_pi(gpu):
    bundle = build("matmul:m=24,n=40,k=32,dtype=float16", ["rasp4b", "sm_75", "sm_90"])
    numbers = np.random.default_rng(0)
    a, b = (numbers.random(shape).astype("float16") for shape in ((24, 32), (32, 40)))
    with request_device("rtx", tracker=gpu.address, timeout=30) as device:
        assert device.target.cpu == "sm_80"
        out = device.empty((24, 40), "float16")
        device.load(bundle)["matmul"](device.array(a), device.array(b), out)
        wanted = a.astype("float32") @ b.astype("float32")
        np.testing.assert_allclose(out.numpy(), wanted, rtol=5e-3)


def test_a_kernel_of_ones_own_is_built_timed_and_called(gpu, axpy, tmp_path):
    out = tmp_path / "axpy.tf"
    words = ("--args", ARGS, "--grid", "2", "--block", "128", "-o", str(out))
    assert main(["build", str(axpy), *words]) == 0
    shown = gpu.run("bench", str(out), *QUICK).stdout
    assert "answer not checked" in shown and "kernel axpy: 2 blocks of 128 threads" in shown
    x = np.arange(256, dtype="float32")
    with request_device("rtx", tracker=gpu.address, timeout=30) as device:
        y = device.array(np.ones(256, "float32"))
        device.load(Bundle.read(out))["axpy"](device.array(x), y)
        np.testing.assert_array_equal(y.numpy(), 1 + 2 * x)


def test_after_a_kernel_that_goes_astray_the_next_one_is_right(gpu, axpy):
    with request_device("rtx", tracker=gpu.address, timeout=30) as device:
        far = own.build(axpy, "sm_80", ARGS, grid=1 << 20, block=1)
        with pytest.raises(KernelCrashedError, match="ILLEGAL_ADDRESS"):
            device.load(far)["axpy"](device.empty((256,)), device.empty((256,)))
        good = own.build(axpy, "sm_80", ARGS, grid=2, block=128)
        y = device.array(np.zeros(256, "float32"))
        device.load(good)["axpy"](device.array(np.ones(256, "float32")), y)
        assert (y.numpy() == 2).all()


def test_tuning_keeps_what_each_kernel_takes_of_the_gpu(gpu, tmp_path):
    path = tmp_path / "records.jsonl"
    done = gpu.run(
        "tune", "matmul:m=32,n=32,k=32", "--device", "rtx", "--trials", "5", "--quick",
        "--records", str(path), "--strategy", "evolution",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [one for one in records.read(path) if not one.duplicate_of]
    assert len(found) >= 4 and any(one.samples_s for one in found)
    assert not {one.error for one in found} - {"", "BuildFailedError"}  # none was wrong
    for one in found:
        assert one.resources and all(32 <= used["block"][0] <= 1024 for used in one.resources)
        assert not ptxas() or all(used["registers"] > 0 for used in one.resources)


def test_two_kernels_are_compared(gpu, axpy, tmp_path):
    fast, slow = tmp_path / "fast.tf", tmp_path / "slow.tf"
    own.build(axpy, "sm_80", ARGS, grid=2, block=128).write(fast)
    multiply = next(line for line in AXPY.splitlines() if "fma" in line)
    axpy.write_text(AXPY.replace(multiply, "\n".join([multiply] * 500)))
    own.build(axpy, "sm_80", ARGS, grid=2, block=128).write(slow)
    done = gpu.run("compare", str(fast), str(slow), "--device", "rtx", "--budget", "2")
    assert "B beside A: slower" in done.stdout, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="needs the dashboard")
def test_the_page_of_the_device_shows_its_gpu(gpu, tmp_path):
    (device,) = gpu.json("status")["devices"]
    port = str(free_port(0))
    gpu.processes.start("dashboard", "dashboard", "--port", port, "--tracker", gpu.address)
    page = _page(gpu, f"http://127.0.0.1:{port}/devices/{device['id']}")
    told = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    for words in (
        "GPU null GPU",
        "Compute capability 8.0",
        "Multiprocessors 2",
        "Shared memory of a block 163 KiB",
        "Second cache 1.0 MiB",
    ):
        assert words in told  # fmt: skip


def _page(gpu, url):
    """A page once the dashboard is there."""
    limit = time.monotonic() + READY_S
    while True:
        gpu.processes.check()
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            assert time.monotonic() < limit, "no dashboard"
            time.sleep(0.1)


def test_what_another_device_runs_is_refused_in_one_line(gpu, axpy, tmp_path):
    pi, newer = tmp_path / "pi.tf", tmp_path / "newer.tf"
    build("add:n=64", "rasp4b").write(pi)
    build("add:n=64", ["sm_90", "sm_120"]).write(newer)
    said = one_line(gpu.run("bench", str(pi), *QUICK))
    assert "needs an aarch64 processor" in said
    said = one_line(gpu.run("bench", str(newer), *QUICK))
    assert "sm_90 needs sm_90; nvptx64-nvidia-cuda sm_120 needs sm_120" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--schedule", json.dumps({"loops": [["i", 16]], "lanes": 4})), "blocks and threads"),
        (("--threads", "4"), "threads of a processor, and sm_80 is a GPU"),
    ],
)
def test_nonsense_of_a_bench_is_refused_in_one_line(gpu, words, said):
    assert said in one_line(gpu.run("bench", "add:n=64", *QUICK, *words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--grid", "0", "--block", "128"), "--grid 0"),
        (("--grid", "8", "--block", "2048"), "--block 2048"),
        (("--block", "8"), "needs its launch"),
        (("--grid", "8", "--block", "128", "--target", "rasp4b"), "rasp4b is aarch64"),
    ],
)
def test_nonsense_of_a_build_is_refused_in_one_line(axpy, capsys, words, said):
    out = str(axpy.with_suffix(".tf"))
    assert main(["build", str(axpy), "--args", ARGS, "-o", out, *words]) != 0
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1
