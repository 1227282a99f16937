"""Kernels against numpy: random schedules, other targets; workloads and schedules as text."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import run
from tunefarm_compiler import Schedule, build, default_schedule, space, targets, workload
from tunefarm_compiler.codegen import assembly, lowered
from tunefarm_compiler.elf import dynamic_symbols
from tunefarm_compiler.peak import peak_bundle
from tunefarm_compiler.schedule import Pack
from tunefarm_proto.errors import (
    InvalidScheduleError,
    UnknownTargetError,
    UnknownWorkloadError,
)

sides = st.sampled_from([1, 2, 3, 5, 7, 13, 16, 17, 31, 32, 33, 40, 64, 97])


@settings(max_examples=40, deadline=None)
@given(sides, sides, sides, st.booleans())
def test_matmul_of_any_shape_by_its_default_schedule(m, n, k, at_end):
    parsed = workload.parse(f"matmul:m={m},n={n},k={k}")
    run(build(parsed, "local"), parsed, at_end)


@st.composite
def scheduled(draw):
    m, n, k = draw(sides), draw(sides), draw(sides)
    blocks = {
        axis: sorted(draw(st.lists(st.integers(1, extent), max_size=2)), reverse=True)
        for axis, extent in (("i", m), ("j", n), ("k", k))
    }
    order = draw(st.permutations([axis for axis, found in blocks.items() for _ in found]))
    left = {axis: iter(found) for axis, found in blocks.items()}
    loops = tuple((axis, next(left[axis])) for axis in order)
    packs = tuple(
        Pack(name, draw(st.integers(0, len(loops)))) for name in "AB" if draw(st.booleans())
    )
    lanes, unroll = draw(st.sampled_from([1, 2, 4, 8, 16])), draw(st.integers(1, 5))
    return workload.parse(f"matmul:m={m},n={n},k={k}"), Schedule(loops, lanes, unroll, packs)


@settings(max_examples=60, deadline=None)
@given(scheduled())
def test_a_random_schedule_is_right_or_refused(drawn):
    parsed, schedule = drawn
    try:
        bundle = build(parsed, "local", schedule)
    except InvalidScheduleError as error:
        assert len(str(error).splitlines()) == 1
        return
    run(bundle, parsed)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["add", "mul", "relu"]), st.integers(1, 300), st.booleans())
def test_elementwise(name, n, at_end):
    parsed = workload.parse(f"{name}:n={n}")
    run(build(parsed, "local"), parsed, at_end)


def test_schedules_of_the_space_can_be_built():
    spec = targets.resolve("local")
    parsed = workload.parse("matmul:m=70,n=66,k=35")
    grid = space(parsed, spec)
    assert len(grid) > 30
    for schedule in grid[::50]:
        run(build(parsed, spec, schedule), parsed)


MACHINES = {
    "x86-64-v3": 62,
    "rasp5": 183,
    "rasp3b": 183,
    "rasp4b": 183,
    "rasp3b-32": 40,
    "riscv64": 243,
    "riscv64-v": 243,
}


CALL = r"^\s+(?:callq?|blx?|jal|tail)\s+(\w+)"  # of another function, by each assembler


@pytest.mark.parametrize("target", MACHINES)
def test_other_targets_link_and_need_nothing(target):
    for text in ("matmul:m=17,n=33,k=9", "add:n=37"):
        bundle = build(text, target)
        library = bundle.library(bundle.manifest.libraries[0])
        assert int.from_bytes(library[18:20], "little") == MACHINES[target]
        assert dynamic_symbols(library, defined=False) == set()
    assert peak_bundle(targets.resolve(target)).manifest.functions[0].operations > 0


def processors():
    """A name for each set of features that a target of the registry may have."""
    found = {}
    for name in targets.REGISTRY:
        spec = targets.resolve(name)
        found.setdefault((spec.arch, spec.features), name)
    return found.values()


@pytest.mark.parametrize("target", processors())
def test_no_kernel_of_any_target_calls_a_function(target):
    spec = targets.resolve(target)
    for text in ("matmul:m=7,n=33,k=9", "gelu:n=37", "matmul:m=7,n=33,k=9,dtype=float16"):
        parsed = workload.parse(text)
        code = lowered(parsed, spec, default_schedule(parsed, spec), "kernel")
        calls = set(re.findall(CALL, assembly(code, spec), re.MULTILINE))
        assert not calls


def test_the_same_input_gives_the_same_bytes():
    text = "matmul:m=48,n=50,k=52"
    here = build(text, "rasp3b").digest
    script = f"from tunefarm_compiler import build; print(build({text!r}, 'rasp3b').digest)"
    command = [sys.executable, "-c", script]
    there = subprocess.run(command, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "matmul"),
        ("conv9d:n=1", "did you mean conv2d:c=N"),
        ("zyx:n=1", "add"),
        ("matmul", "m, n, k"),
        ("matmul:m=1,n=2,k=3,z=4", "z"),
        ("matmul:m=0,n=1,k=1", "m=0"),
        ("matmul:m=-1,n=1,k=1", "m=-1"),
        ("matmul:m=1.5,n=1,k=1", "m=1.5"),
        ("matmul:m=1,n=1,k=1,k=2", "twice"),
        ("matmul:m=99999999999,n=1,k=1", "out of range"),
        ("matmul:m=100000,n=100000,k=1", "elements"),
        ("matmul:m=1,n=1,k=1,dtype=int3", "float32"),
    ],
)
def test_a_workload_that_is_none(text, word):
    with pytest.raises(UnknownWorkloadError) as caught:
        workload.parse(text)
    assert word in str(caught.value)


def test_a_workload_comes_back_as_written():
    parsed = workload.parse("matmul:k=3,m=1,n=2")
    assert str(parsed) == "matmul:m=1,n=2,k=3,dtype=float32"
    assert workload.parse(str(parsed)) == parsed


def test_an_unknown_target_lists_those_there_are():
    with pytest.raises(UnknownTargetError, match="did you mean rasp5"):
        targets.resolve("rasp9")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"loops": 3}', '{"lanes": 4}', '{"x": 1}'])
def test_a_schedule_that_is_none(text):
    with pytest.raises(InvalidScheduleError):
        Schedule.from_json(text)


def test_a_schedule_comes_back_as_written():
    schedule = Schedule((("k", 8), ("j", 4)), 4, 2, (Pack("B", 1),))
    assert Schedule.from_json(schedule.to_json()) == schedule


def test_a_check_that_can_fail():
    parsed = workload.parse("matmul:m=8,n=8,k=8")
    expected = parsed.reference(parsed.inputs(0))
    wrong = [expected[0].copy()]
    wrong[0][3, 3] += 1e-3
    assert parsed.check(expected, expected)
    assert not parsed.check(wrong, expected)
    assert not parsed.check([np.full_like(expected[0], np.nan)], expected)


@pytest.mark.parametrize(
    ("target", "word"), [("znver4", "vpdpbusd"), ("rasp5", "sdot"), ("rasp3b", ""), ("wasm", "")]
)
def test_8_bit_products_by_one_instruction_where_there_is_one(target, word):
    parsed, spec = workload.parse("matmul:m=16,n=64,k=64,dtype=int8"), targets.resolve(target)
    text = lowered(parsed, spec, default_schedule(parsed, spec))
    assert word in text
    assert word or ("dot" not in text and "dpb" not in text)


@pytest.mark.parametrize(("target", "found"), [("graviton3", True), ("rasp5", False)])
@pytest.mark.parametrize("text", ["matmul:m=8,n=32,k=9", "conv2d:c=3,h=5,w=6,k=16,r=3,s=3,pad=1"])
def test_float16_is_not_converted_where_an_instruction_multiplies_it(text, target, found):
    parsed, spec = workload.parse(f"{text},dtype=float16"), targets.resolve(target)
    code = assembly(lowered(parsed, spec, default_schedule(parsed, spec)), spec)
    assert ("fmlal" in code) == found
    assert ("fcvtl" in code) != found


@pytest.mark.parametrize("lanes", [8, 16, 32])
@pytest.mark.parametrize("target", ["local", "rasp5"])
def test_dot_products_of_vectors_wider_than_the_instruction(target, lanes):
    parsed, spec = workload.parse("matmul:m=5,n=37,k=13,dtype=int8"), targets.resolve(target)
    made = default_schedule(parsed, spec)
    wide = replace(made, loops=(("j", lanes), ("i", 2)), lanes=lanes, packs=(Pack("B", 1),))
    assert build(parsed, spec, wide)
    if target == "local":
        run(build(parsed, spec, wide), parsed)


@pytest.mark.parametrize("text", ["m=18,n=1,k=25", "m=18,n=17,k=25", "m=5,n=33,k=7,tb=1"])
@pytest.mark.parametrize("at_end", [True, False])
def test_bfloat16_by_pairs_where_there_is_an_instruction(text, at_end):
    parsed = workload.parse(f"matmul:{text},dtype=bfloat16")
    for target, found in (("znver4", True), ("znver4+noavx512bf16", False), ("rasp5", False)):
        spec = targets.resolve(target)
        code = lowered(parsed, spec, default_schedule(parsed, spec))
        assert ("avx512bf16.dpbf16ps" in code) == found
    run(build(parsed, "local"), parsed, at_end)
