"""Loads, stores and atomic operations."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import rounding
from ..access import Request, check_aligned, load, shared_places, store
from ..decode import Decoded, Reader, handles
from ..errors import IllegalAddressError, UnsupportedError
from ..frame import Frame
from ..kinds import F32, F64, Array, Kind
from ..syntax import Name
from .floats import bits_from, values_of

_SPACES = ("global", "shared", "local", "param", "const")
_HINTS = (
    "ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "volatile", "relaxed", "acquire",
    "release", "acq_rel", "cta", "gpu", "sys", "cluster", "mmio", "noftz", "L1::", "L2::",
    "level::", "unified",
)  # fmt: skip


def take_space(r: Reader) -> str:
    """The space that an access names; "generic" for none."""
    for name in ("shared::cta", "param::entry"):
        if r.flag(name):
            return name.partition("::")[0]
    return r.flag(*_SPACES) or "generic"


def note_granule(r: Reader, space: str, size: int) -> None:
    """The smallest accesses to shared and to global memory are what races are told apart by."""
    if space in ("shared", "generic"):
        r.slots.granule = min(r.slots.granule, size)
    if space in ("global", "generic"):
        r.slots.global_granule = min(r.slots.global_granule, size)


def note_order(r: Reader) -> None:
    """A kernel that names an order of memory puts its blocks in order itself."""
    if {"volatile", "relaxed", "acquire", "release"} & set(r.modifiers):
        r.slots.orders_blocks = True


def place(f: Frame, base: int, offset: Array | None, lanes: Array | None) -> Array:
    """The addresses of an access: one for each of the lanes, or one for all."""
    addresses = f.regs[base]
    if offset is not None:
        addresses = addresses + offset
    if addresses.dtype != np.uint64:
        addresses = addresses.astype(np.uint64)
    return addresses if lanes is None or len(addresses) == 1 else addresses[lanes]


def offset_of(offset: int, kind: Kind) -> Array | None:
    """The offset as the address register's type."""
    return np.array([offset % (1 << kind.bits)], kind.raw) if offset else None


@handles("ld", "ldu")
def load_step(r: Reader) -> Decoded:
    """ld{.space}{.vec}.type d, [a]."""
    kind = r.kind()
    count = r.number("v", 1)
    space = take_space(r)
    constant = "nc" in r.modifiers
    note_order(r)
    r.drop(*_HINTS)
    items = r.vector()
    targets = [(None, None) if item == Name("_") else r.wide_target(kind, item) for item in items]
    used = tuple(j for j, item in enumerate(items) if r.is_read(item))
    looked_at = used if 0 < len(used) < count else None
    base, offset, base_kind = r.address()
    r.done()
    if len(targets) != count:
        raise UnsupportedError(f"{len(targets)} registers for .v{count}")
    note_granule(r, space, kind.bytes * (count if looked_at is None else 1))
    shift = offset_of(offset, base_kind)

    def step(f: Frame) -> None:
        lanes = f.active()
        addresses = place(f, base, shift, lanes)
        values = load(f, Request(space, lanes, addresses, kind, count, constant, looked_at))
        for (target, wider), value in zip(targets, values, strict=True):
            if target is None:
                continue
            if wider is not None:
                f.scatter(target, lanes, value.view(kind.dtype).astype(wider.dtype).view(wider.raw))
            else:
                f.scatter(target, lanes, value)

    return step


@handles("st")
def store_step(r: Reader) -> Decoded:
    """st{.space}{.vec}.type [a], b."""
    kind = r.kind()
    count = r.number("v", 1)
    space = take_space(r)
    note_order(r)
    r.drop(*_HINTS)
    base, offset, base_kind = r.address()
    sources = [r.wide_source(kind, item) for item in r.vector()]
    r.done()
    if len(sources) != count:
        raise UnsupportedError(f"{len(sources)} values for .v{count}")
    note_granule(r, space, kind.bytes * count)
    shift = offset_of(offset, base_kind)

    def step(f: Frame) -> None:
        lanes = f.active()
        values = []
        for slot, cut in sources:
            value = f.regs[slot]
            value = value if lanes is None or len(value) == 1 else value[lanes]
            values.append(value.astype(kind.raw) if cut else value)
        store(f, Request(space, lanes, place(f, base, shift, lanes), kind, count), values)

    return step


@handles("prefetch", "prefetchu", "discard", "applypriority", "membar", "fence", "nanosleep")
def nothing(r: Reader) -> Decoded:
    """Hints, and orders that lanes which go together keep anyway."""
    if r.opcode in ("membar", "fence"):
        r.slots.orders_blocks = True
    return lambda f: None


# -- atomic operations

Operation = Callable[[Array, Array, Array], Array]


def _operation(name: str, kind: Kind) -> Operation:
    """New value from (old, b, c), all of them bits."""
    view = kind.dtype
    if kind.is_float or kind.family in ("f16x2", "bf16x2"):
        functions: dict[str, Callable[[Array, Array], Array]] = {
            "add": lambda x, y: _wide_add(x, y, kind), "exch": lambda x, y: y,
            "min": rounding.smaller, "max": rounding.larger,
        }  # fmt: skip
        if name not in functions:
            raise UnsupportedError(f"an atomic {name} of .{kind.name}")
        function = functions[name]
        return lambda old, b, c: bits_from(function(values_of(old, kind), values_of(b, kind)), kind)
    one = kind.raw.type(1)
    table: dict[str, Operation] = {
        "add": lambda old, b, c: old + b,
        "exch": lambda old, b, c: b,
        "cas": lambda old, b, c: np.where(old == b, c, old),
        "and": lambda old, b, c: old & b,
        "or": lambda old, b, c: old | b,
        "xor": lambda old, b, c: old ^ b,
        "min": lambda old, b, c: np.minimum(old.view(view), b.view(view)).view(kind.raw),
        "max": lambda old, b, c: np.maximum(old.view(view), b.view(view)).view(kind.raw),
        "inc": lambda old, b, c: np.where(old >= b, kind.raw.type(0), old + one),
        "dec": lambda old, b, c: np.where((old == 0) | (old > b), b, old - one),
    }
    return table[name]


def _wide_add(x: Array, y: Array, kind: Kind) -> Array:
    if kind.bits >= 32 and kind in (F32, F64):
        return x + y
    return x.astype(np.float32) + y.astype(np.float32)


@handles("atom", "red")
def atomic(r: Reader) -> Decoded:
    """atom{.space}.op.type d, [a], b{, c} and red: lanes at one address go one after another."""
    kind = r.kind()
    space = take_space(r)
    r.slots.orders_blocks |= space != "shared"
    r.drop(*_HINTS)
    name = r.choose("add", "exch", "cas", "and", "or", "xor", "min", "max", "inc", "dec")
    if r.modifiers or space not in ("global", "shared", "generic"):
        raise UnsupportedError(f"{r.opcode} with {', '.join(r.modifiers) or space}")
    target = r.target(kind) if r.opcode == "atom" else None
    base, offset, base_kind = r.address()
    b = r.source(kind)
    c = r.source(kind) if name == "cas" else b
    r.done()
    note_granule(r, space, kind.bytes)
    operation = _operation(name, kind)
    shift = offset_of(offset, base_kind)

    def step(f: Frame) -> None:
        lanes = f.active()
        every = f.lane_numbers() if lanes is None else lanes
        addresses = np.broadcast_to(place(f, base, shift, lanes), (len(every),))
        values = [f.full(slot)[every] for slot in (b, c)]
        old = _apply(f, Request(space, every, addresses, kind, 1), values, operation)
        if target is not None:
            f.scatter(target, lanes, old)

    return step


def _apply(f: Frame, asked: Request, values: list[Array], operation: Operation) -> Array:
    old = np.empty(len(asked.addresses), asked.kind.raw)
    for data, index, chosen in _targets(f, asked):
        # In each round the first lane that is left of each address.
        order = np.argsort(index, kind="stable")
        at = index[order]
        fresh = np.concatenate([[True], at[1:] != at[:-1]])
        starts = np.maximum.accumulate(np.where(fresh, np.arange(len(at)), 0))
        rank = np.arange(len(at)) - starts
        by_rank = order[np.argsort(rank, kind="stable")]
        bounds = np.concatenate([[0], np.cumsum(np.bincount(rank))])
        for start, end in itertools.pairwise(bounds):
            some = by_rank[start:end]
            which = chosen[some]
            before = data[index[some]]
            old[which] = before
            data[index[some]] = operation(before, values[0][which], values[1][which])
    return old


def _targets(f: Frame, asked: Request) -> list[tuple[Any, Array, Array]]:
    """Arrays of memory, the places in each, and which of the lanes these are for."""
    lanes, addresses, kind = asked.lanes, asked.addresses, asked.kind
    everything = np.arange(len(addresses))
    if asked.space == "shared":
        every, places = shared_places(f, lanes, addresses, kind.bytes)
        f.shared.note_atomic(every, places, kind.bytes)
        return [(f.shared.data.view(kind.raw), places // kind.bytes, everything)]
    if asked.space == "generic" and int(addresses.min()) < (1 << 42):
        raise IllegalAddressError("a generic atomic operation on shared memory: name .shared")
    check_aligned(f, lanes, addresses, kind.bytes)
    if f.recorder is not None:
        f.recorder.in_global(f.at, lanes, addresses, kind.bytes)
    found = []
    for allocation, places in f.memory.split(addresses, kind.bytes):
        chosen = everything if places is None else places
        index = (addresses[chosen] - np.uint64(allocation.start)) // kind.bytes
        found.append((allocation.data.view(kind.raw), index.astype(np.int64), chosen))
    return found
