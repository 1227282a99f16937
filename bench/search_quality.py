"""How near the search comes to the best schedule that is known, without a farm.

    .venv/bin/python bench/search_quality.py --table DIR [--trials N] [--seeds N] [--strategies A,B]
        [--no-transfer] [--no-default] [--json FILE] [W ...]

Matmul 1024 cube and the eleven 3x3, 1x1 and 7x7 layers of ResNet-18, unless others are given: each
is searched cold with every seed, then with what was measured of the others (transfer). 20 minutes
on one core; a run that was ended goes on, since every candidate is measured once (`_offline.py`)
and kept in DIR. What a search has as its fastest few after so many trials, and the default, is
timed again in turns with the best known ones, as a tuning run does before it names a winner;
figures are the winner's seconds by the best's, means over the seeds.

The best known schedules of each processor are in results/best_known.jsonl, with how they were
found; one that is better by a hundredth takes its place there. With --no-default searches are not
given the default schedule as their first trial.
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _offline import Offline
from tunefarm_tuner.search import Experience, ScheduleSpace, WarmStart, strategy, warm_start

RESNET = (
    "conv2d:c=3,h=224,w=224,k=64,r=7,s=7,stride=2,pad=3",
    "conv2d:c=64,h=56,w=56,k=64,r=3,s=3,pad=1",
    "conv2d:c=64,h=56,w=56,k=128,r=3,s=3,stride=2,pad=1",
    "conv2d:c=64,h=56,w=56,k=128,r=1,s=1,stride=2",
    "conv2d:c=128,h=28,w=28,k=128,r=3,s=3,pad=1",
    "conv2d:c=128,h=28,w=28,k=256,r=3,s=3,stride=2,pad=1",
    "conv2d:c=128,h=28,w=28,k=256,r=1,s=1,stride=2",
    "conv2d:c=256,h=14,w=14,k=256,r=3,s=3,pad=1",
    "conv2d:c=256,h=14,w=14,k=512,r=3,s=3,stride=2,pad=1",
    "conv2d:c=256,h=14,w=14,k=512,r=1,s=1,stride=2",
    "conv2d:c=512,h=7,w=7,k=512,r=3,s=3,pad=1",
)
WORKLOADS = ("matmul:m=1024,n=1024,k=1024", *RESNET)
POINTS = (16, 64, 256)
TRANSFER_TRIALS = 16
BATCH = 8
FINALISTS = 5  # as in a tuning run
KNOWN_BEST = 6  # fastest ones of the table that are timed again
BETTER = 0.99
RESULTS = Path(__file__).parent / "results" / "best_known.jsonl"
Winners = dict[tuple[str, int, int], list[str]]  # by strategy, seed, trials


class Bare(ScheduleSpace):
    """A space whose default is not known."""

    def default(self) -> str | None:  # type: ignore[override]
        """None."""
        return None


@dataclass(frozen=True)
class Known:
    """The best known schedule of a workload on a processor."""

    workload: str
    cpu: str
    schedule: str
    gflops: float
    found: str


def best_known() -> dict[tuple[str, str], Known]:
    """Those of the results' file, by workload and processor."""
    if not RESULTS.exists():
        return {}
    rows = [Known(**json.loads(line)) for line in RESULTS.read_text().splitlines()]
    return {(row.workload, row.cpu): row for row in rows}


def keep_best(known: Known) -> None:
    """Write one into the results' file."""
    rows = {**best_known(), (known.workload, known.cpu): known}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(vars(rows[key])) + "\n" for key in sorted(rows)))


def search(
    offline: Offline, space: ScheduleSpace, name: str, seed: int, trials: int, start: WarmStart
) -> Winners:
    """The fastest few after each number of trials."""
    walker = strategy(name, space, seed, start)
    first = space.default()  # timed again in any case
    label = f"{name}+transfer" if start.groups or start.seeds else name
    found, best, done = Winners(), list[tuple[float, str]](), 0
    while done < trials:
        batch = walker.propose(min(BATCH, trials - done))
        if not batch:
            break
        results = offline.measure(batch, f"{label}, seed {seed}, trials {done + 1} and on")
        walker.observe(results)
        for one in results:
            done += 1
            best = sorted([*best, (one.cost_s, one.candidate)])[:FINALISTS]
            if done in POINTS:
                few = [candidate for _, candidate in best]
                found[label, seed, done] = [*few, *([first] if first is not None else [])]
    return found


def experience(others: Sequence[Offline]) -> list[Experience]:
    """What the tables of other workloads hold."""
    return [
        Experience(other.parsed, other.spec, one.candidate, one.cost_s)
        for other in others
        for one in other.known.values()
    ]


def cold(text: str, given: argparse.Namespace) -> Winners:
    """Searches of one workload that know nothing."""
    found = Winners()
    kind = Bare if given.no_default else ScheduleSpace
    with Offline(text, given.table) as offline:
        space = kind(offline.parsed, offline.spec)
        for name in given.strategies.split(","):
            for seed in range(given.seeds):
                found |= search(offline, space, name, seed, given.trials, WarmStart())
    return found


def warm(text: str, given: argparse.Namespace) -> Winners:
    """Searches of one workload that are told what was measured of the others."""
    found = Winners()
    others = [Offline(other, given.table) for other in given.workloads if other != text]
    known = experience(others)
    with Offline(text, given.table) as offline:
        space = (Bare if given.no_default else ScheduleSpace)(offline.parsed, offline.spec)
        for seed in range(given.seeds):
            start = warm_start(space, known, seed=seed)
            found |= search(offline, space, "model", seed, TRANSFER_TRIALS, start)
    return found


def judged(text: str, winners: Winners, given: argparse.Namespace) -> list[dict[str, object]]:
    """Winners timed again, by the best known: rows of strategy, trials, one figure a seed."""
    with Offline(text, given.table) as offline:
        default = ScheduleSpace(offline.parsed, offline.spec).default()
        before = best_known().get((text, offline.spec.cpu))
        good = sorted(offline.known.values(), key=lambda one: one.cost_s)[:KNOWN_BEST]
        named = {one.candidate for one in good} | {default}
        named |= {one for few in winners.values() for one in few}
        named |= {before.schedule} if before else set()
        seconds = offline.retimed(sorted(named))
        best = min(seconds, key=lambda one: seconds[one])
        rate = offline.parsed.operations / seconds[best] / 1e9
        if before is None or seconds[best] < BETTER * seconds[before.schedule]:
            day = datetime.datetime.now(datetime.UTC).date()
            how = f"{offline.found.get(best, 'by the default rules')}, {day}"
            keep_best(Known(text, offline.spec.cpu, best, round(rate, 1), how))
    rows: list[dict[str, object]] = [
        {"workload": text, "strategy": "default schedule", "trials": 1,
         "behind": [seconds[default] / seconds[best]]}
    ]  # fmt: skip
    for name, _, point in dict.fromkeys((name, 0, point) for name, _, point in winners):
        runs = [few for (n, _, p), few in winners.items() if (n, p) == (name, point)]
        behind = [min(seconds[one] for one in few) / seconds[best] for few in runs]
        rows.append({"workload": text, "strategy": name, "trials": point, "behind": behind})
    print(f"{text}: best known {rate:.1f} GFLOPS, {len(offline.known)} candidates measured")
    for row in rows:
        each = row["behind"]
        assert isinstance(each, list)
        runs_text = ", ".join(f"{one:.3f}" for one in each)
        words = f"{row['strategy']:16} {row['trials']:4} trials"
        print(f"  {words}: {statistics.mean(each):.3f} x its time ({runs_text})", flush=True)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", default="model")
    parser.add_argument("--no-transfer", action="store_true")
    parser.add_argument("--no-default", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began = time.monotonic()
    winners = {}
    for text in given.workloads:
        winners[text] = cold(text, given)
        print(f"{time.monotonic() - began:6.0f} s: {text} searched", flush=True)
    rows: list[dict[str, object]] = []
    for text in given.workloads:
        if not given.no_transfer and len(given.workloads) > 1:
            winners[text] |= warm(text, given)
        rows += judged(text, winners[text], given)
        if given.json:
            given.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, point in dict.fromkeys((row["strategy"], row["trials"]) for row in rows):
        means = [
            statistics.mean(row["behind"])  # type: ignore[call-overload]
            for row in rows
            if (row["strategy"], row["trials"]) == (name, point)
        ]
        print(f"all: {name:16} {point:4} trials: {statistics.mean(means):.3f}, {max(means):.3f}")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
