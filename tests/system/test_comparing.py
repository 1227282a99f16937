"""tunefarm compare, as a user runs it."""

import json

import pytest
from tunefarm import Tracker, Verdict, compare, errors, request_device
from tunefarm_proto import rpc
from tunefarm_proto.v1.tracker_pb2 import ListPastLeasesRequest
from tunefarm_proto.v1.tracker_pb2_grpc import TrackerServiceStub

WORK = 'float s = 0; for (int i = 0; i < {n}; ++i) {{ s += 1; __asm__ volatile(""); }} return 0;'


@pytest.fixture
def bundles(c_bundle, tmp_path):
    """Files of a kernel, and of one with four times its work."""
    files = []
    for name, n in (("once", 20000), ("more", 80000)):
        files.append(str(tmp_path / f"{name}.tf"))
        c_bundle(WORK.format(n=n)).write(files[-1])
    return files


def test_bundles(farm, bundles):
    once, more = bundles
    found = farm.json("compare", once, more, "--device", "one")
    assert found["verdict"] == "slower" and found["interval"][0] > 1.5
    assert found["first"]["median_s"] < found["second"]["median_s"]
    for side in ("first", "second"):
        assert len(found[side]["samples_s"]) == 5 * found["rounds"]
    assert found["first"]["correct"] is None and found["emulated"] is False
    found = farm.json("compare", more, once, "--device", "one")
    assert found["verdict"] == "faster"
    found = farm.json("compare", once, once, "--device", "one", "--margin", "0.5")
    assert found["verdict"] in ("same", "not decidable")
    assert found["first"]["bundle_digest"] == found["second"]["bundle_digest"]


def test_it_tells_its_page(farm, bundles, monkeypatch):
    monkeypatch.setenv("TUNEFARM_DASHBOARD", "http://farm.test/")
    words = ("compare", *bundles, "--device", "one", "--budget", "1")
    found = farm.json(*words)
    assert found["url"] == f"http://farm.test/jobs/{found['request_id']}"
    with Tracker(farm.address) as tracker:
        past = TrackerServiceStub(tracker.channel).ListPastLeases(
            ListPastLeasesRequest(request_id=found["request_id"]), metadata=rpc.call_metadata()
        )
    assert [one.lease.purpose.split()[0] for one in past.leases] == ["compare"]
    assert "job: http://farm.test/jobs/" in farm.run(*words).stderr


def test_the_status_follows_the_verdict(farm, bundles):
    words = ("compare", *bundles, "--device", "one")
    assert farm.run(*words, "--fail-if", "slower").returncode == 3
    done = farm.run(*words, "--fail-if", "faster")
    assert done.returncode == 0 and "B beside A: slower" in done.stdout


def test_schedules_and_records(farm, tmp_path):
    workload = "matmul:m=48,n=48,k=48"
    records = tmp_path / "records.jsonl"
    farm.json("tune", workload, "--device", "one", "--trials", "2", "--records", str(records))
    schedule = json.loads(records.read_text().splitlines()[0])["schedule"]
    found = farm.json("compare", "default", schedule, "--of", workload, "--device", "one")
    assert found["first"]["correct"] is found["second"]["correct"] is True
    found = farm.json("compare", str(records), f"{records}:1", "--device", "one")
    assert found["second"]["correct"] is True
    done = farm.run("compare", str(records), f"{records}:99", "--device", "one")
    assert done.returncode == 2 and "FILE.jsonl:LINE" in done.stderr


def test_what_cannot_be_compared_is_one_line(farm, bundles):
    for second, word in (
        ("matmul:m=8,n=8,k=8", "different arguments"),
        ("nonsense", "nothing to compare"),
        ("missing.tf", "missing.tf"),
    ):
        done = farm.run("compare", bundles[0], second, "--device", "one")
        assert done.returncode in (2, 7)
        assert word in done.stderr and len(done.stderr.splitlines()) == 1


def test_from_a_script(farm, c_bundle):
    kernels = [c_bundle(WORK.format(n=n)) for n in (10000, 30000)]
    with request_device("one", tracker=farm.address, timeout=30) as device:
        first, second = (device.load(kernel)["kernel"] for kernel in kernels)
        x = device.empty((16,), "float32")
        found = compare((first, (x,)), (second, (x,)), most_rounds=40)
        assert found.verdict is Verdict.SLOWER and found.ratio > 2
        with pytest.raises(errors.InvalidRequestError, match="margin"):
            compare((first, (x,)), (second, (x,)), margin=0)
        with pytest.raises(errors.ArgumentMismatchError):
            compare((first, (x,)), (second, ()))
