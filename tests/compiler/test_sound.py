"""Expressions that make no sense are said before any loop is made of them."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from kernel_harness import evaluate
from tunefarm_compiler import functions, te
from tunefarm_compiler.identity import identity
from tunefarm_compiler.sound import check
from tunefarm_compiler.wrong import ExpressionError
from tunefarm_proto.errors import InvalidRequestError, TunefarmError

A = te.placeholder("A", (8, 4))
R = te.reduce_axis("r", 4)
HALF = te.placeholder("H", (8,), "float16")
BRAIN = te.placeholder("B", (8,), "bfloat16")
INT = te.placeholder("I", (8,), "int8")


def column(body, extent=8, name="C"):
    return te.compute(name, (("i", extent),), body)


def twice(i):
    return te.placeholder("Z", (8,))[i] + te.placeholder("Z", (9,))[i]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: column(lambda i: A[i, 0], 9), "reads A at 0 to 8 of axis 0, which has 0 to 7"),
        (lambda: column(lambda i: A[i, 4]), "reads A at 4 to 4 of axis 1"),
        (lambda: column(lambda i: A[i - 1, 0]), "reads A at -1 to 6"),
        (
            lambda: column(lambda i: te.select((i - 1).within(0, 8), A[i - 2, 0], 0.0)),
            "reads A at -2 to 5",
        ),
        (  # sums are taken whether they are selected or not
            lambda: column(
                lambda i: te.select((i - 1).within(0, 8), te.sum_of(A[i - 1, R], R), 0.0)
            ),
            "stands inside of a sum, not around it",
        ),
        (
            lambda: column(lambda i: te.select((i - 1).within(0, 8), 0.0 * A[i, 0], A[i - 1, 0])),
            "reads A at -1 to 6",
        ),
        (lambda: column(lambda i: A[i, 0], 0), "the shape (0,)"),
        (lambda: column(lambda i: A[i, 0], -3), "the shape (-3,)"),
        (lambda: te.compute("C", (), lambda: A[0, 0]), "C has no axes"),
        (lambda: te.compute("C", (("i", 2), ("i", 2)), lambda i, j: A[i, j]), "have one name"),
        (lambda: column(lambda i: A[i, te.reduce_axis("k", 4)]), "axis k is none of its own"),
        (
            lambda: column(
                lambda i: te.sum_of(A[i, te.reduce_axis("i", 4)], te.reduce_axis("i", 4))
            ),
            "it reduces over i of 4",
        ),
        (lambda: column(lambda i: te.cast(A[i, 0], "float64")), "float64"),
        (lambda: column(lambda i: te.cast(te.cast(A[i, 0], "quux"), "int8")), "a cast to quux"),
        (lambda: column(lambda i: te.placeholder("Z", (8,), "flaot32")[i]), "flaot32"),
        (lambda: column(lambda i: te.placeholder("Z", (8,), "int")[i] + 1), "C is of int"),
        (
            lambda: column(lambda i: te.cast(te.placeholder("Z", (8,), "int")[i] + 1, "int8")),
            "Z is of int",
        ),
        (lambda: column(lambda i: functions.exp(HALF[i])), "fma of float32 and float16"),
        (
            lambda: column(lambda i: te.select(i.within(0, 4), HALF[i], A[i, 0])),
            "select of float16",
        ),
        (lambda: column(twice), "two tensors are named Z"),
        (lambda: column(lambda i: column(lambda j: A[j, 9], name="D")[i]), "D: it reads A at 9"),
    ],
)
def test_what_makes_no_sense_is_one_line(make, said):
    with pytest.raises(InvalidRequestError) as raised:
        check(make())
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_what_a_condition_keeps_inside_is_fine():
    check(column(lambda i: te.select((i * 2 - 1).within(0, 8), A[i * 2 - 1, 0], 0.0)))
    rows, columns = te.reduce_axis("r", 3), te.reduce_axis("s", 3)

    def window(i, j):
        y, x = i + rows - 1, j + columns - 1
        inside = te.select(y.within(0, 8) & x.within(0, 4), A[y, x], 0.0)
        return te.sum_of(inside, rows, columns)

    check(te.compute("C", (("i", 8), ("j", 4)), window))


def test_a_number_is_an_expression_and_half_an_index_is_none():
    check(column(lambda i: 3.0))
    with pytest.raises(InvalidRequestError, match=r"1\.5 is no index"):
        _ = A[1.5, 0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda i: A[i], r"A\[8, 4\] has 2 axes, not 1"),
        (lambda i: A[i, "j"], "'j' is no index"),
        (lambda i: A[i, 0] + "x", "'x' is no expression"),
        (lambda i: A[i, 0] * A, "A is a tensor, not one value of it"),
        (lambda i: te.maximum(A[i, 0], None), "None is no expression"),
        (lambda i: te.select(i.within(0, 4), A[i, 0], [1]), "a list is no expression"),
        (lambda i: A[i, 0] + te.cast(A[i, 1], "int32"), "add of float32 and int32"),
        (lambda i: None, "None is no expression"),
        (lambda i, j: A[i, 0], "C has 1 axes, and its function takes others"),
        (lambda i: te.sum_of(A[i, 0], "r"), "'r' is no reduce axis"),
        (lambda i: te.sum_of(A[i, 0], i), "is no reduce axis"),
        (lambda i: te.sum_of(1.0, R), "1.0 stands where its type is not known"),
        (lambda i: te.maximum(1.0, A[i, 0]), "swap the two"),
        (lambda i: te.select(True, A[i, 0], 0.0), "True is Python's own"),
        (lambda i: te.cast(A, "int32"), "A is a tensor"),
        (lambda i: A[i * i, 0], "an index times axis i"),
        (lambda i: A[i * 1.5, 0], r"an index times 1\.5"),
        (lambda i: A[i, 0, 0], r"A\[8, 4\] has 2 axes, not 3"),
        (lambda i: A[i, INT[i]], r"I\[\.\.\.\] is no index"),
        (lambda i: A[i // 2, 0], r"compute over two axes"),
        (
            lambda i: A[i, 0] if i < 4 else 0.0,
            r"comparison of axis i \(the condition is INDEX.within",
        ),
        (lambda i: sum(A[i, k] for k in range(R)), "the number of axis r"),
        (lambda i: sum(A[i, k] for k in R), "a part of axis r"),
        (lambda i: te.select(i == 4, A[i, 0], 0.0), "False is Python's own, and no condition"),
        (lambda i: te.select(i.within(0, 4) and i.within(2, 8), A[i, 0], 0.0), "the truth of a"),
        (lambda i: te.select(i.within(0, 4) & (A[i, 0] > 0.0), A[i, 0], 0.0), "nest selects"),
        (lambda i: te.select(i.within(0, 4.5), A[i, 0], 0.0), r"4\.5 is no index"),
        (lambda i: te.select(A[i, 0], A[i, 0], 0.0), r"A\[\.\.\.\] is no condition"),
        (lambda i: max(A[i, 0], 0.0), "the truth of a condition"),
        (lambda i: A[i, 0] >= 0.0, ">= or <= of A"),
        (lambda i: A[i, 0] ** 2, "a power"),
        (lambda i: A[i, 0] * i, r"axis i is no expression \(it says where to read"),
        (lambda i: A * 2.0, "arithmetic with the whole of tensor A"),
        (lambda i: sum(A), "Python asks for the elements of tensor A"),
        (lambda i: np.exp(A[i, 0]), "numpy's exp of A"),
        (lambda i: math.sqrt(A[i, 0]), "functions has exp"),
        (lambda i: functions.sqrt(2.0), r"2\.0 stands where"),
        (lambda i: INT[i] + 0.5, r"0\.5 is no int8"),
        (lambda i: INT[i] * 1000, "1000 is no int8"),
        (lambda i: 1e39 - A[i, 0], r"1e\+39 is no float32"),
        (lambda i: "x" / A[i, 0], "'x' is no expression"),
        (lambda i: te.sum_of(A[i, 0]), r"over no axis \(as in sum_of"),
        (lambda i: te.sum_of(A[i, R], R, R), "over one axis twice"),
        (lambda i: te.sum_of(A[i, R], [R]), "a list is no reduce axis"),
        (lambda i: te.cast(A[i, 0], np.int8), r"numpy.int8'> is no type's name"),
    ],
)
def test_what_is_no_expression_is_said_where_it_is_written(make, said):
    with pytest.raises(ExpressionError, match=said) as raised:
        column(make)
    assert isinstance(raised.value, InvalidRequestError) and isinstance(raised.value, ValueError)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: te.placeholder("A", 4), r"4 is no shape of A \(give \(4,\)"),
        (lambda: te.placeholder("A", (4.0, 2)), r"4\.0 is no extent of 'A'"),
        (lambda: te.placeholder((4,), "A"), "a tuple is no name"),
        (lambda: te.placeholder("A\n", (4,)), "is no name"),
        (lambda: te.placeholder("A", (4,), np.float32), "is no type's name"),
        (lambda: te.placeholder("A", (4,), view=(3,)), r"A: \[3\] holds other than \[4\]"),
        (lambda: te.reduce_axis(4, "k"), "4 is no name"),
        (lambda: te.reduce_axis("k", (0, 4)), "a tuple is no extent of 'k'"),
        (lambda: te.compute("C", 8, lambda i: A[i, 0]), "8 are no axes"),
        (lambda: te.compute("C", ("i", 8), lambda i: A[i, 0]), "'i' is no axis"),
        (lambda: te.compute("C", (("i", "8"),), lambda i: A[i, 0]), "'8' is no extent of 'i'"),
        (lambda: te.compute("C", (("i", 8),), A[0, 0]), r"A\[\.\.\.\] is no function"),
        (lambda: te.compute("C", (("i", 8),), lambda i: A[i, 0], view=(3, 3)), "holds other than"),
        (lambda: te.show(A[0, 0]), "is no tensor"),
        (lambda: te.show(A), "A is an input"),
        (lambda: te.show(column(lambda i: A[i, 0]), "tiled"), "'tiled' is no schedule"),
    ],
)
def test_what_makes_no_tensor_is_said(make, said):
    with pytest.raises(TunefarmError, match=said) as raised:
        make()
    assert raised.value.hint and len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda i: -INT[i], "neg of int8 (cast to a type of float)"),
        (lambda i: INT[i] / 2, "div of int8"),
        (lambda i: te.ones(A[i, 0]), "ctpop of float32 (cast to a type of int)"),
        (lambda i: BRAIN[i] + 1.0, "add of bfloat16"),
        (lambda i: te.select(BRAIN[i] < 1.0, A[i, 0], 0.0), "comparison of bfloat16"),
        (lambda i: te.maximum(A[i, 0] < 1.0, A[i, 1] < 1.0), "is of bool"),
        (lambda i: te.Binary("pow", A[i, 0], A[i, 1]), "there is no such one"),
        (lambda i: te.cast(te.Bits(A[i, 0], "int8"), "float32"), "the bits of float32 as int8"),
        (lambda i: te.sum_of(A[i, R], R) + te.sum_of(A[i, R], R), "2 sums or extremes"),
    ],
)
def test_what_no_processor_computes_is_said_before_any_code_is_made(body, said):
    with pytest.raises(ExpressionError) as raised:
        check(column(body))
    assert said in str(raised.value)


def test_numbers_of_numpy_are_numbers():
    count = np.int64(8)
    given = te.placeholder("G", (count, np.int32(4)))
    made = te.compute("C", (("i", count),), lambda i: np.float32(2) * given[i, np.int64(1)] - 1)
    check(made)
    assert repr(made.shape) == "(8,)" and made.dtype == "float32"
    plain = te.placeholder("G", (8, 4))
    assert identity(made) == identity(column(lambda i: 2.0 * plain[i, 1] - 1))
    assert identity(column(lambda i: plain[i, 0] * np.float64(0.5))) == identity(
        column(lambda i: plain[i, 0] * Fraction(1, 2))
    )


def test_an_index_may_run_backwards():
    data = np.arange(32, dtype=np.float32).reshape(8, 4)
    for body in (lambda i: A[7 - i, 3], lambda i: A[-i + 7, 3], lambda i: A[-1 * i + 7, 0 * i + 3]):
        np.testing.assert_array_equal(evaluate(column(body), data), data[::-1, 3])


def test_a_number_of_bfloat16_is_that_number():
    data = np.zeros(8, ml_dtypes.bfloat16)
    for number in (1.0, -2.5, 1 / 3, 3.4e38, -math.inf):
        made = column(lambda i, n=number: te.select(i.within(0, 4), BRAIN[i], n))
        got = evaluate(made, data)
        assert got[3] == 0 and got[4] == np.float32(number).astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int8", "int32"])
def test_numbers_are_compared_by_their_sign(dtype):
    ends = np.iinfo(dtype)
    data = np.array([0, 1, 5, ends.max // 2, ends.max // 2 + 1, ends.max, ends.min, 77], dtype)
    given = te.placeholder("G", (8,), dtype)
    middle = ends.max // 2
    below = column(lambda i: te.cast(given[i] < middle, "float32"))
    np.testing.assert_array_equal(evaluate(below, data), data < middle)
    above = column(lambda i: te.cast(given[i] > 5, "float32"))
    np.testing.assert_array_equal(evaluate(above, data), data > 5)


def test_it_is_said_where_loops_are_shown():
    with pytest.raises(InvalidRequestError, match="reads A at 0 to 8"):
        te.show(column(lambda i: A[i, 0], 9))
