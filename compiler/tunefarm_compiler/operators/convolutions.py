"""Convolutions: direct, padded by conditions. `window` are the fields in `windows.py`."""

import math

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
from tunefarm_compiler.operators.elementwise import REFERENCES
from tunefarm_compiler.operators.windows import FIELDS, Windows

LAYOUT = Field("layout", "nhwc", choices=("nhwc", "nchw"))


def conv2d(
    dtype: str, c: int, h: int, w: int, k: int, r: int, s: int, n: int, groups: int, bias: int,
    act: str, layout: str, **window: int,
) -> te.Tensor:  # fmt: skip
    """C = act(convolution of A by W + bias), from c to k channels.

    nhwc: A is (n, h, w, c), W (r, s, c / groups, k). nchw: A is (n, c, h, w), W (k, c / groups, r,
    s). Within, channels are (group, channel of the group).
    """
    if c % groups or k % groups:
        raise ValueError(f"groups={groups} does not divide c={c} and k={k}")
    last = layout == "nhwc"
    cg, kg = c // groups, k // groups
    windows = Windows.of(h, w, r, s, **window)
    ho, wo = windows.counts
    channels = (groups, cg)
    a = te.placeholder(
        "A",
        (n, h, w, *channels) if last else (n, *channels, h, w),
        dtype,
        view=(n, h, w, c) if last else (n, c, h, w),
    )
    f = te.placeholder(
        "W",
        (r, s, cg, groups, kg) if last else (groups, kg, cg, r, s),
        dtype,
        view=(r, s, cg, k) if last else (k, cg, r, s),
    )
    offset = te.placeholder("bias", (groups, kg), SUMS[dtype], view=(k,))
    rr, ss, cc = te.reduce_axis("r", r), te.reduce_axis("s", s), te.reduce_axis("c", cg)

    def total(b: te.Axis, y: te.Axis, x: te.Axis, g: te.Axis, o: te.Axis) -> te.Expr:
        def load(row: te.Index, column: te.Index) -> te.Expr:
            return widened(a[b, row, column, g, cc] if last else a[b, g, cc, row, column])

        value = windows.read((y, x), (rr, ss), load)
        weight = f[rr, ss, cc, g, o] if last else f[g, o, cc, rr, ss]
        return te.sum_of(product(value, weight), *((rr, ss, cc) if last else (cc, rr, ss)))

    def finished(value: te.Expr, g: te.Axis, o: te.Axis) -> te.Expr:
        return activated(value + offset[g, o] if bias else value, act, dtype)

    sides = {"n": n, "y": ho, "x": wo, "g": groups, "k": kg}
    if last:
        axes = [(axis, sides[axis]) for axis in "nyxgk"]
        sums = te.compute("P", axes, total)
        return te.compute(
            "C", axes, lambda b, y, x, g, o: finished(sums[b, y, x, g, o], g, o), (n, ho, wo, k)
        )
    axes = [(axis, sides[axis]) for axis in "ngkyx"]
    sums = te.compute("P", axes, lambda b, g, o, y, x: total(b, y, x, g, o))
    return te.compute(
        "C", axes, lambda b, g, o, y, x: finished(sums[b, g, o, y, x], g, o), (n, k, ho, wo)
    )


def _conv2d_reference(
    x: Values, groups: int, bias: int, act: str, layout: str, **sizes: int
) -> Array:
    a, f = x[0], x[1]
    if layout == "nchw":
        a, f = a.transpose(0, 2, 3, 1), f.transpose(2, 3, 1, 0)
    under = Windows.of(**sizes).under(a)
    inner = f.shape[2]
    each = f.shape[3] // groups
    parts = [
        np.tensordot(
            under[:, :, :, g * inner : (g + 1) * inner],
            f[..., g * each : (g + 1) * each],
            ((4, 5, 3), (0, 1, 2)),
        )
        for g in range(groups)
    ]
    total = np.concatenate(parts, axis=-1)
    total = REFERENCES[act](total + x[2] if bias else total)
    return total.transpose(0, 3, 1, 2) if layout == "nchw" else total


def depthwise_conv2d(
    dtype: str, c: int, h: int, w: int, r: int, s: int, n: int, multiplier: int, bias: int,
    act: str, **window: int,
) -> te.Tensor:  # fmt: skip
    """Each channel by windows of its own, `multiplier` of them, whose results lie side by side.

    A is (n, h, w, c), W (r, s, c x multiplier), bias (c x multiplier).
    """
    # Of one window for each channel there is no axis to count them.
    each, k = (multiplier,) * (multiplier > 1), c * multiplier
    a = te.placeholder("A", (n, h, w, c), dtype)
    f = te.placeholder("W", (r, s, c, *each), dtype, view=(r, s, k))
    offset = te.placeholder("bias", (c, *each), SUMS[dtype], view=(k,))
    rr, ss = te.reduce_axis("r", r), te.reduce_axis("s", s)
    windows = Windows.of(h, w, r, s, **window)
    ho, wo = windows.counts

    def total(b: te.Axis, y: te.Axis, x: te.Axis, *o: te.Axis) -> te.Expr:
        value = windows.read((y, x), (rr, ss), lambda row, column: widened(a[b, row, column, o[0]]))
        return te.sum_of(product(value, f[rr, ss, *o]), rr, ss)

    axes = (("n", n), ("y", ho), ("x", wo), ("c", c), *(("m", size) for size in each))
    sums = te.compute("P", axes, total)

    def finished(*at: te.Axis) -> te.Expr:
        return activated(sums[at] + offset[at[3:]] if bias else sums[at], act, dtype)

    return te.compute("C", axes, finished, (n, ho, wo, k))


def _depthwise_reference(x: Values, multiplier: int, bias: int, act: str, **sizes: int) -> Array:
    under = Windows.of(**sizes).under(x[0])
    f = x[1].reshape(*x[1].shape[:2], -1, multiplier)
    total: Array = np.einsum("nyxcrs,rscm->nyxcm", under, f)
    total = total.reshape(*total.shape[:3], -1)
    return REFERENCES[act](total + x[2] if bias else total)


def operations(c: int, k: int, n: int, groups: int, **sizes: int) -> int:
    """Multiplications and additions of a convolution."""
    windows = Windows.of(**sizes)
    each = windows.rows.window * windows.columns.window * (c // groups)
    return 2 * n * math.prod(windows.counts) * k * each


OPERATORS = {
    "conv2d": Operator(
        (
            *fields("c", "h", "w", "k", "r", "s", n=1),
            *FIELDS,
            Field("groups", 1),
            Field("bias", 0, 0, high=1),
            ACT,
            LAYOUT,
        ),
        conv2d,
        operations,
        _conv2d_reference,
        lambda c, r, s, groups, **_: c // groups * r * s + 8,
        EVERY,
    ),
    "depthwise_conv2d": Operator(
        (
            *fields("c", "h", "w", "r", "s", n=1),
            *FIELDS,
            Field("multiplier", 1),
            Field("bias", 0, 0, high=1),
            ACT,
        ),
        depthwise_conv2d,
        lambda c, multiplier, **sizes: operations(c, c * multiplier, groups=c, **sizes),
        _depthwise_reference,
        lambda r, s, **_: r * s + 8,
        EVERY,
    ),
}
