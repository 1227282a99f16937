"""What timing a kernel gives: every sample, and the numbers read off them."""

import math
import random
import re
import statistics
from dataclasses import dataclass
from functools import cached_property

from tunefarm_proto.v1 import common_pb2 as pb

SHARE = re.compile(r"\d+%")


def format_seconds(seconds: float) -> str:
    """A duration with a fitting unit, as in "1.234 ms"."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.4g} {unit}"
    return f"{seconds * 1e9:.4g} ns"


def _with_shares(words: str, shares: list[int]) -> str:
    """Words with the place of a share, "%", and the shares that belong there, if any."""
    told = (
        " to ".join(f"{share}%" for share in sorted({min(shares), max(shares)})) if shares else "%"
    )
    return words.replace("%", told, 1)


@dataclass(frozen=True)
class Timing:
    """Samples of one kernel on one device. Times are seconds for one call.

    `samples` are in the order measured, each over `number` calls; `first_call` came before the
    `warmup_calls`; `raw` is the device's whole answer with its conditions.
    """

    samples: tuple[float, ...]
    number: int
    first_call: float
    warmup_calls: int
    emulated: bool
    raw: pb.Timing
    function: str = ""

    @classmethod
    def from_proto(cls, raw: pb.Timing, function: str = "") -> "Timing":
        """The timing that a device sent."""
        return cls(
            samples=tuple(raw.samples_s),
            number=raw.number,
            first_call=raw.first_call_s,
            warmup_calls=raw.warmup_calls,
            emulated=raw.emulated,
            raw=raw,
            function=function,
        )

    @cached_property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)

    @cached_property
    def mean(self) -> float:
        """Arithmetic mean of the samples."""
        return statistics.fmean(self.samples)

    @cached_property
    def min(self) -> float:
        """Smallest sample."""
        return min(self.samples)

    @cached_property
    def std(self) -> float:
        """Standard deviation of the samples; 0 for one sample."""
        return statistics.stdev(self.samples) if len(self.samples) > 1 else 0.0

    @cached_property
    def mad(self) -> float:
        """Median absolute deviation from the median."""
        return statistics.median(abs(sample - self.median) for sample in self.samples)

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval of the median, as the device reckoned it, in this session.

        Between sessions a device may differ by more: compare in turns (`tunefarm compare`).
        """
        return self.raw.median_low_s, self.raw.median_high_s

    def bootstrap(self, confidence: float = 0.95, resamples: int = 2000) -> tuple[float, float]:
        """Percentile bootstrap interval of the median: always the same for the same samples.

        Source: Efron, Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
        """
        rng, count = random.Random(0), len(self.samples)  # noqa: S311 (statistics)
        medians = sorted(
            statistics.median(rng.choices(self.samples, k=count)) for _ in range(resamples)
        )
        skip = min(int((1 - confidence) / 2 * resamples), (resamples - 1) // 2)
        return medians[skip], medians[-1 - skip]

    @property
    def counters(self) -> dict[str, float]:
        """What the processor counted in a call, on average: "cycles", "instructions" and such.

        Those that the device can count, by the rounds whose samples are kept.
        """
        kept = [one for one in self.raw.rounds if not one.discarded and one.counters]
        calls = self.number * sum(one.samples for one in kept)
        names = dict.fromkeys(name for one in kept for name in one.counters)
        return {name: sum(one.counters[name] for one in kept) / calls for name in names}

    @cached_property
    def p90(self) -> float:
        """The sample that 90% of them do not exceed."""
        ordered = sorted(self.samples)
        return ordered[min(math.ceil(0.9 * len(ordered)), len(ordered)) - 1]

    @cached_property
    def cov(self) -> float:
        """Coefficient of variation: standard deviation by mean."""
        return self.std / self.mean if self.mean else 0.0

    @property
    def unconverged(self) -> bool:
        """The precision asked for was not reached within the budget."""
        return self.raw.unconverged

    @property
    def cache(self) -> str:
        """Part of what was measured: "hot" or "cold"."""
        return self.raw.cache

    @property
    def disturbances(self) -> list[str]:
        """What disturbed rounds that are among the samples: throttling, stolen or lost time.

        Rounds that differ in a share alone are told of once, as in "lost 8% to 51% of its time".
        """
        found: dict[str, list[int]] = {}
        for one in self.raw.rounds:
            if one.disturbed and not one.discarded:
                shares = [int(share[:-1]) for share in SHARE.findall(one.disturbed)]
                found.setdefault(SHARE.sub("%", one.disturbed), []).extend(shares)
        return [_with_shares(words, shares) for words, shares in found.items()]

    def __str__(self) -> str:
        name = f"{self.function}: " if self.function else ""
        spread = 100 * self.mad / self.median if self.median else 0.0
        note = " [emulated: says nothing about the real processor]" if self.emulated else ""
        if self.raw.before.time_together:
            note += " [other devices of its server may have been timed meanwhile]"
        if self.cache == "cold":
            note += " [cold cache]"
        if self.unconverged:
            note += " [unconverged]"
        if self.disturbances:
            note += f" [{'; '.join(self.disturbances)}]"
        return (
            f"{name}{format_seconds(self.median)} median, {format_seconds(self.mean)} mean, "
            f"{format_seconds(self.min)} min, MAD {spread:.1f}% "
            f"({len(self.samples)} samples of {self.number} calls){note}"
        )
