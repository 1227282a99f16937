"""Every operator in every type on random shapes against numpy, its buffers between guard pages.

A few of each on the processors that differ most; `make test-kernels` runs 200 of each on all that
can be run here. A failure names the workload and the schedule, `KERNELS_SEED=...` repeats them.
"""

import os
import random
from functools import cache

import kernel_cases as cases
import kernel_machines as machines
import pytest
from kernel_campaign import Campaign, Job
from tunefarm_compiler import default_schedule, targets, workload
from tunefarm_compiler.lower import Lowering
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
def campaign(request):
    """Knows which of `test_many_shapes` are to come."""
    jobs = [
        asked_for(item.callspec.params)
        for item in request.session.items
        if item.originalname == test_many_shapes.__name__
    ]
    with Campaign([job for job in jobs if not lacking(job.target)]) as made:
        yield made


@cache
def seed():
    return int(os.environ.get("KERNELS_SEED", random.randrange(1 << 30)))


@cache
def lacking(target):
    return machines.lacking(targets.resolve(target))


def asked_for(params):
    return Job(params["target"], params["name"], params["dtype"], SHAPES, seed())


def right(campaign, *jobs):
    if missing := lacking(jobs[0].target):
        pytest.skip(missing)
    calls, wrong = campaign.run(*jobs)
    assert calls >= sum(job.count for job in jobs)
    assert not wrong, "\n".join([f"KERNELS_SEED={jobs[0].seed}", *wrong])
    return calls


@pytest.mark.parametrize("target", FEW)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_few_shapes(campaign, target, name):
    number = int(os.environ.get("KERNELS_SEED", "0"))
    dtypes = OPERATORS[name].dtypes
    searched = random.Random(f"{number} {name}").choice(dtypes)
    jobs = [
        Job(target, name, dtype, FEW[target], number, (target, dtype) == ("local", searched))
        for dtype in dtypes
    ]
    right(campaign, *jobs)


@pytest.mark.parametrize("name", ["matmul", "conv2d", "depthwise_conv2d", "gemv"])
def test_float16_where_an_instruction_multiplies_it(campaign, name):
    right(campaign, Job("graviton3", name, "float16", 3, 0, spaces=False))


@pytest.mark.parametrize("target", ["znver4", "rasp5", "rasp3b", "wasm"])
def test_the_default_schedule_is_one_for_any_shape(target):
    spec, rng = targets.resolve(target), random.Random(seed())
    print(f"KERNELS_SEED={seed()}")
    # Whose sum's last axis has conditions.
    edged = "c=5,h=67,w=2,k=7,r=3,s=4,n=2,stride=3,pad=2,bias=1,layout=nchw,dtype=int8"
    drawn = [cases.one(rng, name, dtype) for name, dtype in cases.kinds() for _ in range(4)]
    for parsed in [workload.parse(f"conv2d:{edged}"), *drawn]:
        Lowering(parsed.output, default_schedule(parsed, spec), spec)


@pytest.mark.kernels
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "dtype"), cases.kinds())
def test_many_shapes(campaign, target, name, dtype):
    job = Job(target, name, dtype, SHAPES, seed())
    calls = right(campaign, job)
    print(f"{name} {dtype} {target}: {SHAPES} shapes, {calls} kernels, KERNELS_SEED={seed()}")
