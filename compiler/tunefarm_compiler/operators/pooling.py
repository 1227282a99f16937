"""Pooling over windows of (n, h, w, c)."""

import math

from tunefarm_compiler import te
from tunefarm_compiler.operators import windows
from tunefarm_compiler.operators.base import (
    EVERY,
    Array,
    Operator,
    Values,
    fields,
    rounded,
    widened,
)
from tunefarm_compiler.operators.windows import Windows

FIELDS = (*fields("c", "h", "w", "r", "s", n=1), *windows.FIELDS)
LEAST_INT8 = -128


def _pool2d(
    largest: bool, dtype: str, c: int, h: int, w: int, r: int, s: int, n: int, **window: int
) -> te.Tensor:
    a = te.placeholder("A", (n, h, w, c), dtype)
    rr, ss = te.reduce_axis("r", r), te.reduce_axis("s", s)
    outside = 0 if not largest else LEAST_INT8 if dtype == "int8" else -math.inf
    under = Windows.of(h, w, r, s, **window)

    def each(b: te.Axis, y: te.Axis, x: te.Axis, o: te.Axis) -> te.Expr:
        def load(row: te.Index, column: te.Index) -> te.Expr:
            return widened(a[b, row, column, o])

        value = under.read((y, x), (rr, ss), load, outside)
        if largest:
            return rounded(te.max_of(value, rr, ss), dtype)
        return rounded(te.sum_of(value, rr, ss) * (1 / (r * s)), dtype)

    ho, wo = under.counts
    return te.compute("C", (("n", n), ("y", ho), ("x", wo), ("c", c)), each)


def _reference(largest: bool, x: Values, **sizes: int) -> Array:
    under = Windows.of(**sizes).under(x[0], -math.inf if largest else 0.0)
    result: Array = under.max((4, 5)) if largest else under.mean((4, 5))
    return result


def _operations(c: int, r: int, s: int, n: int, **sizes: int) -> int:
    return n * math.prod(Windows.of(r=r, s=s, **sizes).counts) * c * r * s


def _operator(largest: bool) -> Operator:
    return Operator(
        FIELDS,
        lambda dtype, **sizes: _pool2d(largest, dtype, **sizes),
        _operations,
        lambda x, **sizes: _reference(largest, x, **sizes),
        lambda r, s, **_: 0 if largest else r * s + 1,
        EVERY if largest else te.FLOATS,
    )


OPERATORS = {"max_pool2d": _operator(True), "avg_pool2d": _operator(False)}
