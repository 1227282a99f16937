"""Spaces of GPU schedules: what is drawn can be built, moves stay inside, features tell."""

import random

import gpu_kernels as kernels
import pytest
from tunefarm_compiler.gpu import compile_function, features
from tunefarm_compiler.gpu.defaults import loops
from tunefarm_compiler.gpu.forms import Cut, Form
from tunefarm_compiler.gpu.spaces import GpuRules
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.spaces import rules_of
from tunefarm_compiler.targets import resolve
from tunefarm_compiler.workload import parse

WORKLOADS = [
    "matmul:m=96,n=160,k=64",
    "matmul:m=33,n=17,k=5,dtype=float16",
    "matmul:m=70,n=130,k=100,dtype=float16",
    "dense:m=20,n=64,k=48,dtype=int8",
    "conv2d:c=16,h=14,w=14,k=32,r=3,s=3",
    "softmax:m=64,n=1000",
    "layer_norm:m=64,n=384",
    "add:n=10007",
    "relu:n=4096,dtype=int8",
    "sum:m=100,n=1000",
    "transpose:m=130,n=70",
    "max_pool2d:c=16,h=20,w=20,r=2,s=2,stride=2",
    "depthwise_conv2d:c=32,h=14,w=14,r=3,s=3",
]
SPEC = resolve("sm_80")


def rules(text: str, target: str = "sm_80") -> GpuRules:
    found = rules_of(parse(text), resolve(target))
    assert isinstance(found, GpuRules)
    return found


@pytest.mark.parametrize("text", WORKLOADS)
def test_what_is_drawn_and_moved_can_be_lowered(text):
    space, rng = rules(text), random.Random(7)
    assert space.broken(space.default) == ""
    drawn = [space.default, *(space.sample(rng) for _ in range(12))]
    moved = [space.mutate(rng.choice(drawn), rng) for _ in range(12)]
    crossed = [space.cross(rng.choice(drawn), rng.choice(moved), rng) for _ in range(6)]
    every = list(dict.fromkeys([*drawn, *moved, *crossed]))
    assert len(every) > 12  # not the same again and again
    for one in every[1:]:
        assert space.fault(one) == "", one.to_json()
        assert Schedule.from_json(one.to_json()) == one
        code = compile_function("f", space.workload.output, one, SPEC)
        for launch in code.launches:
            assert 32 <= launch.block[0] <= 1024 and launch.block[0] % 32 == 0
            assert launch.shared_bytes <= SPEC.shared_bytes


@pytest.mark.parametrize("text", WORKLOADS)
def test_the_form_of_a_schedule_is_the_schedule(text):
    """What forms are read from is what they write, so that moves change what they mean to."""
    space, rng = rules(text), random.Random(3)
    drawn = [space.sample(rng) for _ in range(40)]
    for one in [one for one in drawn if one.gpu.contract is None][:4]:
        kept, _, forms = space._forms(one)
        assert space._made(kept, forms) == one


@pytest.mark.parametrize(
    "text",
    [
        "matmul:m=17,n=20,k=24",
        "matmul:m=30,n=40,k=50,dtype=float16",
        "softmax:m=5,n=130",
        "layer_norm:m=3,n=70",
        "sum:m=9,n=200",
        "transpose:m=20,n=37",
        "max_pool2d:c=4,h=9,w=9,r=2,s=2,stride=2",
    ],
)
def test_samples_mutants_and_children_give_the_right_answer(text):
    space, rng = rules(text), random.Random(9)
    one = space.sample(rng)
    mutant = space.mutate(one, rng)
    made = [one, mutant, space.cross(mutant, space.sample(rng), rng)]
    found = [
        kernels.candidate(space.workload, "sm_80", f"k{number}", schedule)
        for number, schedule in enumerate(made)
    ]
    assert kernels.wrong(found, "sm_80") == []


def test_a_product_is_mostly_cut_into_blocks_and_sometimes_into_loops():
    space, rng = rules("matmul:m=256,n=256,k=256,dtype=float16"), random.Random(0)
    drawn = [space.sample(rng) for _ in range(40)]
    contracts = [one.gpu.contract for one in drawn if one.gpu.contract]
    assert 25 < len(contracts) < 40
    assert {one.mma for one in contracts} == {"f16", ""}
    child = space.cross(drawn[0], drawn[1], rng)
    assert child not in drawn[:2] and not space.fault(child)
    # float32 is never rounded by itself.
    plain = rules("matmul:m=256,n=256,k=256")
    drawn = [plain.sample(rng) for _ in range(40)]
    assert {one.gpu.contract.mma for one in drawn if one.gpu.contract} == {""}


def test_a_product_for_another_gpu_keeps_what_it_can():
    source, rng = rules("matmul:m=256,n=256,k=256,dtype=bfloat16", "sm_90"), random.Random(4)
    here = rules("matmul:m=100,n=4096,k=512,dtype=bfloat16", "sm_86")
    drawn = [one for one in (source.sample(rng) for _ in range(12)) if one.gpu.contract]
    moved = [here.adapt(one, source) for one in drawn]
    assert all(one is not None and not here.fault(one) for one in moved)
    # sm_75 has no tensor cores for it.
    old = rules("matmul:m=256,n=256,k=256,dtype=bfloat16", "sm_75")
    assert {old.adapt(one, source) for one in drawn if one.gpu.contract.mma} == {None}


def test_chance_and_moves_are_the_same_each_time():
    found = []
    for _ in range(2):
        space, rng = rules("softmax:m=64,n=512"), random.Random(1)
        one, other = space.sample(rng), space.sample(rng)
        found.append([one, space.mutate(one, rng), space.cross(one, other, rng)])
    assert found[0] == found[1]


def test_the_grid_begins_with_the_default_and_never_repeats():
    space = rules("add:n=4096")
    first = [one for one, _ in zip(space.every(), range(50), strict=False)]
    assert first[0] == space.default and len(set(first)) == 50
    assert not any(space.fault(one) for one in first)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"i": Cut(64, 64, 1), "j": Cut(64, 64, 1)}, "4096 threads are more"),
        ({"i": Cut(128, 128, 16), "j": Cut(64, 64, 16)}, "registers"),
        ({"i": Cut(4, 4, 4), "j": Cut(8, 8, 4)}, "do not fill a warp"),
    ],
)
def test_limits_are_told_by_name(changed, said):
    space = rules("matmul:m=512,n=512,k=512")
    _, (rule,), (form,) = space._forms(loops(space.workload.output, SPEC))
    bad = Form({**form.cuts, **changed}, form.lanes, form.vector, 1, form.order)
    assert said in space.fault(bad.schedule(rule.facts, rule.extents))


def test_what_needs_more_shared_memory_than_there_is_is_left_out():
    space = rules("layer_norm:m=64,n=60000")
    rng = random.Random(0)
    for one in [space.sample(rng) for _ in range(10)]:
        code = compile_function("f", space.workload.output, one, SPEC)
        assert max(launch.shared_bytes for launch in code.launches) <= SPEC.shared_bytes


@pytest.mark.parametrize("text", WORKLOADS)
def test_features_are_numbers_of_one_length(text):
    space, rng = rules(text), random.Random(5)
    rows = [space.features(one) for one in [space.default, *(space.sample(rng) for _ in range(9))]]
    assert {len(row) for row in rows} == {len(features.NAMES)}
    assert all(abs(number) < 1e6 for row in rows for number in row)
    assert len({tuple(row) for row in rows}) > 3


def feature(space: GpuRules, form: Form, name: str) -> float:
    _, (rule,), _ = space._forms(space.default)
    schedule = form.schedule(rule.facts, rule.extents)
    return space.features(schedule)[features.NAMES.index(name)]


def test_features_tell_what_bounds_a_kernel():
    space = rules("add:n=1048576")
    use, warps = "use of what is written", "occupancy"
    wide = Form({"i": Cut(1024, 1024, 4)}, 4, "i")
    apart = Form({"i": Cut(2048, 2048, 8)}, 1, "i")  # one number in 32 bytes
    assert feature(space, wide, use) == 1.0
    assert feature(space, apart, use) == pytest.approx(0.125)
    few = Form({"i": Cut(32, 32, 1)}, 1, "i")
    assert feature(space, few, warps) < feature(space, wide, warps)


def test_a_schedule_of_another_shape_or_gpu_is_taken_over():
    source = rules("softmax:m=64,n=1000")
    rng = random.Random(2)
    for text, target in (("softmax:m=500,n=4096", "sm_90"), ("softmax:m=3,n=17", "sm_75")):
        here = rules(text, target)
        moved = [here.adapt(source.sample(rng), source) for _ in range(8)]
        good = [one for one in moved if one is not None]
        assert good and not any(here.fault(one) for one in good)
    processor = rules_of(parse("softmax:m=64,n=1000"), resolve("znver4"))
    assert rules("softmax:m=64,n=1000").adapt(processor.default, processor) is None


def test_a_schedule_of_a_processor_is_refused_in_one_line():
    space = rules("add:n=4096")
    said = space.broken(Schedule((("i", 64),), 16))
    assert "says nothing of blocks and threads" in said and len(said.splitlines()) == 1
    twice = Schedule.from_json(
        '{"loops":[["i",256],["i",64],["i",16]],"lanes":1,"gpu":{"binds":["block","thread","thread"]}}'
    )
    assert "bound as" in space.broken(twice)
