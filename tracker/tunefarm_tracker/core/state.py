"""The scheduler's whole state, with the indexes that make it quick."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import replace

from tunefarm_tracker.core.effects import Place
from tunefarm_tracker.core.records import (
    Config,
    Device,
    DeviceState,
    End,
    Health,
    Lease,
    Request,
    Snapshot,
)
from tunefarm_tracker.core.timers import Timers


class State:
    """Devices, requests, leases and ends by id. Read freely; only the scheduler writes."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.requests: dict[str, Request] = {}
        self.leases: dict[str, Lease] = {}
        self.ends: dict[str, End] = {}
        self.cursor = 0
        self.seq = 0
        self.timers = Timers()
        self.told: dict[str, Place] = {}
        self._queues: dict[str, list[tuple[int, int, str]]] = {}
        self._of_key: dict[str, dict[str, None]] = {}
        self._free: dict[str, dict[str, None]] = {}  # in the order in which they became free

    def put_device(self, device: Device) -> None:
        """Add or replace a device."""
        old = self.devices.get(device.id)
        if old is not None and old.key != device.key:
            self._of_key[old.key].pop(device.id)
            self._free.get(old.key, {}).pop(device.id, None)
        self.devices[device.id] = device
        self._of_key.setdefault(device.key, {})[device.id] = None
        if device.free:
            self._free.setdefault(device.key, {})[device.id] = None
        else:
            self._free.get(device.key, {}).pop(device.id, None)

    def put_request(self, request: Request) -> None:
        """Add or replace a request; it waits in the queue of its key until it has a lease."""
        old = self.requests.get(request.id)
        if old is None and not request.lease_id:
            insort(self._queues.setdefault(request.wish.key, []), request.rank)
        elif old is not None and not old.lease_id and request.lease_id:
            self._leave_queue(old)
        self.requests[request.id] = request

    def drop_request(self, request: Request) -> None:
        """Forget a request."""
        del self.requests[request.id]
        self.told.pop(request.id, None)
        if not request.lease_id:
            self._leave_queue(request)

    def _leave_queue(self, request: Request) -> None:
        queue = self._queues[request.wish.key]
        del queue[bisect_left(queue, request.rank)]
        if not queue:
            del self._queues[request.wish.key]

    def known_keys(self) -> list[str]:
        """The keys that some device, online or offline, can be requested by."""
        return sorted(
            key
            for key, ids in self._of_key.items()
            if any(self.devices[one].health is not Health.RETIRED for one in ids)
        )

    def next_pair(self, key: str) -> tuple[Request, Device] | None:
        """The next request to be served and the device that has been free for longest."""
        free = self._free.get(key)
        if not free:
            return None
        for request in self.waiting(key):
            if request.present:
                return request, self.devices[next(iter(free))]
        return None

    def waiting(self, key: str) -> Iterator[Request]:
        """The queue of a key, next first."""
        return (self.requests[rank[-1]] for rank in self._queues.get(key, ()))

    def queue(self) -> list[Request]:
        """Every waiting request, in the order in which they would be served."""
        ranks = sorted(rank for queue in self._queues.values() for rank in queue)
        return [self.requests[rank[-1]] for rank in ranks]

    def place(self, request: Request, reason: str | None = None) -> Place:
        """Where a waiting request stands; `reason` where the caller has it already."""
        queue = self._queues[request.wish.key]
        position = bisect_left(queue, request.rank) + 1
        return Place(position, len(queue), reason or self.reason(request.wish.key))

    def reason(self, key: str) -> str:
        """Why requests for a key wait, in one line."""
        devices = [self.devices[one] for one in self._of_key.get(key, ())]
        if not devices:
            return f"no device has the key {key} yet"
        counts: dict[str, int] = {}
        for device in devices:
            word = device.state.value
            if device.health in (Health.QUARANTINED, Health.RETIRED):
                word = device.health.value
            counts[word] = counts.get(word, 0) + 1
        if len(devices) == 1 and devices[0].state is DeviceState.LEASED:
            holder = self.leases[devices[0].lease_id].holder
            return f"the only device is leased by {holder or 'somebody'}"
        if len(devices) == 1:
            return f"the only device is {next(iter(counts))}"
        words = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
        return f"{len(devices)} devices: {words}"

    def snapshot(self) -> Snapshot:
        """What a restart keeps, in an order that does not depend on history."""
        return Snapshot(
            devices=tuple(self.devices[one].durable() for one in sorted(self.devices)),
            requests=tuple(self.requests[one].durable() for one in sorted(self.requests)),
            leases=tuple(replace(self.leases[one], deadline=0.0) for one in sorted(self.leases)),
            ends=tuple(self.ends[one] for one in sorted(self.ends)),
            cursor=self.cursor,
        )


def restore(snapshot: Snapshot, now: float, config: Config) -> State:
    """The state after a restart: devices are offline until heard, everybody gets a grace."""
    state = State()
    by = now + config.restart_grace
    for device in snapshot.devices:
        state.put_device(device.durable())
        if device.lease_id:
            state.timers.set(("lost", device.id), by)
    for request in sorted(snapshot.requests, key=lambda one: one.seq):
        state.put_request(request.durable())
        state.seq = max(state.seq, request.seq)
        if not request.lease_id:
            state.timers.set(("absent", request.id), by)
            if request.wish.wait_timeout is not None:
                until = request.queued_at + request.wish.wait_timeout
                state.timers.set(("wait", request.id), max(until, by))
    for lease in snapshot.leases:
        deadline = max(by, now + lease.ttl)
        state.leases[lease.id] = replace(lease, deadline=deadline)
        state.timers.set(("lease", lease.id), deadline)
    for end in sorted(snapshot.ends, key=lambda one: one.at):
        state.ends[end.request_id] = end
    if state.ends:
        state.timers.set(("ends", ""), now + config.remember_ends)
    state.cursor = snapshot.cursor
    return state
