"""Rules of requests.

A request id names one request for ever: asked again it keeps its place, gets the same lease, or
hears the same end. A client whose stream is gone may come back within a grace; meanwhile its
request keeps its place and is not served.
"""

from dataclasses import replace

from tunefarm_tracker.core.effects import CancelAnswered, Ended, SaveRequest
from tunefarm_tracker.core.leases import (
    end_lease,
    end_request,
    lost,
    match,
    move_deadline,
    queue_changed,
    renew,
    tell_grant,
    tell_place,
)
from tunefarm_tracker.core.records import EventKind, Failure, FailureKind, Request, Wish
from tunefarm_tracker.core.turn import Turn


def opened(turn: Turn, stream: int, wish: Wish) -> None:
    """A client asks, or asks again."""
    request = turn.state.requests.get(wish.request_id)
    if wish.request_id in turn.state.ends:
        turn.want(Ended(stream, turn.state.ends[wish.request_id].failure))
    elif request is not None:
        _continued(turn, request, stream)
    elif (refusal := _refusal(turn, wish)) is not None:
        turn.want(Ended(stream, refusal))
    else:
        _queued(turn, stream, wish)


def _refusal(turn: Turn, wish: Wish) -> Failure | None:
    config = turn.config
    if wish.ttl is not None and not config.min_ttl <= wish.ttl <= config.max_ttl:
        return Failure(
            FailureKind.INVALID_REQUEST,
            f"a lease cannot live {wish.ttl:g} s without a heartbeat",
            f"ask for a ttl of {config.min_ttl:g} to {config.max_ttl:g} s",
        )
    if wish.wait_timeout is not None and wish.wait_timeout < 0:
        return Failure(
            FailureKind.INVALID_REQUEST,
            f"a request cannot wait {wish.wait_timeout:g} s",
            "give a wait timeout of 0 s or more",
        )
    keys = turn.state.known_keys()
    if wish.wait_for_key or wish.key in keys:
        return None
    there = f"the keys there are: {', '.join(keys)}" if keys else "there are no devices at all yet"
    return Failure(
        FailureKind.UNKNOWN_KEY,
        f"no device has the key {wish.key}; {there}",
        "ask for one of these, or wait for the key by wait_for_key (--wait-for-key)",
    )


def _queued(turn: Turn, stream: int, wish: Wish) -> None:
    turn.state.seq += 1
    request = Request(wish, turn.state.seq, turn.now, stream=stream)
    turn.state.put_request(request)
    if wish.wait_timeout is not None:
        turn.state.timers.set(("wait", request.id), turn.now + wish.wait_timeout)
    turn.want(SaveRequest(request))
    detail = f"{wish.user or 'somebody'} wants {wish.key}"
    turn.happened(EventKind.REQUEST, request.id, "queued", detail)
    match(turn, wish.key)
    if not turn.state.requests[request.id].lease_id:
        tell_place(turn, request)


def _continued(turn: Turn, request: Request, stream: int) -> None:
    if request.stream not in (0, stream):
        what = f"another stream has taken over request {request.id}"
        turn.want(Ended(request.stream, Failure(FailureKind.INVALID_REQUEST, what)))
    request = replace(request, stream=stream, present=True)
    turn.state.put_request(request)
    turn.state.timers.clear(("absent", request.id))
    turn.state.told.pop(request.id, None)
    if request.lease_id:
        lease = turn.state.leases[request.lease_id]
        move_deadline(turn, lease, max(lease.deadline, turn.now + lease.ttl))
        tell_grant(turn, request)
        return
    match(turn, request.wish.key)
    if not turn.state.requests[request.id].lease_id:
        tell_place(turn, request)


def disconnected(turn: Turn, stream: int, request_id: str) -> None:
    """A client's stream ended without a release."""
    request = turn.state.requests.get(request_id)
    if request is None or request.stream != stream:
        return
    by = turn.now + turn.config.holder_grace
    turn.state.put_request(replace(request, stream=0, present=False))
    if request.lease_id:
        lease = turn.state.leases[request.lease_id]
        move_deadline(turn, lease, min(lease.deadline, by))
    else:
        turn.state.timers.set(("absent", request_id), by)


def heartbeat(turn: Turn, stream: int, request_id: str) -> None:
    """A client lives. One that waits needs no answer; one whose request is over hears why.

    The end itself may be on its way still, and must not be overtaken by another reason.
    """
    request = turn.state.requests.get(request_id)
    if request is None:
        end = turn.state.ends.get(request_id)
        turn.want(Ended(stream, (end.failure if end else None) or lost("")))
    elif request.stream == stream and request.lease_id:
        renew(turn, request.lease_id, stream)


def released(turn: Turn, stream: int, request_id: str) -> None:
    """A client is done with its request or lease."""
    request = turn.state.requests.get(request_id)
    if request is None or request.stream != stream:
        return
    if request.lease_id:
        end_lease(turn, turn.state.leases[request.lease_id], None, "released")
    else:
        _leave_queue(turn, request, None, "cancelled")


def lease_released(turn: Turn, stream: int, lease_id: str) -> None:
    """A holder without a stream is done; done already is as good."""
    lease = turn.state.leases.get(lease_id)
    if lease is not None:
        end_lease(turn, lease, None, "released")
    turn.want(Ended(stream, None))


def cancelled(turn: Turn, stream: int, request_id: str) -> None:
    """Somebody ends a waiting request."""
    request = turn.state.requests.get(request_id)
    waiting = request is not None and not request.lease_id
    if request is not None and waiting:
        failure = Failure(
            FailureKind.REQUEST_CANCELLED, f"the request for {request.wish.key} was cancelled"
        )
        _leave_queue(turn, request, failure, "cancelled")
    turn.want(CancelAnswered(stream, waiting))


def timed_out(turn: Turn, request_id: str) -> None:
    """A request has waited as long as it was allowed to."""
    request = turn.state.requests[request_id]
    failure = Failure(
        FailureKind.REQUEST_TIMEOUT,
        f"no {request.wish.key} device became free in {request.wish.wait_timeout:g} s:"
        f" {turn.state.reason(request.wish.key)}",
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
    queue_changed(turn, request.wish.key)
