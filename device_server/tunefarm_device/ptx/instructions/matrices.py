"""mma, ldmatrix, stmatrix, movmatrix: matrices spread over the lanes of a warp.

A tensor core adds products in an order and with a rounding that the ISA leaves open. Here the sum
is in float64 and rounded once, which every implementation is an approximation of.
"""

import re
from collections.abc import Callable

import numpy as np

from ..access import shared_places
from ..decode import Decoded, Reader, Sync, handles
from ..errors import UnsupportedError
from ..fragments import Fragment, fragments
from ..frame import Frame
from ..kinds import KINDS, Array, Kind
from ..memory import SHARED_WINDOW
from ..syntax import Operand
from .floats import bits_from, values_of
from .memory import note_granule, offset_of, place, take_space

_B16, _B32 = KINDS["b16"], KINDS["b32"]


@handles("mma")
def mma(r: Reader) -> Decoded:
    """mma.sync.aligned.shape.row.col{.satfinite}.dtype.atype.btype.ctype d, a, b, c."""
    for name in ("sync", "aligned", "row", "col"):
        r.choose(name)
    clamp = bool(r.flag("satfinite"))
    of_c, of_b, of_a, of_d = r.kind(), r.kind(), r.kind(), r.kind()
    shape = _shape(r)
    first, second, third = fragments(shape, of_a, of_c)
    if of_c is not of_d or (of_b.bits, of_b.is_integer) != (of_a.bits, of_a.is_integer):
        raise UnsupportedError(f"mma of .{of_d.name}.{of_a.name}.{of_b.name}.{of_c.name}")
    d, a, b, c = (r.vector() for _ in range(4))
    r.done()
    targets = [r.target(_register(of_d), item) for item in _counted(d, third)]
    left = _reader(r, _counted(a, first), first, of_a)
    right = _reader(r, _counted(b, second), second, of_b)
    start = _reader(r, _counted(c, third), third, of_c)

    def step(f: Frame) -> None:
        total = np.matmul(left(f), right(f)) + start(f)
        flat = third.elements(_rounded(total, of_d, clamp))
        registers = flat.view(_register(of_d).raw).reshape(f.lanes, -1)
        for place_of, target in enumerate(targets):
            f.put(target, np.ascontiguousarray(registers[:, place_of]))

    return Sync(step, -1)


def _shape(r: Reader) -> tuple[int, int, int]:
    for name in r.modifiers:
        match = re.fullmatch(r"m(\d+)n(\d+)k(\d+)", name)
        if match:
            r.modifiers.remove(name)
            return int(match[1]), int(match[2]), int(match[3])
    raise UnsupportedError("an mma without a shape")


def _register(kind: Kind) -> Kind:
    """The registers that elements of a type are in."""
    return KINDS["b64"] if kind.bits == 64 else _B32


def _counted(items: tuple[Operand, ...], fragment: Fragment) -> tuple[Operand, ...]:
    if len(items) != fragment.registers:
        raise UnsupportedError(f"{len(items)} registers where {fragment.registers} belong")
    return items


def _reader(
    r: Reader, items: tuple[Operand, ...], fragment: Fragment, kind: Kind
) -> Callable[[Frame], Array]:
    """What gathers a matrix of float64 for each warp."""
    slots = [r.source(_register(kind), item) for item in items]
    number = _numbers(kind)

    def read(f: Frame) -> Array:
        registers = np.stack([f.full(slot) for slot in slots], 1)
        elements = registers.view(kind.raw).reshape(f.warps, -1)
        return number(fragment.matrices(elements))

    return read


def _numbers(kind: Kind) -> Callable[[Array], Array]:
    """The bits of elements as float64."""
    if kind.family == "tf":
        # The low 13 bits are no part of the number.
        return lambda bits: (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    if kind.name in ("e4m3", "e5m2"):
        table = _small_floats(kind.name)
        return lambda bits: table[bits]
    if kind.is_float:
        return lambda bits: values_of(bits, kind).astype(np.float64)
    return lambda bits: bits.view(kind.dtype).astype(np.float64)


def _small_floats(name: str) -> Array:
    """The 256 values of e4m3 (no infinities) or e5m2."""
    fraction_bits, bias = (3, 7) if name == "e4m3" else (2, 15)
    bits = np.arange(256)
    exponent = (bits >> fraction_bits) & ((1 << (7 - fraction_bits)) - 1)
    fraction = (bits & ((1 << fraction_bits) - 1)) / (1 << fraction_bits)
    value = np.where(exponent == 0, fraction * 2, 1 + fraction) * 2.0 ** (exponent - bias)
    if name == "e4m3":
        value[(bits & 0x7F) == 0x7F] = np.nan
    else:
        value[(bits & 0x7F) == 0x7C] = np.inf
        value[(bits & 0x7F) > 0x7C] = np.nan
    return np.where(bits > 127, -value, value)


def _rounded(total: Array, kind: Kind, clamp: bool) -> Array:
    """float64 sums as elements of D. Integers wrap around, or stay within bounds."""
    if kind.is_float:
        flat = bits_from(total.reshape(-1), kind)
        return flat.reshape(total.shape)
    info = np.iinfo(np.int32)
    exact = np.clip(total, info.min, info.max) if clamp else total
    return exact.astype(np.int64).astype(np.int32).view(np.uint32)


# -- matrices of 8 x 8 halves, between shared memory and registers


class _Tiles:
    """`[address]` of ldmatrix and stmatrix: lane i has the address of a row of 16 bytes."""

    def __init__(self, r: Reader) -> None:
        for name in ("sync", "aligned", "m8n8"):
            r.choose(name)
        self.count = r.number("x", 0)
        self.turned = bool(r.flag("trans"))
        self.space = take_space(r)
        if r.kind() is not _B16 or self.count not in (1, 2, 4):
            raise UnsupportedError(f"{r.opcode} but of .b16, .x1, .x2 or .x4")
        if self.space not in ("shared", "generic"):
            raise UnsupportedError(f"{r.opcode} of {self.space} memory")
        note_granule(r, "shared", 16)

    def address(self, r: Reader) -> None:
        base, offset, kind = r.address()
        self.base, self.shift = base, offset_of(offset, kind)

    def rows(self, f: Frame) -> tuple[Array, Array, Array]:
        """The lanes whose addresses count, their rows' places, and the warps that take part."""
        warps = np.flatnonzero(f.present().reshape(-1, 32)[:, 0])
        lanes = (warps[:, None] * 32 + np.arange(8 * self.count)).reshape(-1)
        addresses = np.broadcast_to(place(f, self.base, self.shift, None), (f.lanes,))[lanes]
        if self.space == "generic":
            addresses = addresses - np.uint64(SHARED_WINDOW)
        _, places = shared_places(f, lanes, addresses, 16)
        return lanes, places, warps


@handles("ldmatrix")
def ldmatrix(r: Reader) -> Decoded:
    """ldmatrix.sync.aligned.m8n8.{x1,x2,x4}{.trans}{.shared}.b16 r, [p]."""
    tiles = _Tiles(r)
    targets = [r.target(_B32, item) for item in r.vector()]
    tiles.address(r)
    r.done()
    if len(targets) != tiles.count:
        raise UnsupportedError(f"{len(targets)} registers for .x{tiles.count}")

    def step(f: Frame) -> None:
        lanes, places, warps = tiles.rows(f)
        f.shared.note_read(lanes, places, 16, shares=True)
        halves = f.shared.data.view(np.uint16)[(places // 2)[:, None] + np.arange(8)]
        matrices = halves.reshape(len(warps), tiles.count, 8, 8)
        if tiles.turned:
            matrices = matrices.transpose(0, 1, 3, 2)
        pairs = np.ascontiguousarray(matrices).view(np.uint32).reshape(len(warps), -1, 32)
        for number, target in enumerate(targets):
            value = np.zeros((f.warps, 32), np.uint32)
            value[warps] = pairs[:, number]
            f.put(target, value.reshape(-1))

    return Sync(step, -1)


@handles("stmatrix")
def stmatrix(r: Reader) -> Decoded:
    """stmatrix.sync.aligned.m8n8.{x1,x2,x4}{.trans}{.shared}.b16 [p], r."""
    tiles = _Tiles(r)
    tiles.address(r)
    sources = [r.source(_B32, item) for item in r.vector()]
    r.done()
    if len(sources) != tiles.count:
        raise UnsupportedError(f"{len(sources)} registers for .x{tiles.count}")

    def step(f: Frame) -> None:
        lanes, places, warps = tiles.rows(f)
        f.shared.note_write(lanes, places, 16)
        registers = np.stack([f.full(s).reshape(-1, 32)[warps] for s in sources], 1)
        matrices = registers.view(np.uint16).reshape(len(warps), tiles.count, 8, 8)
        if tiles.turned:
            matrices = matrices.transpose(0, 1, 3, 2)
        index = (places // 2)[:, None] + np.arange(8)
        f.shared.data.view(np.uint16)[index] = matrices.reshape(-1, 8)

    return Sync(step, -1)


@handles("movmatrix")
def movmatrix(r: Reader) -> Decoded:
    """movmatrix.sync.aligned.m8n8.trans.b16 d, a."""
    for name in ("sync", "aligned", "m8n8", "trans", "b16"):
        r.choose(name)
    target, source = r.target(_B32), r.source(_B32)
    r.done()

    def step(f: Frame) -> None:
        halves = f.full(source).reshape(-1, 32).copy().view(np.uint16).reshape(-1, 8, 8)
        turned = np.ascontiguousarray(halves.transpose(0, 2, 1))
        f.put(target, turned.view(np.uint32).reshape(-1))

    return Sync(step, -1)
