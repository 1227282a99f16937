"""Integer arithmetic: results wrap around."""

from typing import Any

import numpy as np

from ..decode import Decoded, Reader, handles
from ..errors import UndefinedResultError, UnsupportedError
from ..frame import Frame
from ..kinds import KINDS, Array, Kind
from .elementwise import elementwise, same


def integer(r: Reader, opcode: str) -> Decoded:
    """add, sub, mul, mad, div, rem, min, max, abs, neg, sad of an integer type."""
    kind = r.kind()
    if opcode in ("add", "sub"):
        if r.flag("sat"):
            return same(r, kind, 2, _saturating(opcode, kind))
        return same(r, kind, 2, _packed(np.add if opcode == "add" else np.subtract, kind))
    if opcode in ("mul", "mad"):
        return _multiply(r, kind, opcode)
    if opcode in ("div", "rem"):
        return _divide(r, kind, opcode)
    if opcode in ("min", "max"):
        if r.flag("relu"):
            raise UnsupportedError("min and max with .relu")
        return same(r, kind, 2, _packed(np.minimum if opcode == "min" else np.maximum, kind))
    if opcode == "sad":
        return same(r, kind, 3, lambda a, b, c: c + (np.maximum(a, b) - np.minimum(a, b)))
    return same(r, kind, 1, np.abs if opcode == "abs" else np.negative)


def _packed(function: Any, kind: Kind) -> Any:
    """Of two halves where the type is of two."""
    if kind.family not in ("u16x2", "s16x2"):
        return function
    half = np.dtype(np.int16 if kind.family == "s16x2" else np.uint16)

    def both(a: Array, b: Array) -> Array:
        pairs = function(a.view(half).reshape(-1, 2), b.view(half).reshape(-1, 2))
        return np.ascontiguousarray(pairs).view(kind.raw)[:, 0]

    return both


def _saturating(opcode: str, kind: Kind) -> Any:
    info = np.iinfo(kind.dtype)
    function = np.add if opcode == "add" else np.subtract

    def run(a: Array, b: Array) -> Array:
        wide = function(a.astype(np.int64), b.astype(np.int64))
        return np.clip(wide, info.min, info.max).astype(kind.dtype)

    return run


def high(a: Array, b: Array, kind: Kind) -> Array:
    """The upper half of the product."""
    if kind.bits < 64:
        wide = np.int64 if kind.is_signed else np.uint64
        product = a.astype(wide) * b.astype(wide)
        return (product >> wide(kind.bits)).astype(kind.dtype)
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    ua, ub = a.view(np.uint64), b.view(np.uint64)
    a0, a1, b0, b1 = ua & low, ua >> half, ub & low, ub >> half
    middle = a1 * b0 + ((a0 * b0) >> half)
    other = a0 * b1 + (middle & low)
    top = a1 * b1 + (middle >> half) + (other >> half)
    if kind.is_signed:
        top = top - np.where(a < 0, ub, np.uint64(0)) - np.where(b < 0, ua, np.uint64(0))
    return top.view(kind.dtype)


def _multiply(r: Reader, kind: Kind, opcode: str) -> Decoded:
    part = r.choose("lo", "hi", "wide")
    if r.flag("sat", "cc"):
        raise UnsupportedError("mad with .sat or .cc")
    result = KINDS[f"{kind.family}{kind.bits * 2}"] if part == "wide" else kind
    wide = result.dtype

    def product(a: Array, b: Array) -> Array:
        if part == "lo":
            return a * b
        if part == "hi":
            return high(a, b, kind)
        return a.astype(wide) * b.astype(wide)

    target = r.target(result)
    sources = [r.source(kind), r.source(kind)]
    if opcode == "mul":
        r.done()
        return elementwise(target, result, sources, [kind, kind], product)
    sources.append(r.source(result))
    r.done()
    return elementwise(
        target, result, sources, [kind, kind, result], lambda a, b, c: product(a, b) + c
    )


def _divide(r: Reader, kind: Kind, opcode: str) -> Decoded:
    target, a, b = r.target(kind), r.source(kind), r.source(kind)
    r.done()

    def step(f: Frame) -> None:
        x, y = f.regs[a].view(kind.dtype), f.regs[b].view(kind.dtype)
        zero = y == 0
        if np.count_nonzero(zero) and (zero & f.present()).any():
            raise UndefinedResultError("a division by zero")
        rest = np.fmod(x, y)
        f.put(target, (rest if opcode == "rem" else (x - rest) // y).view(kind.raw))

    return step


@handles("sad")
def sad(r: Reader) -> Decoded:
    """sad.type d, a, b, c."""
    return integer(r, "sad")


@handles("mul24", "mad24")
def multiply24(r: Reader) -> Decoded:
    """mul24.{lo,hi}.type d, a, b and mad24: the low 24 bits of each."""
    kind = r.kind()
    part = r.choose("lo", "hi")
    shift = 0 if part == "lo" else 16
    count = 2 if r.opcode == "mul24" else 3

    def run(a: Array, b: Array, *c: Array) -> Array:
        low = [(x.astype(np.int64) << 40) for x in (a, b)]
        low = [x >> 40 if kind.is_signed else x.view(np.uint64) >> np.uint64(40) for x in low]
        product = (low[0] * low[1]) >> low[0].dtype.type(shift)
        result = (product.view(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        result = result.view(kind.dtype)
        return result + c[0] if c else result

    return same(r, kind, count, run)


@handles("dp4a")
def dp4a(r: Reader) -> Decoded:
    """dp4a.atype.btype d, a, b, c: c + the sum of four products of bytes."""
    second, first = r.kind(), r.kind()
    result = KINDS["s32"] if "s32" in (first.name, second.name) else KINDS["u32"]
    target = r.target(result)
    sources = [r.source(first), r.source(second), r.source(result)]
    r.done()

    def run(a: Array, b: Array, c: Array) -> Array:
        x = a.view(np.int8 if first.is_signed else np.uint8).reshape(-1, 4).astype(np.int32)
        y = b.view(np.int8 if second.is_signed else np.uint8).reshape(-1, 4).astype(np.int32)
        return (x * y).sum(1, dtype=np.int32).view(c.dtype) + c

    return elementwise(target, result, sources, [first, second, result], run)


@handles("dp2a")
def dp2a(r: Reader) -> Decoded:
    """dp2a.{lo,hi}.atype.btype d, a, b, c: two 16-bit parts of a with two bytes of b."""
    part = r.choose("lo", "hi")
    second, first = r.kind(), r.kind()
    result = KINDS["s32"] if "s32" in (first.name, second.name) else KINDS["u32"]
    target = r.target(result)
    sources = [r.source(first), r.source(second), r.source(result)]
    r.done()
    start = 0 if part == "lo" else 2

    def run(a: Array, b: Array, c: Array) -> Array:
        x = a.view(np.int16 if first.is_signed else np.uint16).reshape(-1, 2).astype(np.int32)
        y = b.view(np.int8 if second.is_signed else np.uint8).reshape(-1, 4).astype(np.int32)
        return (x * y[:, start : start + 2]).sum(1, dtype=np.int32).view(c.dtype) + c

    return elementwise(target, result, sources, [first, second, result], run)
