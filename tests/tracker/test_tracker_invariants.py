"""The scheduler's invariants under whatever may happen, in any order, with restarts between."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tunefarm_tracker.core import Config, Scheduler, restore
from tunefarm_tracker.core.effects import Change, Ended, Granted, Renewed
from tunefarm_tracker.core.inputs import (
    DeviceDisconnected,
    DeviceReported,
    Heartbeat,
    HolderDisconnected,
    Input,
    LeaseReleased,
    LeaseRenewed,
    Released,
    RequestCancelled,
    RequestOpened,
    Tick,
)
from tunefarm_tracker.core.records import DeviceState, Report, Wish
from tunefarm_tracker.store import MemoryStore

DEVICES = st.sampled_from(["d1", "d2", "d3"])
KEYS = st.sampled_from(["k1", "k2"])
REQUESTS = st.sampled_from([f"r{n}" for n in range(8)])
# Long enough never to be forgotten, or asking again would rightly be a new request.
CONFIG = Config(remember_ends=1e9)


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
        self.fences: dict[str, int] = {}
        self.dead: set[str] = set()
        self.accepted: set[str] = set()

    def new_id(self) -> str:
        return next(self.ids)

    def do(self, event: Input) -> None:
        before = set(self.core.state.leases)
        effects = self.core.handle(event, self.now)
        self.store.write([one for one in effects if isinstance(one, Change)])
        self.dead |= before - set(self.core.state.leases)
        for lease in self.core.state.leases.values():
            assert lease.id not in self.dead, "a lost lease came back"
            assert self.lease_of.setdefault(lease.request_id, lease.id) == lease.id, "granted twice"
            if lease.id not in before:
                assert lease.fence > self.fences.get(lease.device_id, 0)
                self.fences[lease.device_id] = lease.fence
        for one in effects:
            if isinstance(one, Renewed):
                assert one.lease.id in self.core.state.leases
            if isinstance(one, Granted) and one.lease.id in self.dead:
                ends = [end for end in effects if isinstance(end, Ended) and end.to == one.to]
                assert ends, "granted a lease that is dead and did not say so"

    @rule(device=DEVICES, key=KEYS, lease=st.sampled_from(["", "own", "stale"]))
    def device_connects(self, device: str, key: str, lease: str) -> None:
        self.device_stream[device] = next(self.streams)
        self.device_reports(device, key, "same", lease)

    @rule(
        device=DEVICES,
        key=KEYS,
        instance=st.sampled_from(["same", "same", "new"]),
        lease=st.sampled_from(["", "own", "stale"]),
    )
    def device_reports(self, device: str, key: str, instance: str, lease: str) -> None:
        if device not in self.device_stream:
            return
        known = self.core.state.devices.get(device)
        if lease == "own":
            lease = known.lease_id if known else ""
        if instance == "new":
            instance = f"i{next(self.streams)}"
        elif known:
            instance = known.instance
        report = Report(device, key, ("h:1",), instance, lease)
        self.do(DeviceReported(self.device_stream[device], report))

    @rule(device=DEVICES)
    def device_goes(self, device: str) -> None:
        self.do(DeviceDisconnected(self.device_stream.pop(device, 0), device))

    @rule(
        request=REQUESTS,
        key=KEYS,
        priority=st.integers(-1, 1),
        wait=st.sampled_from([None, 0.0, 2.0, 30.0]),
        ttl=st.sampled_from([None, 2.0, 60.0]),
        any_key=st.booleans(),
    )
    def client_asks(self, request, key, priority, wait, ttl, any_key) -> None:
        stream = self.client_stream[request] = next(self.streams)
        wish = Wish(request, key, priority, "user", "", wait, any_key, ttl)
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

    @rule(request=REQUESTS)
    def client_releases(self, request: str) -> None:
        self.do(Released(self.client_stream.get(request, 10**9), request))

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
        assert [one.id for one in state.queue()] == [one.id for one in self.core.state.queue()]
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
        waiting = {one.id for one in state.queue()}
        granted = {lease.request_id for lease in state.leases.values()}
        assert waiting.isdisjoint(granted)
        assert waiting | granted == set(state.requests)
        assert set(state.requests).isdisjoint(state.ends)
        assert self.accepted <= set(state.requests) | set(state.ends), "a request was lost"

    @invariant()
    def nobody_eligible_waits_beside_a_free_device(self) -> None:
        state = self.core.state
        free = {d.key for d in state.devices.values() if d.state is DeviceState.IDLE}
        wanted = {one.wish.key for one in state.queue() if one.present}
        assert free.isdisjoint(wanted)

    @invariant()
    def nothing_is_overdue_without_a_deadline(self) -> None:
        ends = [lease.deadline for lease in self.core.state.leases.values()]
        due = self.core.next_deadline()
        assert not ends or (due is not None and due <= min(ends))

    @invariant()
    def the_store_holds_the_same(self) -> None:
        restored = restore(self.store.load(), self.now, CONFIG)
        assert restored.snapshot() == self.core.state.snapshot()


Farm.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestFarm = Farm.TestCase
