"""The real scheduler over simulated days: shares, failures, restarts, priorities, many of all."""

import pytest
from tunefarm_tracker.core.matching import find_devices
from tunefarm_tracker.core.records import DeviceState
from tunefarm_tracker.core.turn import Turn
from tunefarm_tracker.simulation import Simulation, UserPlan

HOUR, DAY = 3600.0, 86400.0


def shares(outcome) -> dict[str, float]:
    """Each user's part of the device seconds."""
    total = sum(outcome.served.values())
    return {user: served / total for user, served in outcome.served.items()}


def test_shares_of_users_with_long_and_short_leases_converge():
    plans = [
        UserPlan("long", "k", parallel=20, hold=600.0),
        UserPlan("short", "k", parallel=5, hold=60.0),
        UserPlan("bursts", "k", parallel=50, hold=120.0),
    ]
    got = shares(Simulation(plans, {"k": 3}, seed=1).run(2 * DAY))
    # A third each; what a lease of ten minutes overshoots averages out in two days.
    assert all(0.30 < share < 0.37 for share in got.values()), got


def test_one_device_is_shared_by_time_not_by_count():
    plans = [
        UserPlan("long", "k", parallel=4, hold=300.0),
        UserPlan("short", "k", parallel=4, hold=30.0),
    ]
    outcome = Simulation(plans, {"k": 1}, seed=2).run(DAY)
    assert 0.45 < shares(outcome)["long"] < 0.55
    assert outcome.grants["short"] > 5 * outcome.grants["long"]


def test_a_higher_priority_waits_for_one_lease_at_most():
    plans = [
        UserPlan("crowd", "k", parallel=100, hold=60.0),
        UserPlan("urgent", "k", parallel=1, hold=10.0, priority=1, pause=600.0),
    ]
    outcome = Simulation(plans, {"k": 4}, seed=3).run(DAY / 4)
    assert outcome.longest_wait["urgent"] < 300.0 < outcome.longest_wait["crowd"]


def test_who_wants_many_at_once_is_not_starved_by_who_wants_one():
    plans = [
        UserPlan("crowd", "k", parallel=40, hold=120.0),
        UserPlan("many", "k", parallel=1, hold=60.0, devices=6),
    ]
    outcome = Simulation(plans, {"k": 8}, seed=4).run(DAY)
    assert outcome.grants["many"] > 50
    assert outcome.longest_wait["many"] < HOUR


def crowded(devices: int, users: int, hold: float, seed: int) -> Simulation:
    plans = [
        UserPlan(
            f"user{n}",
            f"key{n % 5}",
            parallel=1 + n % 4,
            hold=hold * (1 + n % 3),
            priority=n % 3 - 1,
            devices=1 + (n % 7 == 0),
            pause=60.0 * (n % 2),
        )
        for n in range(users)
    ]
    farm = Simulation(plans, {f"key{k}": devices // 5 for k in range(5)}, seed=seed)
    for device in farm.devices[::3]:
        device.mean_up = 6 * HOUR
    return farm


def check_at_rest(farm: Simulation) -> None:
    """Nothing is lost and nothing is held without an owner."""
    state = farm.core.state
    assert sum(len(one.lease_ids) for one in state.requests.values()) == len(state.leases)
    for lease in state.leases.values():
        assert state.devices[lease.device_id].lease_id == lease.id
    turn = Turn(state, farm.config, lambda: "", farm.now)
    for request in state.queue(farm.now):
        assert find_devices(turn, request) is None


def weeks(farm: Simulation, days: int, restarts_a_day: int) -> None:
    for _ in range(days * restarts_a_day):
        farm.run(DAY / restarts_a_day)
        check_at_rest(farm)
        farm.restart()
    outcome = farm.run(HOUR)
    assert outcome.ends["device_lost"] > 0
    assert outcome.ends["died"] > 0
    assert set(outcome.ends) <= {"", "died", "device_lost", "lease_lost"}
    # Only those whose holder died or whose stream broke may be lost.
    assert outcome.ends["lease_lost"] <= 0.02 * sum(outcome.ends.values())
    assert not [
        device
        for device in farm.core.state.devices.values()
        if device.state is DeviceState.CLEANING
    ]


def test_days_of_failures_and_restarts_lose_nothing():
    weeks(crowded(devices=60, users=40, hold=600.0, seed=5), days=2, restarts_a_day=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_weeks_of_thousands_of_devices():
    weeks(crowded(devices=1000, users=500, hold=7200.0, seed=6), days=14, restarts_a_day=1)
