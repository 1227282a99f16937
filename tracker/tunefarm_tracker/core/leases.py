"""Rules of granting and of leases.

An idle device goes to the first present request that it serves, at once. The leases of a request
begin together and end together: by release, by their deadline, by an operator, or with one of their
devices. Nothing revives them. A device is not free again before it says that it is clean.
"""

from tunefarm_tracker.core.effects import (
    DesiredLease,
    DropLease,
    Ended,
    EndRequest,
    ForgetEnds,
    Grant,
    Granted,
    Queued,
    Renewed,
    SaveHold,
    SaveLease,
    SavePast,
    SaveRequest,
    SaveUsage,
)
from tunefarm_tracker.core.matching import find_devices, find_request, reserved_by
from tunefarm_tracker.core.records import (
    Device,
    End,
    EventKind,
    Failure,
    FailureKind,
    Lease,
    PastLease,
    Request,
    evolve,
)
from tunefarm_tracker.core.turn import Turn

_MANY = 200  # in a longer queue places are told less often: it costs time for each


def offer(turn: Turn, device_id: str) -> None:
    """Grant a device that has become idle, or of use to more requests than before."""
    while (device := turn.state.devices[device_id]).idle:
        found = find_request(turn, device)
        if found is None:
            return
        grant(turn, *found)


def seek(turn: Turn, request_id: str) -> None:
    """Grant a request that has come, come back, or may have more than before."""
    request = turn.state.requests[request_id]
    if request.granted:
        return
    devices = find_devices(turn, request)
    if devices is not None:
        grant(turn, request, devices)


def queue_changed(turn: Turn, key: str) -> None:
    """See to it that those who wait hear of it soon; not at once, or a long queue floods."""
    timer, waiting = ("places", key), len(turn.state.queue_of(key))
    if waiting and timer not in turn.state.timers:
        slower = max(waiting / _MANY, 1.0)
        turn.state.timers.set(timer, turn.now + turn.config.places_interval * slower)


def tell_places(turn: Turn, key: str) -> None:
    """Tell everybody in a queue whose place has changed."""
    for position, request in enumerate(turn.state.waiting(key, turn.now), 1):
        tell_place(turn, request, position if len(request.wish.keys) == 1 else None)


def tell_place(turn: Turn, request: Request, position: int | None = None) -> None:
    """Tell a waiting client where it stands, where that has changed."""
    if not request.stream:
        return
    place = turn.state.place(request, turn.now, position)
    if turn.state.told.get(request.id) != place:
        turn.state.told[request.id] = place
        turn.want(Queued(request.stream, place))


def tell_grant(turn: Turn, request: Request) -> None:
    """Tell a client what it holds; the same again whenever it asks."""
    leases = [turn.state.leases[one] for one in request.lease_ids]
    devices = [turn.state.devices[lease.device_id] for lease in leases]
    grants = tuple(
        Grant(lease, device.addresses, device.facts)
        for lease, device in zip(leases, devices, strict=True)
    )
    turn.want(Granted(request.stream, grants))


def tell_device(turn: Turn, device: Device) -> None:
    """Tell a device what it should serve."""
    lease = turn.state.leases.get(device.lease_id)
    turn.state.fleet.put(evolve(device, told_at=turn.now))
    turn.want(DesiredLease(device.stream, lease, heartbeat_of(turn, device)))


def heartbeat_of(turn: Turn, device: Device) -> float:
    """How often a device should report: in a large fleet the idle ones do so less often."""
    if device.lease_id:
        return turn.config.busy_heartbeat
    return max(turn.config.idle_heartbeat, len(turn.state.devices) / turn.config.idle_reports)


def expect_report(turn: Turn, device: Device) -> None:
    """Start the wait for a device's next report."""
    silence = turn.config.missed_heartbeats * heartbeat_of(turn, device)
    by = turn.now + max(silence, turn.config.min_silence)
    turn.state.timers.set(("silent", device.id), by)


def grant(turn: Turn, request: Request, devices: tuple[Device, ...]) -> None:
    """Give a request its devices. Each must be idle."""
    before = reserved_by(turn, request) if request.id in turn.state.reserving else []
    leases = [_lease(turn, request, device) for device in devices]
    request = evolve(request, lease_ids=tuple(lease.id for lease in leases))
    turn.state.put_request(request)
    for kind in ("wait", "absent", "reserve"):
        turn.state.timers.clear((kind, request.id))
    for lease in leases:
        turn.want(SaveLease(lease))
    turn.want(SaveRequest(request))
    for lease, device in zip(leases, devices, strict=True):
        _bind(turn, lease, device)
    tell_grant(turn, request)
    for key in request.wish.keys:
        queue_changed(turn, key)
    for device in before:
        offer(turn, device.id)


def _lease(turn: Turn, request: Request, device: Device) -> Lease:
    wish = request.wish
    ttl = wish.ttl if wish.ttl is not None else turn.config.ttl
    # One that is presumed present after a restart gets the time to come back.
    alive = ttl if request.stream else max(ttl, turn.config.restart_grace)
    return Lease(
        id=turn.new_id(),
        request_id=request.id,
        device_id=device.id,
        device_key=device.key,
        holder=wish.user,
        purpose=wish.purpose,
        priority=wish.priority,
        fence=device.fence + 1,
        granted_at=turn.now,
        ttl=ttl,
        deadline=turn.now + alive,
    )


def _bind(turn: Turn, lease: Lease, device: Device) -> None:
    device = evolve(device, lease_id=lease.id, fence=lease.fence, told_at=turn.now)
    turn.state.put_lease(lease)
    turn.state.fleet.put(device)
    turn.state.timers.set(("lease", lease.id), lease.deadline)
    expect_report(turn, device)
    turn.want(SaveHold(device.id, lease.id, lease.fence))
    turn.happened(EventKind.LEASE, lease.id, "granted", f"{device.id} to {_who(lease)}")
    turn.want(DesiredLease(device.stream, lease, turn.config.busy_heartbeat))


def _who(lease: Lease) -> str:
    return (lease.holder or "somebody") + (f" for {lease.purpose}" if lease.purpose else "")


def move_deadlines(turn: Turn, request: Request, deadline: float) -> None:
    """Let the leases of a request end then, unless renewed."""
    for lease_id in request.lease_ids:
        turn.state.leases[lease_id] = evolve(turn.state.leases[lease_id], deadline=deadline)
        turn.state.timers.set(("lease", lease_id), deadline)


def renew(turn: Turn, lease_id: str, stream: int, ttl: float | None = None) -> None:
    """Move the deadline of a live lease and of those granted with it; refuse a lost one."""
    lease = turn.state.leases.get(lease_id)
    if lease is None:
        turn.want(Ended(stream, lost(lease_id)))
        return
    request = turn.state.requests[lease.request_id]
    if ttl is not None and ttl != lease.ttl:
        ttl = min(max(ttl, turn.config.min_ttl), turn.config.max_ttl)
        for one in request.lease_ids:
            turn.state.leases[one] = evolve(turn.state.leases[one], ttl=ttl)
            turn.want(SaveLease(turn.state.leases[one]))
            tell_device(turn, turn.state.devices[turn.state.leases[one].device_id])
    move_deadlines(turn, request, turn.now + turn.state.leases[lease_id].ttl)
    turn.want(Renewed(stream, turn.state.leases[lease_id]))


def lost(lease_id: str) -> Failure:
    """The failure of whoever uses a lease that has ended."""
    what = f"lease {lease_id} has ended" if lease_id else "the lease has ended"
    return Failure(FailureKind.LEASE_LOST, what, "request the device again")


def expire(turn: Turn, lease_id: str) -> None:
    """A lease's deadline has passed."""
    lease = turn.state.leases.get(lease_id)
    if lease is None:
        return
    failure = Failure(
        FailureKind.LEASE_LOST,
        f"lease {lease_id} on {lease.device_id} expired: its holder was not heard of in time",
        "request the device again",
    )
    end_leases(turn, turn.state.requests[lease.request_id], failure, "expired")


def end_leases(turn: Turn, request: Request, failure: Failure | None, action: str) -> None:
    """End a granted request and all its leases; each device has to say that it is clean."""
    state = turn.state
    leases = [state.leases.pop(one) for one in request.lease_ids]
    devices = [_unbind(turn, lease, failure, action) for lease in leases]
    for lease in leases:
        turn.want(SavePast(PastLease(lease, request.queued_at, turn.now, action)))
    for lease, device in zip(leases, devices, strict=True):
        expect_report(turn, device)
        turn.want(DesiredLease(device.stream, None, heartbeat_of(turn, device), lease.id))
    end_request(turn, request, failure)
    for device in devices:
        queue_changed(turn, device.key)
    if state.shares.max_devices(request.wish.user) is not None:
        for waiting in state.requests_of(request.wish.user):
            seek(turn, waiting.id)


def _unbind(turn: Turn, lease: Lease, failure: Failure | None, action: str) -> Device:
    state = turn.state
    device = state.devices[lease.device_id]
    device = evolve(device, lease_id="", clean=False, told_at=turn.now)
    state.fleet.put(device)
    state.timers.clear(("lease", lease.id))
    state.timers.clear(("lost", device.id))
    state.held_for(lease.device_key, turn.now - lease.granted_at)
    turn.want(DropLease(lease.id))
    turn.want(SaveHold(device.id, "", device.fence))
    turn.want(SaveUsage(state.shares.let_go(lease, turn.now)))
    detail = failure.message if failure else f"{lease.device_id} by {_who(lease)}"
    turn.happened(EventKind.LEASE, lease.id, action, detail)
    return device


def end_request(turn: Turn, request: Request, failure: Failure | None) -> None:
    """Drop a request and remember how it ended."""
    state = turn.state
    freed = reserved_by(turn, request) if request.id in state.reserving else []
    state.drop_request(request)
    for kind in ("wait", "absent", "reserve"):
        state.timers.clear((kind, request.id))
    end = End(request.id, turn.now, failure)
    state.ends[request.id] = end
    turn.want(EndRequest(end))
    turn.want(Ended(request.stream, failure))
    forget_ends(turn)
    for device in freed:
        offer(turn, device.id)


def forget_ends(turn: Turn) -> None:
    """Forget ends that are too old or too many."""
    ends, config, gone = turn.state.ends, turn.config, list[str]()
    while ends:
        first = next(iter(ends.values()))
        if len(ends) <= config.max_ends and first.at + config.remember_ends > turn.now:
            if ("ends", "") not in turn.state.timers:
                turn.state.timers.set(("ends", ""), first.at + config.remember_ends)
            break
        del ends[first.request_id]
        gone.append(first.request_id)
    if gone:
        turn.want(ForgetEnds(tuple(gone)))
