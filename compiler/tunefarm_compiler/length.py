"""How long the code of a stage gets, counted by the cuts of its loops, without lowering it."""

import math
from collections.abc import Iterable, Iterator, Sequence

from tunefarm_compiler.bounds import Range, Ranges, Segment, decide, segments
from tunefarm_compiler.clip import clipped, moving, parted, ways
from tunefarm_compiler.reuse import Nest
from tunefarm_compiler.te import Index
from tunefarm_compiler.tile import RARE

GUARDED = 3  # lines of an operand that is read under a condition, for each other one
PICKED = 4  # lines of a value beside its operations, where it is an expression of its own
AROUND = 12  # lines of a tile beside its sums


class Length:
    """Counts the lines of LLVM text of a stage by a schedule, up to about `most`."""

    def __init__(self, nest: Nest, most: int) -> None:
        self.nest, self.most, self.lines = nest, most, 0
        self.stage, self.schedule = nest.facts.stage, nest.schedule
        self.clipped = clipped(self.stage, self.schedule)
        self.parted = parted(self.stage, self.schedule)
        inside = {**self.clipped, **self.parted}
        self.cut = [test for test in self.stage.tests if test not in inside]
        self.order = self.schedule.reduce_order(self.stage)
        # Operands of a step: lines of each, and its dimensions.
        self.operands = [
            (4 if nest.vector not in touch.strides else 2, [t for t, _ in touch.dimensions if t])
            for touch in nest.facts.terms
        ]

    def count(self) -> int:
        """Lines, of which those beyond the limit are not all counted."""
        blocks, whole = self.nest.levels[0][2], self.nest.facts.extents
        self._walk(0, {a: Range(0, 0, whole[a] - block, block) for a, block in blocks.items()})
        return self.lines

    def least(self) -> int:
        """Lines of the steps of one whole tile, no condition open."""
        nest, facts = self.nest, self.nest.facts
        rows = nest.rows * nest.vectors
        inner = nest.tile[self.order[-1]] if self.order else 1
        if nest.across or not facts.summed:
            return rows
        return rows * min(self.schedule.unroll, inner)

    def _walk(self, depth: int, ranges: Ranges) -> None:
        for pack in self.schedule.packs:
            if pack.depth == depth:
                self.lines += self._pack(pack.tensor, ranges)
        if depth == len(self.schedule.loops):
            self.lines += self._tile(ranges)
            return
        axis, block = self.schedule.loops[depth]
        here = ranges[axis]
        rounds, rest = divmod(here.extent, block)
        parts = [
            (part.start * block, (part.start + part.rounds - 1) * block, block)
            for part in self._cuts(self.cut, ranges, axis, rounds, block)
        ]
        if rest:
            parts.append((rounds * block, rounds * block, rest))
        for start, last, size in parts:
            if self.lines <= self.most:
                self.lines += 4
                self._walk(depth + 1, {**ranges, axis: here.part(0, start, last, size)})

    def _pack(self, tensor: str, ranges: Ranges) -> int:
        touch = next(touch for touch in self.nest.facts.touches if touch.name == tensor)
        side = [axis for axis in self.nest.facts.spatial if axis in touch.strides]
        if side and touch.strides[side[-1]] != 1:
            return 20 * self.nest.facts.spec.lanes
        return 60

    def _tile(self, ranges: Ranges) -> int:
        facts, nest = self.nest.facts, self.nest
        across = nest.across
        sides = {axis: ranges[axis].extent for axis in facts.spatial}
        if not across and nest.vector:
            sides[nest.vector] = -(-sides[nest.vector] // self.schedule.lanes)
        values = math.prod(sides.values())
        each = 1 if facts.summed else facts.work // 3
        ends = AROUND + values * (PICKED + facts.work if facts.picked else 2 + 2 * each)
        if not facts.summed:
            return ends
        edge = any(decide(test, ranges) is None for test in self.cut)
        rest = any(
            ranges[a.name].extent < nest.tile[a.name] <= a.extent // RARE for a in self.stage.axes
        )
        return ends + self._sum(self.order, ranges, sides, edge or rest, {})

    def _sum(
        self,
        axes: Sequence[str],
        ranges: Ranges,
        sides: dict[str, int],
        slow: bool,
        written: dict[str, int],
    ) -> int:
        """Of the loops over summed axes; `written`: steps of those around that are written out."""
        if not axes:
            return self._step(ranges, sides, written)
        axis, *inner = axes
        here, total = ranges[axis], 0
        values = math.prod(sides.values()) * self.nest.chains
        if going := [t for t in moving(self.parted, ranges) if self.parted[t] == axis]:
            failing = sum(self._failing(test, axis, ranges) for test in going)
            within = {**ranges, axis: here.part(0, 0, here.extent - 1, 1)}
            bodies = self._sum(inner, within, sides, slow, {})
            bodies += failing * self._sum(inner, within, sides, True, {})
            return (bodies + values * (2 + failing) + 12) * math.prod(written.values())
        for start, rounds, size, count in self._parts(axis, inner, ranges, slow):
            part = {**ranges, axis: here.part(0, start, start + (rounds - 1) * size, size)}
            if any(decide(test, part) is False for test in self.stage.tests):
                continue
            if rounds == 1:
                total += self._sum(inner, part, sides, slow, {**written, axis: count})
                continue
            lines = self._sum(inner, part, sides, slow, {axis: count}) + values + 12
            total += lines * math.prod(written.values())
        return total

    @staticmethod
    def _failing(test: Index, axis: str, ranges: Ranges) -> int:
        """How many ways there are where a condition fails."""
        ((other, by),) = ((name, by) for name, by in test.terms if name != axis)
        offsets = [by * number for number in range(ranges[other].extent)]
        return sum(1 for _ in ways(test, offsets, axis, ranges))

    def _parts(
        self, axis: str, inner: Sequence[str], ranges: Ranges, slow: bool
    ) -> Iterator[tuple[int, int, int, int]]:
        """(start, rounds, size, steps written out) of the loops over a summed axis."""
        here, nest = ranges[axis], self.nest
        lanes = self.schedule.lanes if axis == nest.vector else 1
        lanes = self.schedule.group if not inner and self.schedule.group > 1 else lanes
        if self.clipped and any(
            by == axis and decide(test, ranges) is None for test, by in self.clipped.items()
        ):
            yield 0, here.extent, 1, 1
            return
        own = any(axis in dict(test.terms) for test in self.cut)
        unroll = self.schedule.unroll if nest.across or own or not slow else 1
        unroll //= math.prod(nest.facts.extents[name] for name in inner)
        for part in self._cuts(self.stage.tests, ranges, axis, here.extent, 1):
            start, left = part.start, part.rounds
            most = 1 if inner and nest.across else max(1, min(unroll, left // lanes))
            for size in (lanes * most, lanes, left % lanes if lanes > 1 else 1):
                if size and (rounds := left // size):
                    yield start, rounds, size, max(1, size // lanes)
                    start, left = start + rounds * size, left % size

    @staticmethod
    def _cuts(
        tests: Sequence[Index], ranges: Ranges, axis: str, rounds: int, block: int
    ) -> Iterable[Segment]:
        open_ = [t for t in tests if axis in dict(t.terms) and decide(t, ranges) is None]
        if not open_:
            return [Segment(0, rounds)] if rounds else []
        return segments(open_, ranges, axis, rounds, block)

    def _step(self, ranges: Ranges, sides: dict[str, int], written: dict[str, int]) -> int:
        """All that is written out; what its steps read in common is read once."""
        values = math.prod(sides.values()) * math.prod(written.values())
        lines = values * max(1, self.nest.facts.work // 3 - 2 * bool(self.stage.tests))
        each_ = GUARDED if self._open(ranges) else 1
        sizes = {**written, **sides}
        for each, dimensions in self.operands:
            count = each_
            for terms in dimensions:
                steps = [(sizes.get(axis, 1), by) for axis, by in terms]
                reach = 1 + sum(by * (number - 1) for number, by in steps)
                count *= min(reach, math.prod(number for number, _ in steps))
            lines += each * count
        return lines

    def _open(self, ranges: Ranges) -> list[Index]:
        return [t for t in self.cut if decide(t, ranges) is None]


def length(nest: Nest, most: int) -> int:
    """About how many lines of LLVM text a stage takes; more than `most` where it is more."""
    whole = Length(nest, most)
    # Most of what is too long is so by one tile.
    if (tile := whole.least()) > most:
        return tile
    return whole.count()


__all__ = ["length"]
