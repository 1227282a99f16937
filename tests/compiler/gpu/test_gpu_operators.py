"""Every operator and type on GPUs: ptxas takes it, and its answers are numpy's."""

import os
import random

import gpu_kernels as kernels
import kernel_cases as cases
import numpy as np
import pytest
from tunefarm_compiler import workload
from tunefarm_compiler.gpu.assemble import ptxas

needs_ptxas = pytest.mark.skipif(not ptxas(), reason="there is no ptxas on this machine")
LARGE = (
    "add:n=100003", "softmax:m=5,n=4099", "softmax:m=3,n=4096,dtype=float16",
    "layer_norm:m=7,n=2048,dtype=bfloat16", "sum:m=3,n=70001", "sum:m=20011,n=3,axis=0",
    "max:m=1,n=65536,dtype=int8",
    "transpose:m=131,n=257,b=2,dtype=float16", "matmul:m=131,n=67,k=257",
    "max_pool2d:c=64,h=28,w=28,r=3,s=3,stride=2,pad=1",
)  # fmt: skip


@needs_ptxas
@pytest.mark.parametrize("target", kernels.TARGETS)
def test_ptxas_takes_every_operator(target):
    # All kinds for one target, a quarter of them, each time another one, for the others.
    found = kernels.several(target, 1, draws=0, every=1 if target == "sm_80" else 4)
    resources = kernels.assembled(found, target)
    launched = {launch.kernel for one in found for launch in one.code.launches}
    assert set(resources) == launched
    assert all(0 < used.registers <= 255 for used in resources.values())


def test_answers_are_numpys():
    found = kernels.several("sm_80", 2, draws=0)
    assert kernels.wrong(found, "sm_80") == []


def test_answers_by_random_schedules():
    found = kernels.several("sm_90", 3, draws=1, every=6)
    assert kernels.wrong(found, "sm_90") == []


def test_answers_of_larger_ones():
    found = [
        kernels.candidate(workload.parse(text), "sm_80", f"k{number}")
        for number, text in enumerate(LARGE)
    ]
    assert kernels.wrong(found, "sm_80") == []


@pytest.mark.parametrize(
    ("name", "end", "function", "ulps"),
    [
        ("exp", 95, np.exp, 2.0),
        ("tanh", 12, np.tanh, 6.0),
        ("sigmoid", 95, lambda x: 1 / (1 + np.exp(-x)), 5.0),
    ],
)
def test_functions_of_any_number(name, end, function, ulps):
    parsed = workload.parse(f"{name}:n=20003")
    x = np.random.default_rng(1).uniform(-end, end, 20003).astype(np.float32)
    x[:5] = np.inf, -np.inf, np.nan, 0, -0.0
    with np.errstate(over="ignore"):
        exact = function(x.astype(np.float64))
        want = exact.astype(np.float32)
    normal = np.isfinite(want) & (np.abs(want) > 2.0**-125)
    for target in ("sm_75", "sm_90"):
        made = kernels.candidate(parsed, target)
        module = kernels.ptx.Module(kernels.text_of([made], target))
        got = kernels.run(module, made.code, [x], want)
        error = np.abs(got[normal].astype(np.float64) - exact[normal])
        off = error / np.spacing(np.abs(want[normal]))
        assert off.max() < ulps
        np.testing.assert_allclose(got[~normal], want[~normal], atol=2.0**-124)


@pytest.mark.kernels
@pytest.mark.parametrize(("name", "dtype"), cases.kinds())
def test_a_hundred_random_schedules(name, dtype):
    seed = int(os.environ.get("KERNELS_SEED") or random.randrange(1 << 32))
    print(f"{name} {dtype}: seed {seed}")
    for number, target in enumerate(kernels.TARGETS):
        rng, found = random.Random(seed + number), []
        while len(found) < 25:
            shape = cases.one(rng, name, dtype)
            if one := kernels.drawn(rng, shape, target, f"k{len(found)}"):
                found.append(one)
        if ptxas():
            kernels.assembled(found, target)
        assert kernels.wrong(found, target) == []
