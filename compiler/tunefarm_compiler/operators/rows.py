"""Operators over the rows of (m, n): softmax, layer_norm, reductions."""

from collections.abc import Callable

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.functions import exp, sqrt
from tunefarm_compiler.operators.base import (
    EVERY,
    SUMS,
    Array,
    Field,
    Operator,
    Values,
    fields,
    rounded,
    widened,
)

EPSILON = 1e-5


def softmax(dtype: str, m: int, n: int) -> te.Tensor:
    """Each row's e to the x, divided by their sum; the largest x is taken off first."""
    a = te.placeholder("A", (m, n), dtype)
    j1, j2 = te.reduce_axis("r", n), te.reduce_axis("q", n)
    row, both = (("i", m),), (("i", m), ("j", n))
    most = te.compute("most", row, lambda i: te.max_of(widened(a[i, j1]), j1))
    powers = te.compute("powers", both, lambda i, j: exp(widened(a[i, j]) - most[i]))
    total = te.compute("total", row, lambda i: 1.0 / te.sum_of(powers[i, j2], j2))
    return te.compute("C", both, lambda i, j: rounded(powers[i, j] * total[i], dtype))


def _softmax_reference(x: Values, **_: int) -> Array:
    powers = np.exp(x[0] - x[0].max(1, keepdims=True))
    result: Array = powers / powers.sum(1, keepdims=True)
    return result


def layer_norm(dtype: str, m: int, n: int) -> te.Tensor:
    """Rows moved to mean 0 and variance 1, then times gamma plus beta, both (n)."""
    a = te.placeholder("A", (m, n), dtype)
    gamma, beta = te.placeholder("gamma", (n,), dtype), te.placeholder("beta", (n,), dtype)
    j1, j2 = te.reduce_axis("r", n), te.reduce_axis("q", n)
    row, both = (("i", m),), (("i", m), ("j", n))
    mean = te.compute("mean", row, lambda i: te.sum_of(widened(a[i, j1]), j1) * (1 / n))

    def inverse(i: te.Axis) -> te.Expr:
        apart = widened(a[i, j2]) - mean[i]
        return 1.0 / sqrt(te.sum_of(apart * apart, j2) * (1 / n) + EPSILON)

    scale = te.compute("scale", row, inverse)

    def each(i: te.Axis, j: te.Axis) -> te.Expr:
        level = (widened(a[i, j]) - mean[i]) * scale[i]
        return rounded(level * widened(gamma[j]) + widened(beta[j]), dtype)

    return te.compute("C", both, each)


def _layer_norm_reference(x: Values, **_: int) -> Array:
    apart = x[0] - x[0].mean(1, keepdims=True)
    result: Array = apart / np.sqrt((apart**2).mean(1, keepdims=True) + EPSILON) * x[1] + x[2]
    return result


def _reduction(name: str, dtype: str, m: int, n: int, axis: int) -> te.Tensor:
    a = te.placeholder("A", (m, n), dtype)
    length, kept = (n, m) if axis else (m, n)
    r = te.reduce_axis("r", length)

    def each(i: te.Axis) -> te.Expr:
        value = widened(a[i, r] if axis else a[r, i])
        if name in ("max", "min"):
            return rounded((te.max_of if name == "max" else te.min_of)(value, r), dtype)
        total: te.Expr = te.sum_of(te.cast(value, SUMS[dtype]), r)
        return rounded(total * (1 / length) if name == "mean" else total, dtype)

    return te.compute("C", (("i", kept),), each)


def _reducer(name: str) -> Operator:
    sums = name in ("sum", "mean")
    return Operator(
        (*fields("m", "n"), Field("axis", 1, 0, high=1)),
        lambda dtype, m, n, axis: _reduction(name, dtype, m, n, axis),
        lambda m, n, axis: m * n,
        lambda x, axis, **_: np.asarray(getattr(np, name)(x[0], axis)),
        lambda m, n, axis: (n if axis else m) + 1 if sums else 0,
        te.FLOATS if name == "mean" else EVERY,
    )


# Numbers of a short row may lie so near to each other that what is left of them, with the rounding
# of their mean, is made larger by up to 1 / sqrt(EPSILON).
ALIKE = 320

_ROWS: dict[str, tuple[Callable[..., te.Tensor], int, Callable[..., Array], int]] = {
    "softmax": (softmax, 5, _softmax_reference, 0),
    "layer_norm": (layer_norm, 8, _layer_norm_reference, ALIKE),
}


def _of_rows(name: str) -> Operator:
    expression, each, reference, alike = _ROWS[name]
    return Operator(
        fields("m", "n"),
        expression,
        lambda m, n: each * m * n,
        reference,
        lambda n, **_: n + 8 + alike // n,
        te.FLOATS,
    )


OPERATORS = {
    **{name: _of_rows(name) for name in _ROWS},
    **{name: _reducer(name) for name in ("sum", "mean", "max", "min")},
}
