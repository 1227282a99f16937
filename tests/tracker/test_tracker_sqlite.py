"""The store in SQLite holds what the scheduler knows, after days of everything."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from tunefarm_proto import errors
from tunefarm_tracker.core.effects import (
    DropDevice,
    DropLease,
    EventHappened,
    SaveDevice,
    SaveHold,
    SaveLease,
    SavePast,
    SaveQuota,
    SaveRequest,
)
from tunefarm_tracker.core.records import (
    Device,
    Event,
    EventKind,
    Fault,
    Health,
    Lease,
    Need,
    PastLease,
    Quota,
    Request,
    Wish,
)
from tunefarm_tracker.core.where import parse
from tunefarm_tracker.simulation import Simulation, UserPlan
from tunefarm_tracker.sqlite import SqliteStore
from tunefarm_tracker.store import EventQuery, MemoryStore, PastQuery


def test_days_in_sqlite_restart_to_the_same_state(tmp_path):
    plans = [
        UserPlan(f"u{n}", f"k{n % 2}", parallel=2, hold=900.0, devices=1 + n % 2) for n in range(6)
    ]
    stores = (SqliteStore(tmp_path / "s.sqlite") for _ in itertools.count())
    farm = Simulation(plans, {"k0": 4, "k1": 3}, seed=7, open_store=lambda: next(stores))
    for device in farm.devices[::2]:
        device.mean_up = 7200.0
    for _ in range(4):
        farm.run(6 * 3600.0)
        farm.restart()  # asserts that the state is the same
    assert farm.outcome.restarts == 4
    assert sum(farm.outcome.grants.values()) > 300
    farm.close()


def device(name: str, **more) -> Device:
    return Device(name, "k", ("h:1",), b"\x00facts", "i", attributes=(("a", "ü"),), **more)


def lease(name: str, on: str) -> Lease:
    return Lease(name, f"r-{name}", on, "k", "ann", 'it\'s "quoted"\n', -3, 7, 0.1 + 0.2, 6.5, 0.0)


def reopened(path: Path):
    store = SqliteStore(path)
    snapshot = store.load()
    store.close()
    return snapshot


def test_every_field_comes_back_as_it_was(tmp_path):
    path = tmp_path / "s.sqlite"
    odd = device(
        "d1", health=Health.SUSPECT, health_reason="why", draining=True, fence=2**61,
        faults=(Fault(1.5, "x", "ann"), Fault(2.5, "y")),
    )  # fmt: skip
    needs = (Need(("a", "b"), parse([("memory_mb", ">=3.5"), ("labels", "x=y,z")])), Need(("c",)))
    wish = Wish("r1", needs, -1, "bob", "p", 1e9 / 3, True, 2.5, True)
    request = Request(wish, 12, 1795243601.6272471, ("l1", "l2"))
    plain = Request(Wish("r2", (Need(("k",)),)), 13, 5.0)
    store = SqliteStore(path)
    for change in (
        SaveDevice(odd), SaveLease(lease("l1", "d1")), SaveRequest(request), SaveRequest(plain),
        SaveQuota(Quota("ann", 0, None)),
    ):  # fmt: skip
        store.write([change]).result()
    store.close()
    kept = reopened(path)
    assert kept.devices == (odd,)
    assert kept.leases == (lease("l1", "d1"),)
    assert set(kept.requests) == {request, plain}
    assert kept.quotas == (Quota("ann", 0, None),)


def test_what_happens_to_a_device_in_one_commit_ends_as_it_ended(tmp_path):
    path = tmp_path / "s.sqlite"
    store = SqliteStore(path)
    changes = [
        SaveDevice(device("d1")), SaveLease(lease("l1", "d1")), SaveHold("d1", "l1", 1),
        DropLease("l1"), SaveHold("d1", "", 1), SaveLease(lease("l2", "d1")),
        SaveHold("d1", "l2", 2),
    ]  # fmt: skip
    store.write(changes).result()
    store.close()
    kept = reopened(path)
    assert [one.id for one in kept.leases] == ["l2"]
    assert (kept.devices[0].lease_id, kept.devices[0].fence) == ("l2", 2)


def test_a_device_that_is_dropped_is_gone_unless_it_came_back(tmp_path):
    path, memory = tmp_path / "s.sqlite", MemoryStore()
    store = SqliteStore(path)
    both = [SaveDevice(device("d1")), SaveDevice(device("d2"))]
    again = [DropDevice("d1"), SaveHold("d2", "", 7), DropDevice("d2"), SaveDevice(device("d2"))]
    for changes in (both, again, [SaveDevice(device("d3")), DropDevice("d3")]):
        store.write(changes).result()
        memory.write(changes)
    store.close()
    assert reopened(path).devices == memory.load().devices == (device("d2"),)


def test_two_leases_of_a_device_in_one_commit_are_refused(tmp_path):
    store = SqliteStore(tmp_path / "s.sqlite")
    with pytest.raises(errors.InternalError, match="cannot keep its state"):
        store.write([SaveLease(lease("l1", "d1")), SaveLease(lease("l2", "d1"))]).result()
    store.close()


def test_stores_agree_on_past_leases_and_events(tmp_path):
    stores = (SqliteStore(tmp_path / "s.sqlite"), MemoryStore())
    pasts = [
        PastLease(replace(lease(f"l{n}", f"d{n % 2}"), granted_at=n * 10.0), n * 9.0, n * 11.0, "x")
        for n in range(1, 6)
    ]
    events = [
        Event(n, n * 1.0, EventKind.DEVICE if n % 2 else EventKind.LEASE, f"d{n % 3}", "a", "b")
        for n in range(1, 12)
    ]
    for store in stores:
        store.write([SavePast(past) for past in pasts]).result()
        store.write([EventHappened(event) for event in events]).result()
    sqlite, memory = stores
    for query in (
        PastQuery(), PastQuery(limit=2), PastQuery(device_id="d1"), PastQuery(request_id="r-l3"),
        PastQuery(holder="nobody"), PastQuery(since=33.0, until=50.0),
    ):  # fmt: skip
        assert sqlite.past_leases(query).result() == memory.past_leases(query).result()
    assert sqlite.past_leases(PastQuery(limit=1)).result() == pasts[-1:]
    assert sqlite.past_leases(PastQuery(since=33.0, until=50.0)).result() == pasts[3:1:-1]
    for asked in (EventQuery(EventKind.DEVICE, "d1"), EventQuery(EventKind.LEASE, "d2", 8, 1)):
        assert sqlite.events_of(asked).result() == memory.events_of(asked).result() != []
    sqlite.close()
