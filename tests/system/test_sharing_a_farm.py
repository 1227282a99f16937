"""What people who share a farm do: conditions, several devices, admin, health checks, results."""

import json
import threading
import time

import pytest
from tunefarm import Need, Tracker, errors, request_device, request_devices


def test_conditions_choose_and_name_what_is_wrong(farm):
    with Tracker(farm.address) as tracker:
        known = {device.id: dict(device.attributes) for device in tracker.devices("one")}
    (name,) = known
    cores = int(known[name]["cpu_count"])
    where = {"id": name, "cpu_count": f">={cores}", "features": ["fma"], "emulated": False}
    if "fma" not in known[name]["features"].split(","):
        del where["features"]
    with request_device(["none-such", "one"], where=where, tracker=farm.address) as device:
        assert device.id == name
    with pytest.raises(errors.UnknownKeyError, match=f"cpu_count is {cores}"):
        request_device("one", where={"cpu_count": f">{cores}"}, tracker=farm.address)
    done = farm.run("bench", "add:n=1000", "--device", "one", "--where", "label.lab=nowhere")
    assert done.returncode == 6
    assert "none of them has label.lab" in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_devices_together_each_do_their_work(farm, c_bundle):
    bundle = c_bundle("((float *)args[0])[0] = 7; return 0;")
    with request_devices("one", Need("two"), tracker=farm.address, purpose="both") as devices:
        assert [device.key for device in devices] == ["one", "two"]
        for device in devices:
            x = device.empty(16)
            device.load(bundle)["kernel"](x)
            assert x.numpy()[0] == 7
        assert {lease["purpose"] for lease in farm.json("status")["leases"]} == {"both"}
        devices[0].close()  # its lease goes on with the others'
        assert len(farm.json("status")["leases"]) == 2
    with Tracker(farm.address) as tracker:
        assert not tracker.leases()


def test_a_revoked_lease_cuts_off_a_running_kernel(farm, c_bundle):
    loops = c_bundle('for (;;) { __asm__ volatile(""); } return 0;')
    with request_device("one", tracker=farm.address) as device:
        module, x = device.load(loops), device.empty(16)

        def revoke() -> None:
            while not farm.json("status")["leases"]:
                time.sleep(0.1)
            assert "revoked" in farm.run("admin", "revoke", device.id, "--reason", "fire").stdout

        thread = threading.Thread(target=revoke)
        thread.start()
        with pytest.raises(errors.LeaseLostError, match="revoked by an operator: fire"):
            module["kernel"](x, timeout=60)
        thread.join()
    with request_device("one", tracker=farm.address, timeout=20) as again:
        assert again.empty(16).numpy()[0] == 0


def test_what_is_not_there_cannot_be_ended_and_the_audit_log_says_so(farm):
    assert farm.run("admin", "revoke", "no-lease").returncode == 1
    assert farm.run("admin", "cancel", "no-request").returncode == 1
    assert farm.run("admin", "drain", "no-device").returncode == 6
    wanted = {
        ("revoke", "no-lease", "failed: no such lease is live"),
        ("drain", "no-device", "failed: there is no device 'no-device'"),
    }
    limit = time.monotonic() + 30
    while True:  # nobody waits for the log
        entries = farm.json("audit")
        if wanted <= {(one["action"], one["subject"], one["outcome"]) for one in entries}:
            break
        assert time.monotonic() < limit, entries


def test_a_drained_device_waits_for_maintenance_and_comes_back(farm):
    with Tracker(farm.address) as tracker:
        (device,) = tracker.devices("one")
    try:
        (row,) = farm.json("admin", "drain", device.id, "--reason", "new fan")
        assert (row["state"], row["reason"]) == ("draining", "an operator: new fan")
        with pytest.raises(errors.RequestTimeoutError, match="draining: an operator: new fan"):
            request_device("one", tracker=farm.address, timeout=0.3)
        with request_device("one", tracker=farm.address, maintenance=True) as fixing:
            assert fixing.id == device.id
    finally:
        (row,) = farm.json("admin", "enable", device.id)
    assert row["health"] == "good"
    with request_device("one", tracker=farm.address, timeout=20):
        pass


def test_health_checks_are_recorded_and_pass(farm):
    checks = farm.json("check", "--key", "two")
    assert [check["passed"] for check in checks] == [True]
    assert "right answer" in checks[0]["detail"]
    (newest, *_) = farm.json("results", "--device", checks[0]["device_id"], "--limit", "1")
    assert newest["workload"].startswith("health matmul")
    done = farm.run("check", "nosuch")
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)
    assert "there is no device nosuch" in done.stderr


def test_results_are_exported_whole(farm, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    farm.json("bench", "add:n=1000", "--device", "one", "--repeat", "3", "--min-repeat-ms", "1")
    for name in ("out.jsonl", "out.parquet"):
        done = farm.run("results", "--export", str(tmp_path / name), "--since", "1h")
        assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in table] == [line["id"] for line in lines]
    (one,) = [line for line in lines if line["workload"].startswith("add:n=1000,")][:1]
    assert len(one["samples_s"]) == 3
    assert one["before"]["read_at"]
    assert farm.json("results", "--until", "1h") == []


def test_a_quota_holds_a_user_back_and_users_are_listed(farm):
    farm.run("admin", "quota", "ann", "--max-devices", "1")
    waits = []
    with request_device("one", tracker=farm.address, user="ann"):
        with pytest.raises(errors.RequestTimeoutError):
            request_device(
                "two", tracker=farm.address, user="ann", timeout=0.5, on_wait=waits.append
            )
        assert "ann holds 1 of the 1 devices of the quota" in waits[0].reason
        with pytest.raises(errors.QuotaExceededError, match="ann may hold 1 devices, not 2"):
            request_devices("one", "two", tracker=farm.address, user="ann")
        (ann,) = [user for user in farm.json("admin", "users") if user["name"] == "ann"]
        assert (ann["devices"], ann["max_devices"]) == (1, 1)
    farm.run("admin", "quota", "ann")


def test_an_extended_lease_outlives_its_silent_holder_for_so_long(farm):
    with request_device("one", tracker=farm.address) as device:
        device.extend(120.0)
        limit = time.monotonic() + 20
        with Tracker(farm.address) as tracker:
            while tracker.leases()[0].ttl.seconds != 120:
                assert time.monotonic() < limit
                time.sleep(0.05)
        with pytest.raises(errors.InvalidRequestError, match="ttl"):
            device.extend(0)
