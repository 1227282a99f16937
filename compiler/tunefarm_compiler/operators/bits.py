"""Products of numbers of one and two bits, many at a time: by and, and counting ones."""

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.operators.base import Array, Operator, Values, fields

WORD = 32


def bit_matmul(m: int, n: int, k: int) -> te.Tensor:
    """C = A B, A of 2-bit numbers 0 to 3, B of bits 0 and 1; k must be a multiple of 32.

    Bits lie along k in words, the lowest first: A is (2, m, k / 32), first its low bits, then its
    high ones; B is (k / 32, n). C is int32.
    """
    if k % WORD:
        raise ValueError(f"k={k} is no multiple of {WORD}")
    words = k // WORD
    a = te.placeholder("A", (2, m, words), "uint32")
    b, r = te.placeholder("B", (words, n), "uint32"), te.reduce_axis("k", words)

    def count(plane: int, i: te.Axis, j: te.Axis) -> te.Expr:
        return te.cast(te.ones(te.Binary("and", a[plane, i, r], b[r, j])), "int32")

    def each(i: te.Axis, j: te.Axis) -> te.Expr:
        high = count(1, i, j)
        return te.sum_of(count(0, i, j) + (high + high), r)

    return te.compute("C", (("i", m), ("j", n)), each)


def unpacked(words: Array, axis: int) -> Array:
    """The bits of words along an axis."""
    moved = np.moveaxis(np.asarray(words, np.uint64).astype(np.uint32), axis, -1)
    octets = np.ascontiguousarray(moved).view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder="little")
    return np.moveaxis(bits, -1, axis).astype(np.float64)


def _reference(x: Values, **_: int) -> Array:
    low, high = unpacked(x[0], 2)
    result: Array = (low + 2 * high) @ unpacked(x[1], 0)
    return result


OPERATORS = {
    "bit_matmul": Operator(
        fields("m", "n", "k"),
        bit_matmul,
        lambda m, n, k: 2 * m * n * k,
        _reference,
        lambda k, **_: k,
        ("uint32",),
    )
}
