"""Branches, barriers and the end."""

from ..decode import Barrier, Branch, Decoded, Exit, Reader, Reduction, Sync, handles
from ..errors import TrapError, UnsupportedError
from ..frame import Frame
from ..kinds import U32
from ..syntax import Label, Name


@handles("bra")
def bra(r: Reader) -> Decoded:
    """bra{.uni} label."""
    r.flag("uni")
    label = r.label()
    r.done()
    return Branch((label,))


@handles("brx")
def brx(r: Reader) -> Decoded:
    """brx.idx{.uni} index, table."""
    r.choose("idx")
    r.flag("uni")
    index = r.source(U32)
    table = r.operand()
    r.done()
    scope = r.instruction.scope
    names = scope.table(table.text) if isinstance(table, Name) else None
    if names is None:
        raise UnsupportedError("a table of targets that is not declared before")
    labels = [r.find(name) for name in names]
    return Branch(tuple(label for label in labels if isinstance(label, Label)), index)


@handles("ret", "exit")
def end(r: Reader) -> Decoded:
    """ret, exit."""
    r.flag("uni")
    r.done()
    return Exit()


@handles("trap", "brkpt")
def trap(r: Reader) -> Decoded:
    """trap."""

    def step(f: Frame) -> None:
        raise TrapError("the kernel gave up")

    return step


@handles("bar", "barrier")
def barrier(r: Reader) -> Decoded:
    """bar{.cta}.sync a{, b}, bar.arrive a, b, bar.red, bar.warp.sync mask, and barrier."""
    if r.flag("warp"):
        r.choose("sync")
        members = r.source(U32)
        r.done()
        return Sync(lambda f: f.shared.warp_barrier(f.mask), members)
    r.flag("cta")
    r.flag("aligned")
    what = r.choose("sync", "arrive", "red")
    if what == "red":
        return _reduction(r)
    number = r.source(U32)
    count = r.source(U32) if r.operands else -1
    r.done()
    return Barrier(number, count, waits=what == "sync")


def _reduction(r: Reader) -> Decoded:
    """bar.red.popc.u32 d, a{, b}, {!}c and bar.red.{and,or}.pred p, a{, b}, {!}c."""
    function = r.choose("popc", "and", "or")
    target = r.target(r.kind())
    number = r.source(U32)
    count = r.source(U32) if len(r.operands) > 1 else -1
    predicate, negated = r.predicate()
    r.done()
    return Barrier(number, count, reduction=Reduction(function, target, predicate, negated))
