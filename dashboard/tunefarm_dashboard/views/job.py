"""A job: one request, the leases that it got, and what was measured under them, along one time.

Waiting and leases are told by the tracker's clock. Parts of a result are told by its client's; that
clock is set right by the moment at which the client had the device, which both of them know.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from tunefarm.timing import format_seconds
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.views.device import EventRow, event_row
from tunefarm_dashboard.views.result import condition_pairs, usable
from tunefarm_dashboard.views.rows import iso

WIDTH = 1000
LONGEST_S = 1e8  # no part of a job is longer, whatever a client says
PARTS = ("queue", "lease", "build", "wait", "upload", "load", "check", "time")


@dataclass(frozen=True)
class PartRow:
    """A part of a job: `seconds` from `began_at`, which are "" and None where nobody told.

    `what` is one of PARTS; `of` the device or the result that it is about.
    """

    what: str
    of: str
    began_at: str
    seconds: float | None
    note: str


@dataclass(frozen=True)
class Bar:
    """A part as drawn: from `x` for `width` of WIDTH."""

    row: PartRow
    x: float
    width: float


@dataclass(frozen=True)
class Held:
    """A lease of the job, over at `ended` where it is, seconds since 1970."""

    lease: pb.Lease
    queued: float
    ended: float | None
    outcome: str


@dataclass(frozen=True)
class Job:
    """What is known of a request. `state`: "waiting", "holding", "over" or "unknown"."""

    id: str
    user: str
    purpose: str
    key: str
    priority: int
    state: str
    outcome: str
    rows: Sequence[PartRow]
    bars: Sequence[Bar]
    total_s: float


def seconds_of(stamp: Timestamp) -> float:
    """Seconds since 1970; 0 where it is none."""
    return float(stamp.seconds + stamp.nanos / 1e9) if 0 < stamp.seconds < 4_000_000_000 else 0.0


def held(past: Iterable[tpb.PastLease], live: Iterable[pb.Lease]) -> list[Held]:
    """Leases that have ended and those that live, in the order in which they were granted."""
    known = [
        Held(one.lease, seconds_of(one.queued_at), seconds_of(one.ended_at), one.outcome)
        for one in past
    ]
    known += [Held(one, 0.0, None, "") for one in live]
    return sorted(known, key=lambda one: seconds_of(one.lease.granted_at))


def part_rows(
    holds: Sequence[Held],
    waiting: tpb.QueuedRequest | None,
    results: Sequence[tpb.Result],
    queued: float,
    now: float,
) -> list[PartRow]:
    """The parts in the order in which they began. `queued`: when the request came; 0: not known."""
    rows: list[tuple[float, PartRow]] = []

    def add(what: str, of: str, began: float, seconds: float | None, note: str = "") -> None:
        at = iso(datetime.fromtimestamp(began, UTC)) if began else ""
        rows.append((began, PartRow(what, of, at, seconds, note)))

    if waiting is not None:
        came = seconds_of(waiting.queued_at)
        add("queue", "", came, max(now - came, 0.0), waiting.position.reason)
    elif holds:
        came = next((one.queued for one in holds if one.queued), queued)
        granted = seconds_of(holds[0].lease.granted_at)
        took = max(granted - came, 0.0) if came and granted else None
        add("queue", "", came, took, "" if took is not None else "when it came is not known")
    for one in holds:
        granted = seconds_of(one.lease.granted_at)
        until = now if one.ended is None else one.ended
        took = max(until - granted, 0.0) if granted and until else None
        add("lease", one.lease.device_id, granted, took, one.outcome or "still held")
    grants = {one.lease.id: seconds_of(one.lease.granted_at) for one in holds}
    for result in reversed(results):
        for began, phase in phases(result, grants.get(result.lease_id, 0.0)):
            note = ""
            if phase.name == "time" and usable(phase.seconds):
                median = sorted(result.timing.samples_s)[len(result.timing.samples_s) // 2 :][:1]
                note = f"median {format_seconds(median[0])}" if median and usable(median[0]) else ""
            add(phase.name, result.id, began, phase.seconds, note)
        if not result.phases:
            add("time", result.id, seconds_of(result.recorded_at), None, "its client did not tell")
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def phases(result: tpb.Result, granted: float) -> list[tuple[float, tpb.Phase]]:
    """The parts that a client told of, each with its beginning by the tracker's clock."""
    known = [one for one in result.phases if one.name in PARTS and 0 <= one.seconds < LONGEST_S]
    waits = [one for one in known if one.name == "wait"]
    ahead = 0.0
    if granted and waits:
        ahead = seconds_of(waits[-1].began_at) + waits[-1].seconds - granted
    return [(max(seconds_of(one.began_at) - ahead, 0.0), one) for one in known]


def bars(rows: Sequence[PartRow]) -> tuple[list[Bar], float]:
    """The parts as drawn, and how long all of it took, in seconds."""
    known = [
        (datetime.fromisoformat(row.began_at).timestamp(), row.seconds, row)
        for row in rows
        if row.began_at and row.seconds is not None
    ]
    if not known:
        return [], 0.0
    start = min(at for at, _, _ in known)
    total = max(max(at + seconds for at, seconds, _ in known) - start, 1e-6)
    drawn = [
        Bar(
            row,
            x=round((at - start) / total * WIDTH, 1),
            width=round(max(seconds / total * WIDTH, 2.0), 1),
        )
        for at, seconds, row in known
    ]
    return drawn, total


def job(
    request_id: str,
    holds: Sequence[Held],
    waiting: tpb.QueuedRequest | None,
    results: Sequence[tpb.Result],
    *,
    queued: float,
    now: float,
) -> Job:
    """All that is known of a request."""
    rows = part_rows(holds, waiting, results, queued, now)
    drawn, total = bars(rows)
    lease = holds[-1].lease if holds else pb.Lease()
    request = waiting.request if waiting is not None else tpb.DeviceRequest()
    state = "unknown"
    if waiting is not None:
        state = "waiting"
    elif holds:
        state = "holding" if any(one.ended is None for one in holds) else "over"
    return Job(
        id=request_id,
        user=lease.holder or request.user,
        purpose=lease.purpose or request.purpose,
        key=lease.device_key or request.key,
        priority=request.priority if waiting is not None else lease.priority,
        state=state,
        outcome=", ".join(dict.fromkeys(one.outcome for one in holds if one.outcome)),
        rows=rows,
        bars=drawn,
        total_s=total,
    )


def condition_text(timing: pb.Timing) -> str:
    """How the device was after the samples, in one line; "" where it did not tell."""
    pairs = [(name, after or before) for name, before, after in condition_pairs(timing)]
    return ", ".join(text for name, text in pairs if name in ("Temperature", "Frequency"))


def log(events: Iterable[tpb.WatchEventsResponse]) -> list[EventRow]:
    """What happened to a request and its leases, oldest first."""
    ordered = sorted(events, key=lambda one: (seconds_of(one.at), one.cursor))
    return [event_row(one) for one in ordered]
