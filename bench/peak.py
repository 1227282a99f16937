"""This core's float32 peak, and how much of it the default schedules reach.

    .venv/bin/python bench/peak.py [--json] [--rounds N] [WORKLOAD ...]

One process on one core; the peak kernel and the workloads run in turns, so that what disturbs the
machine disturbs all of them; medians of the rounds, and of each round's own ratio.
"""

import argparse
import ctypes
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

# Before numpy starts the threads of its BLAS.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from tunefarm_compiler import build, targets, workload
from tunefarm_compiler.peak import peak_bundle
from tunefarm_proto.bundle import Bundle

WORKLOADS = ("matmul:m=512,n=512,k=512", "matmul:m=1024,n=1024,k=1024", "matmul:m=509,n=521,k=503")
SAMPLE_S = 0.02
LINE = 64


def aligned(data: Any) -> Any:
    """A copy that begins where a cache line does, as a device's and torch's arrays do.

    numpy's large ones begin 16 bytes behind, so that each wide vector lies in two lines.
    """
    room = np.empty(data.nbytes + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    copy = room[start : start + data.nbytes].view(data.dtype).reshape(data.shape)
    copy[...] = data
    return copy


def load(bundle: Bundle) -> ctypes.CDLL:
    """The bundle's first library, in this process."""
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(bundle.library(bundle.manifest.libraries[0]))
        file.flush()
        return ctypes.CDLL(file.name)


def timer(
    bundle: Bundle, arrays: list[Any], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """Something that times one sample of the bundle's function; seconds of one call."""
    library, signature = load(bundle), bundle.manifest.functions[0]
    kernel = ctypes.cast(library[signature.name], ctypes.c_void_p)
    repeat = library.tunefarm_repeat
    repeat.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    arguments = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))

    def sample(number: int) -> float:
        started = clock()
        if repeat(kernel, arguments, number) != 0:
            raise RuntimeError(f"{signature.name} failed")
        return (clock() - started) / number

    slow = sample(1) > SAMPLE_S
    number = 1 if slow else max(1, round(SAMPLE_S / sample(3)))
    return lambda: sample(number)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    spec = targets.resolve("local")
    peak = peak_bundle(spec)
    halves, out = np.full(2, 0.5, np.float32), np.zeros(spec.lanes, np.float32)
    runs = {"peak": (timer(peak, [halves, out]), peak.manifest.functions[0].operations)}
    kept: list[Any] = [halves, out]
    for text in given.workloads:
        parsed = workload.parse(text)
        inputs = [aligned(data) for data in parsed.inputs(0)]
        expected = parsed.reference(inputs)
        outputs = [aligned(np.zeros_like(data)) for data in expected]
        run = timer(build(parsed, spec, tuned=False), [*inputs, *outputs])
        if not parsed.check(outputs, expected):
            raise SystemExit(f"{text}: wrong answer")
        runs[text] = (run, parsed.operations)
        kept += [*inputs, *outputs]
        if parsed.name == "matmul":
            a, b = inputs
            c = np.zeros_like(expected[0])
            runs[f"numpy {text}"] = (_numpy_timer(a, b, c), parsed.operations)
    rounds = [
        {name: operations / run() / 1e9 for name, (run, operations) in runs.items()}
        for _ in range(given.rounds)
    ]
    report = {
        name: {
            "gflops": statistics.median(r[name] for r in rounds),
            "of_peak": statistics.median(r[name] / r["peak"] for r in rounds),
        }
        for name in runs
    }
    if given.json:
        print(json.dumps({"target": f"{spec.triple} {spec.cpu}", "results": report}, indent=2))
        return
    print(f"{spec.triple} {spec.cpu}, one core, {given.rounds} rounds")
    for name, row in report.items():
        print(f"{name:42} {row['gflops']:8.1f} GFLOPS {100 * row['of_peak']:6.1f}% of peak")


def _numpy_timer(a: Any, b: Any, c: Any) -> Callable[[], float]:
    def sample() -> float:
        started = time.perf_counter()
        np.matmul(a, b, out=c)
        return time.perf_counter() - started

    sample()
    return lambda: statistics.median(sample() for _ in range(5))


if __name__ == "__main__":
    main()
