"""Winograd's filtering: where it applies, that it is right, and as near to exact as the sum."""

import random
from dataclasses import replace

import numpy as np
import pytest
from kernel_harness import evaluate, run
from tunefarm_compiler import (
    Schedule,
    build,
    default_schedule,
    defaults,
    fewer,
    targets,
    te,
    workload,
)
from tunefarm_compiler.binding import Gpu
from tunefarm_compiler.lower import function
from tunefarm_compiler.schedule import Attach
from tunefarm_compiler.spaces import ScheduleRules
from tunefarm_compiler.stages import inputs, plan
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


def sums(
    change=None, axes=("y", "x", "k"), over=("r", "s", "c"), named=("A", "W"), sides=(6, 6, 5)
):
    """A sum over channels, under windows."""
    height, width, out = sides
    a = te.placeholder(named[0], (height + 2, width + 2, 16))
    f = te.placeholder(named[1], (3, 3, 16, out))
    r, s, c = (te.reduce_axis(name, n) for name, n in zip(over, (3, 3, 16), strict=True))
    change = change or (lambda y, x, k, value: value)
    return te.compute(
        "C",
        tuple(zip(axes, sides, strict=True)),
        lambda y, x, k: te.sum_of(
            change(y + r, x + s, k, a[y + r, x + s, c]) * f[r, s, c, k], r, s, c
        ),
    )


@pytest.mark.parametrize(
    "output",
    [
        sums(axes=("y", "y.part", "k")),
        sums(axes=("y", "x", "y.term")),
        sums(over=("r", "s", "x.term")),
        sums(named=("C.winograd.inputs", "W")),
        sums(lambda y, x, k, value: te.select(k.within(0, 3), value, 0.0)),
    ],
)
def test_what_has_the_names_of_its_terms_or_shares_none_is_left_as_it_is(output):
    assert defaults.minimal(output) is None
    rng = np.random.default_rng(0)
    given = [rng.standard_normal(t.shape, np.float32) for t in inputs(output)]
    under = np.lib.stride_tricks.sliding_window_view(given[0], (3, 3), (0, 1))
    expected = np.einsum("yxcrs,rsck->yxk", under, given[1])
    got = evaluate(output, *given, schedule=defaults.default(output, SPEC))
    same = expected if got[..., 3:].any() else expected * (np.arange(5) < 3)
    np.testing.assert_allclose(got, same, rtol=1e-4, atol=1e-4)


def test_axes_that_only_a_condition_reads_are_axes_of_the_terms_too():
    a, f = te.placeholder("A", (8, 8, 16)), te.placeholder("W", (3, 3, 16, 5))
    r, s, c = te.reduce_axis("r", 3), te.reduce_axis("s", 3), te.reduce_axis("c", 16)

    def body(n, y, x, k):
        value = te.select((n * 2 + y + r).within(0, 6), a[y + r, x + s, c], 0.0)
        return te.sum_of(value * f[r, s, c, k], r, s, c)

    made = te.compute("C", (("n", 3), ("y", 6), ("x", 6), ("k", 5)), body)
    found = defaults.minimal(made)
    assert found is not None
    rng = np.random.default_rng(0)
    image, weights = (rng.standard_normal(t.shape, np.float32) for t in (a, f))
    rows = np.arange(8)[:, None, None]
    cut = np.stack([np.where(rows + 2 * n < 6, image, 0) for n in range(3)])
    under = np.lib.stride_tricks.sliding_window_view(cut, (3, 3), (1, 2))
    expected = np.einsum("nyxcrs,rsck->nyxk", under, weights)
    got = evaluate(made, image, weights, schedule=by(made, found.names()))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_channels_that_lie_last_are_not_copied_for_a_window_of_another_direction():
    a, f = te.placeholder("A", (5, 8, 8, 16)), te.placeholder("W", (2, 3, 3, 16, 5))
    d, r, s, c = (te.reduce_axis(name, n) for name, n in zip("drsc", (2, 3, 3, 16), strict=True))
    made = te.compute(
        "C",
        (("z", 4), ("y", 6), ("x", 6), ("k", 5)),
        lambda z, y, x, k: te.sum_of(a[z + d, y + r, x + s, c] * f[d, r, s, c, k], d, r, s, c),
    )
    found = defaults.minimal(made)
    assert found is not None
    assert found.names() == BOTH
    rng = np.random.default_rng(0)
    image, weights = (rng.standard_normal(t.shape, np.float32) for t in (a, f))
    under = np.lib.stride_tricks.sliding_window_view(image, (2, 3, 3), (0, 1, 2))
    expected = np.einsum("zyxcdrs,drsck->zyxk", under, weights)
    got = evaluate(made, image, weights, schedule=by(made, found.names()))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_sum_that_others_are_made_of_stays_a_stage():
    conv, u, v = sums(), te.reduce_axis("u", 2), te.reduce_axis("v", 2)
    pooled = te.compute(
        "D",
        (("p", 3), ("q", 3), ("k", 5)),
        lambda p, q, k: te.max_of(conv[p * 2 + u, q * 2 + v, k], u, v),
    )
    assert defaults.minimal(pooled) is None
    assert [attach.stage for attach in defaults.default(pooled, SPEC).stages] == ["C"]


def test_a_sum_under_a_condition_reads_no_more_than_it_does():
    conv = sums()
    inner = te.compute(
        "D",
        (("y", 6), ("x", 6), ("k", 5)),
        lambda y, x, k: te.select(y.within(1, 5), conv[y, x, k], 0.0),
    )
    assert defaults.minimal(inner) is None


def test_what_is_read_by_many_is_looked_at_once():
    held = te.placeholder("A", (4, 8))
    axes = (("i", 4), ("j", 8))
    for n in range(40):  # of 2 ** 40 ways to the input
        one = te.compute(f"one{n}", axes, lambda i, j, held=held: held[i, j] + 1.0)
        two = te.compute(f"two{n}", axes, lambda i, j, held=held: held[i, j] * 0.5)
        held = te.compute(
            f"sum{n}", axes, lambda i, j, one=one, two=two: one[i, j] * 0.25 + two[i, j]
        )
    assert defaults.minimal(held) is None


@pytest.mark.parametrize(
    ("text", "threads"),
    [
        ("conv2d:c=512,h=14,w=14,k=512,r=3,s=3,pad=1,n=16", 1),
        ("conv2d:c=1024,h=8,w=8,k=1024,r=3,s=3,pad=1", 1),
        ("conv2d:c=512,h=4,w=1024,k=64,r=3,s=3,pad=1", 1),
        ("conv2d:c=512,h=4,w=1024,k=64,r=3,s=3,pad=1", 16),
        ("conv2d:c=256,h=28,w=28,k=256,r=3,s=3,pad=1", 16),
    ],
)
@pytest.mark.parametrize("target", ["znver4", "x86-64-v2"])
def test_its_stages_have_room(text, threads, target):
    parsed, spec = workload.parse(text), targets.resolve(target)
    function("kernel", parsed.output, default_schedule(parsed, spec, threads), spec)
    rules, rng = ScheduleRules(parsed, spec), random.Random(0)
    assert all(function("kernel", parsed.output, rules.sample(rng), spec) for _ in range(4))


def test_without_a_batch_it_goes_by_rows_of_tiles_too():
    made = defaults.default(sums(sides=(10, 12, 16)), WIDE)
    depths = {attach.stage: attach.depth for attach in made.stages}
    assert depths == {BOTH[0]: 0, BOTH[1]: 1, BOTH[2]: 1}
    assert [axis for axis, _ in made.loops] == ["y", "x", "k"]


@pytest.mark.parametrize(
    ("target", "kept"),
    [("znver4", ALONG), ("znver3", ()), ("sapphirerapids", ()), ("x86-64-v4", ()), ("rasp4b", ())],
)
def test_depthwise_defaults_take_it_where_it_was_measured_to_pay(target, kept):
    parsed = workload.parse("depthwise_conv2d:c=40,h=28,w=28,r=3,s=3,pad=1")
    made = default_schedule(parsed, targets.resolve(target))
    assert tuple(attach.stage for attach in made.stages) == kept


@pytest.mark.parametrize(
    "sizes", ["h=2,w=2,k=64", "h=6,w=6,k=64", "h=64,w=4,k=64", "h=28,w=28,k=8", "h=28,w=28,k=17"]
)
@pytest.mark.parametrize("target", ["znver4", "x86-64-v3"])
def test_few_squares_and_few_channels_stay_with_the_sum(sizes, target):
    parsed = workload.parse(f"conv2d:c=64,{sizes},r=3,s=3,pad=1")
    assert not default_schedule(parsed, targets.resolve(target)).stages


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
        "conv2d:c=20,h=12,w=20,k=48,r=3,s=3,pad=1,bias=1,act=relu,n=2,layout=nchw",
        "conv2d:c=300,h=8,w=10,k=63,r=3,s=3,pad=1",
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
    monkeypatch.setattr(fewer, "by_fewer_products", lambda *_: None)
    schedules.append(default_schedule(parsed, WIDE))
    assert not schedules[1].stages
    errors = []
    for schedule in schedules:
        got = evaluate(parsed.output, *inputs, schedule=schedule).reshape(exact.shape)
        errors.append(float(np.sqrt(np.mean((got - exact) ** 2))))
    assert errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize(
    ("sizes", "kept", "said"),
    [
        ("h=7,w=8", BOTH, "no stage 'C.winograd.filters' .*even in number"),
        ("h=8,w=8", ALONG, "C.winograd.filters without C.winograd.sums"),
        ("h=8,w=8", (*BOTH, "P"), "no stage 'C.winograd.filters' .*nothing else of it kept"),
    ],
)
def test_why_it_cannot_be_applied_is_said(sizes, kept, said):
    parsed = workload.parse(f"conv2d:c=16,{sizes},k=16,r=3,s=3,pad=1")
    stages = tuple(Attach(name, 0, Schedule((), 1)) for name in kept)
    with pytest.raises(InvalidScheduleError, match=said):
        build(parsed, SPEC, Schedule((), 1, stages=stages))


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
        function("kernel", parsed.output, schedule, WIDE)  # refuses more than there is
