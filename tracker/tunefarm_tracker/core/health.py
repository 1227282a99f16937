"""Rules of health: faults, checks, what operators decide, and the ladder that brings devices back.

A fault makes a device suspect: it is granted after the others until the fault has aged. Several
faults, a wrong answer in a check, or a connection that keeps breaking quarantine it, and it stays
so until an operator enables it. A device that stays offline is brought back by the operator's own
steps, one after another; where none helps it is quarantined too.
"""

from tunefarm_tracker.core.effects import (
    DeviceAnswered,
    DropDevice,
    Notify,
    RunRecovery,
    SaveDevice,
)
from tunefarm_tracker.core.inputs import (
    DeviceAction,
    DeviceManaged,
    HealthChecked,
    RecoveryEnded,
)
from tunefarm_tracker.core.leases import offer, queue_changed, tell_device
from tunefarm_tracker.core.records import (
    Device,
    EventKind,
    Failure,
    FailureKind,
    Fault,
    Health,
    evolve,
)
from tunefarm_tracker.core.turn import Turn

_KEPT_FAULTS = 10


def fault(turn: Turn, device_id: str, reason: str, witness: str = "") -> None:
    """Count an infrastructure fault. One witness counts once within the window."""
    device = turn.state.devices[device_id]
    faults = _recent(turn, device)
    if witness and any(one.witness == witness for one in faults):
        return
    faults = (*faults, Fault(turn.now, reason, witness))[-_KEPT_FAULTS:]
    turn.state.timers.set(("trust", device_id), turn.now + turn.config.fault_window)
    device = evolve(device, faults=faults)
    many = len(faults) >= turn.config.faults_to_quarantine
    if device.health in (Health.QUARANTINED, Health.RETIRED):
        _put(turn, device)
    elif many:
        minutes = max(round((turn.now - faults[0].at) / 60), 1)
        _quarantine(turn, device, f"{len(faults)} faults in {minutes} min, the last: {reason}")
    else:
        _set_health(turn, device, Health.SUSPECT, reason)


def _recent(turn: Turn, device: Device) -> tuple[Fault, ...]:
    # Reckoned as the timer is, or rounding would find one too young at its own deadline.
    return tuple(one for one in device.faults if one.at + turn.config.fault_window > turn.now)


def faults_aged(turn: Turn, device_id: str) -> None:
    """Time has passed since the last fault: without a recent one a suspect is good again."""
    device = turn.state.devices[device_id]
    faults = _recent(turn, device)
    if faults:
        by = faults[0].at + turn.config.fault_window
        turn.state.timers.set(("trust", device_id), by)
    device = evolve(device, faults=faults)
    if device.health is Health.SUSPECT and not faults:
        _set_health(turn, device, Health.GOOD, "")
    else:
        _put(turn, device)


def dropped(turn: Turn, device: Device) -> None:
    """A device's connection is lost: too often is flapping; for too long starts the ladder."""
    config = turn.config
    after = turn.now - config.drop_window
    drops = (*(at for at in device.drops if at > after), turn.now)[-config.drops_to_quarantine :]
    device = evolve(device, drops=drops)
    turn.state.fleet.put(device)
    if not device.usable:
        return
    if len(drops) >= config.drops_to_quarantine:
        minutes = max(round((turn.now - drops[0]) / 60), 1)
        _quarantine(
            turn,
            evolve(device, drops=()),
            f"flapping: its connection was lost {len(drops)} times in {minutes} min"
            " (do two device servers use its name?)",
        )
    elif config.recovery and not device.online:
        turn.state.timers.set(("recover", device.id), turn.now + config.recover_after)


def returned(turn: Turn, device: Device) -> None:
    """A device is online again."""
    turn.state.timers.clear(("recover", device.id))
    if device.recovery_step >= 0:
        step = turn.config.recovery[device.recovery_step].name
        turn.state.fleet.put(evolve(device, recovery_step=-1))
        turn.happened(EventKind.DEVICE, device.id, "recovered", f"{device.key}: after {step}")


def recover(turn: Turn, device_id: str) -> None:
    """A device is still offline: take the ladder's next step, or give up."""
    device, ladder = turn.state.devices[device_id], turn.config.recovery
    if device.online or not device.usable:
        return
    step = device.recovery_step + 1
    if step < len(ladder):
        device = evolve(device, recovery_step=step)
        turn.state.fleet.put(device)
        turn.state.timers.set(("recover", device_id), turn.now + ladder[step].wait)
        turn.happened(
            EventKind.DEVICE, device_id, "recovering", f"{device.key}: {ladder[step].name}"
        )
        turn.want(RunRecovery(device, step))
    else:
        tried = ", ".join(one.name for one in ladder)
        device = evolve(device, recovery_step=-1)
        _quarantine(turn, device, f"offline, and did not come back after: {tried}")


def step_ended(turn: Turn, event: RecoveryEnded) -> None:
    """A step of the ladder has been run."""
    if event.device_id in turn.state.devices:
        step = turn.config.recovery[event.step].name
        detail = f"{step}: {event.detail}"
        turn.happened(EventKind.DEVICE, event.device_id, "recovering", detail)


def checked(turn: Turn, event: HealthChecked) -> None:
    """A health check ended."""
    device = turn.state.devices.get(event.device_id)
    if device is None:
        turn.want(DeviceAnswered(event.stream, None, _unknown(event.device_id)))
        return
    word = "passed" if event.passed else "failed"
    turn.happened(EventKind.DEVICE, device.id, "checked", f"{word}: {event.detail}")
    if event.passed and device.health is Health.SUSPECT:
        _set_health(turn, evolve(device, faults=()), Health.GOOD, "")
    elif not event.passed and event.severe and device.health is not Health.RETIRED:
        _quarantine(turn, device, f"health check: {event.detail}")
    elif not event.passed:
        fault(turn, device.id, f"health check: {event.detail}")
    turn.want(DeviceAnswered(event.stream, turn.state.devices[device.id]))


def managed(turn: Turn, event: DeviceManaged) -> None:
    """An operator changes what a device is used for."""
    device = turn.state.devices.get(event.device_id)
    if device is None:
        turn.want(DeviceAnswered(event.stream, None, _unknown(event.device_id)))
        return
    why = f"{event.by or 'an operator'}: {event.reason or 'no reason given'}"
    match event.action:
        case DeviceAction.DRAIN:
            _put(turn, evolve(device, draining=True, health_reason=why))
            turn.happened(EventKind.DEVICE, device.id, "draining", f"{device.key}: {why}")
        case DeviceAction.ENABLE:
            fresh = evolve(device, draining=False, faults=(), drops=(), recovery_step=-1)
            _set_health(turn, fresh, Health.GOOD, "", f"enabled by {why}")
        case DeviceAction.QUARANTINE:
            _set_health(turn, device, Health.QUARANTINED, why)
        case DeviceAction.RETIRE:
            _set_health(turn, device, Health.RETIRED, why)
        case DeviceAction.FORGET:
            failure = _forget(turn, device, why)
            turn.want(DeviceAnswered(event.stream, None if failure else device, failure))
            return
    turn.want(DeviceAnswered(event.stream, turn.state.devices[device.id]))


def _forget(turn: Turn, device: Device, why: str) -> Failure | None:
    """Know a device no more; its results and its past leases stay. Why that cannot be, if so."""
    if device.online or device.lease_id:
        held = "online" if device.online else "not given up by its lease yet"
        return Failure(
            FailureKind.INVALID_REQUEST,
            f"device {device.id} is {held}",
            "stop its device server first, or it would be back at once",
        )
    for timer in ("lost", "silent", "trust", "recover"):
        turn.state.timers.clear((timer, device.id))
    turn.state.fleet.drop(device)
    turn.want(DropDevice(device.id))
    turn.happened(EventKind.DEVICE, device.id, "forgotten", f"{device.key}: {why}")
    queue_changed(turn, device.key)
    return None


def _unknown(device_id: str) -> Failure:
    return Failure(
        FailureKind.UNKNOWN_DEVICE,
        f"there is no device {device_id!r}",
        "`tunefarm status` lists those there are",
    )


def _quarantine(turn: Turn, device: Device, reason: str) -> None:
    if device.health is not Health.QUARANTINED:
        turn.want(Notify(device, f"device {device.id} ({device.key}) is quarantined: {reason}"))
    _set_health(turn, device, Health.QUARANTINED, reason)


def _set_health(turn: Turn, device: Device, health: Health, reason: str, detail: str = "") -> None:
    """Change health, keep why, tell of it, and grant the device if it may be granted now."""
    if health in (Health.QUARANTINED, Health.RETIRED):
        turn.state.timers.clear(("recover", device.id))
    _put(turn, evolve(device, health=health, health_reason=reason))
    turn.happened(EventKind.DEVICE, device.id, health.value, f"{device.key}: {detail or reason}")


def _put(turn: Turn, device: Device) -> None:
    old = turn.state.devices[device.id]
    turn.state.fleet.put(device)
    turn.want(SaveDevice(device))
    if device.usable and not old.usable:
        tell_device(turn, device)
        offer(turn, device.id)
    queue_changed(turn, device.key)
