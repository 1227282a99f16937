"""Products summed over an axis: matmul, dense, gemv."""

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.functions import ACTIVATIONS
from tunefarm_compiler.operators.base import (
    Array,
    Field,
    Operator,
    Values,
    fields,
    product,
    rounded,
)
from tunefarm_compiler.operators.elementwise import REFERENCES

ACT = Field("act", "none", choices=tuple(ACTIVATIONS))


def matmul(dtype: str, m: int, n: int, k: int, b: int = 1, ta: int = 0, tb: int = 0) -> te.Tensor:
    """C = A B, `b` times. A is (m, k), or (k, m) with ta=1; B is (k, n), or (n, k) with tb=1."""
    batch = (b,) if b > 1 else ()
    left = te.placeholder("A", (*batch, *((k, m) if ta else (m, k))), dtype)
    right = te.placeholder("B", (*batch, *((n, k) if tb else (k, n))), dtype)
    r = te.reduce_axis("k", k)

    def each(*at: te.Axis) -> te.Expr:
        *outer, i, j = at
        one = left[(*outer, *((r, i) if ta else (i, r)))]
        two = right[(*outer, *((j, r) if tb else (r, j)))]
        return rounded(te.sum_of(product(one, two), r), dtype)

    axes = [*([("b", b)] if b > 1 else []), ("i", m), ("j", n)]
    return te.compute("C", axes, each)


def _matmul_reference(x: Values, ta: int, tb: int, **_: int) -> Array:
    left, right = (np.swapaxes(a, -1, -2) if t else a for a, t in zip(x, (ta, tb), strict=True))
    return left @ right


def dense(m: int, n: int, k: int, bias: int = 1, act: str = "none") -> te.Tensor:
    """C = act(A W' + bias): A is (m, k), W is (n, k), bias is (n)."""
    a, w = te.placeholder("A", (m, k)), te.placeholder("W", (n, k))
    r = te.reduce_axis("k", k)
    sums = te.compute("P", (("i", m), ("j", n)), lambda i, j: te.sum_of(a[i, r] * w[j, r], r))
    offset = te.placeholder("bias", (n,))

    def each(i: te.Axis, j: te.Axis) -> te.Expr:
        value = sums[i, j] + offset[j] if bias else sums[i, j]
        return ACTIVATIONS[act](value)

    return te.compute("C", (("i", m), ("j", n)), each)


def _dense_reference(x: Values, bias: int, act: str, **_: int) -> Array:
    sums = x[0] @ x[1].T
    return REFERENCES[act](sums + x[2] if bias else sums)


def gemv(m: int, n: int) -> te.Tensor:
    """C = A x: A is (m, n), x is (n)."""
    a, x, r = te.placeholder("A", (m, n)), te.placeholder("x", (n,)), te.reduce_axis("j", n)
    return te.compute("C", (("i", m),), lambda i: te.sum_of(a[i, r] * x[r], r))


OPERATORS = {
    "matmul": Operator(
        (*fields("m", "n", "k", b=1), Field("ta", 0, 0, high=1), Field("tb", 0, 0, high=1)),
        matmul,
        lambda m, n, k, b, **_: 2 * m * n * k * b,
        _matmul_reference,
        lambda k, **_: k,
        ("float32", "float16", "bfloat16", "int8"),
    ),
    "dense": Operator(
        (*fields("m", "n", "k"), Field("bias", 1, 0, high=1), ACT),
        dense,
        lambda m, n, k, **_: 2 * m * n * k,
        _dense_reference,
        lambda k, **_: k + 8,
    ),
    "gemv": Operator(
        fields("m", "n"),
        gemv,
        lambda m, n: 2 * m * n,
        lambda x, **_: x[0] @ x[1],
        lambda n, **_: n,
    ),
}
