"""Expressions that make no sense are said before any loop is made of them."""

import pytest
from tunefarm_compiler import functions, te
from tunefarm_compiler.sound import check
from tunefarm_compiler.wrong import ExpressionError
from tunefarm_proto.errors import InvalidRequestError

A = te.placeholder("A", (8, 4))
R = te.reduce_axis("r", 4)
HALF = te.placeholder("H", (8,), "float16")


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
        (lambda i: A[i], r"A\[8, 4\] has not 1 axes"),
        (lambda i: A[i, "j"], "'j' is no index"),
        (lambda i: A[i, 0] + "x", "'x' is no expression"),
        (lambda i: A[i, 0] * A, "A is a tensor, not one value of it"),
        (lambda i: te.maximum(A[i, 0], None), "None is no expression"),
        (lambda i: te.select(i.within(0, 4), A[i, 0], [1]), r"\[1\] is no expression"),
        (lambda i: A[i, 0] + te.cast(A[i, 1], "int32"), "add of float32 and int32"),
        (lambda i: None, "None is no expression"),
        (lambda i, j: A[i, 0], "C has 1 axes, and its function takes others"),
        (lambda i: te.sum_of(A[i, 0], "r"), "'r' is no reduce axis"),
        (lambda i: te.sum_of(A[i, 0], i), "is no reduce axis"),
        (lambda i: te.sum_of(1.0, R), "1.0 stands where its type is not known"),
        (lambda i: te.maximum(1.0, A[i, 0]), "swap the two"),
        (lambda i: te.select(True, A[i, 0], 0.0), "True stands where"),
        (lambda i: te.cast(A, "int32"), "A is a tensor"),
        (lambda i: A[i * i, 0], "an index times Axis"),
        (lambda i: A[i * 1.5, 0], r"an index times 1\.5"),
    ],
)
def test_what_is_no_expression_is_said_where_it_is_written(make, said):
    with pytest.raises(ExpressionError, match=said) as raised:
        column(make)
    assert isinstance(raised.value, InvalidRequestError) and isinstance(raised.value, ValueError)
    assert len(str(raised.value).splitlines()) == 1


def test_it_is_said_where_loops_are_shown():
    with pytest.raises(InvalidRequestError, match="reads A at 0 to 8"):
        te.show(column(lambda i: A[i, 0], 9))
