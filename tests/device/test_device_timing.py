"""The timing protocol: when it stops, what it says of disturbed rounds, hot and cold caches."""

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunefarm_device import options as option_rules
from tunefarm_device import timing as timing_module
from tunefarm_device.timing import median_interval, timed
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import common_pb2 as pb

FRAME = {"do": "time", "repeat": 10, "cache": "hot"}


def quiet() -> pb.Conditions:
    return pb.Conditions(frequency_hz=10**9)


def run(
    samples: Iterator[float],
    conditions: Callable[[], pb.Conditions] = quiet,
    **options: Any,
) -> pb.Timing:
    """Time a kernel whose samples these are."""
    return asyncio.run(timed(asker(samples), conditions, FRAME, pb.TimingOptions(**options), 60))


def asker(samples: Iterator[float] | None = None, lost: Sequence[float] = ()) -> Any:
    """A runner whose samples these are, and whose rounds lost these shares, the others nothing."""
    source, losses = samples or alternating(1.0, 1.0), iter(lost)

    async def ask(frame: dict[str, Any], left_s: float) -> dict[str, Any]:
        return {
            "samples_s": [next(source) for _ in range(frame["repeat"])],
            "switches": 2,
            "lost": next(losses, 0.0),
            "counters": {"cycles": 50.0 * frame["repeat"]},
            "number": 5,
            "first_call_s": 1.0,
            "warmup_calls": 3,
        }

    return ask


def alternating(low: float, high: float) -> Iterator[float]:
    while True:
        yield low
        yield high


def test_without_a_precision_it_takes_the_samples_asked_for() -> None:
    timing = run(alternating(1.0, 2.0))
    assert len(timing.samples_s) == 10 and not timing.unconverged
    assert (timing.number, timing.first_call_s, timing.warmup_calls) == (5, 1.0, 3)
    assert (timing.median_low_s, timing.median_high_s) == (1.0, 2.0)


def test_steady_samples_are_enough_at_once() -> None:
    timing = run(alternating(1.0, 1.001), precision=0.01)
    assert len(timing.samples_s) == 10 and not timing.unconverged


def test_it_goes_on_until_the_median_is_sure() -> None:
    def settling() -> Iterator[float]:
        yield from (1.5, 0.5, 1.4, 0.6, 1.3, 0.7, 1.2, 0.8, 1.1, 0.9)
        while True:
            yield 1.0

    timing = run(settling(), precision=0.01)
    assert len(timing.samples_s) > 10 and not timing.unconverged
    assert timing.median_high_s - timing.median_low_s <= 0.02


def test_at_the_end_of_its_budget_it_says_unconverged() -> None:
    options = pb.TimingOptions(precision=0.01)
    options.budget.FromMilliseconds(50)
    timing = run(alternating(1.0, 2.0), precision=0.01, budget=options.budget)
    assert timing.unconverged and len(timing.samples_s) >= 10


@pytest.mark.parametrize(
    ("disturbed", "word"),
    [
        (pb.Conditions(throttle_bits=0x4, frequency_hz=10**9), "throttled"),
        (pb.Conditions(throttle_reasons=["power cap"], frequency_hz=10**9), "d (power cap)"),
        (pb.Conditions(steal_fraction=0.2, frequency_hz=10**9), "20% of the time stolen"),
        (pb.Conditions(frequency_hz=6 * 10**8), "frequency fell to 60%"),
    ],
)
def test_a_disturbed_round_is_measured_again(disturbed: pb.Conditions, word: str) -> None:
    readings = iter([quiet(), disturbed, *[quiet()] * 9])
    timing = run(iter([9.0] * 10 + [1.0] * 40), lambda: next(readings))
    assert list(timing.samples_s) == [1.0] * 10
    assert list(timing.discarded_s[:10]) == [9.0] * 10
    first, *rest = timing.rounds
    # What was throttled when it began may have been so at first: that round goes again too.
    assert word in first.disturbed and first.discarded and first.involuntary_switches == 2
    assert not rest[-1].discarded


def test_what_is_always_disturbed_is_measured_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_module, "MOST_COOLING_S", 0.01)
    monkeypatch.setattr(timing_module, "COOLING_S", 0.01)
    throttled = pb.Conditions(throttle_bits=0x4)
    timing = run(alternating(1.0, 1.0), lambda: throttled)
    assert len(timing.samples_s) == 10 and timing.discarded_s
    assert "throttled" in timing.rounds[-1].disturbed and not timing.rounds[-1].discarded


@pytest.mark.parametrize(
    ("wanted", "lost", "discarded"),
    [
        (10, [0.35, 0.04], [True, False]),
        (10, [0.35] * 9, [True] * 5 + [False]),
        (3, [0.35] * 9, [True, False]),  # a first look stays quick
    ],
)
def test_a_round_whose_processor_others_had_goes_again(
    wanted: int, lost: list[float], discarded: list[bool]
) -> None:
    frame = FRAME | {"repeat": wanted}
    timing = asyncio.run(timed(asker(lost=lost), quiet, frame, pb.TimingOptions(), 60))
    assert [one.discarded for one in timing.rounds] == discarded
    assert timing.rounds[0].disturbed == "lost 35% of its time to others"
    assert bool(timing.rounds[-1].disturbed) == (lost[1] == 0.35)
    assert len(timing.samples_s) == wanted


def test_a_disturbed_sample_abandons_no_kernel() -> None:
    usual, asked = asker(lost=[0.6]), []

    async def ask(frame: dict[str, Any], left_s: float) -> dict[str, Any]:
        answer = await usual(frame, left_s)
        asked.append((frame["do"], "outputs" in frame))
        if len(asked) == 1:
            answer |= {"samples_s": answer["samples_s"][:1], "number": 1, "abandoned": True}
        return answer

    frame = FRAME | {"outputs": [[1, 4]]}
    timing = asyncio.run(timed(ask, quiet, frame, pb.TimingOptions(abandon_above_s=0.5), 60))
    assert asked == [("time", True), ("time", False)]
    assert timing.number == 5 and not timing.abandoned
    assert (len(timing.discarded_s), len(timing.samples_s)) == (1, 10)


def test_the_share_lost_is_that_of_what_never_sleeps_on_a_shared_processor() -> None:
    told = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, check=True)
    spun, waited, elsewhere = json.loads(told.stdout)
    assert 0.05 < spun <= 1 and (waited, elsewhere) == (0, 0)


BUSY = """
import json, os, time
from tunefarm_device import backend, runner
from tunefarm_device.counters import Counters

class Spin(backend.Kernel):
    def run(self, number):
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass
        return 0

class Wait(Spin):
    def run(self, number):
        time.sleep(0.001)
        return super().run(number)

class Elsewhere(Spin):
    own_clock = True

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
if (parent := os.getpid()) and not os.fork():
    while os.getppid() == parent:
        pass
    os._exit(0)
at = runner.Runner(None, Counters())
print(json.dumps([at.in_turns([(k(), 1)] * 15, "hot")["lost"] for k in (Spin, Wait, Elsewhere)]))
"""


def test_a_kernel_that_reaches_the_power_cap_is_measured_under_it() -> None:
    capped = pb.Conditions(throttle_reasons=["software power cap"])
    timing = run(alternating(1.0, 1.0), lambda: capped)
    assert [one.discarded for one in timing.rounds] == [True, False]
    assert "power cap" in timing.rounds[-1].disturbed and len(timing.samples_s) == 10
    # With anything else beside it, it goes again as ever.
    hot = pb.Conditions(throttle_reasons=["software power cap", "hardware thermal slowdown"])
    readings = iter([capped, capped, hot, hot, *[quiet()] * 9])
    timing = run(alternating(1.0, 1.0), lambda: next(readings))
    assert [one.discarded for one in timing.rounds] == [True, True, False]


@pytest.mark.parametrize("options", [{"precision": 1.5}, {"precision": -0.1}, {"budget_s": 0.0}])
def test_a_precision_without_sense_is_refused(options: dict[str, float]) -> None:
    asked = pb.TimingOptions(precision=options.get("precision", 0.01))
    asked.budget.FromNanoseconds(round(options.get("budget_s", 1.0) * 1e9))
    with pytest.raises(InvalidRequestError, match="makes no sense"):
        run(alternating(1.0, 1.0), precision=asked.precision, budget=asked.budget)


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=200))
def test_the_interval_holds_the_median(samples: list[float]) -> None:
    low, high = median_interval(samples)
    assert min(samples) <= low <= statistics.median(samples) <= high <= max(samples)


def test_a_cold_cache_is_slower_and_part_of_the_answer(session: Any, kernels: Any) -> None:
    module = session.load(kernels.native.digest)
    x = session.empty(1 << 16)
    timings = {}
    for cache in ("hot", "cold"):
        timings[cache] = timing = session.time(module, "walk", x, repeat=15, cache=cache)
        assert timing.cache == cache and len(timing.samples_s) == 15
    assert timings["cold"].number == 1
    hot, cold = (statistics.median(timing.samples_s) for timing in timings.values())
    assert cold > 1.5 * hot
    with pytest.raises(InvalidRequestError, match="hot or cold"):
        session.time(module, "walk", x, cache="tepid")


@pytest.mark.parametrize("hot", [{"throttle_bits": 4}, {"throttle_reasons": ["hot"]}])
def test_a_throttled_device_is_let_cool_down(monkeypatch: pytest.MonkeyPatch, hot: Any) -> None:
    monkeypatch.setattr(timing_module, "COOLING_S", 0.001)
    hot = pb.Conditions(**hot)
    readings = iter([quiet(), hot, hot, hot, *[quiet()] * 9])  # it takes three looks to cool
    timing = run(iter([9.0] * 10 + [1.0] * 10), lambda: next(readings))
    assert list(timing.samples_s) == [1.0] * 10
    assert [one.discarded for one in timing.rounds] == [True, False]


def test_a_rest_without_sense_is_refused() -> None:
    for seconds in (-1, 3600):
        options = pb.TimingOptions()
        options.cooldown.FromSeconds(seconds)
        with pytest.raises(InvalidRequestError, match="rest"):
            option_rules.cooldown(options)
        options = pb.TimingOptions()
        options.warmup.FromSeconds(seconds)
        with pytest.raises(InvalidRequestError, match="warm-up"):
            option_rules.warmup(options)
    for worth in (-1.0, float("inf"), float("nan")):
        with pytest.raises(InvalidRequestError, match="abandon"):
            option_rules.abandon_above(pb.TimingOptions(abandon_above_s=worth))


def test_many_samples_are_taken_in_rounds() -> None:
    timing = run(alternating(1.0, 1.0), repeat=0)
    assert [one.samples for one in timing.rounds] == [10]
    more = asyncio.run(timed(asker(), quiet, {**FRAME, "repeat": 25}, pb.TimingOptions(), 60))
    assert [one.samples for one in more.rounds] == [10, 10, 5]
