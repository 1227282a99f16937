"""Rules of devices.

A device is what its last report says. It is offline when its stream is gone or it has been silent
for too long; a lease on it then waits a grace for it. Of two streams with one name the newer wins;
two servers that take it from each other in turn end in quarantine. A new instance is a device
server that was started anew: it has nothing left of a lease.
"""

from tunefarm_tracker.core import health
from tunefarm_tracker.core.effects import SaveDevice, StreamReplaced
from tunefarm_tracker.core.inputs import DeviceReported
from tunefarm_tracker.core.leases import (
    end_leases,
    expect_report,
    offer,
    queue_changed,
    tell_device,
)
from tunefarm_tracker.core.records import (
    Device,
    DeviceState,
    EventKind,
    Failure,
    FailureKind,
    Report,
    evolve,
)
from tunefarm_tracker.core.turn import Turn


def reported(turn: Turn, event: DeviceReported) -> None:
    """A device stated what is: take it, and tell the device what should be."""
    report, state = event.report, turn.state
    old = state.devices.get(report.device_id) or Device(report.device_id, report.key)
    if event.stream < old.stream:
        return  # of a stream that has been replaced
    if old.stream and event.stream != old.stream:
        turn.want(StreamReplaced(old.stream, _replaced(report, old)))
        if old.online and report.instance != old.instance:
            health.dropped(turn, old)
            old = state.devices[old.id]
    if old.lease_id and old.instance not in ("", report.instance):
        lost(turn, old.id, "was started anew and lost what the lease had left on it")
        old = state.devices[old.id]
    new = _updated(turn, old, event)
    state.fleet.put(new)
    state.timers.clear(("lost", new.id))
    if _kept(new) != _kept(old) or not old.last_seen:
        turn.want(SaveDevice(new))
    if not old.online:
        health.returned(turn, new)
    _changed(turn, old, new)


def _kept(device: Device) -> tuple[object, ...]:
    """What of a report is durable."""
    return (
        device.key, device.instance, device.fence, device.addresses, device.facts,
        device.attributes,
    )  # fmt: skip


def _changed(turn: Turn, old: Device, new: Device) -> None:
    """Tell of a device's change, and grant it where that makes it of use."""
    if new.state is not old.state:
        action = "online" if not old.online else new.state.value
        turn.happened(EventKind.DEVICE, new.id, action, f"{new.key}: {new.state.value}")
    if old.key != new.key:
        queue_changed(turn, old.key)
    expect_report(turn, new)
    useful = (new.state, new.key, new.attributes) != (old.state, old.key, old.attributes)
    if useful:
        offer(turn, new.id)
        queue_changed(turn, new.key)
    # A grant has told it already; what it has heard lately needs no saying again.
    told_anew = turn.state.devices[new.id].lease_id != new.lease_id
    news = old.stream != new.stream or turn.now - new.told_at >= turn.config.repeat_told
    if news and not told_anew:
        tell_device(turn, turn.state.devices[new.id])


def _updated(turn: Turn, old: Device, event: DeviceReported) -> Device:
    report = event.report
    return evolve(
        old,
        key=report.key,
        addresses=report.addresses,
        facts=report.facts if report.facts is not None else old.facts,
        instance=report.instance,
        fence=max(old.fence, report.fence),
        stream=event.stream,
        online=True,
        clean=not report.lease_id,
        conditions=report.conditions,
        attributes=old.attributes if report.attributes is None else report.attributes,
        last_seen=turn.now,
    )


def _replaced(report: Report, old: Device) -> Failure:
    if report.instance == old.instance:
        what = f"device {old.id} has opened a newer stream"
        return Failure(FailureKind.INVALID_REQUEST, what)
    return Failure(
        FailureKind.INVALID_REQUEST,
        f"another device server has taken over the name {old.id}",
        "give each device server a state folder of its own by --state",
    )


def disconnected(turn: Turn, stream: int, device_id: str) -> None:
    """A device's stream is gone."""
    device = turn.state.devices.get(device_id)
    if device is not None and device.stream == stream:
        turn.state.timers.clear(("silent", device_id))
        _offline(turn, evolve(device, stream=0), "its stream is gone")


def silent(turn: Turn, device_id: str) -> None:
    """A device has not reported for too long; its stream may still bring a report."""
    _offline(turn, turn.state.devices[device_id], "it has not reported for too long")


def _offline(turn: Turn, device: Device, why: str) -> None:
    was_online = device.online
    device = evolve(device, online=False)
    turn.state.fleet.put(device)
    if not was_online:
        return
    turn.happened(EventKind.DEVICE, device.id, DeviceState.OFFLINE.value, f"{device.key}: {why}")
    if device.lease_id:
        turn.state.timers.set(("lost", device.id), turn.now + turn.config.device_grace)
    health.dropped(turn, device)
    queue_changed(turn, device.key)


def lost(turn: Turn, device_id: str, why: str) -> None:
    """End the lease of a device that cannot serve it any more, and count it as a fault."""
    lease = turn.state.leases.get(turn.state.devices[device_id].lease_id)
    if lease is not None:
        failure = Failure(
            FailureKind.DEVICE_LOST, f"device {device_id} {why}", "request a device again"
        )
        end_leases(turn, turn.state.requests[lease.request_id], failure, "expired")
        health.fault(turn, device_id, f"{why}, in lease {lease.id}")
