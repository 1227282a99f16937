"""A farm in simulated time: the real scheduler with many devices, users and failures.

Nothing here is real but the core: an event queue carries the time. Each device obeys what it is
told after a delay, each user keeps a number of requests going. Used by tests and benchmarks.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tunefarm_tracker.core import Config, Scheduler, State, restore
from tunefarm_tracker.core.effects import (
    Change,
    DesiredLease,
    Ended,
    Granted,
    StreamReplaced,
)
from tunefarm_tracker.core.inputs import (
    DeviceDisconnected,
    DeviceReported,
    Heartbeat,
    HolderDisconnected,
    Input,
    Released,
    RequestOpened,
    Tick,
)
from tunefarm_tracker.core.records import Need, Report, Wish
from tunefarm_tracker.store import MemoryStore, Store

CLEANING_S = 0.5
HEARTBEATS = 2  # of the client in one lease: enough to keep it alive, cheap to simulate
NEVER = 1e9


@dataclass
class UserPlan:
    """What one user does: keeps `parallel` requests going, each held `hold` seconds on average."""

    name: str
    key: str
    parallel: int = 1
    hold: float = 60.0
    priority: int = 0
    devices: int = 1
    pause: float = 0.0


@dataclass
class _Device:
    id: str
    key: str
    stream: int = 0
    instance: int = 0
    lease_id: str = ""
    fence: int = 0
    mean_up: float = float("inf")


@dataclass
class Outcome:
    """What came of a simulation. Times in seconds."""

    served: Counter[str] = field(default_factory=Counter)  # device seconds by user
    grants: Counter[str] = field(default_factory=Counter)  # by user
    ends: Counter[str] = field(default_factory=Counter)  # by kind of failure, "" is a release
    longest_wait: dict[str, float] = field(default_factory=dict)  # by user
    inputs: int = 0
    restarts: int = 0


class Simulation:
    """Run with `run(seconds)`. Deterministic by its seed.

    Raises AssertionError where a device is told of two leases at a time, a fence falls, or a
    restart changes the state.
    """

    def __init__(
        self,
        plans: list[UserPlan],
        devices: dict[str, int],
        seed: int = 0,
        open_store: Callable[[], Store] | None = None,
    ) -> None:
        # Devices are heard of when something happens; their silence is not simulated.
        self.config = Config(
            ttl=30.0,
            max_ttl=NEVER,
            max_requests=10**6,
            idle_heartbeat=NEVER,
            busy_heartbeat=NEVER,
            drops_to_quarantine=10**6,
            faults_to_quarantine=10**6,
        )
        self.random = random.Random(seed)  # noqa: S311 (a simulation)
        self._open_store = open_store
        self.store: Store = open_store() if open_store is not None else MemoryStore()
        self.now = 1e6
        self.outcome = Outcome()
        self._ids = itertools.count(1)
        self._order = itertools.count()
        self._todo: list[tuple[float, int, Callable[[], None]]] = []
        self._streams: dict[int, Callable[[object], None]] = {}
        self.core = Scheduler(State(self.config), self.config, self._new_id)
        self.devices = [
            _Device(f"{key}-{n}", key) for key, count in devices.items() for n in range(count)
        ]
        self._plans = plans

    def _new_id(self) -> str:
        return f"lease{next(self._ids)}"

    def new_name(self, prefix: str) -> str:
        """A name that is not used yet."""
        return f"{prefix}.{next(self._ids)}"

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._todo, (self.now + seconds, next(self._order), what))

    def run(self, seconds: float) -> Outcome:
        """Simulate so long."""
        if not self.outcome.inputs:
            for device in self.devices:
                self.after(self.random.random(), partial(self._connect, device))
            for plan in self._plans:
                for _ in range(plan.parallel):
                    self.after(2.0 + self.random.random(), partial(self.ask, plan))
        until = self.now + seconds
        while self._todo and self._todo[0][0] <= until:
            at, _, what = heapq.heappop(self._todo)
            while (due := self.core.next_deadline()) is not None and due < at:
                self.now = max(self.now, due)
                self._feed(Tick())
            self.now = max(self.now, at)
            what()
        self.now = until
        return self.outcome

    def restart(self) -> None:
        """Kill the tracker and start it from its store: every stream breaks."""
        before = self.core.state.snapshot()
        if self._open_store is not None:
            self.store.close()
            self.store = self._open_store()
        state = restore(self.store.load(), self.now, self.config)
        assert state.snapshot() == before, "the store does not hold the state"  # noqa: S101
        self.core = Scheduler(state, self.config, self._new_id)
        self.outcome.restarts += 1
        for hear in list(self._streams.values()):
            hear(None)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _feed(self, event: Input) -> None:
        self.outcome.inputs += 1
        effects = self.core.handle(event, self.now)
        changes = [one for one in effects if isinstance(one, Change)]
        self.store.write(changes)
        if isinstance(self.store, MemoryStore):
            del self.store.events[:-1]  # all but the cursor
        for effect in effects:
            hear = self._streams.get(getattr(effect, "to", 0))
            if hear is not None:
                hear(effect)

    def _connect(self, device: _Device) -> None:
        device.stream = stream = next(self._ids)
        self._streams[stream] = lambda effect: self._tell_device(device, stream, effect)
        self._report(device)
        if device.mean_up != float("inf"):
            self.after(
                self.random.expovariate(1 / device.mean_up), lambda: self._break(device, stream)
            )

    def _report(self, device: _Device) -> None:
        report = Report(
            device.id, device.key, (), str(device.instance), device.lease_id, device.fence
        )
        self._feed(DeviceReported(device.stream, report))

    def _tell_device(self, device: _Device, stream: int, effect: object) -> None:
        if effect is None or isinstance(effect, StreamReplaced):
            self._streams.pop(stream, None)
            if stream == device.stream:
                self.after(self.random.uniform(0.2, 5.0), lambda: self._connect(device))
        elif isinstance(effect, DesiredLease):
            self._obey(device, stream, effect)

    def _obey(self, device: _Device, stream: int, effect: DesiredLease) -> None:
        wanted = effect.lease.id if effect.lease else ""
        if wanted == device.lease_id:
            return
        if effect.lease is not None:
            assert not device.lease_id, "a second lease before the first has ended"  # noqa: S101
            assert effect.lease.fence > device.fence, "the fence fell"  # noqa: S101
            device.lease_id, device.fence = wanted, effect.lease.fence
            return
        old = device.lease_id

        def clean() -> None:
            if device.stream == stream and device.lease_id == old:
                device.lease_id = ""
                self._report(device)

        self.after(CLEANING_S, clean)

    def _break(self, device: _Device, stream: int) -> None:
        """The device's power fails; it comes back as a new instance with nothing of its lease."""
        if device.stream != stream:
            return
        self._streams.pop(stream, None)
        device.stream, device.instance, device.lease_id = 0, device.instance + 1, ""
        self._feed(DeviceDisconnected(stream, device.id))
        self.after(self.random.uniform(5.0, 120.0), lambda: self._connect(device))

    def ask(self, plan: UserPlan) -> None:
        """A user's next request."""
        _Client(self, plan)

    def listen(self, hear: Callable[[object], None]) -> int:
        """A new stream."""
        stream = next(self._ids)
        self._streams[stream] = hear
        return stream

    def hang_up(self, stream: int) -> None:
        """A stream's end, on our side."""
        self._streams.pop(stream, None)

    def feed(self, event: Input) -> None:
        """Something that a client does."""
        self._feed(event)


class _Client:
    """One request from its opening to its end."""

    def __init__(self, farm: Simulation, plan: UserPlan) -> None:
        self.farm, self.plan = farm, plan
        self.asked = farm.now
        self.granted_at = 0.0
        self.over = False
        self.hold = farm.random.expovariate(1 / plan.hold)
        needs = tuple(Need((plan.key,)) for _ in range(plan.devices))
        ttl = self.hold / HEARTBEATS * 3 + farm.config.ttl
        request_id = farm.new_name(plan.name)
        self.wish = Wish(request_id, needs, plan.priority, plan.name, wait_for_key=True, ttl=ttl)
        self.stream = 0
        self.open()

    def open(self) -> None:
        """Ask, or come back with the same request."""
        if not self.over:
            self.stream = self.farm.listen(self.hear)
            self.farm.feed(RequestOpened(self.stream, self.wish))

    def hear(self, effect: object) -> None:
        """The tracker's word; None is a broken stream."""
        farm = self.farm
        if effect is None:
            farm.hang_up(self.stream)
            farm.after(farm.random.uniform(0.3, 3.0), self.open)
        elif isinstance(effect, Granted) and not self.granted_at:
            self.granted_at = farm.now
            wait = farm.now - self.asked
            longest = farm.outcome.longest_wait
            longest[self.plan.name] = max(longest.get(self.plan.name, 0.0), wait)
            farm.outcome.grants[self.plan.name] += 1
            farm.after(self.hold, self.release)
            self.beat()
        elif isinstance(effect, Ended):
            self.end(effect.failure.kind.value if effect.failure else "")

    def beat(self) -> None:
        """Heartbeats, while it holds."""
        if not self.over:
            self.farm.feed(Heartbeat(self.stream, self.wish.request_id))
            self.farm.after(self.hold / HEARTBEATS + 5.0, self.beat)

    def release(self) -> None:
        """Done; one in fifty dies instead, and leaves it to its heartbeats."""
        if self.over:
            return
        if self.farm.random.random() < 0.02:
            self.farm.feed(HolderDisconnected(self.stream, self.wish.request_id))
            self.end("died")
        else:
            self.farm.feed(Released(self.stream, self.wish.request_id))

    def end(self, kind: str) -> None:
        """Over: the user asks for the next."""
        if self.over:
            return
        self.over = True
        self.farm.hang_up(self.stream)
        self.farm.outcome.ends[kind] += 1
        if self.granted_at:
            used = (self.farm.now - self.granted_at) * self.plan.devices
            self.farm.outcome.served[self.plan.name] += round(used)
        self.farm.after(self.plan.pause + 0.01, partial(self.farm.ask, self.plan))
