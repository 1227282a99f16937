"""Products of numbers of one and two bits, many at a time: by and, and counting ones."""

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.operators.base import Array, Field, Operator, Values, fields

WORD = 32


def bit_matmul(m: int, n: int, k: int, a: int = 2, w: int = 1) -> te.Tensor:
    """C = A B, A of numbers of `a` bits, B of `w` bits; k must be a multiple of 32.

    Bits lie along k in words, the lowest first, in planes: the low bits, then the high ones. A is
    (a, m, k / 32), B is (w, k / 32, n), without the first axis for one plane. C is int32.
    """
    words = _words(k, "k")
    one = te.placeholder("A", (a, m, words), "uint32", view=(a, m, words)[a == 1 :])
    two = te.placeholder("B", (w, words, n), "uint32", view=(w, words, n)[w == 1 :])
    r = te.reduce_axis("k", words)

    def each(i: te.Axis, j: te.Axis) -> te.Expr:
        def count(p: int, q: int) -> te.Expr:
            return te.cast(te.ones(te.Binary("and", one[p, i, r], two[q, r, j])), "int32")

        total: te.Expr | None = None
        for place in reversed(range(a + w - 1)):  # p + q = place
            total = total + total if total is not None else None
            for p in range(max(0, place - w + 1), min(a, place + 1)):
                term = count(p, place - p)
                total = term if total is None else term + total
        assert total is not None  # noqa: S101 (there is a plane of each)
        return te.sum_of(total, r)

    return te.compute("C", (("i", m), ("j", n)), each)


def bit_pack(m: int, n: int, bits: int = 2, axis: int = 1) -> te.Tensor:
    """The lowest `bits` of A (m, n), int8, in words along an axis: as `bit_matmul` takes them."""
    words = _words(n if axis else m, "n" if axis else "m")
    a = te.placeholder("A", (m, n), "int8")
    rows, columns = (m, words) if axis else (words, n)

    def word(i: te.Axis, j: te.Axis, plane: int) -> te.Expr:
        total: te.Expr = te.Constant(0, "uint32")
        for place in range(WORD):
            value = te.cast(a[i, j * WORD + place] if axis else a[i * WORD + place, j], "uint32")
            bit = te.Binary("and", value, te.Constant(1 << plane, "uint32"))
            way = "shl" if place >= plane else "lshr"
            moved = te.Binary(way, bit, te.Constant(abs(place - plane), "uint32"))
            total = te.Binary("or", total, moved)
        return total

    def each(p: te.Axis, i: te.Axis, j: te.Axis) -> te.Expr:
        low = word(i, j, 0)
        return te.select(p.within(0, 1), low, word(i, j, 1)) if bits == 2 else low

    shape = (bits, rows, columns)
    axes = (("p", bits), ("i", rows), ("j", columns))
    return te.compute("C", axes, each, shape[bits == 1 :])


def _words(size: int, name: str) -> int:
    if size % WORD:
        raise ValueError(f"{name}={size} is no multiple of {WORD}")
    return size // WORD


def unpacked(words: Array, axis: int) -> Array:
    """The bits of words along an axis."""
    moved = np.moveaxis(np.asarray(words, np.uint64).astype(np.uint32), axis, -1)
    octets = np.ascontiguousarray(moved).view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder="little")
    return np.moveaxis(bits, -1, axis).astype(np.float64)


def _numbers(words: Array, bits: int, axis: int) -> Array:
    planes = [unpacked(plane, axis) for plane in words.reshape(bits, *words.shape[-2:])]
    return sum((plane * 2**n for n, plane in enumerate(planes)), np.zeros(()))


def _matmul_reference(x: Values, a: int, w: int, **_: int) -> Array:
    result: Array = _numbers(x[0], a, 1) @ _numbers(x[1], w, 0)
    return result


def _pack_reference(x: Values, bits: int, axis: int, **_: int) -> Array:
    found = []
    for plane in range(bits):
        ones = np.moveaxis(x[0].astype(np.int64) >> plane & 1, axis, -1).astype(np.uint8)
        octets = np.packbits(ones, axis=-1, bitorder="little")
        words = np.ascontiguousarray(octets).view(np.uint32)
        found.append(np.moveaxis(words, -1, axis))
    return np.stack(found) if bits > 1 else found[0]


OPERATORS = {
    "bit_matmul": Operator(
        (*fields("m", "n", "k"), Field("a", 2, high=2), Field("w", 1, high=2)),
        bit_matmul,
        lambda m, n, k, **_: 2 * m * n * k,
        _matmul_reference,
        lambda **_: 0,
        ("uint32",),
    ),
    "bit_pack": Operator(
        (*fields("m", "n"), Field("bits", 2, high=2), Field("axis", 1, 0, high=1)),
        bit_pack,
        lambda m, n, **_: m * n,
        _pack_reference,
        lambda **_: 0,
        ("int8",),
    ),
}
