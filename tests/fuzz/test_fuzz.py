"""Whatever is sent to a tracker or a device, it lives on and its other users do not notice."""

import os
import random

import pytest
from fuzz_farm import forbidden
from fuzz_run import fuzz

SEED = int(os.environ.get("FUZZ_SEED", "0"))


def show(text: str) -> None:
    print(text, flush=True)


def test_two_thousand_inputs(tmp_path):
    outcome = fuzz(tmp_path, SEED or 1, 2000)
    print(outcome.summary())
    assert outcome.problems == []
    assert outcome.inputs == 2000 and len(outcome.healthy) > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_inputs(tmp_path):
    seed = SEED or random.randrange(1, 10**6)
    show(f"seed {seed}")
    outcome = fuzz(tmp_path, seed, 100_000, say=show)
    show(outcome.summary())
    assert outcome.problems == []


def test_a_traceback_in_a_log_is_found(tmp_path):
    log = tmp_path / "x.log"
    trace = (
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    x\nValueError: 7\n'
    )
    log.write_text("ok\n" + trace + trace + "2026 CRITICAL no\n")
    first, second = forbidden(log)
    assert first == '2 x ValueError: 0 in File "a.py", line 1, in f'
    assert second == "1 x CRITICAL"
    log.write_text("2026-01-01 WARNING a handled error is one line\n")
    assert forbidden(log) == []
