"""Every operator on random shapes by its default schedule, against numpy, between guard pages."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_harness import run
from tunefarm_compiler import build, space, targets, workload
from tunefarm_compiler.operators import OPERATORS
from tunefarm_proto.errors import UnknownWorkloadError

# `TUNEFARM_SHAPES=200` for as many shapes of each as the project promises.
SHAPES = int(os.environ.get("TUNEFARM_SHAPES", "12"))
SIDES = [1, 2, 3, 5, 7, 13, 16, 17, 31, 33, 64, 97]
SMALL = {"n": 3, "b": 3, "r": 5, "s": 5, "stride": 3, "pad": 3, "dilation": 3, "groups": 4}
WINDOWED = ("conv2d", "depthwise_conv2d", "max_pool2d", "avg_pool2d")


@st.composite
def workloads(draw, name):
    chosen = {}
    windowed = name in WINDOWED
    for field in OPERATORS[name].fields:
        if field.choices:
            chosen[field.name] = draw(st.sampled_from(field.choices))
        elif field.high == 1:
            chosen[field.name] = draw(st.integers(0, 1))
        elif field.name in SMALL and (windowed or field.name == "b"):
            chosen[field.name] = draw(st.integers(field.low, SMALL[field.name]))
        elif windowed:
            chosen[field.name] = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 14, 17, 20]))
        else:
            chosen[field.name] = draw(st.sampled_from(SIDES))
    if groups := chosen.get("groups"):
        chosen["c"], chosen["k"] = chosen["c"] * groups, chosen["k"] * groups
    if name == "bit_matmul":
        chosen["k"] *= 32
    dtype = draw(st.sampled_from(OPERATORS[name].dtypes))
    if dtype == "int8" and "act" in chosen:
        chosen["act"] = draw(st.sampled_from(["none", "relu"]))
    fields = ",".join(f"{field}={value}" for field, value in chosen.items())
    return f"{name}:{fields},dtype={dtype}"


def parsed_or_none(text):
    try:
        return workload.parse(text)
    except UnknownWorkloadError as error:
        assert "window" in str(error)  # larger than its input
        return None


quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_on_any_shape(name):
    @settings(max_examples=SHAPES, deadline=None, suppress_health_check=quiet)
    @given(workloads(name), st.booleans())
    def check(text, at_end):
        if parsed := parsed_or_none(text):
            run(build(parsed, "local"), parsed, at_end)

    check()


@pytest.mark.parametrize("name", OPERATORS)
def test_a_schedule_of_the_space(name):
    @settings(max_examples=max(3, SHAPES // 4), deadline=None, suppress_health_check=quiet)
    @given(workloads(name), st.data())
    def check(text, data):
        if parsed := parsed_or_none(text):
            spec = targets.resolve("local")
            schedule = data.draw(st.sampled_from(space(parsed, spec)))
            run(build(parsed, spec, schedule), parsed)

    check()


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("target", ["rasp3b", "rasp3b-32", "riscv64", "wasm"])
def test_an_operator_builds_for_a_target(name, target):
    sizes = {"stride": 2, "pad": 1, "r": 3, "s": 3, "ta": 0, "tb": 1, "axis": 1, "bias": 1, "b": 1}
    fields = [f for f in OPERATORS[name].fields if not f.choices and f.name != "dilation"]
    given_ = ",".join(f"{f.name}={sizes.get(f.name, 9)}" for f in fields)
    if name == "bit_matmul":
        given_ = "m=9,n=9,k=96"
    for dtype in OPERATORS[name].dtypes:
        build(f"{name}:{given_},dtype={dtype}", target)
