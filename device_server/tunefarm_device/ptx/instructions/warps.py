"""What the threads of a warp tell each other."""

import numpy as np

from ..decode import Decoded, Reader, Sync, handles
from ..errors import UndefinedResultError, UnsupportedError
from ..frame import Frame
from ..kinds import KINDS, PRED, U32, Array
from ..syntax import Pair

_B32 = KINDS["b32"]


@handles("shfl")
def shfl(r: Reader) -> Decoded:
    """shfl.sync.{up,down,bfly,idx}.b32 d{|p}, a, b, c, mask."""
    r.choose("sync")
    mode = r.choose("up", "down", "bfly", "idx")
    kind = r.kind()
    operand = r.operand()
    pair = operand if isinstance(operand, Pair) else None
    target = r.target(kind, pair.first if pair else operand)
    inside = r.target(PRED, pair.second) if pair else -1
    a, b, c, members = (r.source(k) for k in (kind, U32, U32, U32))
    r.done()

    def step(f: Frame) -> None:
        lane = (f.lane_numbers() & 31).astype(np.uint32)
        source, fine = shuffle_source(mode, lane, f.regs[b], f.regs[c])
        place = (f.lane_numbers() & ~31) + source
        here = f.present()
        if f.mask is not None and not here[place[here]].all():
            lost = int(lane[here][np.flatnonzero(~here[place[here]])[0]])
            raise UndefinedResultError(f"lane {lost} reads a lane that does not take part")
        f.put(target, f.full(a)[place])
        if inside >= 0:
            f.put(inside, np.broadcast_to(fine, (f.lanes,)).copy())

    return Sync(step, members)


def shuffle_source(mode: str, lane: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """The lane that each lane reads, and whether it is within its segment."""
    value, clamp = b & np.uint32(31), c & np.uint32(31)
    segment = (c >> np.uint32(8)) & np.uint32(31)
    highest = (lane & segment) | (clamp & ~segment)
    lowest = lane & segment
    wide, step = lane.astype(np.int64), value.astype(np.int64)
    if mode == "up":
        wanted = wide - step
        fine = wanted >= highest
    elif mode == "down":
        wanted = wide + step
        fine = wanted <= highest
    elif mode == "bfly":
        wanted = wide ^ step
        fine = wanted <= highest
    else:
        wanted = (lowest | (value & ~segment)).astype(np.int64)
        fine = wanted <= highest
    return np.where(fine, wanted, wide), fine


def warp_bits(lanes: Array) -> Array:
    """For each lane the lanes of its warp that are true, as the bits of a number."""
    packed = np.packbits(lanes.reshape(-1, 32), axis=1, bitorder="little").view(np.uint32)
    return np.repeat(packed[:, 0], 32)


def _members(f: Frame, members: int) -> Array:
    """For each lane the lanes that its instruction is of: named, and there."""
    return f.full(members) & warp_bits(f.present())


@handles("vote")
def vote(r: Reader) -> Decoded:
    """vote.sync.{all,any,uni}.pred p, {!}a, mask and vote.sync.ballot.b32 d, {!}a, mask."""
    r.choose("sync")
    mode = r.choose("all", "any", "uni", "ballot")
    kind = r.kind()
    target = r.target(kind)
    predicate, negated = r.predicate()
    members = r.source(U32)
    r.done()

    def step(f: Frame) -> None:
        value = f.full(predicate)
        named = _members(f, members)
        yes = warp_bits((~value if negated else value) & f.present()) & named
        if mode == "ballot":
            f.put(target, yes)
        elif mode == "all":
            f.put(target, yes == named)
        elif mode == "any":
            f.put(target, yes != 0)
        else:
            f.put(target, (yes == named) | (yes == 0))

    return Sync(step, members)


@handles("activemask")
def activemask(r: Reader) -> Decoded:
    """activemask.b32 d."""
    target = r.target(r.kind())
    r.done()
    return lambda f: f.put(target, warp_bits(f.present()))


_REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add, "min": np.minimum, "max": np.maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip


@handles("redux")
def redux(r: Reader) -> Decoded:
    """redux.sync.op.{u32,s32,b32} d, a, mask: the same result in every lane of the mask."""
    r.choose("sync")
    kind = r.kind()
    name = r.choose(*_REDUCTIONS)
    if kind.is_float:
        raise UnsupportedError("redux of floats")
    target, source, members = r.target(kind), r.source(kind), r.source(U32)
    r.done()
    info = np.iinfo(kind.dtype)
    neutral = {"min": info.max, "max": info.min, "and": -1 if kind.is_signed else info.max}
    nothing = kind.dtype.type(neutral.get(name, 0))
    function = _REDUCTIONS[name]

    def step(f: Frame) -> None:
        named = _members(f, members).reshape(-1, 32)
        values = f.full(source).view(kind.dtype).reshape(-1, 32)
        chosen = (named[:, :, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
        spread = np.where(chosen != 0, values[:, None, :], nothing)
        f.put(target, function.reduce(spread, 2, dtype=kind.dtype).reshape(-1).view(kind.raw))

    return Sync(step, members)


@handles("match")
def match(r: Reader) -> Decoded:
    """match.{any,all}.sync.{b32,b64} d{|p}, a, mask: the lanes with the same value."""
    mode = r.choose("any", "all")
    r.choose("sync")
    kind = r.kind()
    operand = r.operand()
    pair = operand if isinstance(operand, Pair) else None
    target = r.target(_B32, pair.first if pair else operand)
    agreed = r.target(PRED, pair.second) if pair else -1
    source, members = r.source(kind), r.source(U32)
    r.done()

    def step(f: Frame) -> None:
        values = f.full(source).reshape(-1, 32)
        equal = (values[:, :, None] == values[:, None, :]).reshape(-1, 32)
        found = np.packbits(equal, axis=1, bitorder="little").view(np.uint32)[:, 0]
        named = _members(f, members)
        found = found & named
        if mode == "all":
            everyone = found == named
            found = np.where(everyone, found, np.uint32(0))
            if agreed >= 0:
                f.put(agreed, everyone)
        f.put(target, found)

    return Sync(step, members)
