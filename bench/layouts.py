"""Channels last, channels first, and channels in blocks (NCHWc): transforms counted.

    .venv/bin/python bench/layouts.py [--json] [--rounds N] [--block N]

ResNet-18 layers and chains of four of them on one core, all in turns, medians of the rounds. What
comes and goes is channels first (NCHW), as most frameworks have it: `last` and `blocks` are the
convolutions alone in their own layouts, `... from NCHW` with the transforms before and after. In a
chain each layer reads what the one before it wrote, and only its ends are transformed. Weights are
laid out once for all calls, so their layout is not counted.
"""

import argparse
import ctypes
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from peak import aligned, load
from tunefarm_compiler import build, targets, workload
from tunefarm_compiler.targets import TargetSpec

LAYERS = (
    "c=64,h=56,w=56,k=64,r=3,s=3,pad=1",
    "c=64,h=56,w=56,k=128,r=3,s=3,stride=2,pad=1",
    "c=128,h=28,w=28,k=128,r=3,s=3,pad=1",
    "c=128,h=28,w=28,k=256,r=3,s=3,stride=2,pad=1",
    "c=256,h=14,w=14,k=256,r=3,s=3,pad=1",
    "c=256,h=14,w=14,k=512,r=3,s=3,stride=2,pad=1",
    "c=512,h=7,w=7,k=512,r=3,s=3,pad=1",
    "c=64,h=56,w=56,k=128,r=1,s=1,stride=2",
    "c=128,h=28,w=28,k=256,r=1,s=1,stride=2",
    "c=256,h=14,w=14,k=512,r=1,s=1,stride=2",
)
CHAINED = (0, 2, 4, 6)  # layers whose output has the shape of their input
CHAIN = 4
SAMPLE_S = 0.02


@dataclass
class Step:
    """A kernel with its arrays; the first is the input, the last the output."""

    text: str
    arrays: list[Any]
    call: Callable[[], Any]
    kept: Any


class Kernels:
    """Builds kernels and binds them to arrays."""

    def __init__(self, spec: TargetSpec) -> None:
        self.spec = spec
        self._built: dict[str, Any] = {}

    def step(self, text: str, source: Any = None) -> Step:
        """The workload's kernel, reading `source` where it is given."""
        parsed = workload.parse(text)
        if text not in self._built:
            self._built[text] = load(build(parsed, self.spec, tuned=False))
        library = self._built[text]
        inputs = [aligned(data) for data in parsed.inputs(0)]
        if source is not None:
            inputs[0] = source.reshape(inputs[0].shape)
        else:
            self._check(parsed, library, inputs)
        arrays = [*inputs, *(aligned(np.zeros_like(o)) for o in parsed.reference(inputs))]
        function, arguments = library[parsed.function], _pointers(arrays)
        return Step(text, arrays, lambda: function(arguments), arguments)

    @staticmethod
    def _check(parsed: workload.Workload, library: Any, inputs: list[Any]) -> None:
        expected = parsed.reference(inputs)
        outputs = [np.zeros_like(one) for one in expected]
        library[parsed.function](_pointers([*inputs, *outputs]))
        if not parsed.check(outputs, expected):
            raise SystemExit(f"{parsed}: wrong answer")

    def chain(self, texts: list[str]) -> list[Step]:
        """Kernels of which each reads what the one before it wrote."""
        steps: list[Step] = []
        for text in texts:
            steps.append(self.step(text, steps[-1].arrays[-1] if steps else None))
        return steps


def _pointers(arrays: list[Any]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def timed(steps: list[Step]) -> Callable[[], float]:
    """Something that times one sample of them in their order."""

    def run(number: int) -> float:
        begun = time.thread_time()
        for _ in range(number):
            for step in steps:
                step.call()
        return (time.thread_time() - begun) / number

    run(1)
    number = max(1, round(SAMPLE_S / run(2)))
    return lambda: run(number)


def texts(layer: str, block: int, length: int) -> dict[str, list[str]]:
    """What is run in each layout."""
    sizes = dict(workload.parse(f"conv2d:{layer}").sizes)
    c, h, w, k = (sizes[name] for name in "chwk")
    parsed = workload.parse(f"conv2d:{layer}")
    _, y, x, _ = parsed.output.shape if len(parsed.output.shape) == 4 else parsed.output.view
    last = [f"conv2d:{layer}"] * length
    blocks = [f"conv2d_nchwc:{layer},block={block}"] * length
    return {
        "first": [f"conv2d:{layer},layout=nchw"] * length,
        "last": last,
        "blocks": blocks,
        "last from NCHW": [f"transpose:m={c},n={h * w}", *last, f"transpose:m={y * x},n={k}"],
        "blocks from NCHW": [
            f"to_nchwc:c={c},h={h},w={w},block={block}",
            *blocks,
            f"from_nchwc:c={k},h={y},w={x},block={block}",
        ],
    }


def measure(kernels: Kernels, layer: str, block: int, length: int, rounds: int) -> dict[str, Any]:
    """Seconds of a layer, or of a chain of them, in each layout."""
    steps = {name: kernels.chain(each) for name, each in texts(layer, block, length).items()}
    runs = {name: timed(each) for name, each in steps.items()}
    taken = [{name: run() for name, run in runs.items()} for _ in range(rounds)]
    return {
        "layer": layer,
        "layers": length,
        "seconds": {name: statistics.median(r[name] for r in taken) for name in runs},
        "times_last": {
            name: statistics.median(r["last"] / r[name] for r in taken) for name in runs
        },
        "blocks_to_last_from_nchw": statistics.median(
            r["last from NCHW"] / r["blocks from NCHW"] for r in taken
        ),
    }


def _print(row: dict[str, Any]) -> None:
    each = "  ".join(
        f"{name} {1e3 * seconds:6.3f} ms ({row['times_last'][name]:.2f} x)"
        for name, seconds in row["seconds"].items()
    )
    many = f"{row['layers']} x " if row["layers"] > 1 else ""
    print(f"{many + row['layer']:50} {each}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    kernels = Kernels(targets.resolve("local"))
    wanted = [(layer, 1) for layer in LAYERS] + [(LAYERS[n], CHAIN) for n in CHAINED]
    rows = []
    for layer, length in wanted:
        rows.append(measure(kernels, layer, given.block, length, given.rounds))
        if not given.json:
            _print(rows[-1])
    if given.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
