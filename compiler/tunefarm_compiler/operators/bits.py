"""Products of numbers of one and two bits, many at a time: by and, and counting ones."""

from collections.abc import Callable

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.operators.base import Array, Field, Operator, Values, fields
from tunefarm_compiler.operators.convolutions import operations
from tunefarm_compiler.operators.windows import FIELDS, Windows

WORD = 32
BITS = (Field("abits", 2, high=2), Field("wbits", 1, high=2))


def dot(abits: int, wbits: int, pair: Callable[[int, int], tuple[te.Expr, te.Expr]]) -> te.Expr:
    """The products of 32 numbers, summed: `pair` gives words of a plane of each operand."""

    def count(p: int, q: int) -> te.Expr:
        return te.cast(te.ones(te.Binary("and", *pair(p, q))), "int32")

    total: te.Expr | None = None
    for place in reversed(range(abits + wbits - 1)):  # p + q = place: times 2 to the place
        total = total + total if total is not None else None
        for p in range(max(0, place - wbits + 1), min(abits, place + 1)):
            term = count(p, place - p)
            total = term if total is None else term + total
    assert total is not None  # noqa: S101 (there is a plane of each)
    return total


def planes(name: str, bits: int, *shape: int) -> te.Tensor:
    """Words of so many planes; callers see no first axis where there is one."""
    return te.placeholder(name, (bits, *shape), "uint32", view=(bits, *shape)[bits == 1 :])


def bit_matmul(m: int, n: int, k: int, abits: int = 2, wbits: int = 1) -> te.Tensor:
    """C = A B, A of numbers of `abits` bits, B of `wbits`; k must be a multiple of 32.

    Bits lie along k in words, the lowest first, in planes: the low bits, then the high ones. A is
    (abits, m, k / 32), B is (wbits, k / 32, n), without the first axis for one. C is int32.
    """
    words = _words(k, "k")
    one, two = planes("A", abits, m, words), planes("B", wbits, words, n)
    r = te.reduce_axis("k", words)

    def each(i: te.Axis, j: te.Axis) -> te.Expr:
        return te.sum_of(dot(abits, wbits, lambda p, q: (one[p, i, r], two[q, r, j])), r)

    return te.compute("C", (("i", m), ("j", n)), each)


def bit_conv2d(
    c: int, h: int, w: int, k: int, r: int, s: int, n: int, abits: int, wbits: int, **window: int
) -> te.Tensor:  # fmt: skip
    """Convolution of A (abits, n, h, w, c / 32) by W (wbits, r, s, c / 32, k), bits along c."""
    words = _words(c, "c")
    a, f = planes("A", abits, n, h, w, words), planes("W", wbits, r, s, words, k)
    rr, ss, cc = (te.reduce_axis(*one) for one in (("r", r), ("s", s), ("c", words)))
    windows = Windows.of(h, w, r, s, **window)

    def each(b: te.Axis, y: te.Axis, x: te.Axis, o: te.Axis) -> te.Expr:
        def pair(p: int, q: int) -> tuple[te.Expr, te.Expr]:
            value = windows.read((y, x), (rr, ss), lambda row, column: a[p, b, row, column, cc])
            return value, f[q, rr, ss, cc, o]

        return te.sum_of(dot(abits, wbits, pair), rr, ss, cc)

    ho, wo = windows.counts
    return te.compute("C", (("n", n), ("y", ho), ("x", wo), ("k", k)), each)


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
    axes = words.ndim - (bits > 1)
    planes = [
        unpacked(plane, axis) for plane in words.reshape(bits, *words.shape[words.ndim - axes :])
    ]
    return sum((plane * 2**n for n, plane in enumerate(planes)), np.zeros(()))


def _matmul_reference(x: Values, abits: int, wbits: int, **_: int) -> Array:
    result: Array = _numbers(x[0], abits, 1) @ _numbers(x[1], wbits, 0)
    return result


def _conv2d_reference(x: Values, abits: int, wbits: int, **sizes: int) -> Array:
    a, f = _numbers(x[0], abits, 3), _numbers(x[1], wbits, 2)
    return np.tensordot(Windows.of(**sizes).under(a), f, ((4, 5, 3), (0, 1, 2)))


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
        (*fields("m", "n", "k"), *BITS),
        bit_matmul,
        lambda m, n, k, **_: 2 * m * n * k,
        _matmul_reference,
        lambda **_: 0,
        ("uint32",),
    ),
    "bit_conv2d": Operator(
        (*fields("c", "h", "w", "k", "r", "s", n=1), *FIELDS, *BITS),
        bit_conv2d,
        lambda **sizes: operations(groups=1, **sizes),
        _conv2d_reference,
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
