"""Between the wire and the scheduler's records."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tunefarm_proto import errors
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_tracker.core import State
from tunefarm_tracker.core.effects import Granted, Place
from tunefarm_tracker.core.records import (
    Device,
    Event,
    Failure,
    FailureKind,
    Lease,
    Report,
    Request,
    Wish,
)

MAX_NAME = 200
MAX_TEXT = 2000
MAX_FENCE = 1 << 62

_ERRORS: dict[FailureKind, type[errors.TunefarmError]] = {
    FailureKind.INVALID_REQUEST: errors.InvalidRequestError,
    FailureKind.UNKNOWN_KEY: errors.UnknownKeyError,
    FailureKind.REQUEST_TIMEOUT: errors.RequestTimeoutError,
    FailureKind.REQUEST_CANCELLED: errors.RequestCancelledError,
    FailureKind.LEASE_LOST: errors.LeaseLostError,
    FailureKind.DEVICE_LOST: errors.DeviceLostError,
}


def error_of(failure: Failure) -> errors.TunefarmError:
    """The exception for a failure."""
    return _ERRORS[failure.kind](failure.message, failure.hint)


def timestamp(seconds: float) -> Timestamp:
    """A time, from seconds since 1970."""
    nanos = round(seconds * 1e9)
    return Timestamp(seconds=nanos // 10**9, nanos=nanos % 10**9)


def duration(seconds: float) -> Duration:
    """A duration of 0 s or more."""
    nanos = round(seconds * 1e9)
    return Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def _seconds(value: Duration) -> float:
    return value.seconds + value.nanos * 1e-9


def _text(value: str, what: str, limit: int, needed: bool = True) -> str:
    if needed and not value:
        raise errors.InvalidRequestError(f"no {what} is given", f"name the {what}")
    if len(value) > limit or not value.isprintable():
        raise errors.InvalidRequestError(
            f"the {what} is no line of at most {limit} characters", "give a shorter, plain one"
        )
    return value


def report_of(message: tpb.SynchronizeRequest) -> Report:
    """What a device says. Raises: InvalidRequestError."""
    if message.fence > MAX_FENCE or len(message.addresses) > 64:
        raise errors.InvalidRequestError(
            f"device {message.device_id[:MAX_NAME]!r} reports nonsense", "update its device server"
        )
    return Report(
        device_id=_text(message.device_id, "device id", MAX_NAME),
        key=_text(message.key, "key", MAX_NAME),
        addresses=tuple(_text(one, "address", MAX_NAME) for one in message.addresses),
        instance=_text(message.instance_id, "instance id", MAX_NAME),
        lease_id=_text(message.lease_id, "lease id", MAX_NAME, needed=False),
        fence=message.fence,
        facts=message.facts.SerializeToString() if message.HasField("facts") else None,
        conditions=message.conditions.SerializeToString(),
    )


def wish_of(message: tpb.DeviceRequest) -> Wish:
    """What a client asks for. Raises: InvalidRequestError."""
    waits = message.HasField("wait_timeout")
    return Wish(
        request_id=_text(message.request_id, "request id", MAX_NAME),
        key=_text(message.key, "key", MAX_NAME),
        priority=message.priority,
        user=_text(message.user, "user", MAX_NAME, needed=False),
        purpose=_text(message.purpose, "purpose", MAX_TEXT, needed=False),
        wait_timeout=_seconds(message.wait_timeout) if waits else None,
        wait_for_key=message.wait_for_key,
        ttl=_seconds(message.ttl) if message.HasField("ttl") else None,
    )


def request_message(wish: Wish) -> tpb.DeviceRequest:
    """A wish as it was asked."""
    return tpb.DeviceRequest(
        request_id=wish.request_id,
        key=wish.key,
        priority=wish.priority,
        user=wish.user,
        purpose=wish.purpose,
        wait_timeout=duration(wish.wait_timeout) if wish.wait_timeout is not None else None,
        wait_for_key=wish.wait_for_key,
        ttl=duration(wish.ttl) if wish.ttl is not None else None,
    )


def lease_message(lease: Lease) -> pb.Lease:
    """A lease, without its token."""
    return pb.Lease(
        id=lease.id,
        request_id=lease.request_id,
        device_id=lease.device_id,
        device_key=lease.device_key,
        holder=lease.holder,
        purpose=lease.purpose,
        fence=lease.fence,
        granted_at=timestamp(lease.granted_at),
        deadline=timestamp(lease.deadline),
        ttl=duration(lease.ttl),
        priority=lease.priority,
    )


def grant_message(grant: Granted, token: str) -> tpb.Grant:
    """A grant with the token that opens the device."""
    return tpb.Grant(
        lease=lease_message(grant.lease),
        token=token,
        addresses=grant.addresses,
        facts=pb.DeviceFacts.FromString(grant.facts),
    )


def place_message(place: Place) -> tpb.QueuePosition:
    """Where a request stands."""
    return tpb.QueuePosition(position=place.position, waiting=place.waiting, reason=place.reason)


def queued_message(state: State, request: Request) -> tpb.QueuedRequest:
    """A waiting request."""
    return tpb.QueuedRequest(
        request=request_message(request.wish),
        position=place_message(state.place(request)),
        queued_at=timestamp(request.queued_at),
    )


def device_message(state: State, device: Device) -> tpb.Device:
    """A device as the tracker knows it."""
    lease = state.leases.get(device.lease_id)
    return tpb.Device(
        id=device.id,
        key=device.key,
        addresses=device.addresses,
        facts=pb.DeviceFacts.FromString(device.facts),
        state=tpb.DeviceState.Value(f"DEVICE_STATE_{device.state.name}"),
        health=tpb.DeviceHealth.Value(f"DEVICE_HEALTH_{device.health.name}"),
        health_reason=device.health_reason,
        lease=lease_message(lease) if lease is not None else None,
        conditions=pb.Conditions.FromString(device.conditions),
        last_seen=timestamp(device.last_seen) if device.last_seen else None,
    )


def event_message(event: Event) -> tpb.WatchEventsResponse:
    """An event."""
    return tpb.WatchEventsResponse(
        cursor=event.cursor,
        at=timestamp(event.at),
        kind=tpb.EventKind.Value(f"EVENT_KIND_{event.kind.name}"),
        subject=event.subject,
        action=event.action,
        detail=event.detail,
    )
