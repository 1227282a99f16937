"""Steps that compute each lane by itself."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..decode import Reader, Step
from ..frame import Frame
from ..kinds import PRED, Array, Kind


def elementwise(
    target: int, kind: Kind, sources: list[int], kinds: list[Kind], function: Callable[..., Array]
) -> Step:
    """The step that gives `function` its sources as their types, and keeps the result's bits."""
    raw = kind.raw
    views: list[np.dtype[Any] | None] = [k.dtype if k.dtype != k.raw else None for k in kinds]
    if len(sources) == 2 and views[0] == views[1]:
        return _two(target, raw, sources, views[0], function)
    pairs = list(zip(sources, views, strict=True))

    def step(f: Frame) -> None:
        regs = f.regs
        values = [regs[s] if v is None else regs[s].view(v) for s, v in pairs]
        f.put(target, function(*values).view(raw))

    return step


def _two(
    target: int,
    raw: np.dtype[Any],
    sources: list[int],
    view: np.dtype[Any] | None,
    function: Callable[..., Array],
) -> Step:
    a, b = sources

    def untyped(f: Frame) -> None:
        f.put(target, function(f.regs[a], f.regs[b]))

    def typed(f: Frame) -> None:
        regs = f.regs
        f.put(target, function(regs[a].view(view), regs[b].view(view)).view(raw))

    return untyped if view is None else typed


def same(r: Reader, kind: Kind, count: int, function: Callable[..., Array]) -> Step:
    """`d, a, b, ...`, all of one type."""
    target = r.target(kind)
    sources = [r.source(kind) for _ in range(count)]
    r.done()
    return elementwise(target, kind, sources, [kind] * count, function)


def truth(kind: Kind) -> Kind:
    """Predicates for .pred, and the type itself for the rest."""
    return PRED if kind.name == "pred" else kind
