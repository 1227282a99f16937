"""One real measurement, and what travels with it, through real processes."""

import array
import json
import time
from pathlib import Path

import numpy as np
import pytest
from tunefarm import Bundle, Tracker, request_device
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm.errors import LeaseLostError
from tunefarm_compiler import build

WORKLOAD = "matmul:m=96,n=80,k=64"


@pytest.fixture(scope="module")
def matmul() -> Bundle:
    return build(WORKLOAD, "local")


def test_the_readme_script(farm, matmul):
    rng = np.random.default_rng(0)
    x, y = rng.random((96, 64), np.float32), rng.random((64, 80), np.float32)
    with request_device("one", tracker=farm.address, priority=0, timeout=30) as device:
        module = device.load(matmul)
        a, b = device.array(x), device.array(y)
        c = device.empty((96, 80), "float32")
        module["matmul"](a, b, c)
        timing = module.time_evaluator("matmul", number=0, repeat=10, min_repeat_ms=2)(a, b, c)
        out = c.numpy()
    np.testing.assert_allclose(out, x @ y, rtol=1e-5)
    assert len(timing.samples) == 10
    assert timing.number >= 1
    assert timing.min <= timing.median <= max(timing.samples)
    assert timing.min <= timing.mean <= max(timing.samples)
    assert timing.std >= 0
    assert len(str(timing).splitlines()) == 1
    with pytest.raises(LeaseLostError):
        a.numpy()


def test_a_number_of_calls_is_kept(farm, matmul):
    with request_device("one", tracker=farm.address, timeout=30) as device:
        module = device.load(matmul)
        arrays = [device.empty(s) for s in ((96, 64), (64, 80), (96, 80))]
        timing = module.time_evaluator("matmul", number=7, repeat=3)(*arrays)
    assert (timing.number, len(timing.samples)) == (7, 3)


def test_a_second_upload_sends_no_module_bytes(farm, tmp_path):
    bundle = build("add:n=4097", "local")
    path = tmp_path / "add.tf"
    bundle.write(path)
    with request_device("one", tracker=farm.address, timeout=30) as device:
        assert device.load(bundle).uploaded_bytes == len(bundle.data)
        assert device.load(path).uploaded_bytes == 0
    with request_device("one", tracker=farm.address, timeout=30) as device:
        assert device.load(bundle).uploaded_bytes == 0


@pytest.mark.parametrize(
    ("source", "dtype", "shape"),
    [
        (array.array("f", [1, 2, 3]), "float32", (3,)),
        (b"abc", "uint8", (3,)),
        (np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2], "int64", (3, 2)),
        (np.zeros((0, 4), np.float16), "float16", (0, 4)),
        (np.float64(3.5), "float64", ()),
        (np.ones((3, 400_000), np.float64), "float64", (3, 400_000)),
    ],
)
def test_arrays_come_back_as_they_went(farm, source, dtype, shape):
    with request_device("two", tracker=farm.address, timeout=30) as device:
        made = device.array(source)
        assert (made.dtype, made.shape) == (dtype, shape)
        np.testing.assert_array_equal(made.numpy(), np.asarray(memoryview(source)))


def test_an_array_takes_what_only_speaks_dlpack(farm):
    class Tensor:
        data = np.arange(6, dtype=np.float32).reshape(2, 3)

        def __dlpack__(self, **options):
            return self.data.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.data.__dlpack_device__()

    with request_device("two", tracker=farm.address, timeout=30) as device:
        np.testing.assert_array_equal(device.array(Tensor()).numpy(), Tensor.data)


def test_the_address_may_come_from_the_environment(farm, monkeypatch):
    monkeypatch.setenv("TUNEFARM_TRACKER", farm.address)
    with request_device("two", timeout=30) as device:
        assert device.key == "two"


def test_bench_prints_what_scripts_need(farm):
    measured = farm.json("bench", "matmul:m=128,n=128,k=128", "--device", "one")
    assert measured["correct"] is True
    assert measured["emulated"] is False
    assert measured["device_key"] == "one"
    assert len(measured["samples_s"]) == 10
    assert measured["min_s"] <= measured["median_s"]
    expected = 2 * 128**3 / measured["median_s"] / 1e9
    assert measured["gflops"] == pytest.approx(expected)
    for name in ("workload", "device", "target", "mean_s", "number"):
        assert measured[name]
    with Tracker(farm.address) as tracker:
        kept = tracker.results(workload=measured["workload"], device_key="one")[0]
    assert list(kept.timing.samples_s) == measured["samples_s"]
    assert kept.correct


def test_status_names_state_holder_and_target(farm):
    with request_device("one", tracker=farm.address, timeout=30, user="ada", purpose="tea"):
        status = farm.json("status")
        text = farm.run("status").stdout
    held = {device["key"]: device for device in status["devices"]}["one"]
    assert (held["state"], held["health"], held["holder"]) == ("leased", "good", "ada")
    assert held["emulated"] is False
    assert held["target"]
    assert held["address"]
    assert [lease["purpose"] for lease in status["leases"]] == ["tea"]
    assert status["queue"] == []
    assert "ada" in text


def test_build_and_bench_by_hand(farm, tmp_path):
    path = tmp_path / "add.tf"
    built = farm_build("add:n=1000", "local", path)
    assert Bundle.read(path).digest == built["digest"]
    with request_device("one", tracker=farm.address, timeout=30) as device:
        module = device.load(path)
        x = np.linspace(0, 1, 1000, dtype=np.float32)
        a, b, c = device.array(x), device.array(x), device.empty(1000)
        module["add"](a, b, c)
        np.testing.assert_array_equal(c.numpy(), x + x)


def farm_build(workload: str, target: str, path: Path) -> dict[str, str]:
    import subprocess
    import sys

    command = [sys.executable, "-m", "tunefarm", "build", workload, "--target", target]
    done = subprocess.run(
        [*command, "-o", str(path), "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_tune_leaves_a_record_for_each_trial_and_goes_on(farm, tmp_path):
    records = tmp_path / "records.jsonl"
    words = ("tune", "matmul:m=64,n=64,k=64", "--device", "one", "--records", str(records))
    outcome = farm.json(*words, "--trials", "4")
    assert outcome["trials"] == 4
    assert outcome["tasks"][0]["best_schedule"] and outcome["tasks"][0]["gain"] > 0
    lines = records.read_text().splitlines()
    with records.open("a") as file:
        file.write(lines[0][:40])  # what a killed run leaves
    assert farm.json(*words, "--trials", "6")["trials"] == 6
    kept = [json.loads(line) for line in records.read_text().splitlines()]
    tried = [r for r in kept if r["tier"] == "screen" and not r["duplicate_of"]]
    assert len(tried) == len({record["schedule"] for record in tried}) == 6
    assert len({record["id"] for record in kept}) == len(kept)
    assert all(record["samples_s"] or record["error"] for record in kept)


def test_the_drift_of_a_device_is_kept(tmp_path):
    address = f"127.0.0.1:{free_port(0)}"
    with LocalFarm(tmp_path) as processes:
        words = ("--port", address.split(":")[1], "--state", str(tmp_path / "t"))
        processes.start("tracker", "tracker", *words)
        processes.wait_for_tracker(address)
        words = ("--tracker", address, "--state", str(tmp_path / "d"), "--anchor-interval", "1")
        processes.start("device", "device", "--key", "k", *words)
        processes.wait_for_devices(address, ("k",))
        with Tracker(address) as tracker:
            limit = time.monotonic() + 30
            while len(found := tracker.results("anchor compute", device_key="k")) < 2:
                assert time.monotonic() < limit, "no reading of the anchor came"
                time.sleep(0.2)
        assert len({one.id for one in found}) == len(found)
        assert all(one.timing.samples_s and one.timing.HasField("after") for one in found)
