"""Whatever is killed, each trial is recorded once, and no wrong answer is taken as good."""

import os
import random

import pytest
from tuning_campaign import KINDS, Campaign


def test_a_short_campaign(tmp_path):
    campaign = Campaign(tmp_path, trials=40, seed=3)
    campaign.run(limit_s=100, every=12)
    found = campaign.judge()
    assert found["good"] and found["WrongAnswerError"]


@pytest.mark.faults
def test_a_thousand_trials(tmp_path):
    seed = int(os.environ.get("FAULTS_SEED", random.randrange(10**6)))
    print(f"FAULTS_SEED={seed}")
    campaign = Campaign(tmp_path, trials=1000, seed=seed)
    killed = campaign.run(limit_s=1500, every=12)
    print(f"killed {dict(killed)}; became {dict(campaign.judge())}")
    assert min(killed[kind] for kind in KINDS) >= 3
