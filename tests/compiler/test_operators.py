"""Every operator in every type on random shapes against numpy, its buffers between guard pages.

A few of each on the processors that differ most; `make test-kernels` runs 200 of each on all that
can be run here. A failure names the workload and the schedule, `KERNELS_SEED=...` repeats them.
"""

import os
import random

import kernel_cases as cases
import kernel_machines as machines
import pytest
from kernel_campaign import Campaign
from tunefarm_compiler import targets
from tunefarm_compiler.operators import OPERATORS

SHAPES = int(os.environ.get("KERNELS_SHAPES", "200"))
FEW = {"local": 2, "rasp3b": 1, "rasp3b-32": 1, "wasm": 1}
TARGETS = (
    "local",
    "x86-64-v3",
    "x86-64-v2",
    "rasp3b",
    "rasp5",
    "rasp3b-32",
    "riscv64",
    "riscv64-v",
    "wasm",
)


@pytest.fixture(scope="module")
def campaign():
    with Campaign() as made:
        yield made


def right(campaign, target, name, dtype, count, seed, spaces=True):
    if lacking := machines.lacking(targets.resolve(target)):
        pytest.skip(lacking)
    calls, wrong = campaign.run(target, name, dtype, count, seed, spaces)
    assert calls >= count
    assert not wrong, "\n".join([f"KERNELS_SEED={seed}", *wrong])
    return calls


@pytest.mark.parametrize("target", FEW)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_few_shapes(campaign, target, name):
    seed = int(os.environ.get("KERNELS_SEED", "0"))
    searched = random.Random(f"{seed} {name}").choice(OPERATORS[name].dtypes)
    for dtype in OPERATORS[name].dtypes:
        spaces = (target, dtype) == ("local", searched)
        right(campaign, target, name, dtype, FEW[target], seed, spaces)


@pytest.mark.kernels
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "dtype"), cases.kinds())
def test_many_shapes(campaign, target, name, dtype):
    seed = int(os.environ.get("KERNELS_SEED", random.randrange(1 << 30)))
    calls = right(campaign, target, name, dtype, SHAPES, seed)
    print(f"{name} {dtype} {target}: {SHAPES} shapes, {calls} kernels, KERNELS_SEED={seed}")
