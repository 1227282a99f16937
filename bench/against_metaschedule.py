"""What 64 trials find, ours and TVM MetaSchedule's, timed again in turns on one core.

    .venv/bin/python bench/against_metaschedule.py --tvm PYTHON [--trials N] [--seeds N] [W ...]

PYTHON is one of an environment with apache-tvm (see `_metaschedule.py`). Each seed is searched by
both, on the same core with the same number of trials: ours by the model, told of nothing else, its
fastest five timed again as a tuning run does; theirs by tune_tir. Both winners are then timed in
turns, in processor time; the figure is the median over the turns of theirs by ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from _offline import Offline
from search_quality import search
from tunefarm_compiler import targets
from tunefarm_tuner.search import ScheduleSpace, WarmStart

HERE = Path(__file__).parent
WORKLOADS = ("matmul:m=1024,n=1024,k=1024", "conv2d:c=64,h=56,w=56,k=64,r=3,s=3,pad=1")
TURNS, SAMPLES = 9, 5


def theirs(python: str, text: str, trials: int, seed: int) -> "subprocess.Popen[str]":
    """A process that tunes, and then times its best whenever asked."""
    spec = targets.resolve("local")
    target = json.dumps({"kind": "llvm", "mcpu": spec.cpu, "num-cores": 1})
    words = ["tune", text, str(trials), str(seed + 1), target]
    return subprocess.Popen(
        [python, str(HERE / "_metaschedule.py"), *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "TVM_NUM_THREADS": "1"},
    )  # fmt: skip


def read(process: "subprocess.Popen[str]") -> object:
    """The next line of JSON, past what it logs."""
    assert process.stdout is not None
    for line in process.stdout:
        if line[0] in "{[" and not line.startswith("[20"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    raise SystemExit("TVM ended early")


def compared(python: str, text: str, trials: int, seed: int) -> float:
    """Their seconds by ours."""
    with tempfile.TemporaryDirectory() as folder, Offline(text, Path(folder)) as offline:
        space = ScheduleSpace(offline.parsed, offline.spec)
        began = time.monotonic()
        found = search(offline, space, "model", seed, trials, WarmStart())
        took = time.monotonic() - began
        few = dict.fromkeys(found["model", seed, trials])
        again = offline.retimed([*few])
        winner = min(again, key=lambda one: again[one])
        process = theirs(python, text, trials, seed)
        told = read(process)
        assert isinstance(told, dict) and process.stdin is not None
        rows = []
        for _ in range(TURNS):
            ours = offline.retimed([winner], SAMPLES)[winner]
            process.stdin.write("again\n")
            process.stdin.flush()
            samples = read(process)
            assert isinstance(samples, list)
            rows.append((ours, statistics.median(samples)))
        process.stdin.close()
        process.wait()
    rate = offline.parsed.operations / 1e9
    mine, other = (rate / statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(two / one for one, two in rows)
    print(
        f"  seed {seed}: ours {mine:.1f} GFLOPS in {took:.0f} s, theirs {other:.1f} in "
        f"{told['seconds']:.0f} s (recorded {rate / told['recorded_s']:.1f}): {ratio:.2f} x",
        flush=True,
    )
    return ratio


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tvm", required=True, metavar="PYTHON")
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="seed")
    given = parser.parse_args()
    for text in given.workloads:
        ratios = [
            compared(given.tvm, text, given.trials, seed)
            for seed in range(given.first, given.first + given.seeds)
        ]
        print(f"{text}: {statistics.mean(ratios):.2f} x MetaSchedule (1.15 asked for)", flush=True)


if __name__ == "__main__":
    main()
