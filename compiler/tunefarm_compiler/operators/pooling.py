"""Pooling over windows of (n, h, w, c)."""

import math

from tunefarm_compiler import te
from tunefarm_compiler.operators.base import (
    EVERY,
    Array,
    Operator,
    Values,
    fields,
    rounded,
    widened,
)
from tunefarm_compiler.operators.convolutions import out_size, windows

FIELDS = fields("c", "h", "w", "r", "s", n=1, stride=1, pad=0)
LEAST_INT8 = -128


def _pool2d(
    largest: bool, dtype: str, c: int, h: int, w: int, r: int, s: int, n: int, stride: int, pad: int
) -> te.Tensor:
    a = te.placeholder("A", (n, h, w, c), dtype)
    rr, ss = te.reduce_axis("r", r), te.reduce_axis("s", s)
    outside = 0 if not largest else LEAST_INT8 if dtype == "int8" else -math.inf

    def each(b: te.Axis, y: te.Axis, x: te.Axis, o: te.Axis) -> te.Expr:
        row, column = y * stride + rr - pad, x * stride + ss - pad
        value = widened(a[b, row, column, o])
        if pad:
            value = te.select(row.within(0, h) & column.within(0, w), value, outside)
        if largest:
            return rounded(te.max_of(value, rr, ss), dtype)
        return rounded(te.sum_of(value, rr, ss) * (1 / (r * s)), dtype)

    ho, wo = out_size(h, r, stride, pad, 1), out_size(w, s, stride, pad, 1)
    return te.compute("C", (("n", n), ("y", ho), ("x", wo), ("c", c)), each)


def _reference(largest: bool, x: Values, r: int, s: int, stride: int, pad: int) -> Array:
    under = windows(x[0], r, s, stride, pad, 1, -math.inf if largest else 0.0)
    result: Array = under.max((4, 5)) if largest else under.mean((4, 5))
    return result


def _operations(c: int, h: int, w: int, r: int, s: int, n: int, stride: int, pad: int) -> int:
    return n * out_size(h, r, stride, pad, 1) * out_size(w, s, stride, pad, 1) * c * r * s


def _operator(largest: bool) -> Operator:
    return Operator(
        FIELDS,
        lambda dtype, **sizes: _pool2d(largest, dtype, **sizes),
        _operations,
        lambda x, r, s, stride, pad, **_: _reference(largest, x, r, s, stride, pad),
        lambda r, s, **_: 0 if largest else r * s + 1,
        EVERY if largest else te.FLOATS,
    )


OPERATORS = {"max_pool2d": _operator(True), "avg_pool2d": _operator(False)}
