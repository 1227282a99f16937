"""mov, and addresses from one space to another."""

import numpy as np

from ..decode import Decoded, Reader, Step, handles
from ..errors import UnsupportedError
from ..frame import Frame
from ..kinds import PRED, U64, Array, Kind, bits_kind
from ..memory import LOCAL_WINDOW, SHARED_WINDOW, WINDOW
from ..syntax import Name, Vector
from .elementwise import elementwise

_WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "global": 0, "const": 0}


@handles("mov")
def mov(r: Reader) -> Decoded:
    """mov.type d, a: also vectors packed into a register, and taken apart."""
    kind = r.kind()
    to, of = r.operands[0], r.operands[1]
    if isinstance(to, Vector):
        return _unpack(r, kind)
    if isinstance(of, Vector):
        return _pack(r, kind)
    target, source = r.target(kind), r.source(kind)
    r.done()

    def step(f: Frame) -> None:
        f.put(target, f.regs[source])

    return step


def _pack(r: Reader, kind: Kind) -> Step:
    target = r.target(kind)
    items = r.vector()
    part = bits_kind(kind.bits // len(items))
    sources = [r.source(part, item) for item in items]
    r.done()

    def step(f: Frame) -> None:
        values = [f.regs[s] for s in sources]
        whole = np.empty((max(len(v) for v in values), len(values)), part.raw)
        for place, value in enumerate(values):
            whole[:, place] = value
        f.put(target, whole.reshape(-1).view(kind.raw))

    return step


def _unpack(r: Reader, kind: Kind) -> Step:
    items = r.vector()
    part = bits_kind(kind.bits // len(items))
    targets = [None if item == Name("_") else r.target(part, item) for item in items]
    source = r.source(kind)
    r.done()

    def step(f: Frame) -> None:
        parts = f.regs[source].view(part.raw).reshape(-1, len(targets))
        for place, target in enumerate(targets):
            if target is not None:
                f.put(target, np.ascontiguousarray(parts[:, place]))

    return step


@handles("cvta")
def cvta(r: Reader) -> Decoded:
    """cvta{.to}.space.{u32,u64} d, a."""
    to = bool(r.flag("to"))
    r.drop("shared::cta", "shared::cluster")
    if "shared" not in r.modifiers and any("::" in m for m in r.instruction.modifiers):
        r.modifiers.insert(0, "shared")
    space = r.choose(*_WINDOWS, "param")
    kind = r.kind()
    if kind is not U64:
        raise UnsupportedError("addresses of 32 bits")
    if space == "param":
        raise UnsupportedError("generic addresses of parameters")
    target, source = r.target(kind), r.source(kind)
    r.done()
    window = np.uint64(_WINDOWS[space])
    if not window:
        return elementwise(target, kind, [source], [kind], lambda a: a)
    if to:
        return elementwise(target, kind, [source], [kind], lambda a: a - window)
    return elementwise(target, kind, [source], [kind], lambda a: a + window)


@handles("isspacep")
def isspacep(r: Reader) -> Decoded:
    """isspacep.space p, a."""
    space = r.choose("shared::cta", *_WINDOWS)
    space = space.partition("::")[0]
    target, source = r.target(PRED), r.source(U64)
    r.done()
    window = np.uint64(_WINDOWS[space])
    size = np.uint64(WINDOW)

    def run(a: Array) -> Array:
        if window:
            return (a >= window) & (a - window < size)
        return a >= np.uint64(LOCAL_WINDOW + WINDOW)

    return elementwise(target, PRED, [source], [U64], run)
