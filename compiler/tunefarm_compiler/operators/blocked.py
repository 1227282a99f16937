"""Convolutions of channels in blocks, as `to_nchwc` lays them."""

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
    widened,
)
from tunefarm_compiler.operators.convolutions import operations
from tunefarm_compiler.operators.elementwise import REFERENCES
from tunefarm_compiler.operators.windows import FIELDS, Windows


def conv2d_nchwc(
    dtype: str, c: int, h: int, w: int, k: int, r: int, s: int, n: int, block: int, bias: int,
    act: str, **window: int,
) -> te.Tensor:  # fmt: skip
    """A (n, c / block, h, w, block), W (k / block, c / block, r, s, block, block of k), bias (k).

    The output is (n, k / block, y, x, block). `block` divides c and k.
    """
    if c % block or k % block:
        raise ValueError(f"block={block} does not divide c={c} and k={k}")
    cb, kb = c // block, k // block
    windows = Windows.of(h, w, r, s, **window)
    a = te.placeholder("A", (n, cb, h, w, block), dtype)
    f = te.placeholder("W", (kb, cb, r, s, block, block), dtype)
    offset = te.placeholder("bias", (kb, block), SUMS[dtype], view=(k,))
    cc, rr, ss, ii = (te.reduce_axis(*one) for one in (("c", cb), ("r", r), ("s", s), ("i", block)))

    def total(b: te.Axis, o: te.Axis, y: te.Axis, x: te.Axis, j: te.Axis) -> te.Expr:
        def load(row: te.Index, column: te.Index) -> te.Expr:
            return widened(a[b, cc, row, column, ii])

        value = windows.read((y, x), (rr, ss), load)
        return te.sum_of(product(value, f[o, cc, rr, ss, ii, j]), cc, rr, ss, ii)

    ho, wo = windows.counts
    axes = (("n", n), ("o", kb), ("y", ho), ("x", wo), ("k", block))
    sums = te.compute("P", axes, total)

    def each(*at: te.Axis) -> te.Expr:
        return activated(sums[at] + offset[at[1], at[4]] if bias else sums[at], act, dtype)

    return te.compute("C", axes, each)


def _reference(x: Values, bias: int, act: str, **sizes: int) -> Array:
    a = np.moveaxis(x[0], 1, 3)
    a = a.reshape(*a.shape[:3], -1)
    f = x[1].transpose(2, 3, 1, 4, 0, 5).reshape(*x[1].shape[2:4], a.shape[3], -1)
    total = np.tensordot(Windows.of(**sizes).under(a), f, ((4, 5, 3), (0, 1, 2)))
    total = REFERENCES[act](total + x[2] if bias else total)
    return np.moveaxis(total.reshape(*total.shape[:3], -1, x[1].shape[5]), 3, 1)


OPERATORS = {
    "conv2d_nchwc": Operator(
        (
            *fields("c", "h", "w", "k", "r", "s", n=1),
            *FIELDS,
            Field("block", 16),
            Field("bias", 0, 0, high=1),
            ACT,
        ),
        conv2d_nchwc,
        lambda **sizes: operations(groups=1, **sizes),
        _reference,
        lambda c, r, s, **_: c * r * s + 8,
        EVERY,
    )
}
