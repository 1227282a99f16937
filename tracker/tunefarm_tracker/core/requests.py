"""Rules of requests.

A request id names one request for ever: asked again it keeps its place, gets the same lease, or
hears the same end. A client whose stream is gone may come back within a grace; meanwhile its
request keeps its place and is not served.
"""

from tunefarm_tracker.core import health
from tunefarm_tracker.core.effects import CancelAnswered, Ended, SaveQuota, SaveRequest
from tunefarm_tracker.core.inputs import LeaseRevoked, Released
from tunefarm_tracker.core.leases import (
    end_leases,
    end_request,
    grant,
    lost,
    move_deadlines,
    offer,
    queue_changed,
    renew,
    seek,
    tell_grant,
    tell_place,
)
from tunefarm_tracker.core.matching import find_devices, reserved_by
from tunefarm_tracker.core.records import (
    Device,
    EventKind,
    Failure,
    FailureKind,
    Need,
    Quota,
    Request,
    Wish,
    evolve,
)
from tunefarm_tracker.core.turn import Turn


def opened(turn: Turn, stream: int, wish: Wish, attempt: int) -> None:
    """A client asks, or asks again."""
    request = turn.state.requests.get(wish.request_id)
    if wish.request_id in turn.state.ends:
        turn.want(Ended(stream, turn.state.ends[wish.request_id].failure))
    elif request is not None and request.wish.user != wish.user:
        what = f"request {wish.request_id} is of another user"  # its leases' tokens are not yours
        turn.want(Ended(stream, Failure(FailureKind.PERMISSION_DENIED, what, "choose another id")))
    elif request is not None:
        _continued(turn, request, stream, attempt)
    elif (refusal := _refusal(turn, wish)) is not None:
        turn.want(Ended(stream, refusal))
    else:
        _queued(turn, stream, wish, attempt)


def _refusal(turn: Turn, wish: Wish) -> Failure | None:
    return _senseless(turn, wish) or _beyond_quota(turn, wish) or _unknown(turn, wish)


def _senseless(turn: Turn, wish: Wish) -> Failure | None:
    config = turn.config
    if wish.ttl is not None and not config.min_ttl <= wish.ttl <= config.max_ttl:
        return Failure(
            FailureKind.INVALID_REQUEST,
            f"a lease cannot live {wish.ttl:g} s without a heartbeat",
            f"ask for a ttl of {config.min_ttl:g} to {config.max_ttl:g} s",
        )
    if wish.wait_timeout is not None and not wish.wait_timeout >= 0:
        return Failure(
            FailureKind.INVALID_REQUEST,
            f"a request cannot wait {wish.wait_timeout:g} s",
            "give a wait timeout of 0 s or more",
        )
    if not 1 <= len(wish.needs) <= config.max_needs or not all(need.keys for need in wish.needs):
        return Failure(
            FailureKind.INVALID_REQUEST,
            f"a request for {len(wish.needs)} devices, each by a key, makes no sense",
            f"ask for 1 to {config.max_needs} devices and give a key for each",
        )
    return None


def _beyond_quota(turn: Turn, wish: Wish) -> Failure | None:
    quota = turn.state.shares.quotas.get(wish.user, Quota(wish.user))
    most = turn.config.max_requests if quota.max_requests is None else quota.max_requests
    count = turn.state.count_requests(wish.user)
    if count >= most:
        return Failure(
            FailureKind.QUOTA_EXCEEDED,
            f"{wish.user or 'the user'} has {count} requests waiting or granted, of {most} allowed",
            "let some end first, or ask an operator for a larger quota",
        )
    if quota.max_devices is not None and len(wish.needs) > quota.max_devices:
        return Failure(
            FailureKind.QUOTA_EXCEEDED,
            f"{wish.user} may hold {quota.max_devices} devices, not {len(wish.needs)} at a time",
            "ask for fewer, or ask an operator for a larger quota",
        )
    return None


def _unknown(turn: Turn, wish: Wish) -> Failure | None:
    if wish.wait_for_key:
        return None
    fleet, keys = turn.state.fleet, turn.state.fleet.known_keys()
    there = f"the keys there are: {', '.join(keys)}" if keys else "there are no devices at all yet"
    for need in wish.needs:
        if not set(need.keys) & set(keys):
            return Failure(
                FailureKind.UNKNOWN_KEY,
                f"no device has the key {' or '.join(need.keys)}; {there}",
                "ask for one of these, or wait for the key by wait_for_key (--wait-for-key)",
            )
        count = wish.needs.count(need)
        fitting = fleet.count(need.keys[0]) if len(need.keys) == 1 and not need.where else None
        if fitting is None:
            fitting = sum(need.fits(one) for key in need.keys for one in fleet.of_key(key))
        if fitting < count:
            return _too_few(turn, need, count, fitting)
    return None


def _of(turn: Turn, need: Need) -> list[Device]:
    return [device for key in need.keys for device in turn.state.fleet.of_key(key)]


def _too_few(turn: Turn, need: Need, count: int, fitting: int) -> Failure:
    known = {name for device in _of(turn, need) for name, _ in device.attributes}
    strange = sorted({one.attribute for one in need.where} - known)
    why = f"; none of them has {', '.join(strange)}" if strange else ""
    for name in sorted({one.attribute for one in need.where} & known):
        there = sorted({dict(one.attributes).get(name, "") for one in _of(turn, need)} - {""})
        why += f"; {name} is {', '.join(there[:5])}{', ...' if len(there) > 5 else ''}"
    wanted = (
        f"no known device is {need}" if count == 1 else f"of {count} {need} {fitting} are known"
    )
    return Failure(
        FailureKind.UNKNOWN_KEY,
        wanted + why,
        "ask for less, or wait for such devices by wait_for_key (--wait-for-key)",
    )


def _queued(turn: Turn, stream: int, wish: Wish, attempt: int) -> None:
    turn.state.seq += 1
    request = Request(wish, turn.state.seq, turn.now, stream=stream, attempt=attempt)
    detail = f"{wish.user or 'somebody'} wants {wish}"
    turn.happened(EventKind.REQUEST, request.id, "queued", detail)
    devices = find_devices(turn, request)
    if devices is not None:
        grant(turn, request, devices)
        return
    turn.state.put_request(request)
    if wish.wait_timeout is not None:
        turn.state.timers.set(("wait", request.id), turn.now + wish.wait_timeout)
    if len(wish.needs) > 1:
        turn.state.timers.set(("reserve", request.id), turn.now + turn.config.reserve_after)
    turn.want(SaveRequest(request))
    _tell_waiting(turn, request)


def _served_or_told(turn: Turn, request: Request) -> None:
    seek(turn, request.id)
    if not turn.state.requests[request.id].granted:
        _tell_waiting(turn, request)


def _tell_waiting(turn: Turn, request: Request) -> None:
    tell_place(turn, request)
    for key in request.wish.keys:
        queue_changed(turn, key)


def _continued(turn: Turn, request: Request, stream: int, attempt: int) -> None:
    if request.stream not in (0, stream):
        late = attempt < request.attempt  # the network held it up: its holder is elsewhere by now
        what = f"another stream has taken over request {request.id}"
        failure = Failure(FailureKind.INVALID_REQUEST, what)
        turn.want(Ended(stream if late else request.stream, failure))
        if late:
            return
    attempt = max(attempt, request.attempt)
    request = evolve(request, stream=stream, present=True, attempt=attempt)
    turn.state.put_request(request)
    turn.state.timers.clear(("absent", request.id))
    turn.state.told.pop(request.id, None)
    if request.granted:
        lease = turn.state.leases[request.lease_ids[0]]
        move_deadlines(turn, request, max(lease.deadline, turn.now + lease.ttl))
        tell_grant(turn, request)
    else:
        _served_or_told(turn, request)


def reserve(turn: Turn, request_id: str) -> None:
    """A request for several devices has waited for long: it keeps the free ones from now on."""
    turn.state.reserving[request_id] = None
    for key in turn.state.requests[request_id].wish.keys:
        queue_changed(turn, key)


def disconnected(turn: Turn, stream: int, request_id: str) -> None:
    """A client's stream ended without a release."""
    request = turn.state.requests.get(request_id)
    if request is None or request.stream != stream:
        return
    by = turn.now + turn.config.holder_grace
    kept = reserved_by(turn, request) if request_id in turn.state.reserving else []
    turn.state.put_request(evolve(request, stream=0, present=False))
    if request.granted:
        lease = turn.state.leases[request.lease_ids[0]]
        move_deadlines(turn, request, min(lease.deadline, by))
    else:
        turn.state.timers.set(("absent", request_id), by)
    for device in kept:  # who is away reserves nothing
        offer(turn, device.id)


def heartbeat(turn: Turn, stream: int, request_id: str, ttl: float | None) -> None:
    """A client lives. One that waits needs no answer; one whose request is over hears why.

    The end itself may be on its way still, and must not be overtaken by another reason.
    """
    request = turn.state.requests.get(request_id)
    if request is None:
        end = turn.state.ends.get(request_id)
        turn.want(Ended(stream, (end.failure if end else None) or lost("")))
    elif request.stream == stream and request.granted:
        renew(turn, request.lease_ids[0], stream, ttl)


def released(turn: Turn, event: Released) -> None:
    """A client is done with its request or leases."""
    request = turn.state.requests.get(event.request_id)
    if request is None or request.stream != event.stream:
        return
    if request.granted:
        _blame(turn, request, event)
        end_leases(turn, request, None, "released")
    else:
        _leave_queue(turn, request, None, "cancelled")


def _blame(turn: Turn, request: Request, event: Released) -> None:
    """Count a fault that the holder tells of, of a device that it holds."""
    for lease_id in request.lease_ids:
        lease = turn.state.leases[lease_id]
        if event.device_fault and event.device_id in ("", lease.device_id):
            health.fault(turn, lease.device_id, event.device_fault, lease.holder or "somebody")


def lease_released(turn: Turn, stream: int, lease_id: str) -> None:
    """A holder without a stream is done; done already is as good."""
    lease = turn.state.leases.get(lease_id)
    if lease is not None:
        end_leases(turn, turn.state.requests[lease.request_id], None, "released")
    turn.want(Ended(stream, None))


def lease_revoked(turn: Turn, event: LeaseRevoked) -> None:
    """An operator ends somebody's lease: its device cuts off what runs."""
    lease = turn.state.leases.get(event.lease_id)
    if lease is not None:
        why = f": {event.reason}" if event.reason else ""
        failure = Failure(
            FailureKind.LEASE_LOST,
            f"lease {lease.id} on {lease.device_id} was revoked"
            f" by {event.by or 'an operator'}{why}",
            "request the device again",
        )
        end_leases(turn, turn.state.requests[lease.request_id], failure, "revoked")
    turn.want(CancelAnswered(event.stream, lease is not None))


def quota_set(turn: Turn, stream: int, quota: Quota) -> None:
    """An operator limits a user, or lifts a limit."""
    turn.state.shares.quotas[quota.user] = quota
    turn.want(SaveQuota(quota))
    for request in turn.state.requests_of(quota.user):
        seek(turn, request.id)
    turn.want(CancelAnswered(stream, True))


def cancelled(turn: Turn, stream: int, request_id: str) -> None:
    """Somebody ends a waiting request."""
    request = turn.state.requests.get(request_id)
    waiting = request is not None and not request.granted
    if request is not None and waiting:
        failure = Failure(
            FailureKind.REQUEST_CANCELLED, f"the request for {request.wish} was cancelled"
        )
        _leave_queue(turn, request, failure, "cancelled")
    turn.want(CancelAnswered(stream, waiting))


def priority_changed(turn: Turn, stream: int, request_id: str, priority: int) -> None:
    """A waiting request moves up or down; what it kept for itself may go to others then."""
    request = turn.state.requests.get(request_id)
    waiting = request is not None and not request.granted
    if request is not None and waiting and request.wish.priority != priority:
        kept = reserved_by(turn, request) if request_id in turn.state.reserving else []
        changed = evolve(request, wish=evolve(request.wish, priority=priority))
        turn.state.reorder(changed)
        turn.want(SaveRequest(changed))
        detail = f"priority {priority}, was {request.wish.priority}"
        turn.happened(EventKind.REQUEST, request.id, "reprioritised", detail)
        _served_or_told(turn, changed)
        for device in kept:
            offer(turn, device.id)
    turn.want(CancelAnswered(stream, waiting))


def timed_out(turn: Turn, request_id: str) -> None:
    """A request has waited as long as it was allowed to."""
    request = turn.state.requests[request_id]
    failure = Failure(
        FailureKind.REQUEST_TIMEOUT,
        f"no {request.wish} device became free in {request.wish.wait_timeout:g} s:"
        f" {turn.state.reason(request)}",
        "wait longer, or look at `tunefarm status`",
    )
    _leave_queue(turn, request, failure, "timeout")


def stayed_away(turn: Turn, request_id: str) -> None:
    """A waiting client did not come back in time."""
    failure = Failure(
        FailureKind.REQUEST_CANCELLED,
        f"request {request_id} was cancelled: its client went away",
        "request the device again",
    )
    _leave_queue(turn, turn.state.requests[request_id], failure, "cancelled")


def _leave_queue(turn: Turn, request: Request, failure: Failure | None, action: str) -> None:
    detail = failure.message if failure else f"{request.wish.user or 'somebody'} gave up"
    turn.happened(EventKind.REQUEST, request.id, action, detail)
    end_request(turn, request, failure)
    for key in request.wish.keys:
        queue_changed(turn, key)
