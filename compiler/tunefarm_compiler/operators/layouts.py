"""Moves: transposes, and channels in blocks and back. What they cost is counted as one for each
element written."""

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.operators.base import EVERY, Array, Operator, Values, fields


def transpose(dtype: str, m: int, n: int, b: int = 1) -> te.Tensor:
    """(b, m, n) to (b, n, m); channels last from channels first is b=n, m=c, n=h*w."""
    a = te.placeholder("A", (b, m, n), dtype, view=(b, m, n) if b > 1 else (m, n))
    axes, view = (("b", b), ("i", n), ("j", m)), (b, n, m) if b > 1 else (n, m)
    return te.compute("C", axes, lambda o, i, j: a[o, j, i], view)


def to_nchwc(dtype: str, c: int, h: int, w: int, n: int = 1, block: int = 16) -> te.Tensor:
    """(n, c, h, w) to (n, c / block, h, w, block); a last block that is not full ends in zeros."""
    blocks = -(-c // block)
    a = te.placeholder("A", (n, c, h * w), dtype, view=(n, c, h, w))

    def each(b: te.Axis, o: te.Axis, p: te.Axis, i: te.Axis) -> te.Expr:
        channel = o * block + i
        value = a[b, channel, p]
        return te.select(channel.within(0, c), value, 0) if c % block else value

    axes = (("n", n), ("o", blocks), ("p", h * w), ("i", block))
    return te.compute("C", axes, each, (n, blocks, h, w, block))


def from_nchwc(dtype: str, c: int, h: int, w: int, n: int = 1, block: int = 16) -> te.Tensor:
    """(n, c / block, h, w, block) to (n, c, h, w); block must divide c."""
    if c % block:
        raise ValueError(f"block={block} does not divide c={c}")
    blocks = c // block
    a = te.placeholder("A", (n, blocks, h * w, block), dtype, view=(n, blocks, h, w, block))
    axes = (("n", n), ("o", blocks), ("i", block), ("p", h * w))
    return te.compute("C", axes, lambda b, o, i, p: a[b, o, p, i], (n, c, h, w))


def _to_nchwc_reference(x: Values, c: int, block: int, **_: int) -> Array:
    a = np.pad(x[0], ((0, 0), (0, -c % block), (0, 0), (0, 0)))
    n, channels, h, w = a.shape
    return a.reshape(n, channels // block, block, h, w).transpose(0, 1, 3, 4, 2)


def _from_nchwc_reference(x: Values, c: int, **_: int) -> Array:
    n, _, h, w, _ = x[0].shape
    return x[0].transpose(0, 1, 4, 2, 3).reshape(n, c, h, w)


def _blocked(c: int, h: int, w: int, n: int, block: int) -> int:
    return n * -(-c // block) * block * h * w


def _exact(**_: int) -> int:
    return 0


_BLOCKS = fields("c", "h", "w", n=1, block=16)
OPERATORS = {
    "transpose": Operator(
        fields("m", "n", b=1),
        transpose,
        lambda m, n, b: m * n * b,
        lambda x, **_: np.swapaxes(x[0], -1, -2),
        _exact,
        EVERY,
    ),
    "to_nchwc": Operator(_BLOCKS, to_nchwc, _blocked, _to_nchwc_reference, _exact, EVERY),
    "from_nchwc": Operator(_BLOCKS, from_nchwc, _blocked, _from_nchwc_reference, _exact, EVERY),
}
