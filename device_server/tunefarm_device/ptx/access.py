"""Loads and stores of lanes, in each space, with what a GPU checks and what it does not."""

from dataclasses import dataclass, replace

import numpy as np

from .errors import (
    IllegalAddressError,
    MisalignedAddressError,
    SharedRaceError,
    UndefinedResultError,
)
from .frame import Frame
from .kinds import Array, Kind
from .memory import LOCAL_WINDOW, SHARED_WINDOW, WINDOW, Allocation


@dataclass(frozen=True, slots=True)
class Request:
    """What lanes ask of a space: `count` values of a type, beside each other.

    `lanes` are numbers of lanes, None for all; `addresses` are one for each, or one for all.
    `constant` promises that nobody writes there during the launch. `used` are those of the
    values that the kernel looks at, None for all: compilers close gaps between loads.
    """

    space: str
    lanes: Array | None
    addresses: Array
    kind: Kind
    count: int
    constant: bool = False
    used: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """The bytes that a lane asks for."""
        return self.kind.bytes * self.count


def load(f: Frame, asked: Request) -> list[Array]:
    """The values, `count` arrays of them. Raises: ExecutionError."""
    if asked.space == "shared":
        return _load_shared(f, asked)
    if asked.space == "local":
        return _load_local(f, asked)
    if asked.space == "param":
        return _load_parameter(f, asked)
    parts = _by_window(f, asked) if asked.space == "generic" else None
    if parts is None:
        return _load_global(f, asked)
    every = len(f.lane_numbers() if asked.lanes is None else asked.lanes)
    out = [np.zeros(every, asked.kind.raw) for _ in range(asked.count)]
    for chosen, part in parts:
        for whole, some in zip(out, load(f, part), strict=True):
            whole[chosen] = some
    return out


def store(f: Frame, asked: Request, values: list[Array]) -> None:
    """Keeps the values. Raises: ExecutionError."""
    if asked.space == "shared":
        _store_shared(f, asked, values)
    elif asked.space == "local":
        _store_local(f, asked, values)
    elif asked.space in ("generic", "global"):
        parts = _by_window(f, asked) if asked.space == "generic" else None
        if parts is None:
            _store_global(f, asked, values)
            return
        for chosen, part in parts:
            some = [v if len(v) == 1 else v[chosen] for v in values]
            store(f, part, some)
    else:
        raise IllegalAddressError(f"a store to {asked.space} memory, which is read only")


def _by_window(f: Frame, asked: Request) -> list[tuple[Array, Request]] | None:
    """Generic addresses by the space that they point into; None where all are global."""
    if int(asked.addresses.min()) >= LOCAL_WINDOW + WINDOW:
        return None
    lanes = f.lane_numbers() if asked.lanes is None else asked.lanes
    addresses = np.broadcast_to(asked.addresses, (len(lanes),))
    rest = np.ones(len(lanes), bool)
    found = []
    for name, window in (("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW), ("global", 0)):
        inside = rest & (addresses >= np.uint64(window))
        if window:
            inside &= addresses < np.uint64(window + WINDOW)
        rest &= ~inside
        chosen = np.flatnonzero(inside)
        if len(chosen):
            own = addresses[chosen] - np.uint64(window)
            part = replace(asked, space=name, lanes=lanes[chosen], addresses=own)
            found.append((chosen, part))
    return found


# -- global


def check_aligned(f: Frame, lanes: Array | None, addresses: Array, size: int) -> None:
    """Raises: MisalignedAddressError."""
    if size > 1:
        wrong = addresses & addresses.dtype.type(size - 1)
        if np.count_nonzero(wrong):
            bad = int(np.flatnonzero(wrong)[0])
            lane = 0 if len(addresses) == 1 else bad if lanes is None else int(lanes[bad])
            raise MisalignedAddressError(
                f"0x{int(addresses[bad]):x} is no multiple of {size}, {f.shared.who(lane)}"
            )


def _record_global(f: Frame, lanes: Array | None, addresses: Array, size: int) -> None:
    if f.recorder is not None:
        every = f.lane_numbers() if lanes is None else lanes
        f.recorder.in_global(f.at, every, addresses, size)


def _load_global(f: Frame, asked: Request) -> list[Array]:
    lanes, addresses, kind, count = asked.lanes, asked.addresses, asked.kind, asked.count
    size = asked.size
    check_aligned(f, lanes, addresses, size)
    _record_global(f, lanes, addresses, size)
    parts = f.memory.split(addresses, size)
    out = [] if len(parts) == 1 else [np.empty(len(addresses), kind.raw) for _ in range(count)]
    for allocation, places in parts:
        chosen = addresses if places is None else addresses[places]
        offsets = (chosen - np.uint64(allocation.start)).astype(np.int64)
        if f.traffic is not None:
            blocks = _blocks(f, lanes, places, offsets)
            f.traffic.note_read(allocation, offsets, blocks, size, asked.constant)
        data = allocation.data.view(kind.raw)
        index = offsets // kind.bytes
        if places is None:
            return [data[index + j] if j else data[index] for j in range(count)]
        for j in range(count):
            out[j][places] = data[index + j]
    return out


def _blocks(f: Frame, lanes: Array | None, places: Array | None, offsets: Array) -> Array:
    """The blocks that use each of the offsets; -1 where one offset is for all lanes."""
    blocks = f.block_numbers()
    blocks = blocks if lanes is None else blocks[lanes]
    blocks = blocks if places is None else blocks[places]
    if len(blocks) == len(offsets):
        return blocks
    return blocks[:1] if blocks[0] == blocks[-1] else np.full(1, -1, np.int32)


def _store_global(f: Frame, asked: Request, values: list[Array]) -> None:
    lanes, addresses, kind, size = asked.lanes, asked.addresses, asked.kind, asked.size
    check_aligned(f, lanes, addresses, size)
    _record_global(f, lanes, addresses, size)
    for allocation, places in f.memory.split(addresses, size):
        chosen = addresses if places is None else addresses[places]
        offsets = (chosen - np.uint64(allocation.start)).astype(np.int64)
        data = allocation.data.view(kind.raw)
        some = [v if places is None or len(v) == 1 else v[places] for v in values]
        if f.traffic is not None:
            index = offsets // kind.bytes
            changed: Array = np.zeros(1, bool)
            for j, value in enumerate(some):
                changed = changed | (data[index + j] != value)
            if len(changed) > len(offsets):
                changed = changed.any(keepdims=True)
            blocks = _blocks(f, lanes, places, offsets)
            f.traffic.note_write(allocation, offsets, blocks, size, changed)
        _put(allocation, data, offsets // kind.bytes, some)


def _put(allocation: Allocation, data: Array, index: Array, values: list[Array]) -> None:
    """Sets places of an array. Raises: UndefinedResultError where threads do not agree."""
    for j, value in enumerate(values):
        own = index + j
        if len(value) > len(own):
            own = np.broadcast_to(own, value.shape)
        data[own] = value
        lost = data[own] != value
        if np.count_nonzero(lost):
            bad = allocation.start + int(own[np.flatnonzero(lost)[0]]) * data.itemsize
            raise UndefinedResultError(f"threads write different values to 0x{bad:x}")


# -- shared


def shared_places(
    f: Frame, lanes: Array | None, addresses: Array, size: int
) -> tuple[Array, Array]:
    """The lanes, and the places in the batch's shared memory that they ask for."""
    every = f.lane_numbers() if lanes is None else lanes
    wanted = addresses.astype(np.int64)
    if len(wanted) != len(every):
        wanted = np.broadcast_to(wanted, (len(every),))
    places = f.shared.locate(every, wanted, size)
    if f.recorder is not None:
        f.recorder.in_shared(f.at, every, wanted, size)
    return every, places


def _load_shared(f: Frame, asked: Request) -> list[Array]:
    kind, count, size = asked.kind, asked.count, asked.size
    every, places = shared_places(f, asked.lanes, asked.addresses, size)
    if asked.used is None:
        f.shared.note_read(every, places, size)
    for j in asked.used or ():
        f.shared.note_read(every, places + j * kind.bytes, kind.bytes)
    data = f.shared.data.view(kind.raw)
    index = places // kind.bytes
    return [data[index + j] if j else data[index] for j in range(count)]


def _store_shared(f: Frame, asked: Request, values: list[Array]) -> None:
    kind, size = asked.kind, asked.size
    every, places = shared_places(f, asked.lanes, asked.addresses, size)
    f.shared.note_write(every, places, size)
    data = f.shared.data.view(kind.raw)
    index = places // kind.bytes
    for j, value in enumerate(values):
        data[index + j] = value
        lost = data[index + j] != value
        if np.count_nonzero(lost):
            lane = int(every[np.flatnonzero(lost)[0]])
            raise SharedRaceError(
                "two threads of a warp write different values to one address,"
                f" {f.shared.who(lane)} is one"
            )


# -- local and param


def _local_index(f: Frame, asked: Request) -> Array:
    check_aligned(f, asked.lanes, asked.addresses, asked.size)
    every = f.lane_numbers() if asked.lanes is None else asked.lanes
    size = len(f.local) // f.lanes
    wanted = asked.addresses.astype(np.int64)
    outside = (wanted < 0) | (wanted > size - asked.size)
    if np.count_nonzero(outside):
        bad = int(wanted[np.flatnonzero(outside)[0]])
        raise IllegalAddressError(f"local address {bad} of {size} bytes")
    return (every * size + wanted) // asked.kind.bytes


def _load_local(f: Frame, asked: Request) -> list[Array]:
    index = _local_index(f, asked)
    data = f.local.view(asked.kind.raw)
    return [data[index + j] for j in range(asked.count)]


def _store_local(f: Frame, asked: Request, values: list[Array]) -> None:
    index = _local_index(f, asked)
    data = f.local.view(asked.kind.raw)
    for j, value in enumerate(values):
        data[index + j] = value


def _load_parameter(f: Frame, asked: Request) -> list[Array]:
    kind, count = asked.kind, asked.count
    check_aligned(f, None, asked.addresses, kind.bytes)
    wanted = asked.addresses.astype(np.int64)
    if int(wanted.min()) < 0 or int(wanted.max()) + kind.bytes * count > len(f.parameters):
        raise IllegalAddressError(f"parameter space has {len(f.parameters)} bytes")
    index = wanted[:, None] + np.arange(kind.bytes * count)
    data = f.parameters[index].view(kind.raw)
    return [np.ascontiguousarray(data[:, j]) for j in range(count)]
