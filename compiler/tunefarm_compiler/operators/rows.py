"""Operators over the rows of (m, n): softmax, layer_norm, reductions."""

from collections.abc import Callable

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.functions import exp, sqrt
from tunefarm_compiler.operators.base import Array, Field, Operator, Values, fields

EPSILON = 1e-5


def softmax(m: int, n: int) -> te.Tensor:
    """Each row's e to the x, divided by their sum; the largest x is taken off first."""
    a = te.placeholder("A", (m, n))
    j1, j2 = te.reduce_axis("r", n), te.reduce_axis("q", n)
    row, both = (("i", m),), (("i", m), ("j", n))
    most = te.compute("most", row, lambda i: te.max_of(a[i, j1], j1))
    powers = te.compute("powers", both, lambda i, j: exp(a[i, j] - most[i]))
    total = te.compute("total", row, lambda i: 1.0 / te.sum_of(powers[i, j2], j2))
    return te.compute("C", both, lambda i, j: powers[i, j] * total[i])


def _softmax_reference(x: Values, **_: int) -> Array:
    powers = np.exp(x[0] - x[0].max(1, keepdims=True))
    result: Array = powers / powers.sum(1, keepdims=True)
    return result


def layer_norm(m: int, n: int) -> te.Tensor:
    """Rows moved to mean 0 and variance 1, then times gamma plus beta, both (n)."""
    a = te.placeholder("A", (m, n))
    gamma, beta = te.placeholder("gamma", (n,)), te.placeholder("beta", (n,))
    j1, j2 = te.reduce_axis("r", n), te.reduce_axis("q", n)
    row, both = (("i", m),), (("i", m), ("j", n))
    mean = te.compute("mean", row, lambda i: te.sum_of(a[i, j1], j1) * (1 / n))

    def inverse(i: te.Axis) -> te.Expr:
        apart = a[i, j2] - mean[i]
        return 1.0 / sqrt(te.sum_of(apart * apart, j2) * (1 / n) + EPSILON)

    scale = te.compute("scale", row, inverse)
    return te.compute("C", both, lambda i, j: (a[i, j] - mean[i]) * scale[i] * gamma[j] + beta[j])


def _layer_norm_reference(x: Values, **_: int) -> Array:
    apart = x[0] - x[0].mean(1, keepdims=True)
    result: Array = apart / np.sqrt((apart**2).mean(1, keepdims=True) + EPSILON) * x[1] + x[2]
    return result


def _reduction(
    combine: Callable[..., te.Expr], m: int, n: int, axis: int, mean: bool = False
) -> te.Tensor:
    a = te.placeholder("A", (m, n))
    length, kept = (n, m) if axis else (m, n)
    r = te.reduce_axis("r", length)

    def each(i: te.Axis) -> te.Expr:
        total = combine(a[i, r] if axis else a[r, i], r)
        return total * (1 / length) if mean else total

    return te.compute("C", (("i", kept),), each)


def _reducer(name: str, combine: Callable[..., te.Expr]) -> Operator:
    mean, sums = name == "mean", name in ("sum", "mean")
    return Operator(
        (*fields("m", "n"), Field("axis", 1, 0, high=1)),
        lambda m, n, axis: _reduction(combine, m, n, axis, mean),
        lambda m, n, axis: m * n,
        lambda x, axis, **_: np.asarray(getattr(np, name)(x[0], axis)),
        lambda m, n, axis: (n if axis else m) if sums else 1,
    )


OPERATORS = {
    "softmax": Operator(
        fields("m", "n"), softmax, lambda m, n: 5 * m * n, _softmax_reference, lambda n, **_: n + 8
    ),
    "layer_norm": Operator(
        fields("m", "n"),
        layer_norm,
        lambda m, n: 8 * m * n,
        _layer_norm_reference,
        lambda n, **_: n + 8,
    ),
    "sum": _reducer("sum", te.sum_of),
    "mean": _reducer("mean", te.sum_of),
    "max": _reducer("max", te.max_of),
    "min": _reducer("min", te.min_of),
}
