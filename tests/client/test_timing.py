"""What is read off the samples of a timing."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunefarm import Timing
from tunefarm_proto.v1 import common_pb2 as pb


def timing(*samples: float, **more: object) -> Timing:
    return Timing.from_proto(pb.Timing(samples_s=samples, number=5, **more), "f")


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=40), st.floats(0.5, 0.99))
def test_the_bootstrap_interval_holds_the_median(samples: list[float], confidence: float) -> None:
    found = timing(*samples)
    low, high = found.bootstrap(confidence, 200)
    assert found.min <= low <= statistics.median(samples) <= high <= max(samples)
    assert found.bootstrap(confidence, 200) == (low, high)


def test_a_wider_confidence_is_a_wider_interval() -> None:
    found = timing(*(1 + 0.01 * (i % 7) for i in range(40)))
    narrow, wide = found.bootstrap(0.5), found.bootstrap(0.99)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1] and wide != narrow


def test_counters_are_told_for_a_call() -> None:
    rounds = [
        pb.TimingRound(samples=2, counters={"cycles": 1000}),
        pb.TimingRound(samples=2, counters={"cycles": 9000}, discarded=True),
        pb.TimingRound(samples=2, counters={"cycles": 2000}),
    ]
    assert timing(1, 1, 1, 1, rounds=rounds).counters == {"cycles": pytest.approx(150)}
    assert timing(1).counters == {}


def test_what_disturbed_many_rounds_is_told_once() -> None:
    shares = ["lost 51% of its time to others", "lost 8% of its time to others"]
    told = [*shares, "throttled (bits 0x4)", *shares, "throttled (bits 0x4)", ""]
    rounds = [pb.TimingRound(samples=1, disturbed=one) for one in told]
    rounds.append(pb.TimingRound(samples=1, disturbed="lost 99% of its time", discarded=True))
    found = timing(1, rounds=rounds)
    assert found.disturbances == ["lost 8% to 51% of its time to others", "throttled (bits 0x4)"]
    assert "8% to 51%" in str(found)
    assert timing(1, rounds=rounds[:1]).disturbances == shares[:1]


def test_quantiles_and_marks() -> None:
    found = timing(*range(1, 11), cache="cold", unconverged=True)
    assert found.p90 == 9 and found.cov > 0
    assert "cold cache" in str(found) and "unconverged" in str(found)
