"""Which of two functions is faster: timed in turns in one session, until it is clear or too dear.

Each round gives one ratio of times, second by first. The estimate is the Hodges-Lehmann median of
their logarithms and its interval that of Wilcoxon's signed ranks (Hollander, Wolfe, Chicken,
Nonparametric Statistical Methods, 2014, sections 3.2 and 3.3): neither asks for normal noise, and a
round that was disturbed counts by its rank alone.
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm.array import Array
from tunefarm.module import Function
from tunefarm.timing import Timing

FIRST_ROUNDS = 20
SAMPLES = 5  # of each in a round, whose middle counts: most that disturb take one of them
MOST_APART = 400  # samples of a run: their pairs are looked at
MOST_ROUNDS = 640  # the interval takes the square of it
CONFIDENCE = 0.99  # it is looked at several times, so each look must err less often than 1 in 20


class Verdict(StrEnum):
    """What the second function is beside the first."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    UNDECIDED = "not decidable"


@dataclass(frozen=True)
class Judgement:
    """What ratios of times say. `ratio` is second by first, between `low` and `high`.

    `more` is about how many further rounds would decide; 0 where it is decided.
    """

    ratio: float
    low: float
    high: float
    verdict: Verdict
    more: int


@dataclass(frozen=True)
class Comparison:
    """Two functions timed in turns. Their samples are ordered by round, `SAMPLES` in each."""

    judgement: Judgement
    first: Timing
    second: Timing
    margin: float
    confidence: float

    @property
    def verdict(self) -> Verdict:
        """What the second is beside the first."""
        return self.judgement.verdict

    @property
    def ratio(self) -> float:
        """Time of the second by time of the first."""
        return self.judgement.ratio

    @property
    def interval(self) -> tuple[float, float]:
        """Where that lies, at the confidence asked for."""
        return self.judgement.low, self.judgement.high

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.first.samples) // SAMPLES

    def __str__(self) -> str:
        found = self.judgement
        text = (
            f"{found.verdict}: ratio {found.ratio:.4f} "
            f"({self.confidence:.0%} interval {found.low:.4f} to {found.high:.4f}, "
            f"{self.rounds} rounds, same means within {self.margin:.1%})"
        )
        if found.more:
            text += f"; about {found.more} more rounds would decide"
        return text


def judge(
    first: Sequence[float], second: Sequence[float], margin: float, confidence: float = CONFIDENCE
) -> Judgement:
    """Judge what each took in each round, in seconds.

    "same" where the whole interval lies within `margin`; "faster" or "slower" where it reaches
    beyond it and is all further than half of it to one side. More rounds decide every case.
    """
    logs = [math.log(b / a) for a, b in zip(first, second, strict=True)]
    middle, low, high = signed_rank_interval(logs, confidence)
    edge, near = math.log1p(margin), math.log1p(margin / 2)
    if -edge < low and high < edge:
        verdict = Verdict.SAME
    elif low > near:
        verdict = Verdict.SLOWER
    elif high < -near:
        verdict = Verdict.FASTER
    else:
        verdict = Verdict.UNDECIDED
    more = 0
    if verdict is Verdict.UNDECIDED:
        # Either end is near enough to the estimate to decide once the interval is this narrow.
        enough = max(edge - abs(middle), abs(middle) - near)
        wanted = len(logs) * (max(middle - low, high - middle) / enough) ** 2
        more = max(math.ceil(wanted) - len(logs), 1)
    return Judgement(math.exp(middle), math.exp(low), math.exp(high), verdict, more)


def judge_apart(
    first: Sequence[float], second: Sequence[float], margin: float, confidence: float = CONFIDENCE
) -> Judgement:
    """Judge samples of two runs that were not taken in turns, in seconds: weaker than `judge`.

    The interval is that of Wilcoxon's rank sums (Hollander, Wolfe, Chicken, 2014, sections 4.2 and
    4.3) and knows the noise within either run alone, not how the device differed between them: give
    a margin that covers that. Of more than MOST_APART samples only every so manieth counts.
    """
    logs = [[math.log(one) for one in _thinned(samples)] for samples in (first, second)]
    differences = sorted(b - a for a in logs[0] for b in logs[1])
    pairs = len(differences)
    spread = math.sqrt(pairs * (len(logs[0]) + len(logs[1]) + 1) / 12)
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    skip = max(int(pairs / 2 - z * spread), 0)
    low, high = differences[skip], differences[-1 - skip]
    edge = math.log1p(margin)
    if -edge < low and high < edge:
        verdict = Verdict.SAME
    elif low > edge:
        verdict = Verdict.SLOWER
    elif high < -edge:
        verdict = Verdict.FASTER
    else:
        verdict = Verdict.UNDECIDED
    middle = statistics.median(differences)
    return Judgement(math.exp(middle), math.exp(low), math.exp(high), verdict, 0)


def _thinned(samples: Sequence[float]) -> Sequence[float]:
    return samples[:: math.ceil(len(samples) / MOST_APART)]


def signed_rank_interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Estimate, lower and upper end of the centre of values that lie evenly around it."""
    averages = sorted((a + b) / 2 for i, a in enumerate(values) for b in values[i:])
    count = len(values)
    spread = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    skip = max(int(len(averages) / 2 - z * spread), 0)
    return statistics.median(averages), averages[skip], averages[-1 - skip]


Call = tuple[Function, Sequence[Array]]


def compare(
    first: Call,
    second: Call,
    *,
    margin: float = 0.01,
    confidence: float = CONFIDENCE,
    budget: float = 20.0,
    most_rounds: int = MOST_ROUNDS,
    min_repeat_ms: float = 1.0,
    cache: str = "hot",
    timeout: float | None = None,
) -> Comparison:
    """Time two functions of one session in turns, until it is clear which is faster.

    A call is a function with its arrays, as in `(module["matmul"], (a, b, c))`. `margin` is the
    relative difference that is none, `budget` in seconds of this machine's clock, `min_repeat_ms`
    the length of a sample, `timeout` seconds of the device's own clock for each batch of rounds.
    Raises: InvalidRequestError, and what calling the functions raises.
    """
    if not (0 < margin < 1 and 0.5 <= confidence < 1 and budget > 0 and most_rounds > 0):
        raise InvalidRequestError(
            f"cannot compare with margin={margin}, confidence={confidence}, budget={budget}, "
            f"most_rounds={most_rounds}",
            "give 0 < margin < 1, 0.5 <= confidence < 1, a budget and rounds above 0",
        )
    if first[0].session is not second[0].session:
        raise InvalidRequestError(
            "the two functions are of two sessions", "load both bundles by one device"
        )
    options = pb.TimingOptions(cache=cache)
    options.min_repeat.FromNanoseconds(round(min_repeat_ms * 1e6))
    timings: list[pb.Timing] = []
    until = time.monotonic() + budget
    for rounds in _growing(most_rounds):
        options.repeat = rounds
        _more(timings, (first, second), options, timeout)
        middles = [_middles(timing.samples_s) for timing in timings]
        judgement = judge(middles[0], middles[1], margin, confidence)
        if judgement.verdict is not Verdict.UNDECIDED or time.monotonic() > until:
            break
    both = [
        Timing.from_proto(timing, function.signature.name)
        for timing, (function, _) in zip(timings, (first, second), strict=True)
    ]
    return Comparison(judgement, both[0], both[1], margin, confidence)


def _middles(samples: Sequence[float]) -> list[float]:
    """The median of each round."""
    return [
        statistics.median(samples[start : start + SAMPLES])
        for start in range(0, len(samples), SAMPLES)
    ]


def _growing(most: int) -> Iterator[int]:
    """How many rounds to add, half as many again each time: few looks err less than many."""
    total = min(FIRST_ROUNDS, most)
    yield total
    while total < most:
        added = min(total // 2 + 1, most - total)
        total += added
        yield added


def _more(
    timings: list[pb.Timing],
    calls: tuple[Call, Call],
    options: pb.TimingOptions,
    timeout: float | None,
) -> None:
    """Add rounds to the timings; the first batch calibrates."""
    operation = dpb.CompareFunctions(
        calls=[function.request(tuple(arrays)) for function, arrays in calls],
        options=options,
        numbers=[timing.number for timing in timings],
        samples=SAMPLES,
    )
    session = calls[0][0].session
    answer = session.request(dpb.SessionRequest(compare=operation), timeout).comparison
    if not timings:
        timings.extend(answer.timings)
        return
    for whole, part in zip(timings, answer.timings, strict=True):
        whole.samples_s.extend(part.samples_s)
        whole.discarded_s.extend(part.discarded_s)
        whole.rounds.extend(part.rounds)
        whole.after.CopyFrom(part.after)
