"""A kernel on all cores of this machine, beside as many of one thread as there are cores.

    .venv/bin/python bench/all_cores.py [--json] [--rounds N] [--threads N] [WORKLOAD ...]

In turns: one thread alone; one thread in a process on each core at once, so that what the cores
share (clock, caches, memory, the two halves of a core that look like two) is seen; and one kernel
on all of them. Two ratios of rates: to cores x one core alone, and to the sum of all at once.
"""

import argparse
import ctypes
import json
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import multiprocessing

import numpy as np
from peak import aligned, load
from tunefarm_compiler import Schedule, build, default_schedule, targets, workload
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload

WORKLOADS = tuple(f"matmul:m={n},n={n},k={n}" for n in (512, 1024, 2048))
WINDOW_S = 0.06


def calls(
    parsed: Workload, spec: TargetSpec, schedule: Schedule, cores: list[int]
) -> Callable[[float], float]:
    """Something that calls the kernel for so many seconds; calls in a second. Checked once."""
    inputs = [aligned(data) for data in parsed.inputs(0)]
    expected = parsed.reference(inputs)
    outputs = [aligned(np.full_like(data, 77)) for data in expected]
    arrays = [*inputs, *outputs]
    library = load(build(parsed, spec, schedule))
    if schedule.threads > 1:
        told = (ctypes.c_int32 * 65).in_dll(library, "tunefarm_cores")
        told[: 1 + len(cores)] = [len(cores), *(core + 1 for core in cores)]
    kernel = ctypes.cast(library[parsed.function], ctypes.c_void_p)
    repeat = library.tunefarm_repeat
    repeat.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    arguments = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    if repeat(kernel, arguments, 1) or not parsed.check(outputs, expected):
        raise SystemExit(f"{parsed}: wrong answer by {schedule.to_json()}")

    def rate(seconds: float) -> float:
        done, begun = 0, time.perf_counter()
        while (spent := time.perf_counter() - begun) < seconds:
            repeat(kernel, arguments, 1)
            done += 1
        return done / spent if arrays else 0.0

    return rate


def work(text: str, core: int, orders: Connection) -> None:
    """A process on one core: at each order, call the kernel with one thread; tell the rate."""
    os.sched_setaffinity(0, {core})
    parsed, spec = workload.parse(text), targets.resolve("local")
    rate = calls(parsed, spec, default_schedule(parsed, spec), [])
    orders.send(0.0)
    while (begin := orders.recv()) is not None:
        while time.monotonic() < begin:
            pass
        orders.send(rate(WINDOW_S))


def measure(text: str, cores: list[int], rounds: int) -> dict[str, Any]:
    """One workload; rates are of operations, in billions a second."""
    spec, parsed, count = targets.resolve("local"), workload.parse(text), len(cores)
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in cores]
    others = [
        spawn.Process(target=work, args=(text, core, far), daemon=True)
        for core, (_, far) in zip(cores, pipes, strict=True)
    ]
    for other in others:
        other.start()
    for near, _ in pipes:
        near.recv()
    os.sched_setaffinity(0, {cores[0]})
    schedule = default_schedule(parsed, spec, count)
    threaded = calls(parsed, spec, schedule, cores)

    def asked(near: list[Connection]) -> float:
        begin = time.monotonic() + 0.005
        for one in near:
            one.send(begin)
        return sum(one.recv() for one in near)

    taken = []
    near = [pipe for pipe, _ in pipes]
    for turn in range(rounds):
        taken.append((asked([near[turn % count]]), asked(near), threaded(WINDOW_S)))
    for one in near:
        one.send(None)
    alone, at_once, shared = (statistics.median(column) for column in zip(*taken, strict=True))
    scale = parsed.operations / 1e9
    return {
        "workload": text,
        "threads": count,
        "schedule": schedule.to_json(),
        "one_alone": alone * scale,
        "one_of_all": at_once * scale / count,
        "all": shared * scale,
        "of_cores_alone": statistics.median(s / (count * a) for a, _, s in taken),
        "of_all_at_once": statistics.median(s / b for _, b, s in taken),
        "best_of_all_at_once": max(s for _, _, s in taken) / max(b for _, b, _ in taken),
    }


def spelled(row: dict[str, Any]) -> str:
    """A row in a line."""
    return (
        f"{row['workload']:32} one core {row['one_alone']:6.1f} GFLOPS alone, "
        f"{row['one_of_all']:6.1f} with all at once; {row['threads']} threads "
        f"{row['all']:6.1f}: {100 * row['of_cores_alone']:5.1f}% of {row['threads']} x alone, "
        f"{100 * row['of_all_at_once']:5.1f}% of all at once "
        f"(best rounds {100 * row['best_of_all_at_once']:.1f}%)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="default: one for each processor")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[: given.threads or len(cores)]
    report = [measure(text, cores, given.rounds) for text in given.workloads]
    if given.json:
        print(json.dumps(report, indent=2))
        return
    print(*map(spelled, report), sep="\n")


if __name__ == "__main__":
    main()
