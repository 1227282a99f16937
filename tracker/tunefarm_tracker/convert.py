"""Between the wire and the scheduler's records."""

import functools
from collections.abc import Callable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tunefarm_proto import errors
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_tracker.core import State, inputs
from tunefarm_tracker.core.effects import Grant, Granted, Place
from tunefarm_tracker.core.records import (
    Device,
    Event,
    EventKind,
    Failure,
    FailureKind,
    Lease,
    Need,
    PastLease,
    Quota,
    Report,
    Request,
    Wish,
)
from tunefarm_tracker.core.where import LABEL, parse

MAX_NAME = 200
MAX_TEXT = 2000
MAX_FENCE = 1 << 62
MAX_ATTRIBUTES = 200

_ERRORS: dict[FailureKind, type[errors.TunefarmError]] = {
    FailureKind.INVALID_REQUEST: errors.InvalidRequestError,
    FailureKind.PERMISSION_DENIED: errors.PermissionDeniedError,
    FailureKind.UNKNOWN_KEY: errors.UnknownKeyError,
    FailureKind.REQUEST_TIMEOUT: errors.RequestTimeoutError,
    FailureKind.REQUEST_CANCELLED: errors.RequestCancelledError,
    FailureKind.QUOTA_EXCEEDED: errors.QuotaExceededError,
    FailureKind.UNKNOWN_DEVICE: errors.UnknownDeviceError,
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


def moment(value: Timestamp) -> float:
    """A time in seconds since 1970. Raises: InvalidRequestError for one that is none."""
    try:
        return value.ToNanoseconds() * 1e-9
    except ValueError:
        raise errors.InvalidRequestError(
            f"{value.seconds} s and {value.nanos} ns are no time", "give one of the years 1 to 9999"
        ) from None


def duration(seconds: float) -> Duration:
    """A duration of 0 s or more."""
    nanos = round(seconds * 1e9)
    return Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def seconds(value: Duration) -> float:
    """A duration in seconds."""
    return value.seconds + value.nanos * 1e-9


def _text(value: str, what: str, limit: int, needed: bool = True) -> str:
    if needed and not value:
        raise errors.InvalidRequestError(f"no {what} is given", f"name the {what}")
    if len(value) > limit or not value.isprintable():
        raise errors.InvalidRequestError(
            f"the {what} is no line of at most {limit} characters", "give a shorter, plain one"
        )
    return value


def text(value: str, what: str, needed: bool = True) -> str:
    """One line that people wrote. Raises: InvalidRequestError."""
    return _text(value, what, MAX_TEXT, needed)


def release_of(message: tpb.Release, stream: int, request_id: str) -> inputs.Released:
    """A release. Raises: InvalidRequestError."""
    fault = text(message.device_fault, "device fault", needed=False)
    return inputs.Released(stream, request_id, fault, message.device_id)


_ACTIONS = {
    tpb.DEVICE_ACTION_DRAIN: inputs.DeviceAction.DRAIN,
    tpb.DEVICE_ACTION_ENABLE: inputs.DeviceAction.ENABLE,
    tpb.DEVICE_ACTION_QUARANTINE: inputs.DeviceAction.QUARANTINE,
    tpb.DEVICE_ACTION_RETIRE: inputs.DeviceAction.RETIRE,
    tpb.DEVICE_ACTION_FORGET: inputs.DeviceAction.FORGET,
}


def action_of(action: tpb.DeviceAction.ValueType) -> inputs.DeviceAction:
    """What an operator does with a device. Raises: InvalidRequestError."""
    if action not in _ACTIONS:
        raise errors.InvalidRequestError(
            f"{action} is no action on a device", "drain, enable, quarantine, retire or forget it"
        )
    return _ACTIONS[action]


def quota_of(message: tpb.SetQuotaRequest) -> Quota:
    """What a user may have. Raises: InvalidRequestError."""
    return Quota(
        _text(message.user, "user", MAX_NAME),
        message.max_devices if message.HasField("max_devices") else None,
        message.max_requests if message.HasField("max_requests") else None,
    )


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
        attributes=_attributes(message) if message.HasField("facts") else None,
    )


def _attributes(message: tpb.SynchronizeRequest) -> tuple[tuple[str, str], ...]:
    """What a device can be asked for by, sorted by name."""
    facts = message.facts
    known = {
        "id": message.device_id,
        "triple": facts.target.triple,
        "arch": facts.target.triple.partition("-")[0],
        "cpu": facts.target.cpu,
        "features": ",".join(facts.target.features),
        "cpu_model": facts.cpu_model,
        "cpu_count": str(facts.cpu_count),
        "cores": facts.cores,
        "time_together": "yes" if facts.time_together else "no",
        "memory_mb": str(facts.memory_bytes >> 20),
        "max_frequency_mhz": str(facts.max_frequency_hz // 10**6),
        "os": facts.os,
        "kernel": facts.kernel,
        "governor": facts.governor,
        "machine_model": facts.machine_model,
        "emulated": "yes" if facts.emulated else "no",
        "isolation": ",".join(facts.isolation),
    }
    labels = {LABEL + name: value for name, value in message.labels.items()}
    attributes = {**facts.extra, **labels, **known}
    if len(attributes) > MAX_ATTRIBUTES:
        raise errors.InvalidRequestError(
            f"device {message.device_id[:MAX_NAME]!r} has {len(attributes)} attributes",
            f"give it at most {MAX_ATTRIBUTES}",
        )
    return tuple(sorted((name, value[:MAX_TEXT]) for name, value in attributes.items() if value))


def wish_of(message: tpb.DeviceRequest, user: str = "") -> Wish:
    """What a client asks for; `user` is who it is known to be. Raises: InvalidRequestError."""
    waits = message.HasField("wait_timeout")
    return Wish(
        request_id=_text(message.request_id, "request id", MAX_NAME),
        needs=_needs_of(message),
        priority=message.priority,
        user=user or _text(message.user, "user", MAX_NAME, needed=False),
        purpose=_text(message.purpose, "purpose", MAX_TEXT, needed=False),
        wait_timeout=seconds(message.wait_timeout) if waits else None,
        wait_for_key=message.wait_for_key,
        ttl=seconds(message.ttl) if message.HasField("ttl") else None,
        maintenance=message.maintenance,
    )


def _needs_of(message: tpb.DeviceRequest) -> tuple[Need, ...]:
    if not message.needs:
        return (Need((_text(message.key, "key", MAX_NAME),)),)
    if message.key:
        raise errors.InvalidRequestError(
            "the request names a key and needs as well", "give one of them"
        )
    return tuple(_need(one) for one in message.needs[: MAX_ATTRIBUTES + 1])


def _need(message: tpb.DeviceNeed) -> Need:
    if len(message.keys) > MAX_ATTRIBUTES or len(message.where) > MAX_ATTRIBUTES:
        raise errors.InvalidRequestError(
            f"a need has {len(message.keys)} keys and {len(message.where)} conditions",
            f"give at most {MAX_ATTRIBUTES} of each",
        )
    keys = tuple(dict.fromkeys(_text(key, "key", MAX_NAME) for key in message.keys))
    where = [
        (_text(name, "attribute", MAX_NAME), _text(value, f"condition on {name}", MAX_TEXT))
        for name, value in sorted(message.where.items())
    ]
    try:
        return Need(keys, parse(where))
    except ValueError as error:
        raise errors.InvalidRequestError(str(error)) from None


def request_message(wish: Wish) -> tpb.DeviceRequest:
    """A wish as it was asked; a plain one by its key."""
    plain = len(wish.needs) == 1 and len(wish.keys) == 1 and not wish.needs[0].where
    return tpb.DeviceRequest(
        request_id=wish.request_id,
        key=wish.keys[0] if plain else "",
        needs=[] if plain else [_need_message(need) for need in wish.needs],
        priority=wish.priority,
        user=wish.user,
        purpose=wish.purpose,
        wait_timeout=duration(wish.wait_timeout) if wish.wait_timeout is not None else None,
        wait_for_key=wish.wait_for_key,
        ttl=duration(wish.ttl) if wish.ttl is not None else None,
        maintenance=wish.maintenance,
    )


def _need_message(need: Need) -> tpb.DeviceNeed:
    where: dict[str, str] = {}
    for one in need.where:
        name, text = one.attribute, f"{one.operator}{one.value}"
        if one.operator == "has":
            text = one.value
        elif name.startswith(LABEL):
            equals = "" if one.operator == "is-set" else f"={one.value}"
            name, text = "labels", name.removeprefix(LABEL) + equals
        where[name] = f"{where[name]},{text}" if name in where else text
    return tpb.DeviceNeed(keys=need.keys, where=where)


@functools.lru_cache(1024)  # device and client are told the same one
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


def granted_message(granted: Granted, token_of: Callable[[str], str]) -> tpb.Grant:
    """A grant of one device or more, with the tokens that open them."""
    first, *others = (_grant_message(one, token_of(one.lease.id)) for one in granted.grants)
    first.others.extend(others)
    return first


def _grant_message(grant: Grant, token: str) -> tpb.Grant:
    return tpb.Grant(
        lease=lease_message(grant.lease),
        token=token,
        addresses=grant.addresses,
        facts=pb.DeviceFacts.FromString(grant.facts),
    )


def place_message(place: Place) -> tpb.QueuePosition:
    """Where a request stands."""
    return tpb.QueuePosition(
        position=place.position,
        waiting=place.waiting,
        reason=place.reason,
        estimate=duration(place.estimate) if place.estimate is not None else None,
    )


def queued_message(state: State, request: Request, now: float) -> tpb.QueuedRequest:
    """A waiting request."""
    return tpb.QueuedRequest(
        request=request_message(request.wish),
        position=place_message(state.place(request, now)),
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
        draining=device.draining,
        labels={
            name.removeprefix(LABEL): value
            for name, value in device.attributes
            if name.startswith(LABEL)
        },
        attributes=dict(device.attributes),
        faults=[tpb.DeviceFault(at=timestamp(one.at), reason=one.reason) for one in device.faults],
    )


def user_message(state: State, name: str, now: float) -> tpb.User:
    """A user of the farm."""
    quota = state.shares.quotas.get(name, Quota(name))
    return tpb.User(
        name=name,
        devices=state.shares.devices(name),
        waiting=sum(not one.granted for one in state.requests_of(name)),
        recent_use_s=state.shares.recent_use(name, now),
        max_devices=quota.max_devices,
        max_requests=quota.max_requests,
    )


def past_lease_message(past: PastLease) -> tpb.PastLease:
    """A lease that has ended."""
    lease = lease_message(past.lease)
    lease.ClearField("deadline")
    return tpb.PastLease(
        lease=lease,
        ended_at=timestamp(past.ended_at),
        outcome=past.outcome,
        queued_at=timestamp(past.queued_at),
    )


def event_kind_of(kind: tpb.EventKind.ValueType) -> EventKind:
    """Which kind is asked for; a device's where none is named. Raises: InvalidRequestError."""
    if kind == tpb.EVENT_KIND_UNSPECIFIED:
        return EventKind.DEVICE
    try:
        return EventKind(tpb.EventKind.Name(kind).removeprefix("EVENT_KIND_").lower())
    except ValueError:
        raise InvalidRequestError(f"there is no kind {kind} of events", "see EventKind") from None


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


def anchor_result(report: tpb.SynchronizeRequest, reading: tpb.AnchorReading) -> tpb.Result:
    """A device's reading of an anchor as a result, which has the same id whenever it is told."""
    taken = reading.timing.after.read_at
    return tpb.Result(
        id=f"anchor-{report.device_id}-{reading.name}-{taken.seconds}",
        workload=f"anchor {reading.name}",
        device_id=report.device_id,
        device_key=report.key,
        timing=reading.timing,
        correct=True,
        argument_bytes=reading.moved_bytes,
    )
