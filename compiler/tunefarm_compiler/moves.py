"""Schedules from schedules: a neighbour, a child of two, the nearest one for another shape.

What comes out is put in order by `settle`; whether it is worth building says `limits.fault`.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tunefarm_compiler.choices import MULTIPLES, Loops, NestRules, even
from tunefarm_compiler.dots import GROUP
from tunefarm_compiler.schedule import Pack, Prefetch, Schedule

Move = Callable[[Schedule, NestRules, random.Random, int], Schedule]


def settle(schedule: Schedule, rules: NestRules) -> Schedule:
    """The same schedule in canonical form: no loop of one round, blocks multiples of inner ones."""
    facts, extents = rules.facts, rules.extents
    vector = schedule.vector_axis(facts.stage)
    step = dict.fromkeys(facts.summed[-1:], rules.group)
    if vector in facts.summed:
        step[vector] = schedule.lanes
    inner: dict[str, int] = {}
    kept: list[tuple[str, int]] = []
    survived = [False] * len(schedule.loops)
    for number in range(len(schedule.loops) - 1, -1, -1):
        axis, block = schedule.loops[number]
        if axis in rules.single:
            single = axis not in inner
            inner[axis], survived[number] = 1, single
            kept += [(axis, 1)] * single
            continue
        unit = inner.get(axis, step.get(axis, 1))
        block = max(1, round(block / unit)) * unit
        if block >= extents[axis] or block == inner.get(axis):
            continue
        inner[axis], survived[number] = block, True
        kept.append((axis, block))
    packs = {p.tensor: Pack(p.tensor, sum(survived[: p.depth])) for p in schedule.packs}
    order = () if schedule.order == facts.summed else schedule.order
    last = facts.spatial[-1] if facts.spatial else ""
    own = "" if vector == last else vector
    made = replace(schedule, loops=tuple(kept[::-1]), packs=(), order=order, vector=own)
    return replace(made, packs=_allowed(packs, made, rules))


def _allowed(packs: Mapping[str, Pack], made: Schedule, rules: NestRules) -> tuple[Pack, ...]:
    """Packs where they may stand, each at the nearest depth that is allowed."""
    found = []
    for touch in rules.packable:
        if touch.name in packs and (depths := rules.pack_depths(touch, made)):
            wanted = packs[touch.name].depth
            found.append(Pack(touch.name, min(depths, key=lambda d: (abs(d - wanted), d))))
    return tuple(found)


def _pick(options: Sequence[int], weights: Sequence[float], rng: random.Random) -> int:
    return rng.choices(options, weights)[0]


# Moves. Loops outside of `fixed` stay.


def _tile(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int) -> Schedule:
    """Another side of the register tile."""
    sides = schedule.tile(rules.extents)
    vector = schedule.vector_axis(rules.facts.stage)
    axes = [a for a in rules.facts.spatial if rules.extents[a] > 1 and a not in rules.single]
    if not axes:
        return schedule
    axis = rng.choice(axes)
    lanes = schedule.lanes if axis == vector else 1
    now = -(-sides[axis] // lanes)
    if axis == vector:
        options, weights = rules.columns(axis, lanes)
    else:
        taken = math.prod(
            -(-s // (schedule.lanes if a == vector else 1))
            for a, s in sides.items()
            if a in rules.facts.spatial and a != axis
        )
        options, weights = rules.sides(axis, max(1, rules.spec.vector_registers // max(1, taken)))
    if rng.random() < 0.5:  # a step to a side
        near = [n for n in options if 0 < abs(n - now) <= 2]
        side = rng.choice(near) if near else now
    else:
        side = _pick(options, weights, rng)
    return _with_side(schedule, rules, axis, side * lanes)


def _with_side(schedule: Schedule, rules: NestRules, axis: str, side: int) -> Schedule:
    """With that innermost block; blocks around it keep their number of tiles."""
    here = [n for n, (a, _) in enumerate(schedule.loops) if a == axis]
    loops = list(schedule.loops)
    if not here:
        return replace(schedule, loops=(*loops, (axis, side)))
    old = loops[here[-1]][1]
    for number in here:
        loops[number] = (axis, max(1, round(loops[number][1] / old)) * side)
    return replace(schedule, loops=tuple(loops))


def _block(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int) -> Schedule:
    """A cache block more, less, or of another size."""
    facts = rules.facts
    axes = [a for a in (*facts.spatial, *facts.summed) if rules.extents[a] > 1]
    if not axes:
        return schedule
    axis = rng.choice(axes)
    here = [n for n, (a, _) in enumerate(schedule.loops) if a == axis and n >= fixed]
    outer = here if axis in facts.summed else here[:-1]
    loops = list(schedule.loops)
    if outer and rng.random() < 0.7:
        number = rng.choice(outer)
        if rng.random() < 0.35:
            return _without(schedule, number)
        block = loops[number][1]
        loops[number] = (axis, max(1, rng.choice((block * 2, block // 2, block * 3 // 2))))
        return replace(schedule, loops=tuple(loops))
    if axis in facts.summed:
        block = _pick(*rules.reduce_blocks(axis), rng)
    else:
        side = schedule.tile(rules.extents)[axis]
        block = side * rng.choice(MULTIPLES)
    stop = here[0] if here else len(loops)
    return (
        _inserted(schedule, (axis, block), rng.randint(fixed, max(fixed, stop)))
        if block
        else schedule
    )


def _without(schedule: Schedule, number: int) -> Schedule:
    loops = (*schedule.loops[:number], *schedule.loops[number + 1 :])
    packs = tuple(Pack(p.tensor, p.depth - (p.depth > number)) for p in schedule.packs)
    return replace(schedule, loops=loops, packs=packs)


def _inserted(schedule: Schedule, loop: tuple[str, int], number: int) -> Schedule:
    loops = (*schedule.loops[:number], loop, *schedule.loops[number:])
    packs = tuple(Pack(p.tensor, p.depth + (p.depth > number)) for p in schedule.packs)
    return replace(schedule, loops=loops, packs=packs)


def _swap(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int) -> Schedule:
    """Two neighbouring loops the other way round, or one loop elsewhere."""
    loops = list(schedule.loops)
    if len(loops) - fixed < 2:
        return schedule
    number = rng.randrange(fixed, len(loops) - 1)
    to = number + 1 if rng.random() < 0.7 else rng.randrange(fixed, len(loops))
    axis, block = loops.pop(number)
    loops.insert(to, (axis, block))
    # Of one axis the larger block stays outside.
    sizes = sorted((b for a, b in loops if a == axis), reverse=True)
    return replace(schedule, loops=tuple((a, sizes.pop(0) if a == axis else b) for a, b in loops))


def _pack(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int) -> Schedule:
    """An operand packed, at another depth, or no longer."""
    if not rules.packable:
        return schedule
    touch = rng.choice(rules.packable)
    now = {pack.tensor: pack.depth for pack in schedule.packs}
    options = [d for d in (-1, *rules.pack_depths(touch, schedule)) if d != now.get(touch.name, -1)]
    if not options:
        return schedule
    depth = rng.choice(options)
    packs = [pack for pack in schedule.packs if pack.tensor != touch.name]
    return replace(schedule, packs=(*packs, *([Pack(touch.name, depth)] if depth >= 0 else [])))


def _unroll(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int) -> Schedule:
    """Another number of steps at a time."""
    if not rules.facts.summed:
        return schedule
    inner = schedule.reduce_order(rules.facts.stage)[-1]
    steps = schedule.tile(rules.extents)[inner]
    all_ = math.prod(schedule.tile(rules.extents)[axis] for axis in rules.facts.summed)
    return replace(schedule, unroll=_pick(*rules.unrolls(1, steps, all_), rng))


def _prefetch(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int) -> Schedule:
    """A prefetch of the next tile along an axis that moves it, or one less."""
    if schedule.prefetches and rng.random() < 0.5:
        gone = rng.choice(schedule.prefetches)
        return replace(schedule, prefetches=tuple(p for p in schedule.prefetches if p != gone))
    facts = rules.facts
    touch, sides = rng.choice([*facts.touches, facts.output]), schedule.tile(rules.extents)
    axes = [
        axis
        for axis in facts.spatial
        if axis in touch.strides and sides[axis] < facts.extents[axis]
    ]
    if not axes:
        return schedule
    axis = rng.choice(axes)
    made = Prefetch(touch.name, axis, sides[axis] * rng.choice((1, 1, 2)), rng.choice((1, 1, 2)))
    others = [one for one in schedule.prefetches if one.tensor != made.tensor]
    return replace(schedule, prefetches=(*others, made)[-2:])


def _order(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int) -> Schedule:
    """Two summed axes the other way round inside the tile."""
    order = list(schedule.reduce_order(rules.facts.stage))
    if len(order) < 2:
        return schedule
    number = rng.randrange(len(order) - 1)
    order[number], order[number + 1] = order[number + 1], order[number]
    return replace(schedule, order=tuple(order))


def _lanes(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int) -> Schedule:
    """Vectors of another width, as many as before."""
    vector = schedule.vector_axis(rules.facts.stage)
    lanes = _pick(*rules.lanes(vector), rng)
    made = replace(schedule, lanes=lanes)
    if vector not in rules.facts.spatial or vector in rules.single:
        return made
    count = -(-schedule.tile(rules.extents)[vector] // schedule.lanes)
    return _with_side(made, rules, vector, count * lanes)


def _anew(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int) -> Schedule:
    """All decisions taken anew."""
    made = rules.draw(lambda _, options, weights: rng.choices(options, weights)[0])
    return replace(made, stages=schedule.stages)


MOVES: dict[Move, float] = {
    _tile: 5.0, _block: 3.0, _swap: 2.0, _pack: 2.0, _unroll: 2.0, _order: 1.0, _prefetch: 1.0,
    _lanes: 0.3, _anew: 0.3,
}  # fmt: skip


def mutated(schedule: Schedule, rules: NestRules, rng: random.Random, fixed: int = 0) -> Schedule:
    """A neighbour: one decision taken anew, now and then two or three."""
    made = schedule
    for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0]):
        (move,) = rng.choices(list(MOVES), list(MOVES.values()))
        made = settle(move(made, rules, rng, fixed), rules)
    return made


def crossed(one: Schedule, other: Schedule, rules: NestRules, rng: random.Random) -> Schedule:
    """A child: the loops' nesting of one; each axis's blocks, packs, unroll, order of either."""
    stage = rules.facts.stage
    if one.vector_axis(stage) != other.vector_axis(stage) or one.lanes != other.lanes:
        return one
    made = one
    for axis in rules.facts.extents:
        if axis not in rules.single and rng.random() < 0.5:
            made = _with_cuts(made, axis, [b for a, b in other.loops if a == axis])
    packs = {pack.tensor: pack for pack in made.packs}
    for touch in rules.packable:
        if rng.random() < 0.5:
            packs.pop(touch.name, None)
            theirs = next((p for p in other.packs if p.tensor == touch.name), None)
            if theirs is not None:
                packs[touch.name] = Pack(touch.name, _same_place(theirs.depth, other, made))
    made = replace(made, packs=tuple(packs.values()))
    if rng.random() < 0.5:
        made = replace(made, unroll=other.unroll)
    if rng.random() < 0.5:
        made = replace(made, order=other.order)
    return settle(made, rules)


def _with_cuts(schedule: Schedule, axis: str, blocks: Sequence[int]) -> Schedule:
    """With an axis cut as given, its loops where they were as far as there are any."""
    made = schedule
    here = [n for n, (a, _) in enumerate(made.loops) if a == axis]
    while len(here) > len(blocks):
        made = _without(made, here[0])
        here = [n for n, (a, _) in enumerate(made.loops) if a == axis]
    while len(here) < len(blocks):
        made = _inserted(made, (axis, 1), here[0] if here else len(made.loops))
        here = [n for n, (a, _) in enumerate(made.loops) if a == axis]
    sizes = list(blocks)
    loops = tuple((a, sizes.pop(0) if a == axis else b) for a, b in made.loops)
    return replace(made, loops=loops)


def _same_place(depth: int, other: Schedule, made: Schedule) -> int:
    """The depth in `made` inside the same loop as a depth in `other`."""
    if depth == 0:
        return 0
    axis = other.loops[depth - 1][0]
    level = sum(a == axis for a, _ in other.loops[:depth])
    seen = 0
    for number, (a, _) in enumerate(made.loops):
        seen += a == axis
        if seen == level and a == axis:
            return number + 1
    return min(depth, len(made.loops))


def adapted(
    schedule: Schedule, rules: NestRules, extents: Mapping[str, int], lanes: int
) -> Schedule:
    """A schedule of a stage with those extents, on a target with so many lanes, for this one.

    Sides of tiles stay, or shrink to where they leave no rest; blocks keep their number of tiles.
    """
    facts = rules.facts
    vector = schedule.vector_axis(facts.stage)
    wide = schedule.lanes
    if wide > facts.spec.lanes or wide == lanes:
        wide = min(facts.spec.lanes, max(rules.lanes(vector)[0]))
    made = replace(schedule, lanes=wide, group=rules.group if wide >= GROUP else 1)
    before = schedule.tile(extents)
    for axis in facts.spatial:
        if axis in rules.single:
            continue
        side = before[axis]
        if axis == vector:
            side = max(1, side // schedule.lanes) * wide
        elif rules.extents[axis] != extents[axis]:
            side = _fitting(rules.extents[axis], side)
        made = _with_side(made, rules, axis, side)
    return settle(made, rules)


def _fitting(extent: int, side: int) -> int:
    """A side near a given one that leaves little of an axis over."""
    most = min(side, extent)

    def worth(n: int) -> tuple[float, int]:
        return even(extent, n) * min(1.0, 1.4 * n / most), n

    return max(range(1, most + 1), key=worth)


def shrunk(schedule: Schedule, rules: NestRules) -> Schedule:
    """With the largest side of the tile, along no vectors, one smaller."""
    vector = schedule.vector_axis(rules.facts.stage)
    sides = {
        a: s
        for a, s in schedule.tile(rules.extents).items()
        if a in rules.facts.spatial and a not in {*rules.single, *rules.facts.picked, vector}
    }
    axis = max(sides, key=lambda a: sides[a], default="")
    if not axis or sides[axis] == 1:
        if vector not in rules.facts.spatial:
            return schedule
        side = max(schedule.lanes, schedule.tile(rules.extents)[vector] - schedule.lanes)
        return settle(_with_side(schedule, rules, vector, side), rules)
    return settle(_with_side(schedule, rules, axis, sides[axis] - 1), rules)


__all__ = ["Loops", "adapted", "crossed", "mutated", "settle", "shrunk"]
