"""Rules of granting and of leases.

A free device goes to the first present request of its key, at once. A lease ends by release, by its
deadline or with its device; nothing revives it. Its device is not free again before it says that it
is clean.
"""

from dataclasses import replace

from tunefarm_tracker.core.effects import (
    DesiredLease,
    DropLease,
    Ended,
    EndRequest,
    ForgetEnds,
    Granted,
    Queued,
    Renewed,
    SaveDevice,
    SaveLease,
    SaveRequest,
)
from tunefarm_tracker.core.records import (
    Device,
    DeviceState,
    End,
    EventKind,
    Failure,
    FailureKind,
    Lease,
    Request,
)
from tunefarm_tracker.core.turn import Turn


def match(turn: Turn, key: str) -> None:
    """Grant until no present request of the key waits beside a free device."""
    while (pair := turn.state.next_pair(key)) is not None:
        _grant(turn, *pair)
    queue_changed(turn, key)


def queue_changed(turn: Turn, key: str) -> None:
    """See to it that those who wait hear of it soon; not at once, or a long queue floods."""
    timer = ("places", key)
    if timer not in turn.state.timers and next(turn.state.waiting(key), None) is not None:
        turn.state.timers.set(timer, turn.now + turn.config.places_interval)


def tell_places(turn: Turn, key: str) -> None:
    """Tell everybody in a queue whose place has changed."""
    reason = turn.state.reason(key)
    for request in turn.state.waiting(key):
        tell_place(turn, request, reason)


def tell_place(turn: Turn, request: Request, reason: str | None = None) -> None:
    """Tell a waiting client where it stands, where that has changed."""
    place = turn.state.place(request, reason)
    if request.stream and turn.state.told.get(request.id) != place:
        turn.state.told[request.id] = place
        turn.want(Queued(request.stream, place))


def tell_grant(turn: Turn, request: Request) -> None:
    """Tell a client what it holds; the same again whenever it asks."""
    lease = turn.state.leases[request.lease_id]
    device = turn.state.devices[lease.device_id]
    turn.want(Granted(request.stream, lease, device.addresses, device.facts))


def tell_device(turn: Turn, device: Device) -> None:
    """Tell a device what it should serve."""
    lease = turn.state.leases.get(device.lease_id)
    turn.want(DesiredLease(device.stream, lease, heartbeat_of(turn, device)))


def heartbeat_of(turn: Turn, device: Device) -> float:
    """How often a device should report."""
    idle = device.state in (DeviceState.IDLE, DeviceState.OFFLINE) and not device.lease_id
    return turn.config.idle_heartbeat if idle else turn.config.busy_heartbeat


def expect_report(turn: Turn, device: Device) -> None:
    """Start the wait for a device's next report."""
    silence = turn.config.missed_heartbeats * heartbeat_of(turn, device)
    by = turn.now + max(silence, turn.config.min_silence)
    turn.state.timers.set(("silent", device.id), by)


def _grant(turn: Turn, request: Request, device: Device) -> None:
    wish, timers = request.wish, turn.state.timers
    ttl = wish.ttl if wish.ttl is not None else turn.config.ttl
    lease = Lease(
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
        deadline=turn.now + ttl,
    )
    if not request.stream:  # presumed present after a restart
        lease = replace(lease, deadline=turn.now + max(ttl, turn.config.restart_grace))
    request = replace(request, lease_id=lease.id)
    device = replace(device, lease_id=lease.id, fence=lease.fence)
    turn.state.leases[lease.id] = lease
    turn.state.put_request(request)
    turn.state.put_device(device)
    timers.clear(("wait", request.id))
    timers.clear(("absent", request.id))
    timers.set(("lease", lease.id), lease.deadline)
    expect_report(turn, device)
    turn.want(SaveLease(lease))
    turn.want(SaveRequest(request))
    turn.want(SaveDevice(device))
    turn.happened(EventKind.LEASE, lease.id, "granted", f"{device.id} to {_who(lease)}")
    tell_device(turn, device)
    tell_grant(turn, request)


def _who(lease: Lease) -> str:
    return (lease.holder or "somebody") + (f" for {lease.purpose}" if lease.purpose else "")


def move_deadline(turn: Turn, lease: Lease, deadline: float) -> Lease:
    """A live lease with another deadline."""
    lease = replace(lease, deadline=deadline)
    turn.state.leases[lease.id] = lease
    turn.state.timers.set(("lease", lease.id), deadline)
    return lease


def renew(turn: Turn, lease_id: str, stream: int) -> None:
    """Move the deadline of a live lease; refuse a lost one."""
    lease = turn.state.leases.get(lease_id)
    if lease is None:
        turn.want(Ended(stream, lost(lease_id)))
    else:
        turn.want(Renewed(stream, move_deadline(turn, lease, turn.now + lease.ttl)))


def lost(lease_id: str) -> Failure:
    """The failure of whoever uses a lease that has ended."""
    what = f"lease {lease_id} has ended" if lease_id else "the lease has ended"
    return Failure(FailureKind.LEASE_LOST, what, "request the device again")


def expire(turn: Turn, lease_id: str) -> None:
    """A lease's deadline has passed."""
    lease = turn.state.leases[lease_id]
    failure = Failure(
        FailureKind.LEASE_LOST,
        f"lease {lease_id} on {lease.device_id} expired: its holder was not heard of in time",
        "request the device again",
    )
    end_lease(turn, lease, failure, "expired")


def device_lost(turn: Turn, device_id: str, why: str) -> None:
    """End the lease of a device that cannot serve it any more."""
    lease = turn.state.leases.get(turn.state.devices[device_id].lease_id)
    if lease is not None:
        failure = Failure(
            FailureKind.DEVICE_LOST, f"device {device_id} {why}", "request a device again"
        )
        end_lease(turn, lease, failure, "expired")


def end_lease(turn: Turn, lease: Lease, failure: Failure | None, action: str) -> None:
    """End a live lease and its request; the device has to say that it is clean."""
    state = turn.state
    request, device = state.requests[lease.request_id], state.devices[lease.device_id]
    device = replace(device, lease_id="", clean=False)
    del state.leases[lease.id]
    state.put_device(device)
    state.timers.clear(("lease", lease.id))
    state.timers.clear(("lost", device.id))
    turn.want(DropLease(lease.id))
    turn.want(SaveDevice(device))
    detail = failure.message if failure else f"{lease.device_id} by {_who(lease)}"
    turn.happened(EventKind.LEASE, lease.id, action, detail)
    tell_device(turn, device)
    end_request(turn, request, failure)
    queue_changed(turn, device.key)


def end_request(turn: Turn, request: Request, failure: Failure | None) -> None:
    """Drop a request and remember how it ended."""
    state = turn.state
    state.drop_request(request)
    state.timers.clear(("wait", request.id))
    state.timers.clear(("absent", request.id))
    end = End(request.id, turn.now, failure)
    state.ends[request.id] = end
    turn.want(EndRequest(end))
    turn.want(Ended(request.stream, failure))
    forget_ends(turn)


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
