"""Random schedules of every operator are right or refused; what is attached is where it says."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_harness import evaluate, run
from tunefarm_compiler import Schedule, build, defaults, targets, te, workload
from tunefarm_compiler.additions import cache, laid_out
from tunefarm_compiler.codegen import lowered
from tunefarm_compiler.schedule import Attach, Pack, Prefetch
from tunefarm_compiler.stages import inputs, plan
from tunefarm_compiler.suit import suited
from tunefarm_proto.errors import InvalidScheduleError

TEXTS = (
    "matmul:b=2,m=7,n=19,k=13,ta=1",
    "matmul:m=9,n=21,k=14,tb=1,dtype=int8",
    "matmul:m=9,n=21,k=14,dtype=float16",
    "dense:m=9,n=17,k=10,act=gelu",
    "gemv:m=11,n=37",
    "conv2d:c=4,h=7,w=9,k=18,r=3,s=3,pad=1,bias=1,act=relu",
    "conv2d:c=4,h=9,w=8,k=6,r=3,s=2,stride=2,pad=2,dilation=2,groups=2",
    "conv2d:c=3,h=7,w=19,k=5,r=3,s=3,pad=1,layout=nchw",
    "conv2d:c=8,h=5,w=6,k=17,r=2,s=3,pad=1,dtype=int8",
    "depthwise_conv2d:c=19,h=8,w=9,r=3,s=3,pad=1",
    "conv2d:c=4,h=6,w=8,k=6,r=3,s=3,pad=1,groups=2,bias=1,act=relu",
    "depthwise_conv2d:c=19,h=6,w=8,r=3,s=3,pad=1,bias=1",
    "max_pool2d:c=5,h=9,w=8,r=3,s=3,stride=2,pad=1",
    "softmax:m=5,n=37",
    "layer_norm:m=3,n=29",
    "sum:m=9,n=23",
    "min:m=9,n=23,axis=0",
    "transpose:m=13,n=17,b=2",
)
MORE = (
    "dense:m=9,n=17,k=10,act=relu,dtype=int8",
    "dense:m=9,n=17,k=10,act=tanh,dtype=bfloat16",
    "gemv:m=11,n=37,dtype=int8",
    "conv2d:c=4,h=7,w=9,k=18,r=3,s=3,pad=1,bias=1,act=relu,dtype=bfloat16",
    "conv2d:c=6,h=7,w=9,k=6,r=3,s=3,pad=2,groups=2,dtype=float16,layout=nchw",
    "depthwise_conv2d:c=19,h=8,w=9,r=3,s=3,pad=1,stride=2,bias=1,act=relu,dtype=int8",
    "max_pool2d:c=5,h=9,w=8,r=3,s=3,stride=2,pad=1,dtype=int8",
    "max_pool2d:c=21,h=5,w=8,r=2,s=3,pad=1,dtype=bfloat16",
    "avg_pool2d:c=5,h=9,w=8,r=3,s=3,stride=2,pad=1,dtype=float16",
    "softmax:m=5,n=37,dtype=bfloat16",
    "layer_norm:m=3,n=29,dtype=float16",
    "sum:m=9,n=23,dtype=int8",
    "max:m=9,n=23,dtype=int8",
    "min:m=9,n=23,axis=0,dtype=float16",
    "transpose:m=13,n=17,b=2,dtype=int8",
    "to_nchwc:c=19,h=3,w=5,block=8",
    "from_nchwc:c=24,h=3,w=5,block=8,dtype=bfloat16",
    "bias_act:m=9,n=17,dtype=bfloat16",
    "bit_matmul:m=9,n=21,k=96,wbits=2",
    "bit_conv2d:c=64,h=7,w=9,k=18,r=3,s=3,pad=1",
    "bit_pack:m=5,n=96",
)
LONG = 200_000  # LLVM takes seconds for more: `make test-kernels` has them too
SPEC = targets.resolve("local")


@st.composite
def nests(draw, stage, names):
    """Any loops, vectors and packs for a stage."""
    blocks = {
        axis: sorted(draw(st.lists(st.integers(1, extent), max_size=2)), reverse=True)
        for axis, extent in stage.extents.items()
    }
    order = draw(st.permutations([axis for axis, found in blocks.items() for _ in found]))
    left = {axis: iter(found) for axis, found in blocks.items()}
    loops = tuple((axis, next(left[axis])) for axis in order)
    packs = tuple(
        Pack(name, draw(st.integers(0, len(loops)))) for name in names if draw(st.booleans())
    )
    reduced = [axis.name for axis in stage.reduce_axes]
    tensors = [stage.tensor.name, *(load.tensor.name for load in stage.loads)]
    prefetch = st.builds(
        Prefetch,
        st.sampled_from(tensors),
        st.sampled_from([*stage.extents]),
        st.integers(-3, 40),
        st.sampled_from([1, 2]),
    )
    lanes = draw(st.sampled_from([1, 2, 4, 8, 16]))
    tile = Schedule(loops, lanes).tile(stage.extents)
    values = math.prod(tile[axis.name] for axis in stage.axes) // lanes
    return Schedule(
        loops,
        lanes,
        draw(st.sampled_from([1, 2, 3, 4, 9] if values <= 32 else [1, 2])),
        packs,
        draw(st.sampled_from(["", *stage.extents])),
        tuple(draw(st.permutations(reduced))),
        (),
        draw(st.sampled_from([1, 1, 4])),
        prefetches=tuple(draw(st.lists(prefetch, max_size=2))),
    )


@st.composite
def schedules(draw, output):
    output = suited(output, SPEC)
    names = [tensor.name for tensor in inputs(output)]
    kept = defaults.kept(output)
    if not kept and any(isinstance(expr, te.Reduce) for expr in te.walk(output.compute.body)):
        kept = draw(st.sampled_from([[], [cache(output)]]))
    if (found := defaults.minimal(output)) is not None:
        kept = draw(st.sampled_from([kept, [*found.names()]]))
    for tensor in inputs(output):
        if len(tensor.shape) > 1 and draw(st.integers(0, 3)) == 0:
            order = draw(st.permutations(range(len(tensor.shape))))
            kept = [*kept, laid_out(tensor, order).name]
    *before, last = plan(output, kept)
    main = draw(nests(last, names))
    attached = tuple(
        Attach(stage.tensor.name, draw(st.integers(0, len(main.loops))), draw(nests(stage, [])))
        for stage in before
    )
    return Schedule(
        main.loops, main.lanes, main.unroll, main.packs, main.vector, main.order, attached,
        main.group, prefetches=main.prefetches,
    )  # fmt: skip


def right_or_refused(text, examples, longest=LONG):
    parsed = workload.parse(text)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(schedules(parsed.output))
    def check(schedule):
        assert Schedule.from_json(schedule.to_json()) == schedule
        try:
            if len(lowered(parsed, SPEC, schedule)) > longest:
                return
            bundle = build(parsed, SPEC, schedule)
        except InvalidScheduleError as error:
            assert len(str(error).splitlines()) == 1
            return
        run(bundle, parsed)

    check()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{bad", "Expecting property name"),
        ("[]", "[] is no object"),
        ("null", "null is no object"),
        ("{}", "it has no loops"),
        ('{"loops":[]}', "it has no lanes"),
        ('{"loops":[["i"]],"lanes":4}', 'loop ["i"] is none: write [axis, block]'),
        ('{"loops":["i"],"lanes":4}', 'loop "i" is none'),
        ('{"loops":5,"lanes":4}', "is not where it should be"),
        ('{"loops":[["i",4.5]],"lanes":4}', "block of i is 4.5, which is no whole number"),
        ('{"loops":[["i",true]],"lanes":4}', "block of i is true"),
        ('{"loops":[["i","x"]],"lanes":4}', 'block of i is "x"'),
        ('{"loops":[["i",1e400]],"lanes":4}', "block of i is Infinity"),
        ('{"loops":[],"lanes":NaN}', "lanes is NaN"),
        ('{"loops":[],"lanes":4,"packs":5}', "is not where it should be"),
        ('{"loops":[],"lanes":4,"packs":[{}]}', "it has no tensor"),
        ('{"loops":[],"lanes":4,"gpu":{"binds":[],"pad":1e400}}', "infinity"),
        ('{"loops":[],"lanes":4,"lane":4}', "unknown field 'lane'"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_no_schedule_is_said_in_a_line(text, said):
    with pytest.raises(InvalidScheduleError) as raised:
        Schedule.from_json(text)
    assert str(raised.value).startswith("not a schedule: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "Error" not in str(raised.value)


@pytest.mark.parametrize("text", TEXTS)
def test_a_random_schedule_is_right_or_refused(text):
    right_or_refused(text, 15)


@pytest.mark.parametrize("text", MORE)
def test_a_random_schedule_of_another_type_is_right_or_refused(text):
    right_or_refused(text, 3)


@pytest.mark.kernels
@pytest.mark.parametrize("text", [*TEXTS, *MORE])
def test_many_random_schedules_are_right_or_refused(text):
    right_or_refused(text, 300, longest=10**7)


@pytest.mark.parametrize(
    "name", ["A.layout00", "A.layout012", "A.layout", "A.layoutx0", "D.layout10"]
)
def test_a_layout_that_is_none_is_refused(name):
    asked = Schedule((("i", 1),), 1, stages=(Attach(name, 0, Schedule((("d0", 1),), 1)),))
    with pytest.raises(InvalidScheduleError, match=f"no stage '{name}'") as raised:
        build(workload.parse("matmul:m=5,n=7,k=3"), SPEC, asked)
    assert len(str(raised.value).splitlines()) == 1


CACHED = Schedule(
    (("j", 32), ("i", 4)),
    16,
    stages=(Attach("C.cache", 1, Schedule((("k", 7), ("i", 5)), 16, 2, (Pack("B", 1),))),),
)


@pytest.mark.parametrize(
    "text", ["matmul:m=23,n=70,k=31", "matmul:m=23,n=70,k=31,dtype=float16", "max:m=23,n=70,axis=0"]
)
def test_a_sum_gathered_in_scratch_is_right(text):
    parsed = workload.parse(text)
    schedule = CACHED
    if parsed.name == "max":
        inner = Schedule((("r", 3),), 16)
        schedule = Schedule((("i", 32),), 16, stages=(Attach("C.cache", 1, inner),))
    assert Schedule.from_json(schedule.to_json()) == schedule
    run(build(parsed, SPEC, schedule), parsed)


@pytest.mark.parametrize("at_end", [True, False])
def test_squares_are_not_turned_where_neighbours_lie_in_the_padding(at_end):
    parsed = workload.parse("depthwise_conv2d:c=1,h=7,w=17,r=1,s=2,n=2,pad=3,dilation=3")
    schedule = Schedule((("y", 1), ("n", 2), ("x", 4)), 4, vector="n")
    run(build(parsed, SPEC, schedule), parsed, at_end)


def test_prefetches_are_kept_written_and_harmless():
    parsed = workload.parse("matmul:m=23,n=70,k=31")
    asked = (Prefetch("A", "i", 6), Prefetch("B", "j", 64, 2), Prefetch("C", "i", 900))
    schedule = Schedule((("j", 64), ("i", 6)), 16, 2, prefetches=asked)
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert "prefetches" not in Schedule((), 1).to_json()
    run(build(parsed, SPEC, schedule), parsed)
    text = lowered(parsed, SPEC, schedule)
    for kind in ("i32 0, i32 3", "i32 0, i32 2", "i32 1, i32 3"):
        assert f", {kind}, i32 1)" in text


@pytest.mark.parametrize(
    "asked", [Prefetch("D", "i", 6), Prefetch("A", "q", 6), Prefetch("A", "i", 6, 3)]
)
def test_a_prefetch_of_what_is_not_there_is_refused(asked):
    parsed = workload.parse("matmul:m=23,n=70,k=31")
    with pytest.raises(InvalidScheduleError, match="prefetch of"):
        build(parsed, SPEC, Schedule((("j", 64), ("i", 6)), 16, prefetches=(asked,)))


@pytest.mark.parametrize("arch", ["wasm", "rasp3b", "rasp4b", "riscv64"])
def test_prefetches_build_where_there_is_no_instruction(arch):
    parsed = workload.parse("matmul:m=23,n=70,k=31")
    spec = targets.resolve(arch)
    asked = (Prefetch("A", "i", 6), Prefetch("C", "i", 6, 2))
    assert build(parsed, spec, Schedule((("j", 16), ("i", 6)), 4, prefetches=asked))


@pytest.mark.parametrize("at_end", [True, False])
def test_a_part_that_lies_in_the_padding_alone_reads_nothing_beyond_its_tensor(at_end):
    a = te.placeholder("A", (5,))
    doubled = te.compute("B", [("i", 5)], lambda i: a[i] * 2)
    padded = te.compute(
        "C", [("i", 2000)], lambda i: te.select((i - 4).within(0, 5), doubled[i - 4], 0.0)
    )
    # The last element has a part of B to itself, 1,990 elements behind its end.
    schedule = Schedule((("i", 1999), ("i", 1)), 1, stages=(Attach("B", 1, Schedule((), 1)),))
    data = np.arange(5, dtype=np.float32)
    got = evaluate(padded, data, schedule=schedule, at_end=at_end)
    np.testing.assert_array_equal(got, np.pad(2 * data, (4, 1991)))
