"""Logic, shifts and bit fields."""

import numpy as np

from ..decode import Decoded, Reader, handles
from ..errors import UnsupportedError
from ..kinds import U32, Array, Kind
from ..syntax import Immediate
from .elementwise import elementwise, same

_LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@handles("and", "or", "xor")
def logic(r: Reader) -> Decoded:
    """and.type d, a, b."""
    return same(r, r.kind(), 2, _LOGIC[r.opcode])


@handles("not")
def invert(r: Reader) -> Decoded:
    """not.type d, a."""
    return same(r, r.kind(), 1, np.invert)


@handles("cnot")
def cnot(r: Reader) -> Decoded:
    """cnot.type d, a: 1 where a is 0."""
    kind = r.kind()
    return same(r, kind, 1, lambda a: (a == 0).astype(kind.raw))


@handles("shl", "shr")
def shift(r: Reader) -> Decoded:
    """shl.type d, a, b: shifts by the width and more give 0, or the sign."""
    kind = r.kind()
    target, sources = r.target(kind), [r.source(kind), r.source(U32)]
    r.done()
    most = np.uint32(kind.bits)
    left = r.opcode == "shl"

    def run(a: Array, b: Array) -> Array:
        amount = np.minimum(b, most).astype(a.dtype)
        return np.left_shift(a, amount) if left else np.right_shift(a, amount)

    return elementwise(target, kind, sources, [kind, U32], run)


@handles("shf")
def funnel(r: Reader) -> Decoded:
    """shf.{l,r}.{wrap,clamp}.b32 d, a, b, c: of b and a, b above."""
    left = r.choose("l", "r") == "l"
    wrap = r.choose("wrap", "clamp") == "wrap"
    kind = r.kind()

    def run(a: Array, b: Array, c: Array) -> Array:
        n = (c & np.uint32(31) if wrap else np.minimum(c, np.uint32(32))).astype(np.uint64)
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        moved = (both << n) >> np.uint64(32) if left else both >> n
        return (moved & np.uint64(0xFFFFFFFF)).astype(np.uint32)

    return same(r, kind, 3, run)


def count_ones(a: Array) -> Array:
    """How many bits are set."""
    wide = a.astype(np.uint64)
    masks = (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F)
    for shift_by, mask in zip((1, 2, 4), masks, strict=True):
        part = np.uint64(mask)
        wide = (wide & part) + ((wide >> np.uint64(shift_by)) & part)
    return ((wide * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint32)


def smear(a: Array) -> Array:
    """Every bit below the highest that is set is set too."""
    wide = a.astype(np.uint64)
    for shift_by in (1, 2, 4, 8, 16, 32):
        wide = wide | (wide >> np.uint64(shift_by))
    return wide


@handles("popc")
def popc(r: Reader) -> Decoded:
    """popc.type d, a."""
    kind = r.kind()
    target, source = r.target(U32), r.source(kind)
    r.done()
    return elementwise(target, U32, [source], [kind], count_ones)


@handles("clz")
def clz(r: Reader) -> Decoded:
    """clz.type d, a."""
    kind = r.kind()
    target, source = r.target(U32), r.source(kind)
    r.done()
    bits = np.uint32(kind.bits)
    return elementwise(target, U32, [source], [kind], lambda a: bits - count_ones(smear(a)))


@handles("bfind")
def bfind(r: Reader) -> Decoded:
    """bfind{.shiftamt}.type d, a: the highest bit that is no copy of the sign; or -1."""
    shiftamt = r.flag("shiftamt")
    kind = r.kind()
    target, source = r.target(U32), r.source(kind)
    r.done()

    def run(a: Array) -> Array:
        value = np.where(a < 0, ~a, a) if kind.is_signed else a
        ones = count_ones(smear(value.view(kind.raw)))
        place = ones - np.uint32(1)
        if not shiftamt:
            return place
        return np.where(ones == 0, place, np.uint32(kind.bits - 1) - place)

    return elementwise(target, U32, [source], [kind], run)


@handles("brev")
def brev(r: Reader) -> Decoded:
    """brev.type d, a: the bits in the other order."""
    kind = r.kind()

    def run(a: Array) -> Array:
        octets = a.view(np.uint8).reshape(len(a), -1)[:, ::-1]
        turned = np.packbits(np.unpackbits(octets, axis=1, bitorder="little"), axis=1)
        return np.ascontiguousarray(turned).view(kind.raw)[:, 0]

    return same(r, kind, 1, run)


def _clamped(value: Array, kind: Kind) -> Array:
    """A position or length: its low byte."""
    return (value & np.uint32(0xFF)).astype(np.uint64)


@handles("bfe")
def bfe(r: Reader) -> Decoded:
    """bfe.type d, a, b, c: c bits from bit b, filled with the sign."""
    kind = r.kind()
    target, sources = r.target(kind), [r.source(kind), r.source(U32), r.source(U32)]
    r.done()
    top = np.int64(kind.bits - 1)

    def run(a: Array, b: Array, c: Array) -> Array:
        start, length = _clamped(b, kind), _clamped(c, kind)
        value = a.view(kind.raw).astype(np.uint64)
        field = _low(np.right_shift(value, start), length)
        if not kind.is_signed:
            return field.astype(kind.raw).view(kind.dtype)
        last = np.minimum((start + length).astype(np.int64) - 1, top).astype(np.uint64)
        sign = (np.right_shift(value, last) & np.uint64(1)).astype(bool) & (length > 0)
        kept = np.minimum(length, np.uint64(kind.bits) - np.minimum(start, np.uint64(kind.bits)))
        filled = np.where(sign, field | ~_low(~np.uint64(0) + np.zeros_like(field), kept), field)
        return filled.astype(kind.raw).view(kind.dtype)

    return elementwise(target, kind, sources, [kind, U32, U32], run)


def _low(value: Array, bits: Array) -> Array:
    """The lowest bits alone."""
    everything = ~np.uint64(0)
    return value & ~np.left_shift(everything, bits)


@handles("bfi")
def bfi(r: Reader) -> Decoded:
    """bfi.type f, a, b, c, d: d bits of a into b, from bit c."""
    kind = r.kind()
    target = r.target(kind)
    sources = [r.source(kind), r.source(kind), r.source(U32), r.source(U32)]
    r.done()

    def run(a: Array, b: Array, c: Array, d: Array) -> Array:
        start, length = _clamped(c, kind), _clamped(d, kind)
        mask = np.left_shift(_low(~np.uint64(0) + np.zeros_like(start), length), start)
        value = np.left_shift(a.astype(np.uint64), start)
        return ((b.astype(np.uint64) & ~mask) | (value & mask)).astype(kind.raw)

    return elementwise(target, kind, sources, [kind, kind, U32, U32], run)


@handles("bmsk")
def bmsk(r: Reader) -> Decoded:
    """bmsk.{clamp,wrap}.b32 d, a, b: b bits set, from bit a."""
    wrap = r.choose("clamp", "wrap") == "wrap"
    kind = r.kind()

    def run(a: Array, b: Array) -> Array:
        start, length = a.astype(np.uint64), b.astype(np.uint64)
        if wrap:
            start, length = start & np.uint64(31), length & np.uint64(31)
        ones = _low(~np.uint64(0) + np.zeros_like(length), np.minimum(length, np.uint64(32)))
        moved = np.left_shift(ones, np.minimum(start, np.uint64(32)))
        return (moved & np.uint64(0xFFFFFFFF)).astype(np.uint32)

    return same(r, kind, 2, run)


@handles("lop3")
def lop3(r: Reader) -> Decoded:
    """lop3.b32 d, a, b, c, table."""
    kind = r.kind()
    target, sources = r.target(kind), [r.source(kind) for _ in range(3)]
    table = r.operand()
    r.done()
    if not isinstance(table, Immediate):
        raise UnsupportedError("a table that is no constant")
    rows = [row for row in range(8) if table.value >> row & 1]

    def run(a: Array, b: Array, c: Array) -> Array:
        result = np.zeros(1, np.uint32)
        for row in rows:
            x, y, z = (v if row & bit else ~v for v, bit in ((a, 4), (b, 2), (c, 1)))
            result = result | (x & y & z)
        return result

    return elementwise(target, kind, sources, [kind] * 3, run)


_SELECT = {
    "f4e": [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
    "b4e": [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]],
    "rc8": [[0] * 4, [1] * 4, [2] * 4, [3] * 4],
    "ecl": [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]],
    "ecr": [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]],
    "rc16": [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
}


@handles("prmt")
def prmt(r: Reader) -> Decoded:
    """prmt.b32{.mode} d, a, b, c: any four of eight bytes, or of their signs."""
    kind = r.kind()
    mode = r.flag(*_SELECT)

    def run(a: Array, b: Array, c: Array) -> Array:
        lanes = max(len(a), len(b), len(c))
        octets = np.empty((lanes, 8), np.uint8)
        octets[:, :4] = a.view(np.uint8).reshape(-1, 4)
        octets[:, 4:] = b.view(np.uint8).reshape(-1, 4)
        if mode:
            chosen = np.array(_SELECT[mode])[c & np.uint32(3)]
            signs = np.zeros((1, 4), bool)
        else:
            nibbles = (c[:, None] >> np.array([0, 4, 8, 12], np.uint32)) & np.uint32(15)
            chosen, signs = nibbles & np.uint32(7), nibbles > 7
        chosen = np.broadcast_to(chosen, (lanes, 4)).astype(np.int64)
        picked = np.take_along_axis(octets, chosen, 1)
        spread = np.where(picked >= 128, np.uint8(255), np.uint8(0))
        picked = np.where(signs, spread, picked)
        return np.ascontiguousarray(picked).view(np.uint32)[:, 0]

    return same(r, kind, 3, run)
