"""The scheduler: an event and the time go in, effects come out.

Rules. A request waits by its key, higher priority first, then first come. A device is granted when it
is online, trusted, not draining, holds no lease and says that it is clean. A lease lives until its
deadline, which only a heartbeat moves; nothing revives one that has ended. A holder or device whose
stream is lost has a short grace to come back with the same ids, which continues what was. Waiting
for a key that no device has fails at once, unless asked for.
"""

from collections.abc import Callable, Iterable

from tunefarm_tracker.core.model import (
    Config,
    Desired,
    Device,
    DeviceDisconnected,
    DeviceReported,
    Effect,
    End,
    Ended,
    Event,
    Forget,
    Granted,
    Happened,
    Heartbeat,
    HolderLost,
    Lease,
    Queued,
    Released,
    Renewed,
    Request,
    RequestOpened,
    Save,
    State,
    Tick,
)


class Scheduler:
    """The state machine. `new_id` makes lease ids; nothing else comes from outside."""

    def __init__(
        self, new_id: Callable[[], str], config: Config | None = None, state: State | None = None
    ) -> None:
        self.config = config or Config()
        self.state = state or State()
        self._new_id = new_id
        self._order = max((r.order for r in self.state.requests.values()), default=0)
        self._ended: dict[str, End] = {}
        self._lease_of: dict[str, str] = {l.request: l.id for l in self.state.leases.values()}
        self._told: dict[str, Queued] = {}
        self._effects: list[Effect] = []

    @classmethod
    def restored(
        cls, new_id: Callable[[], str], config: Config, state: State, now: float
    ) -> "Scheduler":
        """After a restart: nobody is connected, and everyone has the restart's grace to come."""
        grace = now + config.restart_grace
        for device in state.devices.values():
            device.online, device.last_seen = False, grace - config.device_grace
        for request in state.requests.values():
            request.leave_at = grace
        for lease in state.leases.values():
            lease.deadline = max(lease.deadline, grace)
        return cls(new_id, config, state)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at time `now` (seconds); what is to be done, in order."""
        self._effects = []
        keys = self._take(event, now)
        for key in sorted(keys):
            self._match(key, now)
            self._tell(key)
        return self._effects

    def lease_of(self, request: str) -> Lease | None:
        """The live lease that answers a request."""
        return self.state.leases.get(self._lease_of.get(request, ""))

    def queue(self, key: str = "") -> list[Request]:
        """Waiting requests in the order in which they would be served; of one key, or all."""
        waiting = (r for r in self.state.requests.values() if key in ("", r.key))
        return sorted(waiting, key=lambda r: (r.key, *r.rank))

    def position(self, request: str) -> Queued | None:
        """Where a waiting request was last told that it stands."""
        return self._told.get(request)

    def _take(self, event: Event, now: float) -> set[str]:
        """Apply the event; the keys whose queues it may have changed."""
        match event:
            case DeviceReported():
                return self._reported(event, now)
            case DeviceDisconnected():
                device = self.state.devices.get(event.id)
                if device is None or device.instance != event.instance or not device.online:
                    return set()
                return self._offline(device, now)
            case RequestOpened():
                return self._opened(event, now)
            case Heartbeat():
                return self._heartbeat(event.request, now)
            case HolderLost():
                return self._holder_lost(event.request, now)
            case Released():
                return self._end(event.request, End())
            case Tick():
                return self._tick(now)

    def _reported(self, event: DeviceReported, now: float) -> set[str]:
        device = self.state.devices.get(event.id)
        new = device is None
        if device is None:
            device = self.state.devices[event.id] = Device(event.id, event.key)
        keys = {device.key, event.key}
        before = (device.state, device.key, device.addresses, device.facts, device.instance)
        device.key, device.addresses, device.instance = event.key, event.addresses, event.instance
        device.facts = device.facts if event.facts is None else event.facts
        device.conditions, device.last_seen = event.conditions, now
        device.fence = max(device.fence, event.fence)
        device.reported_lease, device.online = event.lease, True
        after = (device.state, device.key, device.addresses, device.facts, device.instance)
        if event.lease != device.lease:
            self._effects.append(Desired(device.id))
        if not new and before == after:
            return set()
        self._effects.append(Save("device", device.id))
        if new or before[0] != device.state:
            word = "online" if before[0] == "offline" or new else device.state
            self._effects.append(Happened("device", device.id, word, device.key))
        return keys

    def _offline(self, device: Device, now: float) -> set[str]:
        device.online, device.last_seen = False, now
        self._effects.append(Happened("device", device.id, "offline", device.key))
        return {device.key}

    def _opened(self, event: RequestOpened, now: float) -> set[str]:
        if lease := self.lease_of(event.id):
            lease.deadline = max(lease.deadline, now + lease.ttl)
            self._effects += [Save("lease", lease.id), Granted(event.id, lease.id)]
            return set()
        if event.id in self._ended:
            self._effects.append(Ended(event.id, self._ended[event.id]))
            return set()
        known = self.state.requests.get(event.id)
        if known is not None:
            known.leave_at = None
            self._told.pop(event.id, None)
            return {known.key}
        keys = sorted({d.key for d in self.state.devices.values() if d.health != "retired"})
        if event.key not in keys and not event.wait_for_key:
            there = f"the keys are {', '.join(keys)}" if keys else "no device is known at all"
            end = End("UNKNOWN_KEY", f"no device has key {event.key!r}", there)
            self._remember(event.id, end)
            self._effects.append(Ended(event.id, end))
            return set()
        self._order += 1
        self.state.requests[event.id] = Request(
            id=event.id,
            key=event.key,
            priority=event.priority,
            user=event.user,
            purpose=event.purpose,
            wait_until=None if event.wait is None else now + event.wait,
            wait_for_key=event.wait_for_key,
            ttl=event.ttl,
            order=self._order,
            queued_at=now,
        )
        self._effects += [
            Save("request", event.id),
            Happened("request", event.id, "queued", f"{event.user} waits for {event.key}"),
        ]
        return {event.key}

    def _heartbeat(self, request: str, now: float) -> set[str]:
        lease = self.lease_of(request)
        if lease is None:
            if request not in self.state.requests:
                end = self._ended.get(request, End())
                lost = End("LEASE_LOST", "the lease has ended", "request the device again")
                self._effects.append(Ended(request, end if end.code else lost))
            return set()
        lease.deadline = now + lease.ttl
        self._effects += [Save("lease", lease.id), Renewed(request, lease.deadline)]
        return set()

    def _holder_lost(self, request: str, now: float) -> set[str]:
        grace = now + self.config.holder_grace
        if lease := self.lease_of(request):
            lease.deadline = min(lease.deadline, grace)
            self._effects.append(Save("lease", lease.id))
        elif waiting := self.state.requests.get(request):
            waiting.leave_at = grace
        return set()

    def _tick(self, now: float) -> set[str]:
        keys: set[str] = set()
        for device in list(self.state.devices.values()):
            if device.online and now - device.last_seen > self.config.device_silence:
                keys |= self._offline(device, now)
            gone = not device.online and now - device.last_seen > self.config.device_grace
            if gone and device.lease:
                lease = self.state.leases[device.lease]
                why = f"device {device.id} went away in the middle of the work"
                keys |= self._end(lease.request, End("DEVICE_LOST", why, "request another"))
        for lease in list(self.state.leases.values()):
            if now > lease.deadline:
                why = f"lease {lease.id} expired: no heartbeat came from {lease.holder}"
                keys |= self._end(lease.request, End("LEASE_LOST", why, "request the device again"))
        for request in list(self.state.requests.values()):
            if request.leave_at is not None and now > request.leave_at:
                end = End("REQUEST_CANCELLED", "the client went away while it waited")
                keys |= self._end(request.id, end)
            elif request.wait_until is not None and now > request.wait_until:
                waited = request.wait_until - request.queued_at
                why = f"no device of key {request.key!r} became free in {waited:g} s"
                told = self._told.get(request.id)
                end = End("REQUEST_TIMEOUT", why, told.reason if told else "wait longer")
                keys |= self._end(request.id, end)
        return keys

    def _end(self, request: str, end: End) -> set[str]:
        """A request or lease is over; ending it again does nothing."""
        lease = self.lease_of(request)
        waiting = self.state.requests.pop(request, None)
        if lease is not None:
            del self.state.leases[lease.id]
            del self._lease_of[request]
            self._effects.append(Forget("lease", lease.id))
            device = self.state.devices[lease.device]
            device.lease = ""
            word = {"LEASE_LOST": "expired", "DEVICE_LOST": "lost"}.get(end.code, "released")
            detail = f"{lease.holder} on {lease.device}"
            self._effects += [
                Save("device", device.id),
                Desired(device.id),
                Happened("lease", lease.id, word, detail),
            ]
        elif waiting is not None:
            self._told.pop(request, None)
            word = "timeout" if end.code == "REQUEST_TIMEOUT" else "cancelled"
            self._effects += [
                Forget("request", request),
                Happened("request", request, word, f"{waiting.user} for {waiting.key}"),
            ]
        else:
            if not end.code:
                self._effects.append(Ended(request, end))
            return set()
        self._remember(request, end)
        self._effects.append(Ended(request, end))
        return {lease.key if lease else waiting.key if waiting else ""}

    def _remember(self, request: str, end: End) -> None:
        self._ended[request] = end
        while len(self._ended) > self.config.ended_kept:
            del self._ended[next(iter(self._ended))]

    def _match(self, key: str, now: float) -> None:
        free = sorted(
            (d for d in self.state.devices.values() if d.key == key and d.eligible),
            key=lambda d: (d.health, d.id),
        )
        # A request whose client is away keeps its place, but is not granted until it is back.
        waiting = [r for r in self.queue(key) if r.leave_at is None]
        for device, request in zip(free, waiting, strict=False):
            self._grant(device, request, now)

    def _grant(self, device: Device, request: Request, now: float) -> None:
        del self.state.requests[request.id]
        self._told.pop(request.id, None)
        device.fence += 1
        asked = request.ttl or self.config.default_ttl
        ttl = min(max(asked, self.config.min_ttl), self.config.max_ttl)
        lease = Lease(
            id=self._new_id(),
            request=request.id,
            device=device.id,
            key=device.key,
            holder=request.user,
            purpose=request.purpose,
            priority=request.priority,
            fence=device.fence,
            granted_at=now,
            deadline=now + ttl,
            ttl=ttl,
        )
        device.lease = lease.id
        self.state.leases[lease.id] = lease
        self._lease_of[request.id] = lease.id
        self._effects += [
            Forget("request", request.id),
            Save("lease", lease.id),
            Save("device", device.id),
            Desired(device.id),
            Granted(request.id, lease.id),
            Happened("lease", lease.id, "granted", f"{lease.holder} on {lease.device}"),
        ]

    def _tell(self, key: str) -> None:
        waiting = self.queue(key)
        if not waiting:
            return
        reason = self._reason(key, [d for d in self.state.devices.values() if d.key == key])
        for place, request in enumerate(waiting, 1):
            now_told = Queued(request.id, place, len(waiting), reason)
            if self._told.get(request.id) != now_told:
                self._told[request.id] = now_told
                self._effects.append(now_told)

    def _reason(self, key: str, devices: Iterable[Device]) -> str:
        there = list(devices)
        if not there:
            return f"no device has key {key!r} yet"
        counts: dict[str, int] = {}
        for device in there:
            word = device.state if device.health in ("good", "suspect") else device.health
            counts[word] = counts.get(word, 0) + 1
        parts = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
        holders = sorted({self.state.leases[d.lease].holder for d in there if d.lease})
        held = f", held by {', '.join(holders[:5])}" if holders else ""
        return f"of {len(there)} devices of key {key!r}: {parts}{held}"
