"""The scheduler's whole state, with the indexes that make it quick."""

from collections.abc import Iterator

from tunefarm_tracker.core.effects import Place
from tunefarm_tracker.core.fleet import Fleet, word_of
from tunefarm_tracker.core.queue import Queue
from tunefarm_tracker.core.records import (
    Config,
    Device,
    DeviceState,
    End,
    Lease,
    Request,
    Snapshot,
    evolve,
)
from tunefarm_tracker.core.shares import Shares
from tunefarm_tracker.core.timers import Timers

_SMOOTHING = 0.1  # weight of the newest lease in the mean duration of a key's leases


class State:
    """Devices, requests, leases and ends by id. Read freely; only the scheduler writes."""

    def __init__(self, config: Config | None = None) -> None:
        self.fleet = Fleet()
        self.devices = self.fleet.devices
        self.shares = Shares((config or Config()).fair_half_life)
        self.requests: dict[str, Request] = {}
        self.leases: dict[str, Lease] = {}
        self.ends: dict[str, End] = {}
        self.cursor = 0
        self.seq = 0
        self.timers = Timers()
        self.told: dict[str, Place] = {}
        self.reserving: dict[str, None] = {}  # requests that keep free devices for themselves
        self._queues: dict[str, Queue] = {}
        self._of_user: dict[str, dict[str, None]] = {}
        self._mean_hold: dict[str, float] = {}

    def put_request(self, request: Request) -> None:
        """Add or replace a request; it waits in the queues of its keys until it has leases."""
        old = self.requests.get(request.id)
        if old is None:
            self._of_user.setdefault(request.wish.user, {})[request.id] = None
            if not request.granted:
                for key in request.wish.keys:
                    self._queues.setdefault(key, Queue()).add(*_entry(request))
        elif not old.granted and request.granted:
            self._leave_queues(old)
        self.requests[request.id] = request

    def reorder(self, request: Request) -> None:
        """Replace a waiting request by one of another priority."""
        old = self.requests[request.id]
        for key in old.wish.keys:
            self._queues[key].remove(*_entry(old))
            self._queues[key].add(*_entry(request))
        self.requests[request.id] = request

    def drop_request(self, request: Request) -> None:
        """Forget a request."""
        del self.requests[request.id]
        self.told.pop(request.id, None)
        own = self._of_user[request.wish.user]
        del own[request.id]
        if not own:
            del self._of_user[request.wish.user]
        if not request.granted:
            self._leave_queues(request)

    def _leave_queues(self, request: Request) -> None:
        self.reserving.pop(request.id, None)
        for key in request.wish.keys:
            queue = self._queues[key]
            queue.remove(*_entry(request))
            if not len(queue):
                del self._queues[key]

    def put_lease(self, lease: Lease) -> None:
        """A lease begins."""
        self.leases[lease.id] = lease
        self.shares.hold(lease)

    def held_for(self, key: str, seconds: float) -> None:
        """A lease on a device of a key has lasted so long."""
        mean = self._mean_hold.get(key, seconds)
        self._mean_hold[key] = mean + _SMOOTHING * (seconds - mean)

    def queue_of(self, key: str) -> Queue:
        """Who waits for a key."""
        return self._queues.get(key) or Queue()

    def waiting(self, key: str, now: float) -> Iterator[Request]:
        """The queue of a key, next first."""
        queue, share = self.queue_of(key), self.shares.of(key, now)
        for priority in queue.priorities():
            for request_id in queue.order(priority, share):
                yield self.requests[request_id]

    def queue(self, now: float) -> list[Request]:
        """Every waiting request, those of one key in the order in which they would be served."""
        waiting = [one for one in self.requests.values() if not one.granted]
        places = {one.id: self.position(one, now)[0] for one in waiting}
        return sorted(waiting, key=lambda one: (-one.wish.priority, places[one.id], one.seq))

    def requests_of(self, user: str) -> list[Request]:
        """A user's requests, waiting or holding, oldest first."""
        return [self.requests[one] for one in self._of_user.get(user, ())]

    def count_requests(self, user: str) -> int:
        """How many requests a user has."""
        return len(self._of_user.get(user, ()))

    def users(self) -> list[str]:
        """Everybody who holds, waits, has used devices or has a quota."""
        return sorted(self.shares.holders() | set(self._of_user))

    def position(self, request: Request, now: float) -> tuple[int, int]:
        """Its place, 1 is next, and how many wait with it: of its hardest need the best key."""
        places = []
        for need in request.wish.needs:
            of_need = []
            for key in need.keys:
                queue = self._queues[key]
                place = queue.position(*_entry(request), self.shares.of(key, now))
                of_need.append((place, len(queue)))
            places.append(min(of_need))
        return max(places)

    def place(self, request: Request, now: float, position: int | None = None) -> Place:
        """Where a waiting request stands; `position` where the caller has it already."""
        if position is None:
            position, waiting = self.position(request, now)
        else:
            waiting = len(self._queues[request.wish.keys[0]])
        return Place(position, waiting, self.reason(request), self._estimate(request, position))

    def _estimate(self, request: Request, position: int) -> float | None:
        waits = []
        for need in request.wish.needs:
            usable = sum(self.fleet.usable(key) for key in need.keys)
            means = [self._mean_hold[key] for key in need.keys if key in self._mean_hold]
            if not usable or not means:
                return None
            waits.append(position / usable * sum(means) / len(means))
        return float(f"{max(waits):.2g}")

    def reason(self, request: Request) -> str:
        """Why a request waits, in one line."""
        wish = request.wish
        most, held = self.shares.max_devices(wish.user), self.shares.devices(wish.user)
        if most is not None and held + len(wish.needs) > most:
            return f"{wish.user or 'the user'} holds {held} of the {most} devices of the quota"
        if len(wish.needs) == 1:
            return self._why(request, 0)
        free = [need for need in wish.needs if self._is_there(request, need.keys[0])]
        return f"{len(wish.needs)} devices together, {len(free)} of them free: " + "; ".join(
            dict.fromkeys(self._why(request, index) for index in range(len(wish.needs)))
        )

    def _is_there(self, request: Request, key: str) -> bool:
        return next(self.fleet.idle(key, request.wish.maintenance), None) is not None

    def _why(self, request: Request, index: int) -> str:
        need = request.wish.needs[index]
        if need.where:
            counts: dict[str, int] = {}
            fitting = [d for key in need.keys for d in self.fleet.of_key(key) if need.fits(d)]
            for device in fitting:
                counts[word_of(device)] = counts.get(word_of(device), 0) + 1
            return self._told(f"with {' and '.join(map(str, need.where))}", fitting[:2], counts)
        if len(need.keys) == 1:
            key = need.keys[0]
            few = self.fleet.of_key(key) if self.fleet.count(key) < 2 else None
            return self._told(f"has the key {key}", few, self.fleet.words(key))
        words: dict[str, int] = {}
        for key in need.keys:
            for word, count in self.fleet.words(key).items():
                words[word] = words.get(word, 0) + count
        return self._told(f"has the key {' or '.join(need.keys)}", None, words)

    def _told(self, what: str, few: list[Device] | None, counts: dict[str, int]) -> str:
        """`few` has the devices where they are less than two."""
        total = sum(counts.values())
        if not total:
            return f"no device {what} yet"
        if total > 1 or not few:
            words = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
            return f"{total} devices: {words}"
        if few[0].state is DeviceState.LEASED:
            lease = self.leases[few[0].lease_id]
            purpose = f" for {lease.purpose}" if lease.purpose else ""
            return f"the only device is leased by {lease.holder or 'somebody'}{purpose}"
        why = f": {few[0].health_reason}" if few[0].health_reason else ""
        return f"the only device is {next(iter(counts))}{why}"

    def snapshot(self) -> Snapshot:
        """What a restart keeps, in an order that does not depend on history."""
        quotas, usage = self.shares.quotas, self.shares.usage
        return Snapshot(
            devices=tuple(self.devices[one].durable() for one in sorted(self.devices)),
            requests=tuple(self.requests[one].durable() for one in sorted(self.requests)),
            leases=tuple(evolve(self.leases[one], deadline=0.0) for one in sorted(self.leases)),
            ends=tuple(self.ends[one] for one in sorted(self.ends)),
            quotas=tuple(quotas[one] for one in sorted(quotas)),
            usage=tuple(usage[one] for one in sorted(usage)),
            cursor=self.cursor,
        )


def _entry(request: Request) -> tuple[int, str, int, str]:
    return request.wish.priority, request.wish.user, request.seq, request.id


def restore(snapshot: Snapshot, now: float, config: Config) -> State:
    """The state after a restart: devices are offline until heard, everybody gets a grace."""
    state = State(config)
    by = now + config.restart_grace
    for quota in snapshot.quotas:
        state.shares.quotas[quota.user] = quota
    for usage in snapshot.usage:
        state.shares.usage[usage.user, usage.key] = usage
    for device in snapshot.devices:
        state.fleet.put(device.durable())
        if device.lease_id:
            state.timers.set(("lost", device.id), by)
        if config.recovery and device.usable:
            state.timers.set(("recover", device.id), by + config.recover_after)
        if device.faults:
            state.timers.set(("trust", device.id), by)
    for lease in snapshot.leases:
        deadline = max(by, now + lease.ttl)
        state.put_lease(evolve(lease, deadline=deadline))
        state.timers.set(("lease", lease.id), deadline)
    for request in sorted(snapshot.requests, key=lambda one: one.seq):
        _restore_request(state, request, now, config)
    for end in sorted(snapshot.ends, key=lambda one: one.at):
        state.ends[end.request_id] = end
    if state.ends:
        state.timers.set(("ends", ""), now + config.remember_ends)
    state.cursor = snapshot.cursor
    return state


def _restore_request(state: State, request: Request, now: float, config: Config) -> None:
    by = now + config.restart_grace
    state.put_request(request.durable())
    state.seq = max(state.seq, request.seq)
    if request.granted:
        return
    state.timers.set(("absent", request.id), by)
    if request.wish.wait_timeout is not None:
        until = request.queued_at + request.wish.wait_timeout
        state.timers.set(("wait", request.id), max(until, by))
    if len(request.wish.needs) > 1:
        state.timers.set(
            ("reserve", request.id), max(request.queued_at + config.reserve_after, now)
        )
