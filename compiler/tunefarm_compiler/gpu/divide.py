"""Reduce axes whose loops are cut become axes of their own: one for each loop, one for the rest.

So a sum's loops all lie inside the register tile, where its parts stay in registers, and a loop
that threads share is an axis like those of the output: each thread stands at one index of it.
"""

from dataclasses import dataclass, replace

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.additions import at_forms, identity
from tunefarm_compiler.binding import Gpu
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.stages import Stage, collected
from tunefarm_compiler.te import (
    Axis,
    Constant,
    Index,
    Inside,
    Reduce,
    Select,
    rewrite,
)


@dataclass(frozen=True)
class Division:
    """A stage and its schedule with reduce axes cut; `shared` are axes that threads share."""

    stage: Stage
    schedule: Schedule
    shared: dict[str, int]


@dataclass(frozen=True)
class _Cut:
    """One reduce axis: its index by the new axes, these with their binds, and the last of them."""

    index: Index
    levels: tuple[tuple[Axis, str], ...]
    rest: Axis
    test: Index | None


def power(number: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << max(0, number - 1).bit_length()


def divide(stage: Stage, schedule: Schedule) -> Division:
    """Cut the reduce axes by their loops. Raises: InvalidScheduleError."""
    binds = schedule.gpu.binds if schedule.gpu else ()
    cuts: dict[str, _Cut] = {}
    for axis in stage.reduce_axes:
        own = [
            (block, bind)
            for (name, block), bind in zip(schedule.loops, binds, strict=True)
            if name == axis.name
        ]
        if own:
            cuts[axis.name] = _cut(axis, own)
    if not cuts or stage.reduce is None:
        return Division(stage, schedule, {})
    loops, kept, order, shared = [], [], list[str](), dict[str, int]()
    levels = {name: list(cut.levels) for name, cut in cuts.items()}
    for (name, block), bind in zip(schedule.loops, binds, strict=True):
        if name not in cuts:
            loops.append((name, block))
            kept.append(bind)
            continue
        level, how = levels[name].pop(0)
        if how:
            loops.append((level.name, 1))
            kept.append(how)
            shared[level.name] = level.extent
        else:
            order.append(level.name)
    order += [cuts[n].rest.name if n in cuts else n for n in schedule.reduce_order(stage)]
    vector = schedule.vector_axis(stage)
    made = replace(
        schedule,
        loops=tuple(loops),
        gpu=Gpu(tuple(kept), schedule.gpu.pad if schedule.gpu else 0),
        order=tuple(order),
        vector=cuts[vector].rest.name if vector in cuts else vector,
    )
    return Division(_substituted(stage, stage.reduce, cuts, order), made, shared)


def _cut(axis: Axis, loops: list[tuple[int, str]]) -> _Cut:
    index, levels, around = Index(), list[tuple[Axis, str]](), 0
    for number, (block, bind) in enumerate(loops):
        if around and around % block:
            raise InvalidScheduleError(
                f"schedule: block {block} of {axis.name} does not divide {around} around it",
                "give reduce axes blocks that divide one another",
            )
        count = around // block if around else -(-axis.extent // block)
        if bind == "thread" and count & (count - 1):
            raise InvalidScheduleError(
                f"schedule: {count} threads share {axis.name}, which is no power of two",
                f"put a loop over {axis.name} around, of a block that is a power of two times "
                f"{block}",
            )
        level = Axis(f"{axis.name}.{number}", count, reduce=True)
        levels.append((level, bind))
        index, around = index + level * block, block
    rest = Axis(f"{axis.name}.rest", around, reduce=True)
    test = None
    if axis.extent % loops[0][0]:
        # Where the last blocks are whole, all of one lies inside or none of it.
        whole = axis.extent % around == 0
        test = index * -1 + (axis.extent - around) if whole else None
        test = test or (index + rest) * -1 + (axis.extent - 1)
    return _Cut(index + rest, tuple(levels), rest, test)


def _substituted(stage: Stage, reduce: Reduce, cuts: dict[str, _Cut], order: list[str]) -> Stage:
    moved = {name: cut.index for name, cut in cuts.items()}

    body = rewrite(reduce.body, lambda expr: at_forms(expr, moved), {})
    if tests := tuple(cut.test for cut in cuts.values() if cut.test is not None):
        nothing = Constant(identity(reduce.op, reduce.dtype), reduce.dtype)
        body = Select(Inside(tests), body, nothing)
    axes = {axis.name: axis for axis in reduce.axes}
    for cut in cuts.values():
        axes |= {axis.name: axis for axis in (*(level for level, _ in cut.levels), cut.rest)}
    made = Reduce(reduce.op, body, tuple(axes[name] for name in order))
    return collected(stage.tensor, stage.axes, stage.body, made)
