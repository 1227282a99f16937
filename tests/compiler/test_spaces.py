"""Spaces by rules: whatever is drawn, changed or bred can be applied, for every operator."""

import itertools
import math
import os
import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kernel_harness import run
from tunefarm_compiler import Schedule, build, lowered, targets, workload
from tunefarm_compiler.features import NAMES
from tunefarm_compiler.operators import OPERATORS
from tunefarm_compiler.reuse import Nest, StageFacts, traffic
from tunefarm_compiler.schedule import Pack, check
from tunefarm_compiler.spaces import ScheduleRules, default_schedule
from tunefarm_compiler.stages import plan
from tunefarm_proto.errors import UnknownWorkloadError

TARGETS = ("znver4", "x86-64-v3", "rasp3b", "rasp5", "rasp3b-32", "riscv64", "wasm")
WINDOWS = ("r", "s")


@st.composite
def any_workload(draw):
    """A workload of any operator, of sizes that are mostly odd."""
    name = draw(st.sampled_from(sorted(OPERATORS)))
    operator = OPERATORS[name]
    given = {"dtype": draw(st.sampled_from(operator.dtypes))}
    for field in operator.fields:
        if field.choices:
            given[field.name] = draw(st.sampled_from(field.choices))
        elif field.needed:
            sizes = (1, 2, 3) if field.name in WINDOWS else (1, 3, 8, 20, 32, 37, 64)
            given[field.name] = draw(st.sampled_from(sizes))
    try:
        return workload.parse(f"{name}:" + ",".join(f"{k}={v}" for k, v in given.items()))
    except UnknownWorkloadError:
        assume(False)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(any_workload(), st.sampled_from(TARGETS), st.integers(0, 1000), st.sampled_from((1, 1, 4)))
def test_whatever_is_made_can_be_applied_and_is_canonical(parsed, target, seed, threads):
    spec, rng = targets.resolve(target), random.Random(seed)
    rules = ScheduleRules(parsed, spec, threads)
    one, other = rules.sample(rng), rules.sample(rng)
    mutant = rules.mutate(one, rng)
    child = rules.cross(mutant, other, rng)
    chain = [rules.default]
    for _ in range(5):
        chain.append(rules.mutate(chain[-1], rng))
    for made in (one, other, mutant, child, *chain):
        check(made, rules.output)
        assert made == rules.default or not rules.fault(made)
        assert Schedule.from_json(made.to_json()) == made
        assert made.most_threads <= threads
        numbers = rules.features(made)
        assert len(numbers) == len(NAMES) and all(map(math.isfinite, numbers))


@pytest.mark.parametrize(
    "text",
    [
        "matmul:m=70,n=66,k=35",
        "matmul:m=40,n=33,k=70,dtype=int8",
        "conv2d:c=9,h=13,w=11,k=20,r=3,s=3,pad=1,bias=1,act=relu",
        "depthwise_conv2d:c=20,h=9,w=11,r=3,s=3,stride=2,pad=1",
        "dense:m=9,n=20,k=33,act=gelu",
        "softmax:m=7,n=100",
        "layer_norm:m=5,n=77",
        "gemv:m=37,n=65",
    ],
)
def test_samples_mutants_and_children_give_the_right_answer(text):
    spec, parsed, rng = targets.resolve("local"), workload.parse(text), random.Random(7)
    rules = ScheduleRules(parsed, spec)
    one = rules.sample(rng)
    mutant = rules.mutate(one, rng)
    for made in (one, mutant, rules.cross(one, rules.sample(rng), rng)):
        run(build(parsed, spec, made), parsed)


def test_one_seed_draws_the_same_in_every_process():
    """Sets of names have another order in each process: here two axes may be turned."""
    script = """if True:
        import random
        from tunefarm_compiler import targets, workload
        from tunefarm_compiler.spaces import rules_of
        for text in ("conv2d:c=28,h=14,w=16,k=64,r=1,s=5,n=2,stride=2,groups=4,layout=nchw",
                     "conv2d:c=4,h=19,w=11,k=20,r=5,s=4,pad=1,dilation=3,groups=4,layout=nchw",
                     "matmul:m=40,n=64,k=30", "layer_norm:m=20,n=64", "softmax:m=12,n=96"):
            for target in ("rasp3b", "znver4", "sm_80"):
                rng = random.Random(0)
                rules = rules_of(workload.parse(text), targets.resolve(target), 4)
                made = [rules.sample(rng), rules.sample(rng)]
                made += [rules.mutate(made[0], rng), rules.cross(*made, rng)]
                print(*(one.to_json() for one in made), sep="\\n")
        """
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True,
        )
        for seed in "123"
    ]  # fmt: skip
    first, *others = [one.communicate(timeout=60)[0] for one in runs]
    assert len(first.splitlines()) == 60 and [*others] == [first, first]


def test_a_space_has_many_different_schedules_and_its_grid_begins_with_the_default():
    spec, parsed = targets.resolve("znver4"), workload.parse("matmul:m=512,n=512,k=512")
    rules, rng = ScheduleRules(parsed, spec), random.Random(0)
    assert len({rules.sample(rng) for _ in range(100)}) > 90
    grid = list(itertools.islice(rules.every(), 100))
    assert grid[0] == default_schedule(parsed, spec)
    assert len(set(grid)) == 100
    assert grid == list(itertools.islice(ScheduleRules(parsed, spec).every(), 100))


def test_a_small_space_is_walked_to_its_end():
    spec, parsed = targets.resolve("rasp3b"), workload.parse("gemv:m=5,n=3")
    found = [one.to_json() for one in itertools.islice(ScheduleRules(parsed, spec).every(), 20000)]
    assert 1 < len(found) == len(set(found)) < 20000


def test_tiles_that_spill_and_packs_that_do_not_fit_are_refused():
    parsed = workload.parse("matmul:m=1024,n=1024,k=1024")
    rules = ScheduleRules(parsed, targets.resolve("znver4"))
    narrow = ScheduleRules(parsed, targets.resolve("x86-64-v3"))
    assert not rules.fault(Schedule((("j", 64), ("i", 6)), 16))
    assert "registers" in rules.fault(Schedule((("j", 64), ("i", 8)), 16))
    assert not narrow.fault(Schedule((("j", 16), ("i", 6)), 8))
    assert "registers" in narrow.fault(Schedule((("j", 16), ("i", 8)), 8))
    wide = workload.parse("matmul:m=4096,n=4096,k=4096")
    far = Schedule.from_json(
        '{"lanes":4,"loops":[["j",8],["i",4]],"packs":[{"tensor":"A","depth":0}]}'
    )
    assert "cache" in ScheduleRules(wide, targets.resolve("rasp3b")).fault(far)
    # A panel of B for every row of the output is copied as often as it is used.
    again = Schedule.from_json(
        '{"lanes":16,"loops":[["i",1],["j",16]],"packs":[{"tensor":"B","depth":2}]}'
    )
    assert "copies" in rules.fault(again)


def test_schedules_of_other_shapes_and_targets_are_adapted():
    spec = targets.resolve("znver4")
    near = ScheduleRules(workload.parse("matmul:m=1024,n=1024,k=1024"), spec)
    here = ScheduleRules(workload.parse("matmul:m=100,n=49,k=300"), spec)
    arm = ScheduleRules(workload.parse("matmul:m=512,n=512,k=512"), targets.resolve("rasp3b"))
    first = Schedule.from_json(
        '{"lanes":16,"loops":[["k",512],["j",64],["i",6]],"packs":[{"depth":2,"tensor":"B"}],"unroll":2}'
    )
    assert not near.fault(first)
    made = here.adapt(first, near)
    assert made is not None and not here.fault(made)
    assert made.unroll == 2 and "k" not in dict(made.loops)
    thin = arm.adapt(first, near)
    assert thin is not None and not arm.fault(thin)
    assert thin.lanes == 4 and thin.packs == (Pack("B", 1),)  # k = 512 needs no loop
    assert thin.tile({"i": 512, "j": 512, "k": 512})["j"] == 16
    rng = random.Random(3)
    for _ in range(20):
        moved = arm.adapt(near.sample(rng), near)
        assert moved is None or not arm.fault(moved)
    soft = ScheduleRules(workload.parse("softmax:m=3,n=100"), spec)
    assert here.adapt(soft.default, soft) is None


def test_what_moves_into_a_cache_is_counted():
    """C += A B in tiles of 6 x 64, B in panels: by hand."""
    parsed, spec = workload.parse("matmul:m=600,n=640,k=500"), targets.resolve("znver4")
    (stage,) = plan(parsed.output, ())
    nest = Nest(StageFacts(stage, spec), Schedule((("j", 64), ("i", 6)), 16), {})
    assert (nest.accumulators, nest.registers) == (24, 24 + 4 + 1)
    # All fits: each is read once.
    assert traffic(nest, 1 << 30) == {"A": 600 * 500 * 4, "B": 500 * 640 * 4, "C": 600 * 640 * 4}
    # A panel of B with a row of tiles fits: A passes again for each of 10 panels.
    panel = (500 * 64 + 6 * 500 + 6 * 64) * 4
    assert traffic(nest, panel) == {
        "A": 10 * 600 * 500 * 4, "B": 500 * 640 * 4, "C": 600 * 640 * 4,
    }  # fmt: skip


def test_every_operator_draws_schedules_that_lower():
    spec, rng = targets.resolve("znver4"), random.Random(1)
    for text in ("matmul:m=33,n=40,k=20,dtype=float16", "max_pool2d:c=16,h=9,w=9,r=3,s=3,pad=1",
                 "bit_matmul:m=20,n=32,k=64", "transpose:m=20,n=33"):  # fmt: skip
        parsed = workload.parse(text)
        rules = ScheduleRules(parsed, spec)
        for _ in range(6):
            assert "define" in lowered(parsed, spec, rules.sample(rng))


def test_inputs_that_sums_read_often_are_tried_in_other_layouts():
    text = "conv2d:c=16,h=8,w=8,k=32,r=3,s=3,pad=1,layout=nchw"
    rules = ScheduleRules(workload.parse(text), targets.resolve("rasp4b"))
    channels_last = "A.layout01342"
    assert (channels_last,) in rules.layouts
    rng = random.Random(0)
    drawn = (rules.sample(rng) for _ in range(2000))
    found = next(one for one in drawn if [a.stage for a in one.stages] == [channels_last])
    run(build(rules.workload, targets.resolve("local"), found), rules.workload)
    for text in ("matmul:m=512,n=512,k=512", "bias_act:m=64,n=64"):
        rules = ScheduleRules(workload.parse(text), targets.resolve("znver4"))
        turned = {name for kept in rules.layouts for name in kept}
        assert turned == ({"A.layout10", "B.layout10"} if "matmul" in text else set())


def test_stages_stand_inside_of_the_loops_that_they_are_for():
    rules = ScheduleRules(workload.parse("softmax:m=65,n=64"), targets.resolve("rasp3b-32"))
    rng = random.Random(0)
    for _ in range(300):  # whatever is decided, however unlikely
        made = rules.draw(lambda _, options, weights: rng.choice(options))
        depth = max((attach.depth for attach in made.stages), default=0)
        assert [axis for axis, _ in made.loops[:depth]] == ["i", "j"][:depth]
