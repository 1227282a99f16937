"""Conditions that the loops around a tile need not be cut by.

A convolution's row y reads rows y + r - 1: for the first y the loop over r begins at 1. So one copy
of the code serves all rows, and no iteration tests anything. Where a tile holds several columns,
each s leaves out others of them: every round of that loop goes the way that is written for those.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from tunefarm_compiler.bounds import Ranges, decide, interval, points, position
from tunefarm_compiler.emit import Emitter, Value
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.stages import Stage
from tunefarm_compiler.te import Binary, Cast, Constant, Expr, Index, Inside, Select, Unary

WORTH = 16  # operations on vectors that pay for a branch


def known(expr: Expr, verdict: Callable[[Index], bool | None]) -> float | None:
    """The value of an expression where conditions decide it: 0 times anything is 0."""
    match expr:
        case Constant(number):
            return number
        case Select(Inside(tests), yes, no):
            verdicts = {verdict(test) for test in tests}
            if False in verdicts:
                return known(no, verdict)
            value = known(yes, verdict)
            return value if None not in verdicts or value == known(no, verdict) else None
        case Binary("mul" | "and" as op, left, right) | Binary("add" as op, left, right):
            zeros = [known(one, verdict) == 0 for one in (left, right)]
            return 0.0 if (all(zeros) if op == "add" else any(zeros)) else None
        case Cast(value):
            return known(value, verdict)
        case Unary("ctpop", value) if known(value, verdict) == 0:
            return 0.0
    return None


def _inside(stage: Stage, schedule: Schedule) -> Iterator[tuple[Index, str, list[str]]]:
    """Conditions of one reduce axis of a sum inside the tile, that axis, and their other ones."""
    if stage.reduce is None or stage.reduce.op != "add":
        return
    looped = {axis for axis, _ in schedule.loops}
    within = {axis.name for axis in stage.reduce_axes} - looped
    for test in stage.tests:
        axes = {axis for axis, _ in test.terms}
        if len(own := axes & within) == 1:
            yield test, own.pop(), sorted(axes - within)


def clipped(stage: Stage, schedule: Schedule) -> dict[Index, str]:
    """Conditions that the bounds of a reduce loop inside the tile can take over, and its axis.

    Those of one such axis and of axes that the tile holds one index of, without which a term is 0.
    """
    found: dict[Index, str] = {}
    tile, order = schedule.tile(stage.extents), schedule.reduce_order(stage)
    for test, axis, others in _inside(stage, schedule):
        if axis == order[-1] or any(tile.get(one) != 1 or one in order for one in others):
            continue
        if stage.reduce and known(stage.reduce.body, {test: False}.get) == 0:
            found[test] = axis
    return found


def parted(stage: Stage, schedule: Schedule) -> dict[Index, str]:
    """Conditions by which rounds of a reduce loop inside the tile go different ways, and its axis.

    Those of one such axis and of one that the tile holds several indices of.
    """
    found: dict[Index, str] = {}
    if schedule.stages or schedule.gpu:
        return found
    tile, order = schedule.tile(stage.extents), schedule.reduce_order(stage)
    looped, vector = {axis for axis, _ in schedule.loops}, schedule.vector_axis(stage)
    values = math.prod(tile[axis.name] for axis in stage.axes) // schedule.lanes
    for test, axis, others in _inside(stage, schedule):
        rounds = math.prod(tile[one] for one in order[order.index(axis) + 1 :])
        written_out = schedule.unroll >= 2 * rounds  # and then it is cut
        if len(others) != 1 or rounds * values < WORTH or written_out:
            continue
        if others[0] in looped and others[0] != vector and tile[others[0]] > 1:
            found[test] = axis
    return found


def moving(tests: Iterable[Index], ranges: Ranges) -> list[Index]:
    """Those that are open, and by more than a loop inside the tile."""
    return [
        test
        for test in tests
        if any(ranges[axis].low < ranges[axis].high for axis, _ in test.terms)
        and decide(test, ranges) is None
    ]


def ways(
    test: Index, offsets: Collection[int], axis: str, ranges: Ranges
) -> Iterator[tuple[int, int, Ranges]]:
    """Between which values a condition lies where the same pieces fail it, at least one of them.

    `offsets` are what the pieces add to it. With it the ranges, as narrow as that makes them.
    """
    (begin, high), terms = interval(test, points(ranges)), dict(test.terms)
    by = terms.pop(axis)
    ((other, step),) = terms.items()
    ends = [by * ranges[axis].low, by * ranges[axis].high]
    for end in sorted(-offset for offset in offsets):
        last = min(high, end - 1)
        if begin <= last:
            # step x other = what the condition comes to, less its other terms.
            least, most = begin - test.offset - max(ends), last - test.offset - min(ends)
            if step < 0:
                least, most = -most, -least
            where, step_ = ranges[other], abs(step)
            low, top = max(where.low, -(-least // step_)), min(where.high, most // step_)
            if low <= top:
                yield begin, last, {**ranges, other: replace(where, low=low, high=top)}
            begin = last + 1


def branches(  # noqa: PLR0917
    emit: Emitter,
    tests: Mapping[Index, Collection[int]],
    axis: str,
    ranges: Ranges,
    kinds: Sequence[str],
    way: Callable[[Mapping[Index, tuple[int, int]], Ranges], list[str]],
) -> list[str]:
    """What `way` gives, of the values that some conditions have there; of none where all hold.

    `tests` are open conditions with what pieces add to each.
    """
    everywhere, cases = "true", list[tuple[str, Callable[[], list[str]]]]()

    def chosen(left: Sequence[tuple[str, Callable[[], list[str]]]]) -> list[str]:
        (test, first), *rest = left
        if not rest:
            return first()
        return emit.either(emit.value("c", f"icmp {test}"), kinds, first, partial(chosen, rest))

    for test, offsets in tests.items():
        total = position(emit, test.terms, ranges, test.offset)
        inside = emit.value("c", f"icmp sge {emit.index} {total}, {-min(offsets)}")
        everywhere = emit.value("c", f"and i1 {everywhere}, {inside}")
        for first, last, where in ways(test, offsets, axis, ranges):
            here = partial(way, {test: (first, last)}, where)
            cases.append((f"sle {emit.index} {total}, {last}", here))
    whole = partial(way, {}, ranges)
    return emit.either(everywhere, kinds, whole, partial(chosen, cases)) if cases else whole()


def limits(emit: Emitter, tests: Sequence[Index], axis: str, ranges: Ranges) -> tuple[Value, Value]:
    """First index of an axis for which all of these hold, and the one after the last."""
    first: Value = 0
    stop: Value = ranges[axis].extent
    for test in tests:
        others = [term for term in test.terms if term[0] != axis]
        rest = position(emit, others, ranges, test.offset)
        step = dict(test.terms)[axis]
        # step x axis + rest >= 0: from -rest / step rounded up on, or up to rest / -step.
        if step > 0:
            needed = emit.extreme("smax", emit.multiply(rest, -1), 0)
            first = emit.extreme("smax", first, _divided(emit, emit.add(needed, step - 1), step))
        else:
            room = emit.extreme("smax", emit.add(rest, -step), 0)
            stop = emit.extreme("smin", stop, _divided(emit, room, -step))
    return first, stop


def _divided(emit: Emitter, value: Value, by: int) -> Value:
    if isinstance(value, int) or by == 1:
        return value // by if isinstance(value, int) else value
    return emit.value("i", f"udiv {emit.index} {value}, {by}")
