"""Products summed over an axis: matmul, dense, gemv."""

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.operators.base import (
    ACT,
    EVERY,
    SUMS,
    Array,
    Field,
    Operator,
    Values,
    activated,
    fields,
    product,
    rounded,
)
from tunefarm_compiler.operators.elementwise import REFERENCES


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


def dense(dtype: str, m: int, n: int, k: int, bias: int = 1, act: str = "none") -> te.Tensor:
    """C = act(A W' + bias): A is (m, k), W is (n, k), bias is (n), of the type of the sums."""
    a, w = te.placeholder("A", (m, k), dtype), te.placeholder("W", (n, k), dtype)
    offset, r = te.placeholder("bias", (n,), SUMS[dtype]), te.reduce_axis("k", k)
    both = (("i", m), ("j", n))
    sums = te.compute("P", both, lambda i, j: te.sum_of(product(a[i, r], w[j, r]), r))

    def each(i: te.Axis, j: te.Axis) -> te.Expr:
        return activated(sums[i, j] + offset[j] if bias else sums[i, j], act, dtype)

    return te.compute("C", both, each)


def _dense_reference(x: Values, bias: int, act: str, **_: int) -> Array:
    sums = x[0] @ x[1].T
    return REFERENCES[act](sums + x[2] if bias else sums)


def gemv(dtype: str, m: int, n: int) -> te.Tensor:
    """C = A x: A is (m, n), x is (n)."""
    a, x = te.placeholder("A", (m, n), dtype), te.placeholder("x", (n,), dtype)
    r = te.reduce_axis("j", n)

    def each(i: te.Axis) -> te.Expr:
        return rounded(te.sum_of(product(a[i, r], x[r]), r), dtype)

    return te.compute("C", (("i", m),), each)


OPERATORS = {
    "matmul": Operator(
        (*fields("m", "n", "k", b=1), Field("ta", 0, 0, high=1), Field("tb", 0, 0, high=1)),
        matmul,
        lambda m, n, k, b, **_: 2 * m * n * k * b,
        _matmul_reference,
        lambda k, **_: k,
        EVERY,
    ),
    "dense": Operator(
        (*fields("m", "n", "k"), Field("bias", 1, 0, high=1), ACT),
        dense,
        lambda m, n, k, **_: 2 * m * n * k,
        _dense_reference,
        lambda k, **_: k + 8,
        EVERY,
    ),
    "gemv": Operator(
        fields("m", "n"),
        gemv,
        lambda m, n: 2 * m * n,
        lambda x, **_: x[0] @ x[1],
        lambda n, **_: n,
        EVERY,
    ),
}
