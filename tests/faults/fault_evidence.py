"""What devices and clients wrote down, and whether anything in it must not be."""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LINE = re.compile(
    r"^(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) INFO lease (?P<lease>\S+) "
    r"(?P<what>begins|ends), fence (?P<fence>\d+)"
)
START = re.compile(r"^--- start at (?P<at>[\d.]+)")
SLACK_S = 0.05  # the log's clock is the wall's, in milliseconds
FAR = float("inf")


@dataclass
class Span:
    """A lease on a device, as the device's log has it; times of the monotonic clock."""

    lease: str
    fence: int
    begin: float
    end: float = FAR


@dataclass
class Evidence:
    """Everything that was written down."""

    spans: dict[str, list[Span]] = field(default_factory=dict)  # by device id
    steps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by client
    problems: list[str] = field(default_factory=list)


def device_spans(log: Path, offset: float, problems: list[str]) -> list[Span]:
    """The leases of one device's log; finds those that overlap and fences that do not grow."""
    spans: list[Span] = []
    for line in log.read_text(errors="replace").splitlines():
        if found := START.match(line):
            _end(spans, float(found["at"]))  # killed: whatever was open ended before this
        elif found := LINE.match(line):
            at = _monotonic(found["at"], offset)
            if found["what"] == "ends":
                _end(spans, at)
                continue
            span = Span(found["lease"], int(found["fence"]), at)
            before = spans[-1] if spans else None
            if before is not None and before.end == FAR:
                problems.append(f"{log.stem}: {span} begins within {before}")
            if before is not None and not _grows(before, span):
                problems.append(f"{log.stem}: the fence of {span} is not above that of {before}")
            spans.append(span)
    return spans


def _grows(before: Span, after: Span) -> bool:
    return after.fence > before.fence or (before.lease, before.fence) == (after.lease, after.fence)


def _end(spans: list[Span], at: float) -> None:
    if spans and spans[-1].end == FAR:
        spans[-1].end = at


def _monotonic(text: str, offset: float) -> float:
    seconds, _, millis = text.partition(",")
    wall = time.mktime(time.strptime(seconds, "%Y-%m-%d %H:%M:%S")) + int(millis) / 1000
    return wall - offset


def client_steps(path: Path) -> list[dict[str, Any]]:
    """A client's lines; the last may be cut off by its death."""
    steps = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            steps.append(json.loads(line))
        except ValueError:
            continue
    return steps


def check_calls(evidence: Evidence) -> int:
    """No two leases' calls on one device overlap, and none is after one of a newer lease.

    Returns the number of calls looked at.
    """
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for steps in evidence.steps.values():
        for step in steps:
            if step["what"] == "call":
                calls[step["device"]].append(step)
    for device, made in calls.items():
        _check_device(evidence, device, sorted(made, key=lambda call: call["start"]))
    return sum(map(len, calls.values()))


def _check_device(evidence: Evidence, device: str, calls: list[dict[str, Any]]) -> None:
    spans: dict[str, list[Span]] = defaultdict(list)
    for span in evidence.spans.get(device, []):
        spans[span.lease].append(span)
    for before, call in zip([None, *calls[:-1]], calls, strict=True):
        if not any(s.begin - SLACK_S <= call["start"] <= s.end + SLACK_S
                   and s.fence == call["fence"] for s in spans[call["lease"]]):  # fmt: skip
            evidence.problems.append(f"{device}: {call} lies in no span {spans[call['lease']]}")
        if not call["sent"] <= call["start"] <= call["end"] <= call["heard"]:
            evidence.problems.append(f"{device}: {call} was carried out at another time")
        if before is not None and before["end"] > call["start"]:
            evidence.problems.append(f"{device}: {before} and {call} overlap")
        if before is not None and before["fence"] > call["fence"]:
            evidence.problems.append(f"{device}: {call} succeeded after {before}")
        if before is not None and before["fence"] == call["fence"] != 0:
            same = before["lease"] == call["lease"] and before["pid"] == call["pid"]
            if not same:
                evidence.problems.append(f"{device}: {before} and {call} share a fence")


@dataclass
class Requests:
    """What became of the requests."""

    asked: int = 0
    acknowledged: int = 0
    granted: int = 0
    died: int = 0
    longest_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)


def check_requests(evidence: Evidence, killed: Container[int] = ()) -> Requests:
    """Each request of a client that lived on ended in a grant or an error with a name.

    `killed` are the processes that were killed.
    """
    all_ = Requests()
    for client, steps in evidence.steps.items():
        by_process: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for step in steps:
            by_process[step["pid"]].append(step)
        for pid, own in by_process.items():
            _check_process(evidence, all_, f"{client} ({pid})", own, killed=pid in killed)
    return all_


def _check_process(
    evidence: Evidence, all_: Requests, name: str, steps: list[dict[str, Any]], *, killed: bool
) -> None:
    rounds: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for step in steps:
        if "round" in step:
            rounds[step["round"]].setdefault(step["what"], step)
    for number, seen in rounds.items():
        all_.asked += 1
        all_.granted += "granted" in seen
        all_.acknowledged += "queued" in seen or "granted" in seen
        if (end := seen.get("end")) is None:
            all_.died += 1
            if number != max(rounds) or not killed:
                evidence.problems.append(f"{name}: request {number} never ended")
            continue
        answered = seen.get("granted", end)["at"] - seen["ask"]["at"]
        all_.longest_s = max(all_.longest_s, answered)
        if end["error"]:
            all_.errors[end["error"]] += 1
        if end["error"].startswith(("unnamed", "Internal", "ProtocolMismatch", "InvalidRequest")):
            evidence.problems.append(f"{name}: {end}")
