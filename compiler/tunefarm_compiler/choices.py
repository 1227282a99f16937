"""The rules that make a schedule of a stage: one decision after another, each of what can follow.

A rule asks `choose(name, options, weights)`: a sampler takes an option by chance, a grid takes all
in turn, others plug in (an Optuna trial, say). Weights say what is likelier to be fast.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler import dots
from tunefarm_compiler.reuse import Nest, StageFacts, Touch
from tunefarm_compiler.schedule import Pack, Schedule, check_pack

T = TypeVar("T", int, str)
Loops = tuple[tuple[str, int], ...]

BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048)
MULTIPLES = (2, 4, 8, 16, 32, 64)
UNROLLS = (1, 2, 3, 4, 8)
TURNED = 4.0  # weight of vectors of which only what is read is packed
MAX_STREAM = 16  # vectors of a tile without sums
MAX_SIDE = 32
RARELY = 0.1  # as likely what makes code long and seldom fast


class Choose(Protocol):
    """Takes one of the options."""

    def __call__(self, name: str, options: Sequence[T], weights: Sequence[float]) -> T: ...


def even(extent: int, side: int) -> float:
    """Share of what blocks of that side cover that is there."""
    return extent / (-(-extent // side) * side)


class NestRules:
    """Decisions about one stage. Axes in `single` have one index at a time already."""

    def __init__(self, facts: StageFacts, single: Collection[str] = ()) -> None:
        self.facts = facts
        self.extents = {a: 1 if a in single else e for a, e in facts.extents.items()}
        self.single = frozenset(single)
        self.spec = facts.spec
        stage = facts.stage
        self.blocked_sums = stage.reduce is None or stage.reduce.dtype == stage.tensor.dtype
        # Axes of windows at edges, where a sum runs over more than a window.
        moved = {axis for test in stage.tests for axis, _ in test.terms}
        whole = moved.isdisjoint(facts.summed[-1:])
        available = whole and dots.available(stage.reduce, self.spec)
        self.group = dots.group_of(stage.reduce) if available else 1
        self.windowed = frozenset(moved) if {*facts.summed} - moved else frozenset[str]()
        self.packable = [touch for touch in facts.touches if self._may_pack(touch)]

    def _may_pack(self, touch: Touch) -> bool:
        """Whether any schedule could pack it: blocks of one index leave one spatial side."""
        sides = [a for a in self.facts.spatial if a in touch.strides and self.extents[a] > 1]
        summed = [axis for axis in self.facts.summed if axis in touch.strides]
        lone = all(len(terms) <= 1 for terms, _ in touch.dimensions)
        return bool(sides and summed and lone)

    # Options, with weights

    def vectors(self) -> tuple[list[str], list[float]]:
        """Axes that may run along the vectors: contiguous ones, of what is read or written."""
        facts, found = self.facts, dict[str, float]()
        for axis in facts.spatial:
            if self.extents[axis] == 1:
                continue
            straight = sum(t.strides.get(axis) == 1 for t in (*facts.terms, facts.output))
            strided = sum(t.strides.get(axis, 0) > 1 for t in (*facts.terms, facts.output))
            if straight:
                found[axis] = 4.0**straight / 4.0**strided
        last = facts.spatial[-1] if facts.spatial else ""
        for axis in facts.summed[-1:] if self.group == 1 else ():
            reads = [t.strides.get(axis, 0) for t in facts.terms if axis in t.strides]
            if reads and set(reads) == {1}:
                direct = last and any(t.strides.get(last) == 1 for t in facts.terms)
                found[axis] = 0.5 if direct else 8.0
        if last and not found:
            found[last] = 1.0
        if not any(set(found) & set(touch.strides) for touch in self.packable):
            # What is read along them cannot be packed, what another axis reads can.
            wide = [a for a in facts.spatial if self.extents[a] >= self.spec.lanes]
            packable = [a for a in wide if any(a in touch.strides for touch in self.packable)]
            found |= dict.fromkeys(packable, TURNED)
        return list(found), list(found.values())

    def lanes(self, vector: str) -> tuple[list[int], list[float]]:
        """Widths of a vector: the processor's, narrower ones where the axis is short."""
        wide = self.spec.lanes
        extent = self.extents.get(vector, 1)
        found = [n for n in (1, 2, 4, 8, 16) if n <= wide and (n <= extent or n == 1)]
        if self.group > 1:
            found = [n for n in found if n >= dots.GROUP] or [wide]
        found = found[-2:][::-1]
        return found, [1.0 if n == found[0] else 0.05 for n in found]

    def columns(self, vector: str, lanes: int) -> tuple[list[int], list[float]]:
        """Vectors of a tile along the vector axis."""
        extent = self.extents[vector]
        most = min(8, -(-extent // lanes), max(1, self.spec.vector_registers // 3))
        found = list(range(1, most + 1))
        weights = [even(extent, n * lanes) ** 2 * (1.0 if n <= 4 else 0.3) for n in found]
        others = self.facts.shared and vector not in self.facts.shared  # they serve loads again
        if others or self.facts.picked:
            weights = [weight / n**2 for weight, n in zip(weights, found, strict=True)]
        return found, weights

    def sides(self, axis: str, room: int) -> tuple[list[int], list[float]]:
        """Sides of a tile along another axis, of which there is room for so many."""
        extent = self.extents[axis]
        if axis in self.facts.picked:
            return [extent], [1.0]
        found = list(range(1, max(1, min(extent, room, MAX_SIDE)) + 1))
        shared = axis in self.facts.shared or axis in self.facts.near
        weights = [even(extent, n) ** 4 * (n if shared else 1.0 / n**2) for n in found]
        return found, weights

    def room(self, vectors: int) -> int:
        """Rows of so many vectors that registers hold beside their operands."""
        if not self.facts.summed:
            return max(1, MAX_STREAM // vectors)
        return max(1, (self.spec.vector_registers - 2) // vectors)

    def reduce_blocks(self, axis: str) -> tuple[list[int], list[float]]:
        """Blocks of a summed axis that a loop around the tile steps by; 0: none."""
        extent = self.extents[axis]
        if not self.blocked_sums or extent == 1:
            return [0], [1.0]
        if extent <= 2 * BLOCKS[0]:
            cut = RARELY if axis in self.windowed else 1.0
            return ([0, 1], [4.0, cut]) if self.group == 1 else ([0], [1.0])
        found = [b for b in BLOCKS if b < extent]
        found += [b for b in {-(-extent // n) for n in (2, 3, 4, 6)} if b not in found and b > 16]
        found = sorted(b for b in found if b % self.group == 0)
        return [0, *found], [float(len(found) + 1), *[1.0] * len(found)]

    def outer_blocks(self, axis: str, side: int) -> tuple[list[int], list[float]]:
        """Cache blocks of a spatial axis: whole tiles; 0: none."""
        extent = self.extents[axis]
        found = [side * n for n in MULTIPLES if side * n < extent]
        return [0, *found], [3.0 * max(1, len(found)), *[1.0] * len(found)]

    def unrolls(self, values: int, steps: int, all_: int = 0) -> tuple[list[int], list[float]]:
        """Steps of the sum at a time, while the code stays small: of the innermost axis, or all."""
        found = [n for n in UNROLLS if n <= max(1, steps) and n * values <= 128] or [1]
        for whole in (steps, all_):
            if 1 < whole <= 16 and whole * values <= 128 and whole not in found:
                found.append(whole)
        return found, [1.0] * len(found)

    # The decisions in their order

    def draw(self, choose: Choose) -> Schedule:
        """A schedule of the stage. It may still break a rule of `limits.fault`."""
        facts = self.facts
        vector = choose("vector", *self.vectors()) if facts.spatial else ""
        lanes = choose("lanes", *self.lanes(vector))
        across = vector in facts.summed
        sides: dict[str, int] = {}
        vectors = 1
        if not across and vector:
            vectors = choose("vectors", *self.columns(vector, lanes))
            sides[vector] = vectors * lanes
        room = self.room(vectors)
        backwards = facts.spatial[::-1]
        for axis in sorted(backwards, key=lambda axis: axis not in facts.picked):
            if axis != vector:
                options, weights = self.sides(axis, room)
                if axis in self.windowed and any(sides[a] > 1 for a in self.windowed & {*sides}):
                    weights = [
                        w if n == 1 else RARELY * w for n, w in zip(options, weights, strict=True)
                    ]
                sides[axis] = choose(f"side.{axis}", options, weights)
                room = max(1, room // sides[axis])
        values = vectors * math.prod(side for axis, side in sides.items() if axis != vector)
        loops = self._loops(choose, vector, sides)
        order = self._order(choose, vector, across)
        inner = (order or facts.summed)[-1:]
        blocks = {axis: block for axis, block in loops if axis in facts.summed}
        steps = min(blocks.get(axis, self.extents[axis]) for axis in inner) if inner else 1
        if across:
            steps = -(-steps // lanes)
        all_ = math.prod(blocks.get(axis, self.extents[axis]) for axis in facts.summed)
        unrolls = self.unrolls(values, steps // self.group, 0 if across else all_)
        unroll = choose("unroll", *unrolls) if inner else 1
        own = vector if facts.spatial and vector != facts.spatial[-1] else ""
        made = Schedule(loops, lanes, unroll, (), own, order if order != facts.summed else ())
        made = replace(made, packs=self._packs(choose, made))
        if self.group > 1 and not across and lanes >= dots.GROUP:
            made = replace(made, group=self.group)
        return made

    def _loops(self, choose: Choose, vector: str, sides: Mapping[str, int]) -> Loops:
        """All loops: which axes are cut, and how they nest."""
        cuts: dict[str, list[int]] = {}
        for axis in self.facts.spatial:
            extent, side = self.extents[axis], sides.get(axis, 1)
            if axis in self.single:
                cuts[axis] = [1]
                continue
            if side >= extent:
                continue
            outer = choose(f"block.{axis}", *self.outer_blocks(axis, side))
            cuts[axis] = [outer, side] if outer else [side]
        for axis in self.facts.summed:
            block = choose(f"block.{axis}", *self.reduce_blocks(axis))
            if block:
                cuts[axis] = [block]
        loops: list[tuple[str, int]] = []
        while any(cuts.values()):
            heads = [axis for axis, blocks in cuts.items() if blocks]
            # Stages are computed inside of those: one elsewhere would be read in parts unlike.
            heads = [axis for axis in heads if axis in self.single] or heads
            weights = [self._weight(axis, cuts[axis], vector) for axis in heads]
            axis = choose(f"loop.{len(loops)}", heads, weights) if len(heads) > 1 else heads[0]
            loops.append((axis, cuts[axis].pop(0)))
        return tuple(loops)

    def _weight(self, axis: str, blocks: Sequence[int], vector: str) -> float:
        """How likely a loop is the next one outside: batches first, tiles last."""
        if axis in self.facts.summed:
            return 8.0
        if len(blocks) > 1:
            return 8.0
        if axis not in self.facts.shared and self.facts.summed and axis != vector:
            return 20.0
        if not self.facts.summed and axis != vector:
            return 8.0
        return 2.0 if axis == vector else 1.0

    def _order(self, choose: Choose, vector: str, across: bool) -> tuple[str, ...]:
        """How the reduce axes nest inside the tile."""
        left, found = list(self.facts.summed), list[str]()
        tail = [vector] if across else []
        left = [axis for axis in left if axis not in tail]
        if self.group > 1:
            tail, left = left[-1:], left[:-1]
        while left:
            weights = [2.0 ** (len(left) - n) for n in range(len(left))]
            axis = choose(f"order.{len(found)}", left, weights) if len(left) > 1 else left[0]
            left.remove(axis)
            found.append(axis)
        return (*found, *tail)

    def _packs(self, choose: Choose, made: Schedule) -> tuple[Pack, ...]:
        found = []
        for touch in self.packable:
            depths = self.pack_depths(touch, made)
            if not depths:
                continue
            along = touch.strides.get(made.vector_axis(self.facts.stage), 0)
            needed = self.group > 1 and bool(along)
            options = depths if needed else [-1, *depths]
            turned = along > 1
            none = [] if needed else [0.5 if turned else 2.0]
            weights = [*none, *[2.0 / len(depths)] * len(depths)]
            depth = choose(f"pack.{touch.name}", options, weights)
            if depth >= 0:
                found.append(Pack(touch.name, depth))
        return tuple(found)

    def pack_depths(self, touch: Touch, schedule: Schedule) -> list[int]:
        """Depths at which packing it is allowed and differs from packing it further out."""
        found = []
        nest = Nest(self.facts, schedule, {})
        for depth in range(len(schedule.loops) + 1):
            moved = depth == 0 or schedule.loops[depth - 1][0] in touch.strides
            if not moved:
                continue
            try:
                check_pack(Pack(touch.name, depth), schedule, self.facts.stage)
            except InvalidScheduleError:
                continue
            uses = self._uses(touch, nest, depth)
            if uses >= 4:
                found.append(depth)
        return found

    def _uses(self, touch: Touch, nest: Nest, depth: int) -> int:
        """How many tiles read what is packed there."""
        inside = nest.levels[depth + 1 : len(nest.schedule.loops) + 1]
        return math.prod(rounds for axis, rounds, _ in inside if axis not in touch.strides)
