"""Convolutions: direct, padded by conditions."""

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

LAYOUT = Field("layout", "nhwc", choices=("nhwc", "nchw"))


def out_size(size: int, window: int, stride: int, pad: int, dilation: int) -> int:
    """Windows that fit in one direction; 0 where none does."""
    return max(0, (size + 2 * pad - dilation * (window - 1) - 1) // stride + 1)


def conv2d(
    dtype: str, c: int, h: int, w: int, k: int, r: int, s: int, n: int = 1, stride: int = 1,
    pad: int = 0, dilation: int = 1, groups: int = 1, bias: int = 0, act: str = "none",
    layout: str = "nhwc",
) -> te.Tensor:  # fmt: skip
    """C = act(convolution of A by W + bias), from c to k channels.

    nhwc: A is (n, h, w, c), W (r, s, c / groups, k). nchw: A is (n, c, h, w), W (k, c / groups, r,
    s). Within, channels are (group, channel of the group).
    """
    if c % groups or k % groups:
        raise ValueError(f"groups={groups} does not divide c={c} and k={k}")
    last = layout == "nhwc"
    cg, kg = c // groups, k // groups
    ho, wo = out_size(h, r, stride, pad, dilation), out_size(w, s, stride, pad, dilation)
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
        row, column = y * stride + rr * dilation - pad, x * stride + ss * dilation - pad
        value = widened(a[b, row, column, g, cc] if last else a[b, g, cc, row, column])
        if pad:
            value = te.select(row.within(0, h) & column.within(0, w), value, 0)
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


def windows(a: Array, r: int, s: int, stride: int, pad: int, dilation: int, fill: float) -> Array:
    """Of (n, h, w, c) the (n, y, x, c, r, s) that lie under windows."""
    sides = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = np.pad(a, sides, constant_values=fill)
    size = (dilation * (r - 1) + 1, dilation * (s - 1) + 1)
    found = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))
    return found[:, ::stride, ::stride, :, ::dilation, ::dilation]


def _conv2d_reference(
    x: Values, r: int, s: int, groups: int, bias: int, act: str, layout: str,
    stride: int, pad: int, dilation: int, **_: int,
) -> Array:  # fmt: skip
    a, f = x[0], x[1]
    if layout == "nchw":
        a, f = a.transpose(0, 2, 3, 1), f.transpose(2, 3, 1, 0)
    under = windows(a, r, s, stride, pad, dilation, 0)
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
    dtype: str, c: int, h: int, w: int, r: int, s: int, n: int = 1, stride: int = 1, pad: int = 0,
    dilation: int = 1, bias: int = 0, act: str = "none",
) -> te.Tensor:  # fmt: skip
    """Each channel by its own window: A is (n, h, w, c), W is (r, s, c), bias is (c)."""
    a, f = te.placeholder("A", (n, h, w, c), dtype), te.placeholder("W", (r, s, c), dtype)
    offset = te.placeholder("bias", (c,), SUMS[dtype])
    rr, ss = te.reduce_axis("r", r), te.reduce_axis("s", s)

    def total(b: te.Axis, y: te.Axis, x: te.Axis, o: te.Axis) -> te.Expr:
        row, column = y * stride + rr * dilation - pad, x * stride + ss * dilation - pad
        value = widened(a[b, row, column, o])
        if pad:
            value = te.select(row.within(0, h) & column.within(0, w), value, 0)
        return te.sum_of(product(value, f[rr, ss, o]), rr, ss)

    ho, wo = out_size(h, r, stride, pad, dilation), out_size(w, s, stride, pad, dilation)
    axes = (("n", n), ("y", ho), ("x", wo), ("c", c))
    sums = te.compute("P", axes, total)

    def each(*at: te.Axis) -> te.Expr:
        return activated(sums[at] + offset[at[-1]] if bias else sums[at], act, dtype)

    return te.compute("C", axes, each)


def _depthwise_reference(
    x: Values, r: int, s: int, stride: int, pad: int, dilation: int, bias: int, act: str, **_: int
) -> Array:
    under = windows(x[0], r, s, stride, pad, dilation, 0)
    total: Array = np.einsum("nyxcrs,rsc->nyxc", under, x[1])
    return REFERENCES[act](total + x[2] if bias else total)


def operations(
    c: int, h: int, w: int, k: int, r: int, s: int, n: int, stride: int, pad: int, dilation: int,
    groups: int, **_: object,
) -> int:  # fmt: skip
    """Multiplications and additions of a convolution."""
    ho, wo = out_size(h, r, stride, pad, dilation), out_size(w, s, stride, pad, dilation)
    return 2 * n * ho * wo * k * (c // groups) * r * s


OPERATORS = {
    "conv2d": Operator(
        (
            *fields("c", "h", "w", "k", "r", "s", n=1, stride=1, pad=0, dilation=1, groups=1),
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
            *fields("c", "h", "w", "r", "s", n=1, stride=1, pad=0, dilation=1),
            Field("bias", 0, 0, high=1),
            ACT,
        ),
        depthwise_conv2d,
        lambda c, **sizes: operations(c=c, k=c, groups=c, **sizes),
        _depthwise_reference,
        lambda r, s, **_: r * s + 8,
        EVERY,
    ),
}
