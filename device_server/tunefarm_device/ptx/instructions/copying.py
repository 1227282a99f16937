"""Asynchronous copies into shared memory."""

import numpy as np

from ..access import Request, load, shared_places
from ..decode import Decoded, Reader, handles
from ..errors import UnsupportedError
from ..frame import Frame
from ..kinds import KINDS, PRED, U32, Array
from ..syntax import Immediate, Name, Negated
from .memory import note_granule, offset_of, place

_B8 = KINDS["b8"]


@handles("cp")
def cp(r: Reader) -> Decoded:
    """cp.async, cp.async.commit_group, cp.async.wait_group N, cp.async.wait_all."""
    r.choose("async")
    if r.flag("commit_group"):
        r.done()
        return lambda f: f.copies.commit(f)
    if r.flag("wait_all"):
        r.done()
        return lambda f: f.copies.wait(f, None)
    if r.flag("wait_group"):
        newest = _constant(r)
        r.done()
        return lambda f: f.copies.wait(f, newest)
    return _copy(r)


def _constant(r: Reader) -> int:
    operand = r.operand()
    if not isinstance(operand, Immediate):
        raise UnsupportedError("a number that is no constant")
    return operand.value


def _copy(r: Reader) -> Decoded:
    """cp.async.{ca,cg}.shared.global [to], [from], size{, source size or whether it is ignored}."""
    cached = r.choose("ca", "cg")
    r.choose("shared", "shared::cta")
    r.choose("global")
    r.drop("L2::")
    to, to_offset, to_kind = r.address()
    source, from_offset, from_kind = r.address()
    size = _constant(r)
    given, ignored = -1, (-1, False)
    if r.operands and _is_predicate(r):
        ignored = r.predicate()
    elif r.operands:
        given = r.source(U32)
    r.done()
    if size not in (4, 8, 16) or (cached == "cg" and size != 16):
        raise UnsupportedError(f"cp.async.{cached} of {size} bytes")
    note_granule(r, "shared", size)
    note_granule(r, "global", size if given < 0 else 1)
    shifts = offset_of(to_offset, to_kind), offset_of(from_offset, from_kind)
    kind = KINDS[f"b{min(size, 8) * 8}"]
    count = size // kind.bytes

    def step(f: Frame) -> None:
        lanes = f.active()
        every = f.lane_numbers() if lanes is None else lanes
        lengths = None if given < 0 else f.full(given)[every]
        if ignored[0] >= 0:
            lengths = np.where(f.full(ignored[0])[every] != ignored[1], 0, size)
        addresses = np.broadcast_to(place(f, source, shifts[1], lanes), (len(every),))
        asked = Request("global", every, addresses, kind, count)
        data = _fetch(f, asked, lengths)
        _, places = shared_places(f, every, place(f, to, shifts[0], lanes), size)
        f.shared.note_write(every, places, size, copy=True)
        f.copies.start(every, places, data)

    return step


def _is_predicate(r: Reader) -> bool:
    operand = r.operands[0]
    if isinstance(operand, Negated):
        return True
    return isinstance(operand, Name) and r.register(operand).kind is PRED


def _fetch(f: Frame, asked: Request, lengths: Array | None) -> Array:
    """The bytes of the source, a row for each lane; beyond `lengths` zeros, which are not read."""
    if lengths is None:
        return np.stack(load(f, asked), 1).view(np.uint8)
    addresses, size = asked.addresses, asked.size
    lanes: Array = asked.lanes
    data = np.zeros((len(addresses), size), np.uint8)
    if (lengths > size).any():
        raise UnsupportedError("cp.async whose source is larger than what it copies")
    whole = np.flatnonzero(lengths == size)
    if len(whole):
        some = Request("global", lanes[whole], addresses[whole], asked.kind, asked.count)
        data[whole] = np.stack(load(f, some), 1).view(np.uint8)
    for byte in range(size - 1):
        part = np.flatnonzero((lengths < size) & (lengths > byte))
        if len(part):
            one = Request("global", lanes[part], addresses[part] + np.uint64(byte), _B8, 1)
            data[part, byte] = load(f, one)[0]
    return data
