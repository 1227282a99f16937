"""Random faults on a farm under load leave no double grant, no lost request, no unusable device."""

import os
import random
from collections import Counter

import pytest
from fault_campaign import campaign
from fault_delays import FREE_GOAL_S, OFFLINE_GOAL_S, measure_delays

SEED = int(os.environ.get("FAULTS_SEED", "0"))


def show(text: str) -> None:
    print(text, flush=True)


def test_a_short_campaign(tmp_path):
    outcome = campaign(tmp_path, SEED or 1, 40, devices=4, clients=4)
    print(outcome.summary())
    assert outcome.problems == []
    assert outcome.calls and outcome.leases


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_thousand_faults(tmp_path):
    seed = SEED or random.randrange(1, 10**6)
    show(f"seed {seed}")
    outcome = campaign(tmp_path, seed, 1000, say=show)
    show(outcome.summary())
    assert outcome.problems == []
    struck = Counter(one.kind for one in outcome.faults)
    assert len(outcome.faults) == 1000 and len(struck) == 6


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_what_is_gone_is_noticed_in_time(tmp_path):
    delays = measure_delays(tmp_path)
    show(delays.summary())
    for what, took in delays.took.items():
        goal = OFFLINE_GOAL_S if "offline" in what else FREE_GOAL_S
        assert max(took) < goal, f"{what}: {max(took):.2f} s, the goal is {goal:g} s"
