"""The scheduler's invariants under whatever may happen, in any order, with restarts between."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tunefarm_tracker.core import Config, Scheduler, restore
from tunefarm_tracker.core.effects import Change, Ended, Granted, Renewed
from tunefarm_tracker.core.inputs import (
    DeviceAction,
    DeviceDisconnected,
    DeviceManaged,
    DeviceReported,
    HealthChecked,
    Heartbeat,
    HolderDisconnected,
    Input,
    LeaseReleased,
    LeaseRenewed,
    LeaseRevoked,
    QuotaSet,
    Released,
    RequestCancelled,
    RequestOpened,
    Tick,
)
from tunefarm_tracker.core.matching import find_devices
from tunefarm_tracker.core.records import (
    Need,
    Quota,
    RecoveryStep,
    Report,
    Wish,
)
from tunefarm_tracker.core.turn import Turn
from tunefarm_tracker.core.where import parse
from tunefarm_tracker.store import MemoryStore

DEVICES = st.sampled_from(["d1", "d2", "d3"])
KEYS = st.sampled_from(["k1", "k2"])
REQUESTS = st.sampled_from([f"r{n}" for n in range(8)])
# Long enough never to be forgotten, or asking again would rightly be a new request.
CONFIG = Config(
    remember_ends=1e9,
    reserve_after=5.0,
    drops_to_quarantine=8,
    recover_after=4.0,
    recovery=(RecoveryStep("restart", 3.0), RecoveryStep("power", 3.0)),
)
USERS = st.sampled_from(["ann", "bob"])
NEEDS = st.builds(
    Need,
    st.sampled_from([("k1",), ("k2",), ("k1", "k2")]),
    st.sampled_from([(), (), parse([("labels", "lab=a")]), parse([("memory_mb", ">=1000")])]),
)
ATTRIBUTES = st.sampled_from(
    [None, (), (("label.lab", "a"), ("memory_mb", "512")), (("memory_mb", "2048"),)]
)


class Farm(RuleBasedStateMachine):
    """Devices, clients and a tracker that may restart at any step."""

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore()
        self.ids = (f"lease{n}" for n in itertools.count(1))
        self.now = 1000.0
        self.core = Scheduler(restore(self.store.load(), self.now, CONFIG), CONFIG, self.new_id)
        self.streams = itertools.count(1)
        self.device_stream: dict[str, int] = {}
        self.client_stream: dict[str, int] = {}
        self.lease_of: dict[str, str] = {}
        self.granted: dict[tuple[str, str], str] = {}
        self.fences: dict[str, int] = {}
        self.dead: set[str] = set()
        self.accepted: set[str] = set()
        self.seen: set[str] = set()
        self.held: dict[str, int] = {}
        for device, key in (("d1", "k1"), ("d2", "k1"), ("d3", "k2")):
            self.device_connects(device, key, "")
        self.quota("bob", 1)

    def new_id(self) -> str:
        return next(self.ids)

    def do(self, event: Input) -> None:
        before = set(self.core.state.leases)
        effects = self.core.handle(event, self.now)
        self.store.write([one for one in effects if isinstance(one, Change)])
        self.dead |= before - set(self.core.state.leases)
        for lease in self.core.state.leases.values():
            assert lease.id not in self.dead, "a lost lease came back"
            one = (lease.request_id, lease.device_id)
            assert self.granted.setdefault(one, lease.id) == lease.id, "granted twice"
            self.lease_of[lease.request_id] = lease.id
            if lease.id not in before:
                assert lease.fence > self.fences.get(lease.device_id, 0)
                self.fences[lease.device_id] = lease.fence
        for one in effects:
            if isinstance(one, Renewed):
                assert one.lease.id in self.core.state.leases
            if isinstance(one, Granted) and one.lease.id in self.dead:
                ends = [end for end in effects if isinstance(end, Ended) and end.to == one.to]
                assert ends, "granted a lease that is dead and did not say so"

    @rule(device=DEVICES)
    def device_obeys(self, device: str) -> None:
        """The usual: it serves what it is told, and is clean after what has ended."""
        if device not in self.device_stream:
            self.device_stream[device] = next(self.streams)
        known = self.core.state.devices.get(device)
        if known is None:  # forgotten
            return
        report = Report(device, known.key, ("h:1",), known.instance, known.lease_id)
        self.do(DeviceReported(self.device_stream[device], report))

    @rule(
        request=REQUESTS,
        needs=st.lists(
            st.builds(Need, st.sampled_from([("k1",), ("k2",)])), min_size=1, max_size=3
        ),
        user=USERS,
        priority=st.integers(0, 1),
    )
    def client_asks_plainly(self, request, needs, user, priority) -> None:
        self.client_asks(request, needs, user, False, priority, None, 60.0, True)

    @rule(device=DEVICES, key=KEYS, lease=st.sampled_from(["", "own", "stale"]))
    def device_connects(self, device: str, key: str, lease: str) -> None:
        self.device_stream[device] = next(self.streams)
        self.device_reports(device, key, "same", lease, ())

    @rule(
        device=DEVICES,
        key=KEYS,
        instance=st.sampled_from(["same", "same", "new"]),
        lease=st.sampled_from(["", "own", "stale"]),
        attributes=ATTRIBUTES,
    )
    def device_reports(
        self,
        device: str,
        key: str,
        instance: str,
        lease: str,
        attributes: tuple[tuple[str, str], ...] | None,
    ) -> None:
        if device not in self.device_stream:
            return
        known = self.core.state.devices.get(device)
        if lease == "own":
            lease = known.lease_id if known else ""
        if instance == "new":
            instance = f"i{next(self.streams)}"
        elif known:
            instance = known.instance
        fence = 0 if known else self.fences.get(device, 0)  # a device keeps its own
        report = Report(device, key, ("h:1",), instance, lease, fence, attributes=attributes)
        self.do(DeviceReported(self.device_stream[device], report))

    @rule(device=DEVICES)
    def device_goes(self, device: str) -> None:
        self.do(DeviceDisconnected(self.device_stream.pop(device, 0), device))

    @rule(
        request=REQUESTS,
        needs=st.lists(NEEDS, min_size=1, max_size=3),
        user=USERS,
        maintenance=st.booleans(),
        priority=st.integers(-1, 1),
        wait=st.sampled_from([None, 0.0, 2.0, 30.0]),
        ttl=st.sampled_from([None, 2.0, 60.0]),
        any_key=st.booleans(),
    )
    def client_asks(self, request, needs, user, maintenance, priority, wait, ttl, any_key) -> None:
        stream = self.client_stream[request] = next(self.streams)
        wish = Wish(request, tuple(needs), priority, user, "", wait, any_key, ttl, maintenance)
        self.do(RequestOpened(stream, wish))
        state = self.core.state
        if request in state.requests or request in state.ends:
            self.accepted.add(request)

    @rule(request=REQUESTS)
    def client_beats(self, request: str) -> None:
        self.do(Heartbeat(self.client_stream.get(request, 10**9), request))

    @rule(request=REQUESTS)
    def client_goes(self, request: str) -> None:
        self.do(HolderDisconnected(self.client_stream.pop(request, 10**9), request))

    @rule(request=REQUESTS, fault=st.sampled_from(["", "", "unreachable"]), device=DEVICES)
    def client_releases(self, request: str, fault: str, device: str) -> None:
        self.do(Released(self.client_stream.get(request, 10**9), request, fault, device))

    @rule(device=DEVICES, action=st.sampled_from(DeviceAction))
    def operator_manages(self, device: str, action: DeviceAction) -> None:
        self.do(DeviceManaged(10**9, device, action, "op", "why"))

    @rule(device=DEVICES, passed=st.booleans(), severe=st.booleans())
    def health_is_checked(self, device: str, passed: bool, severe: bool) -> None:
        self.do(HealthChecked(10**9, device, passed, "seen", severe))

    @rule(user=USERS, devices=st.sampled_from([None, 0, 1, 2]))
    def quota(self, user: str, devices: int | None) -> None:
        self.do(QuotaSet(10**9, Quota(user, devices)))

    @rule(request=REQUESTS)
    def operator_revokes(self, request: str) -> None:
        self.do(LeaseRevoked(10**9, self.lease_of.get(request, "none"), "op", "why"))

    @rule(request=REQUESTS)
    def cancel(self, request: str) -> None:
        self.do(RequestCancelled(10**9, request))

    @rule(request=REQUESTS, release=st.booleans())
    def by_lease_id(self, request: str, release: bool) -> None:
        lease = self.lease_of.get(request, "none")
        self.do((LeaseReleased if release else LeaseRenewed)(10**9, lease))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0, 7.0, 20.0]), tick=st.booleans())
    def time_passes(self, seconds: float, tick: bool) -> None:
        self.now += seconds
        if tick:
            self.do(Tick())

    @rule()
    def tracker_restarts(self) -> None:
        before = self.core.state.snapshot()
        state = restore(self.store.load(), self.now, CONFIG)
        assert state.snapshot() == before
        was = [one.id for one in self.core.state.queue(self.now)]
        assert [one.id for one in state.queue(self.now)] == was
        self.core = Scheduler(state, CONFIG, self.new_id)
        self.device_stream.clear()
        self.client_stream.clear()

    @invariant()
    def one_lease_for_a_device_and_one_device_for_a_lease(self) -> None:
        state = self.core.state
        held = {d.id: d.lease_id for d in state.devices.values() if d.lease_id}
        assert {lease.device_id: lease.id for lease in state.leases.values()} == held
        assert len(held) == len(state.leases)

    @invariant()
    def a_request_is_waiting_or_granted_or_over(self) -> None:
        state = self.core.state
        waiting = {one.id for one in state.queue(self.now)}
        granted = {lease.request_id for lease in state.leases.values()}
        assert waiting.isdisjoint(granted)
        assert waiting | granted == set(state.requests)
        assert set(state.requests).isdisjoint(state.ends)
        assert self.accepted <= set(state.requests) | set(state.ends), "a request was lost"

    @invariant()
    def all_devices_of_a_request_or_none(self) -> None:
        state = self.core.state
        for request in state.requests.values():
            if request.granted:
                assert len(request.lease_ids) == len(request.wish.needs)
                leases = [state.leases[one] for one in request.lease_ids]
                assert len({lease.device_id for lease in leases}) == len(leases)
                assert all(lease.request_id == request.id for lease in leases)
        assert sum(len(one.lease_ids) for one in state.requests.values()) == len(state.leases)

    @invariant()
    def nobody_eligible_waits_beside_a_free_device(self) -> None:
        turn = Turn(self.core.state, CONFIG, self.new_id, self.now)
        for request in self.core.state.queue(self.now):
            assert find_devices(turn, request) is None, request

    @invariant()
    def only_usable_devices_are_granted_but_for_maintenance(self) -> None:
        state = self.core.state
        for request in state.requests.values():
            for lease_id in request.lease_ids:
                if lease_id not in self.seen:
                    self.seen.add(lease_id)
                    device = state.devices[state.leases[lease_id].device_id]
                    assert device.usable or request.wish.maintenance

    @invariant()
    def no_quota_is_exceeded(self) -> None:
        shares = self.core.state.shares
        for user in ("ann", "bob"):
            held = sum(lease.holder == user for lease in self.core.state.leases.values())
            assert shares.devices(user) == held
            most = shares.max_devices(user)
            grew = held > self.held.get(user, 0)
            self.held[user] = held
            assert most is None or held <= most or not grew

    @invariant()
    def places_are_those_of_the_order(self) -> None:
        state = self.core.state
        for key in ("k1", "k2"):
            for position, request in enumerate(state.waiting(key, self.now), 1):
                if request.wish.keys == (key,):
                    assert state.position(request, self.now)[0] == position

    @invariant()
    def indexes_agree_with_the_devices(self) -> None:
        fleet = self.core.state.fleet
        for key in ("k1", "k2"):
            mine = [one for one in fleet.devices.values() if one.key == key]
            idle = {one.id for one in fleet.idle(key, maintenance=True)}
            assert idle == {one.id for one in mine if one.idle}
            assert {one.id for one in fleet.idle(key)} == {
                one.id for one in mine if one.idle and one.usable
            }
            assert sum(fleet.words(key).values()) == fleet.count(key) == len(mine)

    @invariant()
    def nothing_is_overdue_without_a_deadline(self) -> None:
        ends = [lease.deadline for lease in self.core.state.leases.values()]
        due = self.core.next_deadline()
        assert not ends or (due is not None and due <= min(ends))

    @invariant()
    def the_store_holds_the_same(self) -> None:
        restored = restore(self.store.load(), self.now, CONFIG)
        assert restored.snapshot() == self.core.state.snapshot()


Farm.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestFarm = Farm.TestCase
