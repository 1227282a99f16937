"""How a kernel is timed: rounds of samples until the median is sure, disturbed rounds again.

The runner takes samples; here is decided how many. The interval of the median is read off the
ordered samples, which assumes nothing about their distribution: from rank (n - 1.96 sqrt n) / 2 on
either side (Conover, Practical Nonparametric Statistics, 1999, section 3.2).
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_device.backend import POWER_CAP

ROUND = 10  # samples
BUDGET_S = 5.0
MOST_BUDGET_S = 3600.0
TRIED = 5  # samples that tell how long the others are to be
REDONE = 5  # disturbed rounds measured again, at most
MOST_COOLING_S, COOLING_S = 5.0, 0.5
THROTTLED_NOW = 0x0F  # of the Raspberry Pi's bits: under-voltage, capped, throttled, soft limit
STOLEN = 0.05
LOST = "lost"
SLOWED = 0.9

Ask = Callable[[dict[str, Any], float], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Precision:
    """When to stop: `relative` half-width of the median's interval, or `budget_s` spent."""

    relative: float
    budget_s: float

    @classmethod
    def of(cls, options: pb.TimingOptions) -> "Precision":
        """What was asked for. Raises: InvalidRequestError."""
        budget = BUDGET_S
        if options.HasField("budget"):
            budget = options.budget.ToNanoseconds() * 1e-9
        if not 0 <= options.precision < 1 or not 0 < budget <= MOST_BUDGET_S:
            raise InvalidRequestError(
                f"a precision of {options.precision:g} within {budget:g} s makes no sense",
                f"ask for 0 to 1, as in 0.01, and a budget above 0 and up to {MOST_BUDGET_S:g} s",
            )
        return cls(options.precision, budget)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The 95% confidence interval of the median; all of the samples where they are few."""
    ordered = sorted(samples)
    rank = int((len(ordered) - 1.96 * math.sqrt(len(ordered))) / 2)
    if rank < 1:
        return ordered[0], ordered[-1]
    return ordered[rank - 1], ordered[-rank]


def sure(samples: Sequence[float], relative: float) -> bool:
    """Whether the median is known so well."""
    low, high = median_interval(samples)
    middle = sorted(samples)[len(samples) // 2]
    return high - low <= 2 * relative * middle


def disturbance(
    before: pb.Conditions, after: pb.Conditions, fastest_hz: int, lost: float = 0.0
) -> str:
    """What disturbed a round, "" where nothing did that this device can see.

    `lost` is the share of its time in which other programs had the kernel's processor.
    """
    if bits := (before.throttle_bits | after.throttle_bits) & THROTTLED_NOW:
        return f"throttled (bits {bits:#x})"
    if after.throttle_reasons:  # since the reading before
        return f"throttled ({', '.join(after.throttle_reasons)})"
    if after.steal_fraction > STOLEN:
        return f"{after.steal_fraction:.0%} of the time stolen"
    if lost > STOLEN:
        return f"{LOST} {lost:.0%} of its time to others"
    if 0 < after.frequency_hz < SLOWED * fastest_hz:
        return f"frequency fell to {after.frequency_hz / fastest_hz:.0%}"
    return ""


def throttled(now: pb.Conditions) -> bool:
    """Whether the device holds its clocks down, and rest may change it."""
    return bool(now.throttle_bits & THROTTLED_NOW or set(now.throttle_reasons) - {POWER_CAP})


def redone_for(why: str, quick: bool) -> int:
    """How often a round that this disturbed goes again, at most.

    Once for a power cap: it is the kernel's own doing, and would be there each time. Once where
    others had the processor of what is to stay `quick` on a busy machine.
    """
    busy = quick and why.startswith(LOST)
    return 1 if busy or why == f"throttled ({POWER_CAP})" else REDONE


@dataclass
class Rounds:
    """The rounds of one timing, or of several in turns.

    `quick`: fewer samples than a round, as a tuner's first look takes, and comparisons, where what
    disturbs falls on all alike.
    """

    conditions: Callable[[], pb.Conditions]
    timings: Sequence[pb.Timing]
    quick: bool = False
    fastest_hz: int = 0
    redone: int = 0
    last: pb.Conditions = field(default_factory=pb.Conditions)

    def begin(self) -> None:
        """Before the first."""
        self.last = self.conditions()
        for timing in self.timings:
            timing.before.CopyFrom(self.last)

    def take(self, answer: dict[str, Any], samples: Sequence[Sequence[float]]) -> None:
        """One round's samples of each; kept apart where it was disturbed and goes again."""
        before, self.last = self.last, self.conditions()
        self.fastest_hz = max(self.fastest_hz, before.frequency_hz, self.last.frequency_hz)
        why = disturbance(before, self.last, self.fastest_hz, answer["lost"])
        again = bool(why) and self.redone < redone_for(why, self.quick)
        self.redone += again
        for timing, taken in zip(self.timings, samples, strict=True):
            timing.rounds.add(
                samples=len(taken),
                after=self.last,
                disturbed=why,
                discarded=again,
                involuntary_switches=answer["switches"],
                counters=answer["counters"],
            )
            kept = timing.discarded_s if again else timing.samples_s
            kept.extend(taken)
            timing.after.CopyFrom(self.last)

    async def rest(self, pause_s: float) -> None:
        """Between two rounds: let the device cool, until it throttles no more."""
        await asyncio.sleep(pause_s)
        until = time.monotonic() + MOST_COOLING_S
        while throttled(self.last) and time.monotonic() < until:
            await asyncio.sleep(COOLING_S)
            self.last = self.conditions()

    def end(self) -> None:
        """After the last."""
        for timing in self.timings:
            timing.median_low_s, timing.median_high_s = median_interval(timing.samples_s)


def started(timing: pb.Timing, answer: dict[str, Any]) -> None:
    """Keep what the first round told."""
    timing.number, timing.first_call_s = answer["number"], answer["first_call_s"]
    timing.warmup_calls = answer["warmup_calls"]


async def timed(
    ask: Ask,
    conditions: Callable[[], pb.Conditions],
    frame: dict[str, Any],
    options: pb.TimingOptions,
    limit_s: float,
) -> pb.Timing:
    """Time one function. `ask` sends a frame to the runner, which has so many seconds.

    `limit_s` is for all of it. Raises what `ask` does, and InvalidRequestError.
    """
    precision, deadline = Precision.of(options), time.monotonic() + limit_s
    timing, wanted = pb.Timing(cache=frame["cache"]), frame["repeat"]
    rounds = Rounds(conditions, [timing], quick=wanted < ROUND)
    rounds.begin()
    answer = await ask(frame | {"repeat": min(wanted, ROUND)}, limit_s)
    started(timing, answer)
    more = {name: value for name, value in frame.items() if name != "outputs"}
    until = time.monotonic() + precision.budget_s
    while True:
        rounds.take(answer, [answer["samples_s"]])
        missing = wanted - len(timing.samples_s)
        if answer.get("abandoned") and not timing.rounds[-1].discarded:
            timing.abandoned = True
            break
        if missing <= 0:
            if not precision.relative or sure(timing.samples_s, precision.relative):
                break
            if time.monotonic() > until:
                timing.unconverged = True
                break
        await rounds.rest(frame.get("pause_s", 0.0))
        more["repeat"] = min(missing, ROUND) if missing > 0 else ROUND
        anew = answer.get("abandoned")  # by a disturbed sample, which does not count
        if not anew:
            more |= {"do": "sample", "number": timing.number}
        answer = await ask(more, max(deadline - time.monotonic(), 0.001))
        if anew:
            started(timing, answer)
    rounds.end()
    return timing


async def compared(
    ask: Ask,
    conditions: Callable[[], pb.Conditions],
    frames: Sequence[dict[str, Any]],
    each: int,
    limit_s: float,
) -> list[pb.Timing]:
    """Time functions in turns: rounds with `each` samples of every one, in an order drawn anew.

    What drifts or disturbs falls on all of them alike, also in that their samples are equally long:
    a shorter one would meet fewer disturbances. A `known` frame, whose number an earlier comparison
    found, is warmed up by one sample. Raises what `ask` does.
    """
    deadline = time.monotonic() + limit_s
    timings = [pb.Timing(cache=frame["cache"]) for frame in frames]
    rounds, wanted = Rounds(conditions, timings, quick=True), frames[0]["repeat"] * each
    rounds.begin()

    async def turns(count: int, each: int) -> tuple[dict[str, Any], list[list[float]]]:
        calls = [frame | {"number": one.number} for frame, one in zip(frames, timings, strict=True)]
        one_round = [which for which in range(len(calls)) for _ in range(each)]
        order = [which for _ in range(count) for which in random.sample(one_round, len(one_round))]
        frame = frames[0] | {"do": "turns", "calls": calls, "order": order}
        answer = await ask(frame, max(deadline - time.monotonic(), 0.001))
        samples: list[list[float]] = [[] for _ in calls]
        for which, sample in zip(order, answer["samples_s"], strict=True):
            samples[which].append(sample)
        return answer, samples

    for frame, timing in zip(frames, timings, strict=True):
        first = frame | {"do": "sample" if frame["known"] else "time", "repeat": 1}
        answer = await ask(first, max(deadline - time.monotonic(), 0.001))
        if frame["known"]:
            timing.number = frame["number"]
        else:
            started(timing, answer)
    if not frames[0]["number"]:
        _, samples = await turns(1, TRIED)
        for timing, taken in zip(timings, samples, strict=True):
            timing.number = max(1, round(frames[0]["min_repeat_s"] / max(min(taken), 1e-9)))
    while (missing := wanted - len(timings[0].samples_s)) > 0:
        answer, samples = await turns(min(-(-missing // each), ROUND), each)
        rounds.take(answer, samples)
        await rounds.rest(frames[0].get("pause_s", 0.0))
    rounds.end()
    return timings
