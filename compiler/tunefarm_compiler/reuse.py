"""What the loops of a schedule touch: counted from accesses and blocks, without lowering them.

Levels count from the outside: level 0 is the whole stage, level n what is inside of n loops. The
loops of the schedule come first, then the reduce loops inside the tile, one index at a time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tunefarm_compiler.clip import clipped
from tunefarm_compiler.emit import SIZES
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.stages import Stage
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Expr, Inside, Load, Select, walk
from tunefarm_compiler.winograd import picked

LINE = 64


@dataclass(frozen=True)
class Touch:
    """One access: for each dimension its (axis, |coefficient|) terms and size; from inside out."""

    name: str
    size: int
    dimensions: tuple[tuple[tuple[tuple[str, int], ...], int], ...]
    strides: Mapping[str, int]
    output: bool = False

    @classmethod
    def of(cls, load: Load, output: bool = False) -> "Touch":
        """That of a load."""
        dimensions = tuple(
            (tuple((axis, abs(by)) for axis, by in index.terms), extent)
            for index, extent in zip(load.indices, load.tensor.shape, strict=True)
        )
        strides = load.strides()[0]
        return cls(load.tensor.name, SIZES[load.dtype], dimensions[::-1], strides, output)

    def elements(self, blocks: Mapping[str, int]) -> tuple[int, int]:
        """Elements in blocks of the axes, and how many of them lie side by side."""
        total, run = 1, 0
        for terms, extent in self.dimensions:
            width = 1
            for axis, by in terms:
                width += by * (blocks[axis] - 1)
            width = min(width, extent)
            if not run and width < extent:
                run = total * width
            total *= width
        return total, run or total

    def bytes(self, blocks: Mapping[str, int], packed: bool = False) -> int:
        """Bytes of the cache lines that hold them."""
        total, run = self.elements(blocks)
        if packed or run * self.size >= LINE:
            return total * self.size
        return total // run * LINE


class StageFacts:
    """What never changes about a stage on a target."""

    def __init__(self, stage: Stage, spec: TargetSpec) -> None:
        self.stage, self.spec = stage, spec
        self.extents = stage.extents
        self.spatial = tuple(axis.name for axis in stage.axes)
        self.summed = tuple(axis.name for axis in stage.reduce_axes)
        by_key = {(load.tensor.name, load.indices): load for load in stage.loads}
        self.touches = tuple(Touch.of(load) for load in by_key.values())
        self.output = Touch.of(stage.tensor[stage.axes], output=True)
        dtype = stage.reduce.dtype if stage.reduce else stage.tensor.dtype
        self.total_size = SIZES.get(dtype, 4)
        self.points = math.prod(self.extents.values())
        told = self.spatial if stage.reduce is None else ()
        self.picked = frozenset(filter(picked, told))  # axes of points that differ in what they do
        body = stage.reduce.body if stage.reduce else stage.body
        self.work = operations(body) if self.picked else sum(1 for _ in walk(body))
        self.register = spec.lanes * 4
        # An axis is shared where some access of the sum does not move with it: its tile's side
        # serves loads again.
        terms = [t for t in self.touches if not self.summed or set(self.summed) & set(t.strides)]
        self.terms = terms
        self.shared = tuple(
            axis
            for axis in self.spatial
            if self.summed and any(axis not in touch.strides for touch in terms)
        )
        # So does a point beside another one, where both read of what lies between them.
        reads = [tuple(index.terms for index in load.indices) for load in by_key.values()]
        near = {
            axis for terms in reads for one in terms for axis, _ in one if reads.count(terms) > 1
        }
        self.near = near - self.picked if self.picked else frozenset[str]()


def operations(body: Expr) -> int:
    """Operations on values of an expression, of which conditions pick the first kind of point."""
    total, todo = 0, [body]
    for expr in todo:
        picks = isinstance(expr, Select) and isinstance(expr.condition, Inside)
        todo += [expr.yes] if picks else expr.children()  # type: ignore[attr-defined]
        total += not picks and bool(expr.children())
    return total


@dataclass(frozen=True)
class Nest:
    """A stage by a schedule. `single` are axes of which the surroundings need one index only."""

    facts: StageFacts
    schedule: Schedule
    limits: Mapping[str, int]  # extents where the surroundings need less than all

    @cached_property
    def tile(self) -> dict[str, int]:
        """Sides of the register tile; of reduce axes their innermost block."""
        extents = {axis: min(e, self.limits.get(axis, e)) for axis, e in self.facts.extents.items()}
        return self.schedule.tile(extents)

    @cached_property
    def vector(self) -> str:
        """The axis along the vectors."""
        return self.schedule.vector_axis(self.facts.stage)

    @cached_property
    def across(self) -> bool:
        """Whether lanes hold parts of one sum."""
        return self.vector in self.facts.summed

    @property
    def bytes(self) -> int:
        """Of what a stage holds at a time."""
        sides = (
            min(self.facts.extents[a], self.limits.get(a, self.facts.extents[a]))
            for a in self.facts.spatial
        )
        return math.prod(sides) * SIZES[self.facts.stage.tensor.dtype]

    @cached_property
    def levels(self) -> list[tuple[str, int, dict[str, int]]]:
        """(axis, rounds, blocks inside) of each loop; the first entry is no loop but the whole."""
        blocks = {a: min(e, self.limits.get(a, e)) for a, e in self.facts.extents.items()}
        found = [("", 1, dict(blocks))]
        inner = [(axis, 1) for axis in self.schedule.reduce_order(self.facts.stage)]
        for axis, side in (*self.schedule.loops, *inner):
            block = min(side, blocks[axis])
            if axis == self.vector and self.across and (axis, 1) in inner:
                block = min(max(block, self.schedule.lanes), blocks[axis])
            rounds = -(-blocks[axis] // block)
            blocks[axis] = block
            found.append((axis, rounds, dict(blocks)))
        return found

    @cached_property
    def vectors(self) -> int:
        """Vectors along the vector axis in a tile."""
        if self.across or not self.vector:
            return 1
        return -(-self.tile[self.vector] // self.schedule.lanes)

    @cached_property
    def rows(self) -> int:
        """Points of the other axes in a tile."""
        return math.prod(self.tile[axis] for axis in self.facts.spatial if axis != self.vector)

    @property
    def chains(self) -> int:
        """Sums side by side for each vector of the tile."""
        return self.schedule.unroll if self.across else 1

    @property
    def width(self) -> int:
        """Registers that one vector of totals takes."""
        return max(1, -(-self.schedule.lanes * self.facts.total_size // self.facts.register))

    @cached_property
    def accumulators(self) -> int:
        """Registers that hold totals."""
        return self.rows * self.vectors * self.chains * self.width

    @cached_property
    def operand_vectors(self) -> list[int]:
        """For each access of the sum, the different vectors or points that one step reads."""
        found = []
        for touch in self.facts.terms:
            count = 1
            for axis in self.facts.spatial:
                if axis in touch.strides:
                    count *= self.vectors if axis == self.vector else self.tile[axis]
            found.append(count)
        return found

    @property
    def registers(self) -> int:
        """Vector registers in use at once: totals, the smaller operand kept, one on its way."""
        if not self.facts.summed:
            return self.rows * self.vectors
        kept = min(self.operand_vectors, default=1) * self.width
        return self.accumulators + kept + 1

    def calls(self, depth: int) -> int:
        """How often what is inside so many loops is run."""
        return math.prod(rounds for _, rounds, _ in self.levels[: depth + 1])

    @cached_property
    def packed(self) -> dict[str, int]:
        """Depth of each packed tensor."""
        return {pack.tensor: pack.depth for pack in self.schedule.packs}

    def pack_bytes(self) -> list[tuple[int, int, bool]]:
        """(bytes of scratch, times filled, whether it is turned) of each pack."""
        found = []
        for touch in self.facts.touches:
            depth = self.packed.get(touch.name)
            if depth is None:
                continue
            blocks = self.levels[depth][2]
            elements = touch.elements(blocks)[0]
            side = [axis for axis in self.facts.spatial if axis in touch.strides]
            width = self.tile[side[-1]] if side else 1
            extent = blocks[side[-1]] if side else 1
            filled = -(-extent // width) * width
            turned = bool(side) and touch.strides[side[-1]] != 1
            found.append((elements * filled // extent * touch.size, self.calls(depth), turned))
        return found

    @cached_property
    def sizes(self) -> list[list[int]]:
        """Bytes that the loops inside each level touch, by access; the output's come last."""
        touches = (*self.facts.touches, self.facts.output)
        depths = [self.packed.get(touch.name, len(self.levels)) for touch in touches]
        rows: list[list[int]] = []
        for level, (axis, _, blocks) in enumerate(self.levels):
            row = []
            for number, touch in enumerate(touches):
                if level and axis not in touch.strides and level != depths[number]:
                    row.append(rows[-1][number])
                else:
                    row.append(touch.bytes(blocks, depths[number] <= level))
            rows.append(row)
        return rows

    @cached_property
    def copies(self) -> int:
        """Tiles that the code holds: more where blocks leave rests, sums are cut, edges differ."""
        blocks = self.levels[0][2].copy()
        rests: dict[str, int] = {}
        count = 1
        for axis, side in self.schedule.loops:
            block = min(side, blocks[axis])
            if blocks[axis] % block:
                rests[axis] = rests.get(axis, 1) + 1
            if axis in self.facts.summed and block < blocks[axis]:
                count *= 2 if self.facts.stage.plain else 3
            blocks[axis] = block
        inside = clipped(self.facts.stage, self.schedule)
        edges = {axis for test in self.facts.stage.tests if test not in inside
                 for axis, _ in test.terms}  # fmt: skip
        for axis in edges:
            # Before, among and behind what lies inside.
            looped = any(axis == a for a, _ in self.schedule.loops)
            count *= 3 if axis in self.facts.spatial and looped else 2
        return count * math.prod(rests.values())

    @property
    def code(self) -> int:
        """Roughly how many lines of LLVM text the code holds."""
        facts, order = self.facts, self.schedule.reduce_order(self.facts.stage)
        values = self.rows * self.vectors
        unroll = self.schedule.unroll
        inner = self.tile[order[-1]] if order else 1
        every = math.prod(self.tile[axis] for axis in order)
        steps = min(unroll, every if unroll > inner else inner)
        steps += 1 if unroll > 1 and inner % unroll else 0
        step = values * max(1, facts.work // 3) + 2 * sum(self.operand_vectors)
        turned = sum(20 * facts.spec.lanes for _, _, turned in self.pack_bytes() if turned)
        # Of what conditions cut, most combinations are never reached.
        copies = self.copies**0.6 if facts.stage.tests else self.copies
        return int(copies * (steps * step + 4 * values + 20)) + turned

    @property
    def efficiency(self) -> float:
        """Share of the lanes that do work, tails and rests counted in."""
        share = 1.0
        lanes, tile = self.schedule.lanes, self.tile
        extent = self.levels[0][2].get(self.vector, 1)
        if not self.vector:
            return 1.0 / self.facts.spec.lanes
        side = extent if self.across else tile[self.vector]
        whole, rest = divmod(extent, side) if side else (0, 0)
        issued = whole * -(-side // lanes) + (-(-rest // lanes) if rest else 0)
        share = extent / max(1, issued * lanes)
        return share * min(1.0, lanes / self.facts.spec.lanes)


def traffic(nest: Nest, capacity: int) -> dict[str, float]:
    """Bytes that each tensor moves into a cache of that size, by what fits in it at each level."""
    levels, sizes = nest.levels, nest.sizes
    depth = next((d for d, row in enumerate(sizes) if sum(row) <= capacity), len(levels) - 1)
    moved: dict[str, float] = {}
    for number, touch in enumerate((*nest.facts.touches, nest.facts.output)):
        times, retained = 1.0, True
        for axis, rounds, _ in reversed(levels[1 : depth + 1]):
            # What the loop right around does not move stays where it is.
            if retained and axis not in touch.strides:
                continue
            retained = False
            times *= rounds
        moved[touch.name] = moved.get(touch.name, 0.0) + times * sizes[depth][number]
    return moved
