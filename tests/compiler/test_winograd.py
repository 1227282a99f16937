"""Winograd's filtering: where it applies, that it is right, and as near to exact as the sum."""

import random
from dataclasses import replace

import numpy as np
import pytest
from kernel_harness import evaluate, run
from tunefarm_compiler import Schedule, build, default_schedule, defaults, targets, te, workload
from tunefarm_compiler.binding import Gpu
from tunefarm_compiler.codegen import lowered
from tunefarm_compiler.schedule import Attach
from tunefarm_compiler.spaces import ScheduleRules
from tunefarm_compiler.stages import plan
from tunefarm_proto.errors import InvalidScheduleError

SPEC = targets.resolve("local")
WIDE = targets.resolve("znver4")
ALONG = ("C.winograd.filters",)
BOTH = ("C.winograd.filters", "C.winograd.inputs", "C.winograd.sums")
FIRST = (*BOTH, "A.layout01342")  # of channels first


def names(text):
    found = defaults.minimal(workload.parse(text).output)
    return found.names() if found else ()


def by(output, stages):
    """A plain schedule that keeps them, each as a whole."""

    def nest(stage):
        *outer, last = (axis.name for axis in stage.axes)
        return Schedule((*((axis, 1) for axis in outer), (last, 8)), 4)

    *before, last = plan(output, stages)
    return replace(
        nest(last), stages=tuple(Attach(one.tensor.name, 0, nest(one)) for one in before)
    )


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("conv2d:c=16,h=8,w=6,k=20,r=3,s=3,pad=1", BOTH),
        ("conv2d:c=16,h=8,w=6,k=20,r=3,s=3", BOTH),
        ("conv2d:c=16,h=8,w=6,k=20,r=3,s=3,pad=2,bias=1,act=gelu,n=2", BOTH),
        ("conv2d:c=16,h=8,w=6,k=32,r=3,s=3,pad=1,groups=4", BOTH),
        ("depthwise_conv2d:c=19,h=8,w=6,r=3,s=3,pad=1", ALONG),
        ("depthwise_conv2d:c=19,h=8,w=6,r=3,s=3,pad=1,multiplier=3,bias=1,act=relu", ALONG),
        ("conv2d:c=16,h=7,w=6,k=20,r=3,s=3,pad=1", ()),  # outputs in odd numbers
        ("conv2d:c=16,h=8,w=7,k=20,r=3,s=3,pad=1", ()),
        ("conv2d:c=16,h=8,w=6,k=20,r=3,s=3,pad=1,stride=2", ()),
        ("conv2d:c=16,h=8,w=6,k=20,r=3,s=3,pad=2,dilation=2", ()),
        ("conv2d:c=16,h=8,w=6,k=20,r=5,s=3,pad=1,pad_bottom=2,pad_left=1", ()),
        ("conv2d:c=16,h=8,w=6,k=20,r=1,s=1", ()),
        ("conv2d:c=16,h=8,w=6,k=20,r=3,s=3,pad=1,layout=nchw", FIRST),
        ("conv2d:c=16,h=8,w=6,k=20,r=3,s=3,n=2,groups=2,bias=1,act=relu,layout=nchw", FIRST),
        ("conv2d:c=1,h=8,w=6,k=20,r=3,s=3,layout=nchw", FIRST),
        ("conv2d:c=16,h=8,w=6,k=20,r=3,s=3,pad=1,dtype=int8", ()),
        ("conv2d:c=16,h=8,w=6,k=20,r=3,s=3,pad=1,dtype=float16", ()),
        ("max_pool2d:c=16,h=8,w=6,r=3,s=3,pad=1", ()),
        ("matmul:m=16,n=16,k=16", ()),
    ],
)
def test_windows_of_three_by_three_over_even_rows_and_columns(text, stages):
    assert names(text) == stages
    parsed = workload.parse(text)
    if stages:
        run(build(parsed, SPEC, by(parsed.output, stages)), parsed)
        return
    asked = Schedule((), 4, stages=tuple(Attach(name, 0, Schedule((), 4)) for name in BOTH))
    with pytest.raises(InvalidScheduleError, match=r"no stage 'C\.winograd\.filters'|2 reductions"):
        build(parsed, SPEC, asked)


def test_an_expression_of_a_user_is_recognised_by_what_it_reads():
    h, w, c = 6, 8, 5
    a, f = te.placeholder("image", (h + 2, w + 2, c)), te.placeholder("taps", (3, 3, c))
    dy, dx = te.reduce_axis("dy", 3), te.reduce_axis("dx", 3)
    axes = (("row", h), ("column", w), ("channel", c))
    blur = te.compute(
        "blur", axes, lambda y, x, z: te.sum_of(f[dy, dx, z] * a[y + dy, x + dx, z], dy, dx)
    )
    twice = te.compute("twice", axes, lambda y, x, z: blur[y, x, z] * 2.0 + 1.0)
    found = defaults.minimal(twice)
    assert found is not None
    assert found.names() == ("twice.winograd.filters",)
    rng = np.random.default_rng(0)
    taps, image = (rng.standard_normal(t.shape, np.float32) for t in (f, a))
    under = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (0, 1))
    expected = 2 * np.einsum("yxcrs,rsc->yxc", under, taps) + 1
    got = evaluate(twice, taps, image, schedule=by(twice, found.names()))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda a, f, y, x, z, r, s: a[y + r, x + s, z] * f[s, r, z] + 1.0,
        lambda a, f, y, x, z, r, s: te.maximum(a[y + r, x + s, z], 0.0) * f[r, s, z],
        lambda a, f, y, x, z, r, s: a[y + r, x + s, z] * f[r, r, z],
        lambda a, f, y, x, z, r, s: a[y + r, x + r, z] * f[r, s, z],
        lambda a, f, y, x, z, r, s: a[y + r, y + s, z] * f[r, s, z],
        lambda a, f, y, x, z, r, s: te.select(y.within(0, 3), a[y + r, x + s, z], 0.0) * f[r, s, z],
        lambda a, f, y, x, z, r, s: te.select(x.within(0, 3), a[y + r, x + s, z], 2.0) * f[r, s, z],
        lambda a, f, y, x, z, r, s: a[y + r, x + s, z] * te.cast(f[r, s, z], "float32") * 2.0,
    ],
)
def test_what_only_looks_like_it_is_left_as_it_is(change):
    a, f = te.placeholder("A", (8, 8, 5)), te.placeholder("W", (3, 3, 5))
    r, s = te.reduce_axis("r", 3), te.reduce_axis("s", 3)
    axes = (("y", 6), ("x", 6), ("z", 5))
    made = te.compute("C", axes, lambda y, x, z: te.sum_of(change(a, f, y, x, z, r, s), r, s))
    assert defaults.minimal(made) is None


@pytest.mark.parametrize(
    ("target", "kept"),
    [("znver4", ALONG), ("znver3", ()), ("sapphirerapids", ()), ("x86-64-v4", ()), ("rasp4b", ())],
)
def test_depthwise_defaults_take_it_where_it_was_measured_to_pay(target, kept):
    parsed = workload.parse("depthwise_conv2d:c=40,h=28,w=28,r=3,s=3,pad=1")
    made = default_schedule(parsed, targets.resolve(target))
    assert tuple(attach.stage for attach in made.stages) == kept


@pytest.mark.parametrize(
    ("target", "kept"),
    [("znver4", BOTH), ("x86-64-v3", BOTH), ("x86-64-v2", BOTH), ("rasp4b", ()), ("wasm", ())],
)
def test_defaults_of_convolutions_take_it_where_it_was_measured_to_pay(target, kept):
    parsed = workload.parse("conv2d:c=64,h=28,w=28,k=32,r=3,s=3,pad=1")
    made = default_schedule(parsed, targets.resolve(target))
    assert sorted(attach.stage for attach in made.stages) == [*kept]


@pytest.mark.parametrize(
    "text",
    [
        "conv2d:c=64,h=28,w=28,k=32,r=3,s=3,pad=1",
        "conv2d:c=16,h=12,w=20,k=48,r=3,s=3,pad=1,bias=1,act=relu,n=2",
        "conv2d:c=300,h=6,w=6,k=17,r=3,s=3,pad=1",
        "conv2d:c=20,h=12,w=20,k=48,r=3,s=3,pad=1,bias=1,act=relu,n=2,layout=nchw",
        "depthwise_conv2d:c=40,h=28,w=28,r=3,s=3,pad=1",
        "depthwise_conv2d:c=900,h=8,w=6,r=3,s=3,pad=1,n=2",
    ],
)
def test_its_default_is_as_near_to_exact_as_the_sum(text, monkeypatch):
    parsed = workload.parse(text)
    inputs = parsed.inputs(3)
    exact = parsed.reference(inputs)[0].astype(np.float64)
    schedules = [default_schedule(parsed, WIDE)]
    assert schedules[0].stages, "it was measured to be faster there"
    monkeypatch.setattr(defaults, "by_fewer_products", lambda output, spec: None)
    schedules.append(default_schedule(parsed, WIDE))
    assert not schedules[1].stages
    errors = []
    for schedule in schedules:
        got = evaluate(parsed.output, *inputs, schedule=schedule).reshape(exact.shape)
        errors.append(float(np.sqrt(np.mean((got - exact) ** 2))))
    assert errors[0] < 1.5 * errors[1]


def test_a_gpu_refuses_its_stages():
    parsed, gpu = workload.parse("conv2d:c=16,h=8,w=8,k=32,r=3,s=3,pad=1"), targets.resolve("sm_80")
    nest = Schedule((), 1, gpu=Gpu())
    asked = replace(nest, stages=tuple(Attach(name, 0, nest) for name in BOTH))
    with pytest.raises(InvalidScheduleError, match="not for GPUs"):
        build(parsed, gpu, asked)


def test_the_space_holds_both_ways():
    parsed = workload.parse("conv2d:c=64,h=28,w=28,k=32,r=3,s=3,pad=1")
    for target in ("znver4", "rasp4b", "wasm"):
        rules, rng = ScheduleRules(parsed, targets.resolve(target)), random.Random(0)
        drawn = [rules.sample(rng) for _ in range(40)]
        kept = {tuple(sorted(attach.stage for attach in one.stages)) for one in drawn}
        assert {(), BOTH} <= kept
        for one in drawn:
            assert not rules.fault(one)
            near = rules.mutate(one, rng)
            assert not rules.fault(near)
            assert not rules.fault(rules.cross(one, near, rng))


@pytest.mark.parametrize(
    "text",
    [
        "conv2d:c=512,h=28,w=28,k=512,r=3,s=3,pad=1,n=8",
        "conv2d:c=512,h=28,w=28,k=512,r=3,s=3,pad=1,n=8,layout=nchw",
        "conv2d:c=64,h=512,w=512,k=64,r=3,s=3,pad=1",
        "conv2d:c=1024,h=14,w=14,k=1024,r=3,s=3,pad=1",
        "conv2d:c=2048,h=14,w=14,k=2048,r=3,s=3,pad=1",
        "matmul:m=4096,n=4096,k=4096",
    ],
)
def test_scratch_of_large_workloads_is_counted(text):
    parsed = workload.parse(text)
    rules, rng = ScheduleRules(parsed, WIDE), random.Random(0)
    for schedule in (rules.default, *(rules.sample(rng) for _ in range(6))):
        lowered(parsed, WIDE, schedule)  # refuses what needs more than there is
