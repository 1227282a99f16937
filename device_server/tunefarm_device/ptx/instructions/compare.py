"""Comparisons and choices."""

from collections.abc import Callable

import numpy as np

from ..decode import Decoded, Reader, handles
from ..errors import UnsupportedError
from ..frame import Frame
from ..kinds import F32, KINDS, PRED, S32, Array, Kind
from ..rounding import flush32
from ..syntax import Operand, Pair
from .elementwise import elementwise
from .floats import is_float, part_of, values_of

_ORDERED = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal,
    "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
_UNORDERED = ("equ", "neu", "ltu", "leu", "gtu", "geu")
_NAMES = (*_ORDERED, *_UNORDERED, "num", "nan")
_BOOLEAN = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
Comparison = Callable[[Array, Array], Array]


def comparison(name: str, kind: Kind, flush: bool) -> Comparison:
    """A comparison of registers of a type; with a NaN the ordered ones are false."""
    if not is_float(kind):
        function = _ORDERED.get(name)
        if function is None:
            raise UnsupportedError(f"{name} of integers")
        view = kind.dtype
        if name in ("lo", "ls", "hi", "hs") and kind.is_signed:
            view = kind.raw
        return lambda a, b: function(a.view(view), b.view(view))

    def run(a: Array, b: Array) -> Array:
        x, y = values_of(a, kind), values_of(b, kind)
        if flush and part_of(kind) is F32:
            x, y = flush32(x), flush32(y)
        if name in ("num", "nan") or name in _UNORDERED or name == "ne":
            unordered = np.isnan(x) | np.isnan(y)
            if name == "nan":
                return unordered
            if name == "num":
                return ~unordered
            if name == "ne":
                return np.not_equal(x, y) & ~unordered
            return np.asarray(_ORDERED[name[:2]](x, y) | unordered)
        return np.asarray(_ORDERED[name](x, y))

    return run


@handles("setp")
def setp(r: Reader) -> Decoded:
    """setp.cmp{.bool}{.ftz}.type p{|q}, a, b{, {!}c}."""
    kind = r.kind()
    flush = bool(r.flag("ftz"))
    name = r.choose(*_NAMES)
    boolean = r.flag(*_BOOLEAN)
    targets = _targets(r)
    a, b = r.source(kind), r.source(kind)
    third = r.predicate() if boolean else None
    r.done()
    if kind.family in ("f16x2", "bf16x2"):
        if third is not None:
            raise UnsupportedError("a packed setp with a third predicate")
        return _halves(comparison(name, kind, flush), targets, a, b)
    compare = comparison(name, kind, flush)
    first, second = targets[0], targets[1] if len(targets) > 1 else None
    if third is None and second is None:
        return elementwise(first, PRED, [a, b], [KINDS[f"b{kind.bits}"]] * 2, compare)
    join = _BOOLEAN.get(boolean)

    def step(f: Frame) -> None:
        result = compare(f.regs[a], f.regs[b])
        other = ~result
        if third is not None and join is not None:
            extra = f.regs[third[0]]
            extra = ~extra if third[1] else extra
            result, other = join(result, extra), join(other, extra)
        f.put(first, result)
        if second is not None:
            f.put(second, other)

    return step


def _targets(r: Reader) -> list[int]:
    operand = r.operand()
    items: list[Operand] = (
        [operand.first, operand.second] if isinstance(operand, Pair) else [operand]
    )
    return [r.target(PRED, item) for item in items]


def _halves(compare: Comparison, targets: list[int], a: int, b: int) -> Decoded:
    """p is of the lower halves, q of the upper ones."""

    def step(f: Frame) -> None:
        both = compare(f.regs[a], f.regs[b])
        for place, target in enumerate(targets):
            f.put(target, np.ascontiguousarray(both[:, place]))

    return step


@handles("set")
def set_value(r: Reader) -> Decoded:
    """set.cmp{.bool}{.ftz}.dtype.stype d, a, b{, {!}c}: all bits set, or 1.0."""
    kind, result = r.kind(), r.kind()
    flush = bool(r.flag("ftz"))
    name = r.choose(*_NAMES)
    if r.flag(*_BOOLEAN) or kind.family in ("f16x2", "bf16x2"):
        raise UnsupportedError("set with a third predicate, or of packed types")
    target = r.target(result)
    sources = [r.source(kind), r.source(kind)]
    r.done()
    compare = comparison(name, kind, flush)
    one = {"f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80}.get(
        result.name, (1 << result.bits) - 1
    )
    true, false = result.raw.type(one), result.raw.type(0)
    raw = KINDS[f"b{kind.bits}"]
    return elementwise(
        target,
        KINDS[f"b{result.bits}"],
        sources,
        [raw, raw],
        lambda a, b: np.where(compare(a, b), true, false),
    )


@handles("selp")
def selp(r: Reader) -> Decoded:
    """selp.type d, a, b, p."""
    kind = r.kind()
    target, a, b = r.target(kind), r.source(kind), r.source(kind)
    p, negated = r.predicate()
    r.done()

    def step(f: Frame) -> None:
        regs = f.regs
        chosen, x, y = regs[p], regs[a], regs[b]
        if negated:
            x, y = y, x
        if len(chosen) == 1:
            f.put(target, x if chosen[0] else y)
        else:
            f.put(target, np.where(chosen, x, y))

    return step


@handles("slct")
def slct(r: Reader) -> Decoded:
    """slct{.ftz}.dtype.{s32,f32} d, a, b, c: a where c >= 0."""
    by, kind = r.kind(), r.kind()
    r.flag("ftz")
    if by not in (S32, F32):
        raise UnsupportedError(f"slct by .{by.name}")
    target = r.target(kind)
    sources = [r.source(kind), r.source(kind), r.source(by)]
    r.done()
    raw = KINDS[f"b{kind.bits}"]
    return elementwise(target, raw, sources, [raw, raw, by], lambda a, b, c: np.where(c >= 0, a, b))
