"""One device: what happened to it, how its anchors drift, how warm it was, who held it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from tunefarm.timing import Timing
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.conditions import Reading
from tunefarm_dashboard.views.rows import iso, moment_of

ANCHOR = "anchor "


@dataclass(frozen=True)
class EventRow:
    """What happened to a device: a word, and a line for people."""

    at: str
    action: str
    detail: str


@dataclass(frozen=True)
class AnchorRow:
    """What a piece of work that never changes took: the device's drift. Seconds; None: unknown.

    `relative` is against the median of all these readings of the anchor.
    """

    anchor: str
    at: str
    median_s: float
    relative: float
    temperature_c: float | None
    frequency_mhz: float | None


@dataclass(frozen=True)
class ConditionRow:
    """A device's condition at a moment."""

    at: str
    temperature_c: float | None
    frequency_mhz: float | None
    load: float | None


@dataclass(frozen=True)
class PastLeaseRow:
    """A lease that has ended, or with an empty `ended_at` one that lives. Durations in seconds."""

    id: str
    device: str
    device_key: str
    request_id: str
    holder: str
    purpose: str
    queued_at: str
    granted_at: str
    ended_at: str
    waited_s: float | None
    held_s: float | None
    outcome: str


def event_row(event: tpb.WatchEventsResponse) -> EventRow:
    """An event of a device."""
    return EventRow(iso(moment_of(event, "at")), event.action, event.detail)


def past_lease_row(past: tpb.PastLease) -> PastLeaseRow:
    """A lease that has ended."""
    lease = past.lease
    queued, granted, ended = (
        moment_of(past, "queued_at"), moment_of(lease, "granted_at"), moment_of(past, "ended_at")
    )  # fmt: skip
    return PastLeaseRow(
        id=lease.id,
        device=lease.device_id,
        device_key=lease.device_key,
        request_id=lease.request_id,
        holder=lease.holder,
        purpose=lease.purpose,
        queued_at=iso(queued),
        granted_at=iso(granted),
        ended_at=iso(ended),
        waited_s=(granted - queued).total_seconds() if granted and queued else None,
        held_s=(ended - granted).total_seconds() if ended and granted else None,
        outcome=past.outcome,
    )


def anchor_rows(results: Sequence[tpb.Result]) -> list[AnchorRow]:
    """The anchors' readings, oldest first."""
    medians: dict[str, list[float]] = {}
    taken: list[tuple[tpb.Result, float]] = []
    for result in reversed(results):
        samples = [one for one in result.timing.samples_s if one > 0 and isfinite(one)]
        if result.workload.startswith(ANCHOR) and samples:
            median = Timing.from_proto(result.timing).median
            medians.setdefault(result.workload, []).append(median)
            taken.append((result, median))
    middle = {name: sorted(found)[len(found) // 2] for name, found in medians.items()}
    return [
        AnchorRow(
            anchor=result.workload.removeprefix(ANCHOR),
            at=iso(moment_of(result, "recorded_at")),
            median_s=median,
            relative=median / middle[result.workload],
            **_conditions(result.timing.after),
        )
        for result, median in taken
    ]


def _conditions(now: pb.Conditions) -> dict[str, float | None]:
    warm = now.HasField("temperature_celsius") and isfinite(now.temperature_celsius)
    return {
        "temperature_c": now.temperature_celsius if warm else None,
        "frequency_mhz": now.frequency_hz / 1e6 if now.HasField("frequency_hz") else None,
    }


def condition_rows(readings: Sequence[Reading]) -> list[ConditionRow]:
    """Readings with their time as text."""
    return [
        ConditionRow(
            iso(datetime.fromtimestamp(one.at, UTC)), one.temperature, one.frequency, one.load
        )
        for one in readings
    ]


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def anchor_plot(rows: Sequence[AnchorRow]) -> dict[str, Any]:
    """The drift of each anchor in percent of its median, for charts.js."""
    rows = [row for row in rows if row.at]
    moments = sorted({_seconds(row.at) for row in rows})
    series = []
    for name in sorted({row.anchor for row in rows}):
        of_name = (row for row in rows if row.anchor == name)
        at = {_seconds(row.at): round(100 * (row.relative - 1), 3) for row in of_name}
        series.append(
            {"label": name, "unit": "%", "digits": 2, "values": [at.get(one) for one in moments]}
        )
    return {"x": moments, "series": series}


def condition_plot(rows: Sequence[ConditionRow]) -> dict[str, Any]:
    """Temperature and frequency, each with an axis of its own, for charts.js; where known."""
    columns = (
        ("temperature", "°C", 1, "temperature_c"),
        ("frequency", "MHz", 0, "frequency_mhz"),
    )
    series = [
        {"label": label, "unit": unit, "digits": digits, "scale": label, "values": values}
        for label, unit, digits, field in columns
        if any(values := [getattr(row, field) for row in rows])
    ]
    return {"x": [_seconds(row.at) for row in rows], "series": series}
