"""Which of two is faster: what is said of samples whose true ratio is known."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunefarm.comparison import Verdict, judge, signed_rank_interval

OPPOSITE = {
    Verdict.FASTER: Verdict.SLOWER,
    Verdict.SLOWER: Verdict.FASTER,
    Verdict.SAME: Verdict.SAME,
    Verdict.UNDECIDED: Verdict.UNDECIDED,
}


def samples(seed: int, ratio: float, noise: float, rounds: int) -> tuple[list[float], list[float]]:
    """Rounds of two functions: each with noise of its own, and one in ten disturbed by far."""
    rng = random.Random(seed)

    def sample(seconds: float) -> float:
        value = seconds * math.exp(rng.gauss(0, noise))
        return value * rng.uniform(1, 3) if rng.random() < 0.1 else value

    return [sample(1e-3) for _ in range(rounds)], [sample(ratio * 1e-3) for _ in range(rounds)]


@pytest.mark.parametrize(
    ("ratio", "right"),
    [
        (1.0, Verdict.SAME),
        (1.003, Verdict.SAME),
        (0.997, Verdict.SAME),
        (1.02, Verdict.SLOWER),
        (0.98, Verdict.FASTER),
        (2.0, Verdict.SLOWER),
    ],
)
def test_the_right_verdict_on_quiet_samples(ratio: float, right: Verdict) -> None:
    found = [judge(*samples(seed, ratio, 0.005, 100), 0.01).verdict for seed in range(100)]
    assert found.count(right) >= 95
    assert set(found) <= {right, Verdict.UNDECIDED}


@pytest.mark.parametrize("ratio", [1.0, 1.02, 0.98])
def test_noise_makes_it_undecided_and_not_wrong(ratio: float) -> None:
    right = judge(*samples(0, ratio, 0.001, 400), 0.01).verdict
    found = [judge(*samples(seed, ratio, 0.1, 40), 0.01).verdict for seed in range(100)]
    assert found.count(Verdict.UNDECIDED) >= 50
    assert sum(one not in (right, Verdict.UNDECIDED) for one in found) <= 5


def test_as_many_more_rounds_as_were_told_decide() -> None:
    decided = 0
    for seed in range(20):
        first, second = samples(seed, 1.02, 0.03, 40)
        found = judge(first, second, 0.01)
        rounds = min(40 + 2 * found.more, 2000)  # the estimate itself is uncertain
        decided += judge(*samples(seed, 1.02, 0.03, rounds), 0.01).verdict is Verdict.SLOWER
        assert (found.more == 0) == (found.verdict is not Verdict.UNDECIDED)
    assert decided >= 14


@given(
    st.lists(st.tuples(st.floats(1e-9, 1e3), st.floats(1e-9, 1e3)), min_size=1, max_size=40),
    st.floats(0.001, 0.5),
)
def test_the_other_way_round_is_the_opposite(
    pairs: list[tuple[float, float]], margin: float
) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = judge(first, second, margin), judge(second, first, margin)
    assert there.low <= there.ratio <= there.high
    assert back.ratio == pytest.approx(1 / there.ratio)
    if abs(math.log(there.low)) > 1e-9 and abs(math.log(there.high)) > 1e-9:
        assert back.verdict is OPPOSITE[there.verdict]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.floats(0.5, 0.999))
def test_the_interval_lies_within_the_values(values: list[float], confidence: float) -> None:
    middle, low, high = signed_rank_interval(values, confidence)
    assert min(values) <= low <= middle <= high <= max(values)
