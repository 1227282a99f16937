"""Conditions that a reduce loop meets by its bounds: it runs only where they hold.

A convolution's row y reads rows y + r - 1: for the first y the loop over r begins at 1. So one copy
of the code serves all rows, and no iteration tests anything.
"""

from collections.abc import Sequence

from tunefarm_compiler.bounds import Ranges
from tunefarm_compiler.emit import Emitter, Value
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.stages import Stage
from tunefarm_compiler.te import Binary, Cast, Constant, Expr, Index, Inside, Select, Unary


def clipped(stage: Stage, schedule: Schedule) -> dict[Index, str]:
    """Conditions that the bounds of a reduce loop inside the tile can take over, and its axis.

    Those of one such axis and of axes that the tile holds one index of, without which a term is 0.
    """
    found: dict[Index, str] = {}
    if stage.reduce is None or stage.reduce.op != "add":
        return found
    tile, order = schedule.tile(stage.extents), schedule.reduce_order(stage)
    looped = {axis for axis, _ in schedule.loops}
    for test in stage.tests:
        axes = [axis for axis, _ in test.terms]
        inside = [axis for axis in axes if axis in order]
        if len(inside) != 1 or inside[0] in looped or inside[0] == order[-1]:
            continue
        if all(tile.get(axis) == 1 for axis in axes if axis != inside[0]) and _vanishes(
            stage.reduce.body, test
        ):
            found[test] = inside[0]
    return found


def _vanishes(body: Expr, test: Index) -> bool:
    """Whether a term is 0 where the condition does not hold."""
    match body:
        case Constant(value):
            return value == 0
        case Select(Inside(tests), yes, no):
            return _vanishes(no, test) and (test in tests or _vanishes(yes, test))
        case Binary("mul" | "and", left, right):
            return _vanishes(left, test) or _vanishes(right, test)
        case Binary("add", left, right):
            return _vanishes(left, test) and _vanishes(right, test)
        case Cast(value) | Unary("ctpop", value):
            return _vanishes(value, test)
    return False


def limits(emit: Emitter, tests: Sequence[Index], axis: str, ranges: Ranges) -> tuple[Value, Value]:
    """First index of an axis for which all of these hold, and the one after the last."""
    first: Value = 0
    stop: Value = ranges[axis].extent
    for test in tests:
        rest: Value = test.offset
        for other, coefficient in test.terms:
            if other != axis:
                rest = emit.add(emit.multiply(ranges[other].at, coefficient), rest)
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
