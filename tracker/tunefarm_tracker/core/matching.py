"""Which devices a request gets.

A request gets all its devices at once or none, so no two requests can wait for each other. One for
several devices that has waited for long reserves the free ones that it can use: requests after it
pass them by. Reservations are never kept, only reckoned anew in one order, so they cannot deadlock
either.
"""

from collections.abc import Iterator

from tunefarm_tracker.core.records import Device, Request
from tunefarm_tracker.core.turn import Turn


def find_request(turn: Turn, device: Device) -> tuple[Request, tuple[Device, ...]] | None:
    """The first request that an idle device serves, with all devices that it gets.

    Only this device is new: what else is idle serves nobody, or it would have been granted.
    """
    state, kept = turn.state, set[str]()
    reserving = list(_reserving(turn))
    queue = state.queue_of(device.key)
    share = state.shares.of(device.key, turn.now)
    for priority in queue.priorities():
        while reserving and reserving[0].wish.priority >= priority:
            first = reserving.pop(0)
            devices = assign(turn, first, kept)
            if devices is not None:
                return first, devices
            kept.update(_useful(turn, first, kept))
        if device.id in kept:
            return None
        for request_id in queue.order(priority, share):
            request = state.requests[request_id]
            devices = _accepts(turn, request, device, kept)
            if devices is not None:
                return request, devices
    return None


def find_devices(turn: Turn, request: Request) -> tuple[Device, ...] | None:
    """The devices that a request gets of those that are idle now."""
    kept = set[str]()
    for other in _reserving(turn) if turn.state.reserving else ():
        if other.id == request.id or other.wish.priority < request.wish.priority:
            break
        kept.update(_useful(turn, other, kept))
    return assign(turn, request, kept)


def reserved_by(turn: Turn, request: Request) -> list[Device]:
    """The idle devices that a reserving request keeps from others."""
    kept = set[str]()
    for other in _reserving(turn):
        own = _useful(turn, other, kept)
        if other.id == request.id:
            return [turn.state.devices[one] for one in own]
        kept.update(own)
    return []


def _reserving(turn: Turn) -> Iterator[Request]:
    """Those that reserve, in the order in which they do: priority, then first come."""
    requests = [turn.state.requests[one] for one in turn.state.reserving]
    requests.sort(key=lambda one: (-one.wish.priority, one.seq))
    return (one for one in requests if one.present)


def within_quota(turn: Turn, request: Request) -> bool:
    """Whether its user may hold so many devices more."""
    shares, user = turn.state.shares, request.wish.user
    most = shares.max_devices(user)
    return most is None or shares.devices(user) + len(request.wish.needs) <= most


def _accepts(
    turn: Turn, request: Request, device: Device, kept: set[str]
) -> tuple[Device, ...] | None:
    wish = request.wish
    if not (device.usable or wish.maintenance) or not request.present:
        return None
    if not any(need.fits(device) for need in wish.needs):
        return None
    if len(wish.needs) == 1:
        return (device,) if within_quota(turn, request) else None
    return assign(turn, request, kept)


def assign(turn: Turn, request: Request, kept: set[str]) -> tuple[Device, ...] | None:
    """Idle devices for every need of a request, None where there are not enough."""
    if not request.present or not within_quota(turn, request):
        return None
    needs = request.wish.needs
    if len(needs) == 1:  # most are so, and this is quicker
        for key in needs[0].keys:
            for device in turn.state.fleet.idle(key, request.wish.maintenance):
                if device.id not in kept and needs[0].fits(device):
                    return (device,)
        return None
    found = _match(turn, request, kept)
    if len(found) < len(request.wish.needs):
        return None
    return tuple(turn.state.devices[found[index]] for index in range(len(found)))


def _useful(turn: Turn, request: Request, kept: set[str]) -> list[str]:
    """The idle devices that a request would take as soon as the others are there."""
    if not request.present or not within_quota(turn, request):
        return []
    return list(_match(turn, request, kept).values())


def _match(turn: Turn, request: Request, kept: set[str]) -> dict[int, str]:
    """As many needs as possible with a device each, by augmenting paths."""
    needs, maintenance = request.wish.needs, request.wish.maintenance
    candidates = []
    for need in needs:
        idle = (d for key in need.keys for d in turn.state.fleet.idle(key, maintenance))
        fitting = (one.id for one in idle if one.id not in kept and need.fits(one))
        # The other needs take one each at most, so as many as there are needs will do.
        candidates.append([one for one, _ in zip(fitting, needs, strict=False)])
    need_of: dict[str, int] = {}

    def place(index: int, tried: set[str]) -> bool:
        for device in candidates[index]:
            if device not in tried:
                tried.add(device)
                if device not in need_of or place(need_of[device], tried):
                    need_of[device] = index
                    return True
        return False

    for index in range(len(needs)):
        place(index, set())
    return {index: device for device, index in need_of.items()}
