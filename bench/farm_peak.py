"""How much of a device's measured peak the default schedules reach, through the farm.

    .venv/bin/python bench/farm_peak.py --device local [--tracker HOST:PORT] [--rounds N] [--json]

In one lease: the peak kernel and each workload are timed in turns; medians of each round's ratio.
Every answer is checked against numpy first.
"""

import argparse
import json
import statistics

import numpy as np
from tunefarm import request_device
from tunefarm_compiler import build, targets, workload
from tunefarm_compiler.peak import peak_bundle

WORKLOADS = ("matmul:m=512,n=512,k=512",)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--device", required=True)
    parser.add_argument("--tracker")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with request_device(given.device, tracker=given.tracker, timeout=60) as device:
        spec = targets.from_device(device.target)
        peak = device.load(peak_bundle(spec))
        arrays = [device.array(np.full(2, 0.5, np.float32)), device.empty(spec.lanes)]
        operations = peak.manifest.functions[0].operations
        runs = {"peak": (peak.time_evaluator("peak", repeat=3), arrays, operations)}
        for text in given.workloads:
            parsed = workload.parse(text)
            module, inputs = device.load(build(parsed, spec, tuned=False)), parsed.inputs(0)
            expected = parsed.reference(inputs)
            arrays = [*map(device.array, inputs), *(device.empty(x.shape) for x in expected)]
            module[parsed.function](*arrays)
            if not parsed.check([arrays[-1].numpy()], expected):
                raise SystemExit(f"{text}: wrong answer")
            evaluate = module.time_evaluator(parsed.function, repeat=3)
            runs[text] = (evaluate, arrays, parsed.operations)
        rounds = [
            {name: ops / run(*args).median / 1e9 for name, (run, args, ops) in runs.items()}
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
            print(json.dumps({"device": device.id, "emulated": device.emulated, **report}))
            return
        print(f"{device!r}, {given.rounds} rounds")
        for name, row in report.items():
            print(f"{name:42} {row['gflops']:8.1f} GFLOPS {100 * row['of_peak']:6.1f}% of peak")


if __name__ == "__main__":
    main()
