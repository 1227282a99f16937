"""A WebAssembly device through real processes, as a user has one."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tunefarm import Bundle, request_device
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm.errors import TargetMismatchError
from tunefarm_compiler import build, workload
from tunefarm_compiler.operators import OPERATORS

pytest.importorskip("wasmtime")


def tunefarm(*words: str) -> str:
    command = [sys.executable, "-m", "tunefarm", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("farm")
    port = free_port(0)
    address = f"127.0.0.1:{port}"
    with LocalFarm(folder) as farm:
        farm.start("tracker", "tracker", "--port", str(port), "--state", str(folder / "t"))
        farm.wait_for_tracker(address)
        words = ["--key", "wasm", "--backend", "wasm", "--state", str(folder / "d")]
        farm.start("wasm", "device", *words, "--tracker", address)
        farm.wait_for_devices(address, ["wasm"])
        yield address


def test_bench_gives_the_right_answer(address):
    words = ("bench", "matmul:m=64,n=64,k=64", "--device", "wasm", "--tracker", address, "--json")
    told = json.loads(tunefarm(*words))
    assert told["correct"] is True
    assert told["target"].startswith("wasm32-unknown-unknown")
    assert not told["emulated"]


SIZES = {"r": 3, "s": 3, "k": 32, "c": 16, "block": 16, "pad": 1, "pad_left": 0, "pad_right": 2}
SIZES |= {"stride_w": 1, "dilation_w": 1, "pad_bottom": 2}


def small(name, dtype):
    """A workload of an operator with every field given."""
    sizes = {
        field.name: min(field.high, 2 if field.default == 1 else SIZES.get(field.name, 9))
        for field in OPERATORS[name].fields
        if not field.choices
    }
    sizes |= {"bit_pack": {"n": 64}, "bit_conv2d": {"c": 32}}.get(name, {})
    given = ",".join(f"{field}={size}" for field, size in sizes.items())
    return workload.parse(f"{name}:{given},dtype={dtype}")


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_in_every_type(address, name):
    with request_device("wasm", tracker=address, timeout=30) as device:
        for dtype in OPERATORS[name].dtypes:
            parsed = small(name, dtype)
            inputs = parsed.inputs(0)
            (want,) = parsed.reference(inputs)
            out = device.empty(want.shape, want.dtype.name)
            kernel = device.load(build(parsed, "wasm"))[parsed.function]
            kernel(*(device.array(data) for data in inputs), out)
            assert parsed.check([out.numpy()], [want]), str(parsed)


def test_a_bundle_built_for_it_runs_there_and_one_for_this_machine_does_not(address, tmp_path):
    file = tmp_path / "add.bundle"
    tunefarm("build", "add:n=100", "--target", "wasm", "-o", str(file))
    x, y = np.arange(100, dtype=np.float32), np.ones(100, np.float32)
    with request_device("wasm", tracker=address, timeout=30) as device:
        module, out = device.load(Bundle.read(file)), device.empty(100)
        module["add"](device.array(x), device.array(y), out)
        assert (out.numpy() == x + y).all()
        with pytest.raises(TargetMismatchError, match="wasm32-unknown-unknown"):
            device.load(build("add:n=100", "local"))
