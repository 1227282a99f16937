"""What it costs to build a candidate, on one core and on several.

    .venv/bin/python bench/candidates.py [--json] [--candidates N] [--workers N] [WORKLOAD ...]

CPU time of candidates of the tuner's space, drawn by a fixed seed, built in one process on one
core: to draw one, the whole and its parts; and how much faster a pool of workers builds them than
one worker, beside what the pool's own process takes for each.
What the machine gives to so many processes at all is measured beside it, by a loop that counts.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from tunefarm_compiler import Kernel, Schedule, default_schedule, targets, workload
from tunefarm_compiler.building import job
from tunefarm_compiler.codegen import emit_object, lowered, timing_loop
from tunefarm_compiler.linker import link
from tunefarm_compiler.pool import BuildPool
from tunefarm_compiler.spaces import ScheduleRules
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload
from tunefarm_proto.errors import CompileError

WORKLOADS = (
    "matmul:m=512,n=512,k=512",
    "matmul:m=1024,n=1024,k=1024",
    "matmul:m=509,n=521,k=503",
    "conv2d:c=64,h=56,w=56,k=64,r=3,s=3,pad=1",
    "conv2d:c=128,h=28,w=28,k=128,r=3,s=3,pad=1",
    "conv2d:c=256,h=14,w=14,k=256,r=3,s=3,pad=1",
    "conv2d:c=512,h=7,w=7,k=512,r=3,s=3,pad=1",
    "conv2d:c=256,h=14,w=14,k=512,r=1,s=1,stride=2",
    "conv2d:c=3,h=224,w=224,k=64,r=7,s=7,stride=2,pad=3",
)
PARTS = ("default", "candidate", "lower", "llvm", "link")
COUNTING = (
    "import time; t=time.perf_counter(); n=6_000_000\nwhile n: n -= 1\nprint(time.perf_counter()-t)"
)


def cpu_s() -> float:
    """CPU time of this process and of those that it waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of CPU time, and what came of it."""
    started = cpu_s()
    made = work()
    return cpu_s() - started, made


def costs(parsed: Workload, spec: TargetSpec, schedules: Sequence[Schedule]) -> dict[str, float]:
    """Medians over the candidates, in seconds; `candidate` is the whole, bundle and all."""
    first = default_schedule(parsed, spec)
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    for schedule in schedules:
        try:
            whole, _ = timed(job([Kernel(parsed, schedule)], spec).run)
        except CompileError:
            continue
        taken["candidate"].append(whole)
        seconds, text = timed(lambda s=schedule: lowered(parsed, spec, s))
        taken["lower"].append(seconds)
        seconds, made = timed(lambda t=text: emit_object(t, spec))
        taken["llvm"].append(seconds)
        seconds, _ = timed(lambda o=made: link([timing_loop(spec), o], spec))
        taken["link"].append(seconds)
        taken["default"].append(timed(job([Kernel(parsed, first)], spec).run)[0])
    return {part: statistics.median(found) for part, found in taken.items()}


def drawing(rules: ScheduleRules, count: int) -> tuple[float, list[Schedule]]:
    """Median of the seconds that it takes to draw one by chance, and what was drawn."""
    rng = random.Random(0)
    rules.sample(random.Random(1))  # what is made once
    taken, made = zip(*(timed(lambda: rules.sample(rng)) for _ in range(count)), strict=True)
    return statistics.median(taken), list(made)


def rate(
    texts: Sequence[str], spec: TargetSpec, drawn: list[list[Schedule]], workers: int
) -> tuple[float, float]:
    """Candidates a second by a pool, once its workers are warm; CPU seconds of this process."""
    with BuildPool(workers=workers) as pool:
        for future in [pool.submit(texts[0], spec, tuned=False) for _ in range(8 * workers)]:
            future.result()
        started, before = time.perf_counter(), time.process_time()
        futures = [
            pool.submit(text, spec, schedule)
            for text, schedules in zip(texts, drawn, strict=True)
            for schedule in schedules
        ]
        for future in futures:
            future.exception()
        own = (time.process_time() - before) / len(futures)
        return len(futures) / (time.perf_counter() - started), own


def machine(processes: int) -> float:
    """How many times the work of one process so many give that only count, each on its own."""

    def seconds(number: int) -> float:
        command = [sys.executable, "-c", COUNTING]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(number)]
        return statistics.fmean(float(one.communicate()[0]) for one in running)

    return processes * seconds(1) / seconds(processes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--target", default="local")
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    spec = targets.resolve(given.target)
    allowed = os.sched_getaffinity(0)
    rows: dict[str, dict[str, float]] = {}
    drawn = []
    os.sched_setaffinity(0, {max(allowed)})
    for text in given.workloads:
        parsed = workload.parse(text)
        taken, made = drawing(ScheduleRules(parsed, spec), given.candidates)
        drawn.append(made)
        rows[text] = {"draw": taken, **costs(parsed, spec, made)}
        if not given.json:
            parts = "  ".join(f"{part} {1e3 * s:5.1f}" for part, s in rows[text].items())
            print(f"{text:54} ms of CPU: {parts}", flush=True)
    os.sched_setaffinity(0, allowed)
    pairs = []
    for _ in range(given.rounds):
        one, own = rate(given.workloads, spec, drawn, 1)
        many, _ = rate(given.workloads, spec, drawn, given.workers)
        pairs.append((one, many, machine(given.workers), own))
    one, many, limit, own = (statistics.median(column) for column in zip(*pairs, strict=True))
    gain = statistics.median(b / a for a, b, *_ in pairs)
    if given.json:
        print(
            json.dumps(
                {
                    "costs_s": rows,
                    "rate_1": one,
                    "rate_many": many,
                    "gain": gain,
                    "workers": given.workers,
                    "machine": limit,
                    "pool_s": own,
                },
                indent=2,
            )
        )
        return
    whole = statistics.median(row["candidate"] for row in rows.values())
    print(f"median of the workloads: {1e3 * whole:.1f} ms a candidate")
    print(
        f"{one:.0f} candidates a second by one worker, {many:.0f} by {given.workers}: "
        f"{gain:.2f} x; {given.workers} processes that only count do {limit:.2f} x the work of one"
    )
    print(f"the pool's own process takes {1e3 * own:.2f} ms of CPU a candidate")


if __name__ == "__main__":
    main()
