"""Results side by side: each beside the first, with what can be said of two runs apart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tunefarm.comparison import judge_apart
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.views.result import marks, unit_of, usable
from tunefarm_dashboard.views.rows import ResultRow, result_row

MARGIN = 0.05  # what devices may differ by between sessions
CONFIDENCE = 0.99
LEAST = 5  # samples
BASE = "the base"


@dataclass(frozen=True)
class CompareRow:
    """A result beside the base. Seconds of one call; None where there is no number.

    `ratio` is its time by that of the base, within `ratio_low` to `ratio_high`; `verdict` is "" and
    `how` says why where none can be given.
    """

    id: str
    workload: str
    device: str
    device_key: str
    target: str
    emulated: bool
    user: str
    recorded_at: str
    median_s: float | None
    low_s: float | None
    high_s: float | None
    gflops: float | None
    samples: int
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    verdict: str
    how: str
    marks: str


def pick_per_device(results: Iterable[tpb.Result], *, best: bool) -> list[tpb.Result]:
    """Of each device one result with a right answer and a timing: the fastest, or the latest.

    `results`: newest first. The fastest device comes first, emulated ones last.
    """
    chosen: dict[str, tuple[float, tpb.Result]] = {}
    for one in results:
        median = result_row(one, frozenset()).median_s
        if median is None or (one.HasField("correct") and not one.correct):
            continue
        before = chosen.get(one.device_id)
        if before is None or (best and median < before[0]):
            chosen[one.device_id] = median, one
    ranked = sorted(chosen.values(), key=lambda pair: (pair[1].timing.emulated, pair[0]))
    return [one for _, one in ranked]


def compare_rows(results: Sequence[tpb.Result], emulated: frozenset[str]) -> list[CompareRow]:
    """Each result beside the first."""
    rows = [result_row(one, emulated) for one in results]
    return [_row(results[0], rows[0], one, row) for one, row in zip(results, rows, strict=True)]


def _row(base: tpb.Result, first: ResultRow, one: tpb.Result, row: ResultRow) -> CompareRow:
    how = BASE if one is base else _relation(base, one)
    ratio: float | None = None
    low = high = None
    verdict = ""
    if one is not base:
        if refusal := _refusal(first, row):
            how = refusal
        else:
            found = judge_apart(
                list(base.timing.samples_s), list(one.timing.samples_s), MARGIN, CONFIDENCE
            )
            ratio, low, high = found.ratio, found.low, found.high
            verdict = found.verdict.value
            if first.emulated or row.emulated:
                verdict, how = "", "emulated: no verdict on real processors"
            elif min(first.samples, row.samples) < LEAST:
                verdict, how = "", f"fewer than {LEAST} samples: no verdict"
    told = [one.timing.median_low_s, one.timing.median_high_s]
    known = all(usable(value) for value in told) and row.median_s is not None
    return CompareRow(
        id=row.id,
        workload=row.workload,
        device=row.device,
        device_key=row.device_key,
        target=row.target,
        emulated=row.emulated,
        user=row.user,
        recorded_at=row.recorded_at,
        median_s=row.median_s,
        low_s=told[0] if known else None,
        high_s=told[1] if known else None,
        gflops=row.gflops,
        samples=row.samples,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        verdict=verdict,
        how=how,
        marks=", ".join(mark.word for mark in marks(one, emulated=row.emulated)),
    )


def _refusal(first: ResultRow, row: ResultRow) -> str:
    """Why the two cannot be set beside each other; "" where they can."""
    if first.workload != row.workload:
        return "another workload"
    if first.median_s is None or row.median_s is None:
        return "no timing" if row.median_s is None else "the base has no timing"
    if False in (first.correct, row.correct):
        return "a wrong answer"
    return ""


def _relation(base: tpb.Result, one: tpb.Result) -> str:
    """How far the two runs were apart: neither was interleaved with the other."""
    if base.device_id == one.device_id:
        same = base.lease_id and base.lease_id == one.lease_id
        return "one after the other in one lease" if same else "one device, two leases"
    same = (base.target.triple, base.target.cpu) == (one.target.triple, one.target.cpu)
    return "two devices of one target" if same else "two targets"


def interval_plot(rows: Sequence[CompareRow]) -> dict[str, Any]:
    """Median and interval of each row in its order, for charts.js."""
    known = [row for row in rows if row.median_s is not None]
    if not known:
        return {"x": [], "series": []}
    name, unit = unit_of(min(row.median_s for row in known if row.median_s is not None))
    number = {id(row): place for place, row in enumerate(rows, 1)}

    def series(label: str, field: str, colour: int) -> dict[str, Any]:
        values = [getattr(row, field) for row in known]
        return {
            "label": label,
            "unit": name,
            "digits": 4,
            "points": True,
            "colour": colour,
            "values": [None if value is None else value / unit for value in values],
        }

    return {
        "x": [number[id(row)] for row in known],
        "series": [series("median", "median_s", 0), series("95 % from", "low_s", 3),
                   series("to", "high_s", 3)],
        "time": False,
        "xlabel": "row of the table",
        "whole": True,
        "height": 220,
    }  # fmt: skip
