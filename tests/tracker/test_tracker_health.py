"""Health of devices: faults, checks, flapping, what operators decide, and the recovery ladder."""

import pytest
from core_farm import Farm, only, to
from tunefarm_tracker.core import Config
from tunefarm_tracker.core.effects import (
    DeviceAnswered,
    DropDevice,
    EventHappened,
    Granted,
    Notify,
    Queued,
    RunRecovery,
)
from tunefarm_tracker.core.inputs import (
    DeviceAction,
    DeviceDisconnected,
    DeviceManaged,
    HealthChecked,
    RecoveryEnded,
    Released,
)
from tunefarm_tracker.core.records import DeviceState, FailureKind, Health, RecoveryStep

LADDER = (RecoveryStep("restart the agent", 30.0), RecoveryStep("cycle the power", 60.0))


@pytest.fixture
def farm() -> Farm:
    return Farm(Config(recovery=LADDER, recover_after=20.0))


def device(farm: Farm, name: str = "d1"):
    return farm.core.state.devices[name]


def manage(farm: Farm, action: DeviceAction, name: str = "d1"):
    return farm.do(DeviceManaged(9, name, action, "op", "it smells"))


def granted(effects) -> bool:
    return any(isinstance(one, Granted) for one in effects)


def lose(farm: Farm, request: str, user: str = "ann") -> None:
    """Grant d1 and lose it."""
    farm.ask(50, request, user=user)
    farm.do(DeviceDisconnected(device(farm).stream, "d1"))
    farm.wait(farm.config.device_grace)


def test_a_fault_makes_suspect_and_suspects_are_granted_last(farm):
    farm.device(1, "d1")
    lose(farm, "r1")
    assert device(farm).health is Health.SUSPECT
    farm.device(2, "d1")
    farm.device(3, "d2")
    assert only(Granted, farm.ask(10, "a")).lease.device_id == "d2"
    assert only(Granted, farm.ask(11, "b")).lease.device_id == "d1"


def test_a_fault_ages_and_the_device_is_good_again(farm):
    farm.device(1, "d1")
    lose(farm, "r1")
    farm.device(2, "d1")
    farm.wait(farm.config.fault_window + 1.0)
    assert device(farm).health is Health.GOOD
    assert not device(farm).faults


def test_repeated_faults_quarantine_with_the_reason_and_notify(farm):
    farm.device(1, "d1")
    for n in range(3):
        lose(farm, f"r{n}")
        farm.device(2 + n, "d1")
    assert device(farm).health is Health.QUARANTINED
    assert device(farm).health_reason.startswith("3 faults in 1 min, the last: went away")
    assert not granted(farm.ask(60, "later"))
    assert (
        "the only device is quarantined: 3 faults"
        in only(Queued, farm.ask(61, "later2")).place.reason
    )


def test_a_user_alone_cannot_quarantine_by_telling_of_faults(farm):
    farm.device(1, "d1")
    for n in range(5):
        farm.ask(10, f"r{n}", user="mallory")
        farm.do(Released(10, f"r{n}", "it does not answer", "d1"))
        farm.device(1, "d1")
    assert device(farm).health is Health.SUSPECT
    for user in ("ann", "bob"):
        farm.ask(10, user, user=user)
        effects = farm.do(Released(10, user, "it does not answer", "d1"))
        farm.device(1, "d1")
    assert device(farm).health is Health.QUARANTINED
    assert only(Notify, effects).device.id == "d1"


def test_a_flapping_device_is_quarantined_before_it_eats_the_queue(farm):
    farm.device(1, "d1")
    for n in range(farm.config.drops_to_quarantine):
        assert device(farm).health is Health.GOOD
        farm.do(DeviceDisconnected(1 + n, "d1"), after=5.0)
        farm.device(2 + n, "d1")
    assert device(farm).health is Health.QUARANTINED
    assert "flapping" in device(farm).health_reason


def test_two_servers_that_fight_for_a_name_end_in_quarantine(farm):
    for n in range(20):
        farm.device(1 + n, "d1", instance=f"i{n % 2}")
    assert device(farm).health is Health.QUARANTINED
    assert "do two device servers use its name?" in device(farm).health_reason


def test_a_drained_device_finishes_its_lease_and_gets_no_other(farm):
    farm.device(1, "d1")
    lease = only(Granted, farm.ask(10, "a")).lease
    answer = only(DeviceAnswered, manage(farm, DeviceAction.DRAIN))
    assert answer.device.draining
    assert farm.state() is DeviceState.LEASED
    farm.ask(11, "b")
    farm.device(1, "d1", lease=lease.id)
    farm.do(Released(10, "a"))
    assert not granted(farm.device(1, "d1"))
    assert farm.state() is DeviceState.DRAINING
    assert only(Granted, manage(farm, DeviceAction.ENABLE)).to == 11


def test_quarantined_and_retired_devices_are_for_maintenance_only(farm):
    farm.device(1, "d1")
    manage(farm, DeviceAction.QUARANTINE)
    assert device(farm).health_reason == "op: it smells"
    assert not granted(farm.ask(10, "a"))
    assert only(Granted, farm.ask(11, "fix", maintenance=True)).to == 11
    farm.do(Released(11, "fix"))
    farm.device(1, "d1")
    manage(farm, DeviceAction.RETIRE)
    why = to(12, farm.ask(12, "b"))[0].failure
    assert why.kind is FailureKind.UNKNOWN_KEY


def test_a_device_that_is_offline_is_forgotten_and_comes_back_as_a_new_one(farm):
    farm.device(1, "d1")
    manage(farm, DeviceAction.RETIRE)
    refused = only(DeviceAnswered, manage(farm, DeviceAction.FORGET))
    assert refused.device is None and "d1 is online" in refused.failure.message
    farm.do(DeviceDisconnected(1, "d1"))
    effects = manage(farm, DeviceAction.FORGET)
    assert only(DeviceAnswered, effects).device.id == "d1"
    assert only(DropDevice, effects).device_id == "d1"
    assert only(EventHappened, effects).event.action == "forgotten"
    assert not farm.core.state.devices and not farm.core.state.fleet.known_keys()
    farm.wait(1000.0)  # no timer asks for it
    why = to(12, farm.ask(12, "b"))[0].failure
    assert why.kind is FailureKind.UNKNOWN_KEY
    farm.device(2, "d1")
    assert device(farm).health is Health.GOOD and farm.state() is DeviceState.IDLE


def test_a_device_whose_lease_waits_for_it_is_not_forgotten(farm):
    farm.device(1, "d1")
    farm.ask(10, "a")
    farm.do(DeviceDisconnected(1, "d1"))
    refused = only(DeviceAnswered, manage(farm, DeviceAction.FORGET))
    assert refused.failure.kind is FailureKind.INVALID_REQUEST
    farm.wait(farm.config.device_grace)
    assert only(DeviceAnswered, manage(farm, DeviceAction.FORGET)).device.id == "d1"


def test_an_unknown_device_is_one_line(farm):
    answer = only(DeviceAnswered, manage(farm, DeviceAction.DRAIN, "nosuch"))
    assert answer.failure.kind is FailureKind.UNKNOWN_DEVICE
    assert "nosuch" in answer.failure.message


def test_health_checks_count_and_a_wrong_answer_quarantines_at_once(farm):
    farm.device(1, "d1")
    farm.do(HealthChecked(9, "d1", False, "30% slower than its history"))
    assert device(farm).health is Health.SUSPECT
    farm.do(HealthChecked(9, "d1", True, "as ever"))
    assert device(farm).health is Health.GOOD
    effects = farm.do(HealthChecked(9, "d1", False, "a wrong answer", severe=True))
    assert device(farm).health is Health.QUARANTINED
    assert "a wrong answer" in only(Notify, effects).text
    farm.do(HealthChecked(9, "d1", True, "as ever"))
    assert device(farm).health is Health.QUARANTINED  # only an operator ends that


def test_the_ladder_takes_each_step_and_then_gives_up(farm):
    farm.device(1, "d1")
    farm.do(DeviceDisconnected(1, "d1"))
    assert only(RunRecovery, farm.wait(20.0)).step == 0
    farm.do(RecoveryEnded("d1", 0, "exit status 1: no route to host"))
    assert only(RunRecovery, farm.wait(30.0)).step == 1
    effects = farm.wait(60.0)
    assert device(farm).health is Health.QUARANTINED
    assert "restart the agent, cycle the power" in only(Notify, effects).text
    assert farm.wait(1000.0) == []


def test_a_step_that_helps_ends_the_ladder(farm):
    farm.device(1, "d1")
    farm.do(DeviceDisconnected(1, "d1"))
    farm.wait(20.0)
    effects = farm.device(2, "d1")
    details = [one.event.detail for one in effects if hasattr(one, "event")]
    assert "k: after restart the agent" in details
    farm.do(DeviceDisconnected(2, "d1"), after=1.0)
    assert only(RunRecovery, farm.wait(20.0)).step == 0  # from the first step again


def test_a_device_that_comes_back_in_time_is_left_alone(farm):
    farm.device(1, "d1")
    farm.do(DeviceDisconnected(1, "d1"))
    farm.wait(10.0)
    farm.device(2, "d1")
    assert not [one for one in farm.wait(4.0) if isinstance(one, RunRecovery)]
    assert device(farm).recovery_step == -1
