"""Our kernels against numpy's OpenBLAS and, where it is installed, torch; and against the peak.

    .venv/bin/python bench/kernels.py [--json] [--rounds N] [--trials N] [--only WORD] [W ...]

One process on one core. The peak kernel, ours and the peers run in turns, so that what disturbs
the machine disturbs all of them; medians of the rounds, and of each round's own ratio. Time is the
thread's processor time, to which others on the core do not add. With --trials the best of so many
schedules of the tuner's space is taken, by a small evolution. Last, matmul on all cores beside one
of them, by `all_cores.py`.
"""

import argparse
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Before numpy starts the threads of its BLAS.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import all_cores
import numpy as np
from peak import aligned, timer
from tunefarm_compiler import Schedule, build, default_schedule, targets, workload
from tunefarm_compiler.peak import peak_bundle
from tunefarm_compiler.spaces import ScheduleRules
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload
from tunefarm_proto.errors import CompileError

try:
    import torch
except ImportError:
    torch = None

GROUPS: dict[str, list[str]] = {
    "matmul cubes": [f"matmul:m={n},n={n},k={n}" for n in (512, 1024, 2048)],
    "matmul primes": ["matmul:m=509,n=521,k=503"],
    "resnet-18": [
        "conv2d:c=3,h=224,w=224,k=64,r=7,s=7,stride=2,pad=3",
        "conv2d:c=64,h=56,w=56,k=64,r=3,s=3,pad=1",
        "conv2d:c=64,h=56,w=56,k=128,r=3,s=3,stride=2,pad=1",
        "conv2d:c=128,h=28,w=28,k=128,r=3,s=3,pad=1",
        "conv2d:c=128,h=28,w=28,k=256,r=3,s=3,stride=2,pad=1",
        "conv2d:c=256,h=14,w=14,k=256,r=3,s=3,pad=1",
        "conv2d:c=256,h=14,w=14,k=512,r=3,s=3,stride=2,pad=1",
        "conv2d:c=512,h=7,w=7,k=512,r=3,s=3,pad=1",
        "conv2d:c=64,h=56,w=56,k=128,r=1,s=1,stride=2",
        "conv2d:c=128,h=28,w=28,k=256,r=1,s=1,stride=2",
        "conv2d:c=256,h=14,w=14,k=512,r=1,s=1,stride=2",
    ],
    "mobilenet depthwise": [
        "depthwise_conv2d:c=32,h=112,w=112,r=3,s=3,pad=1",
        "depthwise_conv2d:c=96,h=112,w=112,r=3,s=3,stride=2,pad=1",
        "depthwise_conv2d:c=144,h=56,w=56,r=3,s=3,pad=1",
        "depthwise_conv2d:c=192,h=28,w=28,r=3,s=3,pad=1",
        "depthwise_conv2d:c=384,h=14,w=14,r=3,s=3,pad=1",
        "depthwise_conv2d:c=960,h=7,w=7,r=3,s=3,pad=1",
    ],
    "others": [
        "softmax:m=128,n=1000",
        "softmax:m=512,n=512",
        "layer_norm:m=128,n=768",
        "bias_act:m=128,n=3072,act=gelu",
        "max_pool2d:c=64,h=112,w=112,r=3,s=3,stride=2,pad=1",
    ],
    "types against our float32": [
        "matmul:m=1024,n=1024,k=1024,dtype=int8",
        "matmul:m=1024,n=1024,k=1024,dtype=float16",
        "matmul:m=1024,n=1024,k=1024,dtype=bfloat16",
        "bit_matmul:m=1024,n=1024,k=1024",
    ],
}
ALL_CORES = "matmul on all cores"
SAMPLE_S = 0.02
PEERS = ("numpy", "torch", "float32")
PARENTS, KEPT, FINAL_ROUNDS = 6, 8, 7


@dataclass
class Run:
    """A function timed in turns: seconds of one call."""

    sample: Callable[[], float]
    operations: int


def of_callable(call: Callable[[], Any]) -> Callable[[], float]:
    """Something that times one sample of a Python call; the call's own cost is in it."""
    call()
    started = time.thread_time()
    call()
    number = max(1, round(SAMPLE_S / max(time.thread_time() - started, 1e-7)))

    def sample() -> float:
        begun = time.thread_time()
        for _ in range(number):
            call()
        return (time.thread_time() - begun) / number

    return sample


def window(fields: dict[str, Any]) -> list[tuple[int, int]]:
    """Strides, paddings and dilations as torch takes them."""
    pairs = (("stride", "stride_w"), ("pad", "pad_left"), ("dilation", "dilation_w"))
    return [(fields[one], fields[other]) for one, other in pairs]


def torch_call(parsed: Workload, inputs: list[Any]) -> Callable[[], Any] | None:
    """The same work by torch, in the layout that suits it; None where it knows none."""
    if torch is None or parsed.dtype not in ("float32", "int8"):
        return None
    if {"pad_bottom", "pad_right"} & parsed.given.keys():
        return None
    given = [torch.from_numpy(data) for data in inputs]
    fields, functional = dict(parsed.sizes), torch.nn.functional
    if parsed.name == "matmul":
        if parsed.dtype == "int8":
            return lambda: torch._int_mm(given[0], given[1])
        out = torch.empty(fields["m"], fields["n"])
        return lambda: torch.matmul(given[0], given[1], out=out)
    if parsed.name in ("conv2d", "depthwise_conv2d"):
        a = given[0].permute(0, 3, 1, 2)  # channels last in memory
        if parsed.name == "conv2d":
            w, groups = given[1].permute(3, 2, 0, 1), fields["groups"]
        else:
            w, groups = given[1].permute(2, 0, 1).unsqueeze(1), fields["c"]
        w = w.contiguous(memory_format=torch.channels_last)
        stride, pad, dilation = window(fields)
        return lambda: functional.conv2d(a, w, None, stride, pad, dilation, groups)
    if parsed.name == "max_pool2d":
        a, size = given[0].permute(0, 3, 1, 2), (fields["r"], fields["s"])
        return lambda: functional.max_pool2d(a, size, *window(fields))
    if parsed.name == "softmax":
        return lambda: torch.softmax(given[0], 1)
    if parsed.name == "layer_norm":
        return lambda: functional.layer_norm(given[0], (fields["n"],), given[1], given[2])
    if parsed.name == "bias_act":
        return lambda: functional.gelu(given[0] + given[1])
    return None


def ours(parsed: Workload, spec: TargetSpec, schedule: Schedule, arrays: list[Any]) -> Any:
    """A timer of our kernel, once its answer has been checked."""
    inputs, expected = arrays
    outputs = [aligned(np.full_like(data, 77)) for data in expected]
    run = timer(build(parsed, spec, schedule), [*inputs, *outputs], time.thread_time)
    if not parsed.check(outputs, expected):
        raise SystemExit(f"{parsed}: wrong answer by {schedule.to_json()}")
    return run, outputs


def best(parsed: Workload, spec: TargetSpec, trials: int, arrays: list[Any]) -> Schedule:
    """The fastest of some schedules: the default, others, then neighbours of the best so far."""
    rules, rng = ScheduleRules(parsed, spec), random.Random(0)
    kept: dict[Schedule, tuple[Callable[[], float], Any]] = {}
    costs: dict[Schedule, float] = {}
    for number in range(trials):
        few = sorted(kept, key=costs.__getitem__)[:PARENTS]
        made = rules.default
        if number:
            near = rng.random() < 0.4 + 0.5 * number / trials
            made = rules.mutate(rng.choice(few), rng) if near else rules.sample(rng)
        if made in costs:
            continue
        costs[made] = math.inf
        try:
            run, outputs = ours(parsed, spec, made, arrays)
        except CompileError:
            continue
        costs[made] = run()
        if not few or costs[made] < 1.2 * costs[few[0]]:
            costs[made] = min(costs[made], run(), run())
            kept[made] = run, outputs
        for slow in sorted(kept, key=costs.__getitem__)[KEPT:]:
            del kept[slow]
    taken = [[run() for run, _ in kept.values()] for _ in range(FINAL_ROUNDS)]
    medians = [statistics.median(column) for column in zip(*taken, strict=True)]
    return [*kept][medians.index(min(medians))]


def measure(text: str, spec: TargetSpec, rounds: int, trials: int) -> dict[str, Any]:
    """One workload against peak and peers."""
    parsed = workload.parse(text)
    inputs = [aligned(data) for data in parsed.inputs(0)]
    arrays = [inputs, parsed.reference(inputs)]
    schedule = default_schedule(parsed, spec)
    if trials > 1:
        schedule = best(parsed, spec, trials, arrays)
    peak = peak_bundle(spec)
    halves, out = np.full(2, 0.5, np.float32), np.zeros(spec.lanes, np.float32)
    run, kept = ours(parsed, spec, schedule, arrays)
    runs = {
        "peak": Run(
            timer(peak, [halves, out], time.thread_time), peak.manifest.functions[0].operations
        ),
        "ours": Run(run, parsed.operations),
    }
    if parsed.dtype != "float32":
        sizes = ",".join(f"{name}={dict(parsed.sizes)[name]}" for name in "mnk")
        wide = workload.parse(f"matmul:{sizes}")
        given = [aligned(data) for data in wide.inputs(0)]
        arrays += [given, wide.reference(given)]
        timed, _ = ours(wide, spec, default_schedule(wide, spec), arrays[2:])
        runs["float32"] = Run(timed, wide.operations)
    elif parsed.name == "matmul":
        c = aligned(np.zeros_like(kept[0]))
        numpy_call = lambda: np.matmul(inputs[0], inputs[1], out=c)  # noqa: E731
        runs["numpy"] = Run(of_callable(numpy_call), parsed.operations)
    if call := torch_call(parsed, inputs):
        np.testing.assert_allclose(_plain(call(), parsed), arrays[1][0], rtol=1e-3, atol=1e-2)
        runs["torch"] = Run(of_callable(call), parsed.operations)
    taken = [{name: one.sample() for name, one in runs.items()} for _ in range(rounds)]
    seconds = {name: statistics.median(r[name] for r in taken) for name in runs}
    flops = {name: one.operations for name, one in runs.items()}
    row: dict[str, Any] = {
        "workload": text,
        "schedule": schedule.to_json(),
        "seconds": seconds,
        "gflops": parsed.operations / seconds["ours"] / 1e9,
        "of_peak": statistics.median(
            (flops["ours"] / r["ours"]) / (flops["peak"] / r["peak"]) for r in taken
        ),
    }
    for peer in PEERS:
        if peer in runs:
            row[f"times_{peer}"] = statistics.median(r[peer] / r["ours"] for r in taken)
    return row


def _plain(result: Any, parsed: Workload) -> Any:
    return (result.permute(0, 2, 3, 1) if result.dim() == 4 else result).numpy()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--only", default="", help="groups whose name holds this word")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    if torch is None:
        print("torch is not installed: not compared")
    else:
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
    spec = targets.resolve("local")
    groups = {"given": given.workloads} if given.workloads else GROUPS
    report: dict[str, list[dict[str, Any]]] = {}
    for group, texts in groups.items():
        if given.only not in group:
            continue
        report[group] = []
        for text in texts:
            row = measure(text, spec, given.rounds, given.trials)
            report[group].append(row)
            if not given.json:
                _print(row)
        ratios = [row["times_torch"] for row in report[group] if "times_torch" in row]
        if ratios and not given.json:
            mean = math.exp(statistics.fmean(map(math.log, ratios)))
            print(f"{group}: {mean:.2f} x torch in the geometric mean, {min(ratios):.2f} at least")
    if given.only in ALL_CORES and not given.workloads:
        texts = GROUPS["matmul cubes"]
        report[ALL_CORES] = [all_cores.measure(text, cores, given.rounds) for text in texts]
        if not given.json:
            print(*map(all_cores.spelled, report[ALL_CORES]), sep="\n")
    if given.json:
        print(json.dumps({"target": f"{spec.triple} {spec.cpu}", "groups": report}, indent=2))


def _print(row: dict[str, Any]) -> None:
    peers = "".join(
        f"  {row[f'times_{peer}']:5.2f} x {peer}" for peer in PEERS if f"times_{peer}" in row
    )
    print(
        f"{row['workload']:62} {1e3 * row['seconds']['ours']:9.3f} ms {row['gflops']:7.1f} GFLOPS "
        f"{100 * row['of_peak']:5.1f}% of peak{peers}",
        flush=True,
    )


if __name__ == "__main__":
    main()
