"""One result: every sample with what was seen when it was taken, its statistics, its pictures."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tunefarm.timing import Timing, format_seconds
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.views.rows import throttled as is_throttled

UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))
MOST_BINS = 40
IMPRECISE = 0.1
MOST_DRAWN = 2000  # samples; of more only every so manieth is drawn


@dataclass(frozen=True)
class SampleRow:
    """A sample, in seconds for one call, with how the device was after its round.

    `disturbed`: what disturbed the round, "" where nothing was seen. A `discarded` one was measured
    again and counts in no statistic.
    """

    number: int
    round: int
    seconds: float
    discarded: bool
    disturbed: str
    temperature_c: float | None
    frequency_mhz: float | None
    throttled: bool


@dataclass(frozen=True)
class Mark:
    """What to know before one believes the number. `bad`: it says that it must not be believed."""

    word: str
    why: str
    bad: bool = False


def usable(seconds: float) -> bool:
    """Whether it is a time at all: clients send what they like."""
    return math.isfinite(seconds) and seconds > 0


def sample_rows(timing: pb.Timing) -> list[SampleRow]:
    """Every sample in the order measured, those of discarded rounds in their places."""
    kept, discarded = iter(timing.samples_s), iter(timing.discarded_s)
    rows: list[SampleRow] = []
    for number, one in enumerate(timing.rounds, 1):
        source = discarded if one.discarded else kept
        taken = list(islice(source, one.samples))
        rows += [_row(len(rows) + i, number, s, one) for i, s in enumerate(taken, 1)]
    # Of rounds that nobody told of.
    number = len(timing.rounds) + 1
    for seconds in kept:
        rows.append(_row(len(rows) + 1, number, seconds, pb.TimingRound(after=timing.after)))
    return [row for row in rows if usable(row.seconds)]


def _row(number: int, of_round: int, seconds: float, taken: pb.TimingRound) -> SampleRow:
    now = taken.after
    warm = now.HasField("temperature_celsius") and math.isfinite(now.temperature_celsius)
    return SampleRow(
        number=number,
        round=of_round,
        seconds=seconds,
        discarded=taken.discarded,
        disturbed=taken.disturbed,
        temperature_c=now.temperature_celsius if warm else None,
        frequency_mhz=now.frequency_hz / 1e6 if now.HasField("frequency_hz") else None,
        throttled=is_throttled(now),
    )


def marks(result: tpb.Result, *, emulated: bool) -> list[Mark]:
    """Why the number may not be what it seems; empty where nothing speaks against it."""
    timing = Timing.from_proto(result.timing)
    raw = timing.raw
    rounds = [one for one in raw.rounds if not one.discarded]
    throttled = sum(is_throttled(one.after) for one in rounds)
    found = [
        (
            emulated,
            Mark("emulated", "the processor is emulated: this says nothing about a real one", True),
        ),
        (
            result.HasField("correct") and not result.correct,
            Mark("wrong answer", "the answer differs from the reference", True),
        ),
        (
            timing.unconverged,
            Mark("unconverged", "the precision asked for was not reached in the time given"),
        ),
        (
            _half_width(raw, timing) > IMPRECISE,
            Mark(
                "imprecise", f"the median is known to ±{100 * _half_width(raw, timing):.0f} % alone"
            ),
        ),
        (
            throttled > 0,
            Mark("throttled", f"the processor was throttled in {throttled} of the rounds kept"),
        ),
        (
            bool(timing.disturbances),
            Mark("disturbed", f"in rounds that were kept: {'; '.join(timing.disturbances)}"),
        ),
        (
            raw.abandoned,
            Mark("abandoned", "slower than what was worth timing further: one sample alone"),
        ),
        (
            raw.before.time_together,
            Mark(
                "timed beside others", "other devices of its server may have been timed meanwhile"
            ),
        ),
        (timing.cache == "cold", Mark("cold cache", "the caches were flushed before each call")),
    ]
    return [mark for holds, mark in found if holds]


def _half_width(raw: pb.Timing, timing: Timing) -> float:
    """Of the median's interval, relative to the median; 0 where it is not known."""
    low, high = raw.median_low_s, raw.median_high_s
    if not (usable(low) and usable(high) and all(usable(one) for one in timing.samples)):
        return 0.0
    median = timing.median if timing.samples else math.inf
    return max(high - median, median - low, 0.0) / median


def facts(result: tpb.Result) -> list[tuple[str, str]]:
    """The statistics of a timing as names and texts; nothing where there is no usable timing."""
    samples = [one for one in result.timing.samples_s if usable(one)]
    if not samples:
        return []
    raw = pb.Timing()
    raw.CopyFrom(result.timing)
    raw.samples_s[:] = samples
    timing = Timing.from_proto(raw)
    low, high = timing.interval
    told = usable(low) and usable(high) and low <= high
    if not told:
        low, high = timing.bootstrap()
    median = timing.median
    pairs = [
        ("Median", format_seconds(median)),
        (
            "95 % interval of it" + ("" if told else " (bootstrap)"),
            f"{format_seconds(low)} to {format_seconds(high)}"
            f" (±{100 * max(high - median, median - low) / median:.2g} %)",
        ),
        ("Rate", f"{result.operations / median / 1e9:.4g} GFLOPS" if result.operations else ""),
        ("Minimum", format_seconds(timing.min)),
        ("Mean", format_seconds(timing.mean)),
        ("90 % are below", format_seconds(timing.p90)),
        ("MAD", f"{format_seconds(timing.mad)} ({100 * timing.mad / median:.2g} %)"),
        ("Standard deviation by mean", f"{100 * timing.cov:.2g} %"),
        ("Samples", f"{len(samples):,} of {timing.number:,} calls each"),
        ("Measured again", f"{len(raw.discarded_s):,} samples" if raw.discarded_s else ""),
        ("First call", format_seconds(timing.first_call) if usable(timing.first_call) else ""),
        ("Calls to warm up", f"{timing.warmup_calls:,}" if timing.warmup_calls else ""),
        ("Cache", timing.cache),
        *counters(timing),
    ]
    return [(name, text) for name, text in pairs if text]


def counters(timing: Timing) -> list[tuple[str, str]]:
    """What the processor counted in a call."""
    if not timing.number or not all(one.samples for one in timing.raw.rounds if one.counters):
        return []
    return [
        (f"{name.replace('_', ' ').capitalize()} a call", f"{value:,.4g}")
        for name, value in sorted(timing.counters.items())
        if math.isfinite(value)
    ]


def condition_pairs(timing: pb.Timing) -> list[tuple[str, str, str]]:
    """The device before and after the samples: name and the two texts, "" where not told."""
    shown: list[tuple[str, str, Any]] = [
        ("Temperature", "temperature_celsius", "{:.1f} °C".format),
        ("Frequency", "frequency_hz", lambda hertz: f"{hertz / 1e6:,.0f} MHz"),
        ("Load", "load_average", "{:.2f}".format),
        ("Stolen time", "steal_fraction", "{:.1%}".format),
        ("Throttle bits", "throttle_bits", "{:#x}".format),
        ("Memory's frequency", "memory_frequency_hz", lambda hertz: f"{hertz / 1e6:,.0f} MHz"),
        ("Power", "power_watts", "{:.0f} W".format),
    ]
    found = []
    both: tuple[Any, Any] = (timing.before, timing.after)
    for name, field, form in shown:
        before, after = (form(getattr(now, field)) if now.HasField(field) else "" for now in both)
        if before or after:
            found.append((name, before, after))
    before, after = (", ".join(now.throttle_reasons) for now in both)
    if before or after:
        found.append(("Throttled by", before, after))
    return found


def pretty(schedule: str) -> str:
    """A schedule to be read: one line for each of its parts; as it is where it is no JSON."""
    try:
        found = json.loads(schedule)
    except (ValueError, RecursionError):
        return schedule
    if not isinstance(found, dict):
        return schedule
    lines = [f"  {json.dumps(name)}: {json.dumps(found[name])}" for name in found]
    return "{\n" + ",\n".join(lines) + "\n}"


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit in which a time is best read, and how many seconds it is."""
    return next((one for one in UNITS if seconds >= one[1]), UNITS[-1])


def sample_plot(rows: Sequence[SampleRow], interval: tuple[float, float] | None) -> dict[str, Any]:
    """Samples in the order measured: kept, disturbed and discarded ones; the median's interval."""
    kept = sorted(row.seconds for row in rows if not row.discarded)
    if not kept:
        return {"x": [], "series": []}
    median = _quantile(kept, 0.5)
    name, unit = unit_of(median)
    drawn = rows[:: max(1, math.ceil(len(rows) / MOST_DRAWN))]
    groups: dict[str, Callable[[SampleRow], bool]] = {
        "sample": lambda row: not row.discarded and not row.disturbed and not row.throttled,
        "disturbed or throttled": lambda row: (
            not row.discarded and bool(row.disturbed or row.throttled)
        ),
        "measured again": lambda row: row.discarded,
    }
    common = {"unit": name, "digits": 4}
    series: list[dict[str, Any]] = []
    for colour, (label, belongs) in enumerate(groups.items()):
        values = [row.seconds / unit if belongs(row) else None for row in drawn]
        if any(value is not None for value in values):
            series.append(
                {"label": label, "points": True, "colour": colour, "values": values, **common}
            )
    lines = [("median", median), *zip(("95 % from", "to"), interval or (), strict=False)]
    for label, seconds in lines:
        flat = [seconds / unit] * len(drawn)
        series.append(
            {
                "label": label,
                "points": False,
                "colour": 3,
                "dash": label != "median",
                "values": flat,
                **common,
            }
        )
    return {
        "x": [row.number for row in drawn],
        "series": series,
        "time": False,
        "xlabel": "sample",
        "whole": True,
        "height": 230,
    }


def histogram(samples: Sequence[float]) -> tuple[list[float], list[int]]:
    """Edges and counts of bins, as wide as Freedman and Diaconis (1981) say, 5 to MOST_BINS."""
    ordered = sorted(samples)
    low, high = ordered[0], ordered[-1]
    spread = _quantile(ordered, 0.75) - _quantile(ordered, 0.25)
    width = 2 * spread / len(ordered) ** (1 / 3)
    count = math.ceil((high - low) / width) if width > 0 else 5
    count = max(5, min(count, MOST_BINS))
    if high <= low:
        return [low * 0.999, low * 1.001], [len(ordered)]
    step = (high - low) / count
    counts = [0] * count
    for one in ordered:
        counts[min(int((one - low) / step), count - 1)] += 1
    return [low + step * i for i in range(count + 1)], counts


def histogram_plot(samples: Sequence[float]) -> dict[str, Any]:
    """How many samples took how long, for charts.js."""
    if not samples:
        return {"x": [], "series": []}
    edges, counts = histogram(samples)
    name, unit = unit_of(edges[0])
    step = edges[1] - edges[0]
    x = [edges[0] - step, *edges]
    values = [0, *counts, 0]
    return {
        "x": [one / unit for one in x],
        "series": [{"label": "samples", "digits": 0, "steps": True, "fill": True, "points": False,
                    "values": values}],
        "time": False,
        "xlabel": name,
        "height": 180,
    }  # fmt: skip


def ecdf_plot(samples: Sequence[float]) -> dict[str, Any]:
    """What share of the samples took at most how long, for charts.js."""
    if not samples:
        return {"x": [], "series": []}
    ordered = sorted(samples)
    share = {one: 100 * i / len(ordered) for i, one in enumerate(ordered, 1)}
    if len(share) > MOST_DRAWN:
        kept = [*list(share)[:: math.ceil(len(share) / MOST_DRAWN)], ordered[-1]]
        share = {one: share[one] for one in kept}
    name, unit = unit_of(ordered[0])
    return {
        "x": [one / unit for one in share],
        "series": [{"label": "at most so long", "unit": "%", "digits": 1, "steps": True,
                    "points": False, "values": list(share.values())}],
        "time": False,
        "xlabel": name,
        "height": 180,
    }  # fmt: skip


def _quantile(ordered: Sequence[float], share: float) -> float:
    """By linear interpolation."""
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
