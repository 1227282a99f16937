"""How near strategies come to the best schedule that is known, without a farm.

    .venv/bin/python bench/search_quality.py --table DIR [--trials N] [--seeds N] [--strategies A,B]
        [--transfer] [--no-default] [W ...]

Every candidate is measured once (see `_offline.py`) and kept in DIR, which runs share: the best
known schedule is the fastest in it when the run ends. What a search has as its fastest few after so
many trials is timed again in turns with the best known ones, as a tuning run does before it names a
winner; figures are the winner's seconds by the best's, means over the seeds. With --transfer each
search is told of the tables of the other workloads given; with --no-default searches are not given
the default schedule as their first trial.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from _offline import Offline
from tunefarm_tuner.search import Experience, ScheduleSpace, WarmStart, strategy, warm_start

WORKLOADS = (
    "matmul:m=1024,n=1024,k=1024",
    "conv2d:c=64,h=56,w=56,k=64,r=3,s=3,pad=1",
    "conv2d:c=64,h=56,w=56,k=128,r=3,s=3,stride=2,pad=1",
    "conv2d:c=128,h=28,w=28,k=128,r=3,s=3,pad=1",
    "conv2d:c=256,h=14,w=14,k=256,r=3,s=3,pad=1",
    "conv2d:c=256,h=14,w=14,k=512,r=3,s=3,stride=2,pad=1",
    "conv2d:c=512,h=7,w=7,k=512,r=3,s=3,pad=1",
    "conv2d:c=256,h=14,w=14,k=512,r=1,s=1,stride=2",
)
POINTS = (16, 64, 256)
BATCH = 16
FINALISTS = 3
KNOWN_BEST = 12  # fastest ones of the table that are timed again


class Bare(ScheduleSpace):
    """A space whose default is not known."""

    def default(self) -> str | None:  # type: ignore[override]
        """None."""
        return None


def search(
    offline: Offline, space: ScheduleSpace, name: str, seed: int, trials: int, start: WarmStart
) -> dict[int, list[str]]:
    """The fastest few after each number of trials."""
    walker = strategy(name, space, seed, start)
    winners, best, done = dict[int, list[str]](), list[tuple[float, str]](), 0
    while done < trials:
        batch = walker.propose(min(BATCH, trials - done))
        if not batch:
            break
        results = offline.measure(batch)
        walker.observe(results)
        for one in results:
            done += 1
            best = sorted([*best, (one.cost_s, one.candidate)])[:FINALISTS]
            if done in POINTS:
                winners[done] = [candidate for _, candidate in best]
    return winners


def experience(others: Sequence[Offline]) -> list[Experience]:
    """What the tables of other workloads hold."""
    return [
        Experience(other.parsed, other.spec, one.candidate, one.cost_s)
        for other in others
        for one in other.known.values()
    ]


def measure(text: str, others: Sequence[str], given: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of one workload: strategy, trials, winner's seconds by the best's for each seed."""
    start = WarmStart()
    with Offline(text, given.table) as offline:
        kind = Bare if given.no_default else ScheduleSpace
        space = kind(offline.parsed, offline.spec)
        if given.transfer:
            tables = [Offline(other, given.table) for other in others if other != text]
            start = warm_start(space, experience(tables))
        winners = {
            (name, seed): search(offline, space, name, seed, given.trials, start)
            for name in given.strategies.split(",")
            for seed in range(given.seeds)
        }
        good = sorted(offline.known.values(), key=lambda one: one.cost_s)[:KNOWN_BEST]
        named = {one.candidate for one in good} | {ScheduleSpace.default(space)}
        named |= {one for run in winners.values() for few in run.values() for one in few}
        seconds = offline.retimed(sorted(named))
    best = min(seconds.values())
    rows: list[dict[str, object]] = [
        {"workload": text, "strategy": "default schedule", "trials": 1,
         "behind": [seconds[ScheduleSpace.default(space)] / best]}
    ]  # fmt: skip
    for name in given.strategies.split(","):
        for point in POINTS:
            runs = [winners[name, seed] for seed in range(given.seeds)]
            behind = [
                min(seconds[one] for one in run[point]) / best for run in runs if point in run
            ]
            if behind:
                rows.append({"workload": text, "strategy": name, "trials": point, "behind": behind})
    print(f"{text}: best known {offline.parsed.operations / best / 1e9:.1f} GFLOPS")
    for row in rows:
        each = row["behind"]
        assert isinstance(each, list)
        runs = ", ".join(f"{one:.3f}" for one in each)
        mean = statistics.mean(each)
        print(f"  {row['strategy']:16} {row['trials']:4} trials: {mean:.3f} x its time ({runs})")
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", default="random,evolution,model")
    parser.add_argument("--transfer", action="store_true")
    parser.add_argument("--no-default", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [row for text in given.workloads for row in measure(text, given.workloads, given)]
    if given.json:
        given.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("default schedule", *given.strategies.split(",")):
        for point in (1, *POINTS):
            means = [
                statistics.mean(row["behind"])  # type: ignore[call-overload]
                for row in rows
                if (row["strategy"], row["trials"]) == (name, point)
            ]
            if means:
                print(f"all: {name:16} {point:4} trials: {statistics.mean(means):.3f}")


if __name__ == "__main__":
    main()
