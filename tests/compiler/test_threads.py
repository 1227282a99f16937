"""Loops dealt out to threads: right answers by any schedule, and threads that come and go."""

import itertools
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_harness import run
from test_schedules import TEXTS, schedules
from tunefarm_compiler import Schedule, build, default_schedule, lowered, targets, te, workload
from tunefarm_compiler.building import Kernel, compile_many
from tunefarm_compiler.elf import dynamic_symbols
from tunefarm_compiler.features import NAMES
from tunefarm_compiler.linker import ALLOWED_UNDEFINED
from tunefarm_compiler.schedule import Attach, Pack
from tunefarm_compiler.spaces import ScheduleRules
from tunefarm_proto.errors import InvalidScheduleError

SPEC = targets.resolve("local")
EXAMPLES = int(os.environ.get("TUNEFARM_SCHEDULES", "10"))
LONG = 200_000  # LLVM takes seconds for more, of which threads learn nothing
SMALL = Schedule((("i", 2), ("j", 16)), 16, threads=3)


@st.composite
def threaded(draw, output):
    """Any schedule, its loops and those of its stages dealt out to threads."""

    def some(schedule, axes):
        axis = draw(st.sampled_from(["", "", *axes]))
        return replace(schedule, threads=draw(st.integers(2, 9)), parallel=axis)

    schedule = draw(schedules(output))
    if draw(st.booleans()):  # or few are left
        schedule = replace(schedule, group=1, packs=())
    stages = [
        replace(s, schedule=some(s.schedule, [])) if draw(st.booleans()) else s
        for s in schedule.stages
    ]
    schedule = replace(schedule, stages=tuple(stages))
    plain = stages != list(schedule.stages) and draw(st.booleans())
    return schedule if plain else some(schedule, [axis for axis, _ in schedule.loops])


@pytest.mark.parametrize("text", TEXTS)
def test_a_random_schedule_on_threads_is_right_or_refused(text):
    parsed = workload.parse(text)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(threaded(parsed.output), st.booleans())
    def check(schedule, at_end):
        try:
            if len(lowered(parsed, SPEC, schedule)) > LONG:
                return
            bundle = build(parsed, SPEC, schedule)
        except InvalidScheduleError as error:
            assert len(str(error).splitlines()) == 1
            return
        run(bundle, parsed, at_end)

    check()


def test_more_threads_than_blocks_and_the_other_way_round():
    for text, loops in (
        ("matmul:m=3,n=5,k=7", (("i", 2), ("j", 5))),
        ("matmul:m=97,n=101,k=13", (("j", 7), ("k", 5), ("i", 3))),
        ("matmul:m=509,n=16,k=3", (("i", 1),)),
    ):
        parsed = workload.parse(text)
        packs = (Pack("B", 1),) if loops[0][0] == "j" else ()
        for threads in (2, 3, 4, 7, 64):
            schedule = Schedule(loops, 16, 1, packs, threads=threads)
            run(build(parsed, SPEC, schedule), parsed)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"threads": 0}, "0 threads"),
        ({"threads": -3}, "-3 threads"),
        ({"threads": 65}, "2 to 64"),
        ({"threads": 1, "parallel": "i"}, "1 threads"),
        ({"threads": 4, "parallel": "k"}, "summed over"),
        ({"threads": 4, "parallel": "q"}, "'q'"),
        ({"threads": 4, "loops": (("k", 4),)}, "an axis of the output"),
        ({"threads": 4, "loops": (("j", 4),), "parallel": "i"}, "give i a loop"),
    ],
)
def test_what_cannot_be_dealt_out(changes, word):
    with pytest.raises(InvalidScheduleError) as caught:
        build("matmul:m=8,n=16,k=8", SPEC, replace(SMALL, **changes))
    assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_stage_inside_what_is_dealt_out_deals_out_nothing():
    parsed = workload.parse("layer_norm:m=6,n=40")
    own = Schedule((("i", 1),), 8, threads=2)
    names = [stage for stage in ("mean", "deviation") if stage in str(te.show(parsed.output))]
    assert names
    given_ = {stage.stage: stage for stage in default_schedule(parsed, SPEC).stages}
    deep = tuple(replace(stage, schedule=own) for stage in given_.values())
    with pytest.raises(InvalidScheduleError, match="inside of one that is dealt out"):
        build(parsed, SPEC, replace(default_schedule(parsed, SPEC), stages=deep, threads=2))


@pytest.mark.parametrize("text", TEXTS)
def test_a_default_schedule_on_threads(text):
    parsed = workload.parse(text)
    for threads in (2, 3, 5):
        schedule = default_schedule(parsed, SPEC, threads)
        assert threads in {schedule.threads, *(s.schedule.threads for s in schedule.stages)}
        run(build(parsed, SPEC, schedule), parsed)
    assert default_schedule(parsed, SPEC, 1) == default_schedule(parsed, SPEC)


@pytest.mark.parametrize(
    "text",
    ["matmul:m=33,n=40,k=20", "softmax:m=31,n=40", "layer_norm:m=6,n=40", "add:n=100",
     "conv2d:c=9,h=13,w=11,k=20,r=3,s=3,pad=1,bias=1,act=relu"],
)  # fmt: skip
def test_a_space_has_schedules_of_any_number_of_threads_up_to_those_given(text):
    parsed, rng = workload.parse(text), random.Random(5)
    rules = ScheduleRules(parsed, SPEC, 4)
    drawn = [rules.sample(rng) for _ in range(32)]
    chain = [rules.default]
    for _ in range(80):
        chain.append(rules.mutate(chain[-1], rng))
    bred = [rules.cross(*pair, rng) for pair in itertools.pairwise(drawn)]
    for made in (drawn, chain, bred):
        assert {rules.count(one) for one in made} == {1, 2, 4}
    for made in {*drawn, *chain, *bred}:
        assert not rules.fault(made) or made == rules.default
        assert (made.most_threads > 1) == ("@threads.deal" in lowered(parsed, SPEC, made))
    for made in (drawn[0], chain[-1], bred[0]):
        assert Schedule.from_json(made.to_json()) == made
        run(build(parsed, SPEC, made), parsed)


@pytest.mark.parametrize(("given", "counts"), [(1, {1}), (2, {1, 2}), (6, {1, 2, 4, 6})])
def test_how_many_of_the_threads_given_a_schedule_takes(given, counts):
    parsed, rng = workload.parse("matmul:m=64,n=64,k=64"), random.Random(0)
    rules = ScheduleRules(parsed, SPEC, given)
    found = [rules.sample(rng).most_threads for _ in range(100)]
    assert {*found} == counts and found.count(given) > 50  # all of them are the likeliest
    assert rules.default == default_schedule(parsed, SPEC, given)
    beyond = replace(rules.default, threads=given + 1)
    assert rules.fault(beyond) == f"it takes {given + 1} threads, and there are {given}"


def test_the_grid_of_a_small_space_has_every_number_of_threads():
    rules = ScheduleRules(workload.parse("gemv:m=5,n=3"), targets.resolve("rasp3b"), 2)
    found = [*itertools.islice(rules.every(), 20000)]
    assert len({*found}) == len(found) < 20000
    assert {one.most_threads for one in found} == {1, 2}
    alone = ScheduleRules(rules.workload, rules.spec)
    assert {one for one in found if one.most_threads == 1} >= {*alone.every()} - {alone.default}


def test_the_model_is_told_of_the_number_of_threads():
    rules = ScheduleRules(workload.parse("matmul:m=64,n=64,k=64"), SPEC, 4)
    place = NAMES.index("threads")
    told = [rules.features(rules.dealt_out(rules.default, n))[place] for n in (1, 2, 4)]
    assert told == [0, 1, 2]


def test_each_thread_packs_for_itself():
    parsed = workload.parse("matmul:m=128,n=64,k=16")
    made = default_schedule(parsed, SPEC, 4)
    assert made.parallel == made.loops[0][0] == "i"
    lines = te.show(parsed.output, made).splitlines()
    outer = next(n for n, line in enumerate(lines) if "dealt out" in line)
    packs = [n for n, line in enumerate(lines) if " pack " in line]
    assert packs and min(packs) > outer


def test_webassembly_has_no_threads():
    with pytest.raises(InvalidScheduleError, match="WebAssembly has no threads"):
        build("matmul:m=8,n=16,k=8", "wasm", SMALL)
    inside = Schedule((), 16, stages=(Attach("most", 0, SMALL),))
    assert Schedule.from_json(inside.to_json()) == inside


def test_threads_are_text_only_where_there_are_several():
    alone = replace(SMALL, threads=1)
    assert "threads" not in alone.to_json()
    assert '"threads":3' in SMALL.to_json()
    both = replace(SMALL, parallel="j")
    assert Schedule.from_json(both.to_json()) == both
    assert build("matmul:m=8,n=16,k=8", SPEC, both).manifest.schedule == both.to_json()


def test_the_loops_tell_who_runs_them():
    product = workload.parse("matmul:m=5,n=16,k=8").output
    shown = te.show(product, SMALL)
    assert "for i in 0..4 by 2, dealt out to 3 threads:" in shown
    assert "with i at 4..5, dealt out to 3 threads:" in shown


@pytest.mark.parametrize("target", ["rasp3b", "rasp3b-32", "riscv64", "x86-64-v2"])
def test_threads_build_for_a_target(target):
    spec = targets.resolve(target)
    parsed = workload.parse("matmul:m=8,n=16,k=8")
    schedule = replace(SMALL, lanes=4)
    assert "@threads.deal" in lowered(parsed, spec, schedule)
    assert "@threads.deal" not in lowered(parsed, spec, replace(schedule, threads=1))
    build(parsed, spec, schedule)


ALONE = """
import ctypes, os, resource, sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from kernel_harness import loaded
from tunefarm_compiler import Schedule, build, workload

parsed = workload.parse("matmul:m=64,n=64,k=64")
bundle = build(parsed, "local", Schedule((("i", 4), ("j", 16)), 16, threads=4))
library = loaded(bundle.library(bundle.manifest.libraries[0]))
cores = (ctypes.c_int32 * 65).in_dll(library, "tunefarm_cores")
inputs = parsed.inputs(0)
expected = parsed.reference(inputs)

def right():
    out = np.full_like(expected[0], 77)
    held = (*inputs, out)
    arguments = (ctypes.c_void_p * 3)(*(data.ctypes.data for data in held))
    assert library["matmul"](arguments) == 0
    return parsed.check([out], expected)

def threads():
    return len(os.listdir("/proc/self/task"))

def until(count):
    limit = time.monotonic() + 60
    while threads() != count:
        assert time.monotonic() < limit, threads()
        time.sleep(0.01)

before = threads()
"""

CASES = {
    "a device of one core starts none": """
cores[0] = 1
assert right() and threads() == before
""",
    "they are kept, then end, and come back": """
cores[0] = 4
assert all(right() for _ in range(500)) and threads() == before + 3
until(before)
assert right() and threads() == before + 3
""",
    "no more than there are cores": """
cores[0] = 2
assert all(right() for _ in range(20)) and threads() == before + 1
""",
    "one that cannot be started is one fewer": """
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 65536,) * 2)
cores[0] = 4
assert right() and threads() == before
""",
    "a forked process has none and is right": """
cores[0] = 4
assert right()
if (child := os.fork()) == 0:
    os._exit(0 if all(right() for _ in range(20)) and threads() == 1 else 1)
assert os.waitpid(child, 0)[1] == 0 and right()
""",
    "they are bound to the processors that they are told": """
mine = max(os.sched_getaffinity(0))
for worker in range(4):
    cores[1 + worker] = mine + 1
cores[0] = 4
here = os.sched_getaffinity(0)
assert all(right() for _ in range(50))
own = str(os.getpid())
others = [int(task) for task in os.listdir("/proc/self/task") if task != own]
def bound():
    return [os.sched_getaffinity(task) for task in others]
# Each binds itself when it first runs, and the others do the work of one that has not yet.
until = time.monotonic() + 60
while bound().count({mine}) < 3 and time.monotonic() < until:
    assert right()
    time.sleep(0.01)
assert bound().count({mine}) == 3, bound()
assert os.sched_getaffinity(0) == here
""",
}


@pytest.mark.parametrize("case", CASES)
def test_threads_of_a_process(case):
    script = ALONE.format(tests=str(Path(__file__).parent)) + CASES[case]
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)


def test_several_kernels_of_a_bundle_share_a_pool():
    texts = ("matmul:m=40,n=64,k=16", "softmax:m=31,n=40", "add:n=100")
    kernels = [
        Kernel(text, default_schedule(workload.parse(text), SPEC, 1 if "add" in text else 3))
        for text in texts
    ]
    bundle = compile_many(kernels, "local")
    (library,) = bundle.manifest.libraries
    assert dynamic_symbols(bundle.library(library), defined=False) <= ALLOWED_UNDEFINED
    for text in texts:
        run(bundle, workload.parse(text))
    alone = build(texts[2], SPEC)
    assert not dynamic_symbols(alone.library(alone.manifest.libraries[0]), defined=False)
