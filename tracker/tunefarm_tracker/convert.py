"""Between the scheduler's plain data and the messages on the wire."""

from google.protobuf.timestamp_pb2 import Timestamp
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_tracker.core.model import Device, End, Lease, Queued, Request, RequestOpened
from tunefarm_tracker.store import StoredEvent


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch as a message."""
    made = Timestamp()
    made.FromNanoseconds(round(seconds * 1e9))
    return made


def lease(held: Lease) -> pb.Lease:
    """A lease."""
    made = pb.Lease(
        id=held.id,
        request_id=held.request,
        device_id=held.device,
        device_key=held.key,
        holder=held.holder,
        purpose=held.purpose,
        fence=held.fence,
        granted_at=timestamp(held.granted_at),
        deadline=timestamp(held.deadline),
        priority=held.priority,
    )
    made.ttl.FromNanoseconds(round(held.ttl * 1e9))
    return made


def device(known: Device, held: Lease | None) -> tpb.Device:
    """A device with its live lease."""
    return tpb.Device(
        id=known.id,
        key=known.key,
        addresses=known.addresses,
        facts=pb.DeviceFacts.FromString(known.facts),
        state=tpb.DeviceState.Value(f"DEVICE_STATE_{known.state.upper()}"),
        health=tpb.DeviceHealth.Value(f"DEVICE_HEALTH_{known.health.upper()}"),
        health_reason=known.health_reason,
        lease=lease(held) if held else None,
        conditions=pb.Conditions.FromString(known.conditions),
        last_seen=timestamp(known.last_seen),
    )


def position(told: Queued | None) -> tpb.QueuePosition:
    """Where a request stands."""
    if told is None:
        return tpb.QueuePosition()
    return tpb.QueuePosition(position=told.position, waiting=told.waiting, reason=told.reason)


def queued(request: Request, told: Queued | None) -> tpb.QueuedRequest:
    """A waiting request."""
    wish = tpb.DeviceRequest(
        request_id=request.id,
        key=request.key,
        priority=request.priority,
        user=request.user,
        purpose=request.purpose,
        wait_for_key=request.wait_for_key,
    )
    return tpb.QueuedRequest(
        request=wish, position=position(told), queued_at=timestamp(request.queued_at)
    )


def opened(wish: tpb.DeviceRequest) -> RequestOpened:
    """A wish as an event."""
    wait = wish.wait_timeout.ToTimedelta().total_seconds()
    return RequestOpened(
        id=wish.request_id,
        key=wish.key,
        priority=wish.priority,
        user=wish.user,
        purpose=wish.purpose,
        wait=wait if wish.HasField("wait_timeout") else None,
        wait_for_key=wish.wait_for_key,
        ttl=wish.ttl.ToTimedelta().total_seconds(),
    )


def error(end: End) -> pb.Error | None:
    """Why something is over; None after a release."""
    if not end.code:
        return None
    code = pb.ErrorCode.Value(f"ERROR_CODE_{end.code}")
    return pb.Error(code=code, message=end.message, hint=end.hint)


def event(happened: StoredEvent) -> tpb.WatchEventsResponse:
    """An event."""
    return tpb.WatchEventsResponse(
        cursor=happened.cursor,
        at=timestamp(happened.at),
        kind=tpb.EventKind.Value(f"EVENT_KIND_{happened.kind.upper()}"),
        subject=happened.subject,
        action=happened.action,
        detail=happened.detail,
    )
