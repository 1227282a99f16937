"""A schedule for any expression that is good without a search: from its accesses alone."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.caches import caches
from tunefarm_compiler.dots import available, group_of
from tunefarm_compiler.schedule import Attach, Pack, Prefetch, Schedule, dealt
from tunefarm_compiler.stages import Stage, inline, plan
from tunefarm_compiler.suit import suited
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Axis, Compute, Load, Reduce, Tensor, walk
from tunefarm_compiler.winograd import Windows, picked, windows

# A packed panel stays in half the second cache of a wide processor, in the first of others.
NARROW_PANEL = 16384
STREAM_VECTORS = 4
FEW_ROWS = 3
POURED = 64  # channels
LONG = 1024  # steps of a sum from which on prefetches pay
WINDOW = 9  # steps of a window that are written out
SMALL = 16  # windows in a row, up to which none should be left over
WIDE, NARROW = 0.15, 0.5
PACK_USES, TURN_USES = 128, 16
FULL = 0.9  # of their lanes vectors should use
NO_SIDES: Mapping[str, int] = {}
TURN_STEPS, TURN_ROWS = 32, 32  # from which on sums are worth being written one by one


def kept(output: Tensor) -> list[str]:
    """Stages that are not inlined: shared work, and reductions that are no epilogue's."""
    readers: dict[str, set[str]] = {}
    tensors: dict[str, Tensor] = {}

    def visit(tensor: Tensor) -> None:
        if tensor.compute is None or tensor.name in tensors:
            return
        tensors[tensor.name] = tensor
        for load in _loads(tensor.compute):
            readers.setdefault(load.tensor.name, set()).add(tensor.name)
            visit(load.tensor)

    visit(output)
    found = []
    for name, tensor in tensors.items():
        if tensor is output or tensor.compute is None:
            continue
        by = readers[name]
        if len(by) > 1 or (_reduces(tensor.compute) and not _epilogue(tensors[min(by)], name)):
            found.append(name)
    return found


def _loads(compute: Compute) -> list[Load]:
    return [expr for expr in walk(compute.body) if isinstance(expr, Load)]


def _reduces(compute: Compute) -> bool:
    return any(isinstance(expr, Reduce) for expr in walk(compute.body))


def _epilogue(reader: Tensor, name: str) -> bool:
    """Whether a reader does nothing but elementwise work on that reduction."""
    if reader.compute is None or _reduces(reader.compute):
        return False
    loads = [load for load in _loads(reader.compute) if load.tensor.name == name]
    own = tuple(axis.index() for axis in reader.compute.axes)
    return all(load.indices == own for load in loads)


def default(output: Tensor, spec: TargetSpec, threads: int = 1) -> Schedule:
    """The schedule of an expression. What is not inlined is computed for each row.

    Its scratch has room for so many threads; `on_threads` deals it out.
    """
    if spec.gpu:
        from tunefarm_compiler.gpu import defaults as gpu

        return gpu.default(output, spec)
    output = suited(output, spec)
    from tunefarm_compiler import fewer  # which is made of what is here

    if (found := fewer.by_fewer_products(output, spec, threads)) is not None:
        return found
    *before, last = plan(output, kept(output))
    if not before:
        return nest(last, spec)
    if Shape(last, spec).contraction:
        whole = tuple(Attach(stage.tensor.name, 0, nest(stage, spec)) for stage in before)
        return replace(nest(last, spec), stages=whole)
    depth = len(last.axes)
    for stage in before:
        shared = itertools.takewhile(
            lambda pair: pair[0].name == pair[1].name, zip(stage.axes, last.axes, strict=False)
        )
        depth = min(depth, sum(1 for _ in shared))
    rows = tuple((axis.name, 1) for axis in last.axes[:depth])
    own = nest(last, spec)
    inner = tuple(loop for loop in own.loops if loop[0] not in dict(rows))
    single = frozenset(axis for axis, _ in rows)
    stages = tuple(Attach(stage.tensor.name, depth, nest(stage, spec, single)) for stage in before)
    return Schedule(rows + inner, own.lanes, own.unroll, own.packs, own.vector, own.order, stages)


def minimal(output: Tensor) -> Windows | None:
    """The windows that it can be computed by with fewer products."""
    if output.compute is None:
        return None
    try:
        return windows(output, inline(output.compute.body, ()))
    except InvalidScheduleError:  # a sum that others are made of is a stage in any case
        return None


def nest(stage: Stage, spec: TargetSpec, single: frozenset[str] = frozenset()) -> Schedule:
    """The schedule of one stage, of which axes in `single` have one index at a time."""
    shape = Shape(stage, spec)
    if stage.reduce is not None and shape.across():
        return shape.parts_of_sums(1 if shape.vector.name in single else 4)
    if shape.contraction:
        shape = shape.turned()
        tiles = [tile for tile in shape.tiles() if shape.fits(*tile)]
        if shape.pours():
            tiles = [(rows, vectors) for rows, vectors in tiles if vectors == 1]
        return shape.asking(shape.contract(*min(tiles, key=shape.cost), unroll=shape.unroll))
    if shape.window:
        return shape.slide_both()
    return shape.stream(STREAM_VECTORS)


class Shape:
    """What matters for speed in the accesses of a stage."""

    def __init__(self, stage: Stage, spec: TargetSpec, vector: Axis | None = None) -> None:
        self.stage = stage
        self.spec = spec
        self.vector = vector or stage.axes[-1]
        self.last = self.vector is stage.axes[-1]
        others = [axis for axis in stage.axes if axis is not self.vector]
        strides = [(load, load.strides()[0]) for load in stage.loads]
        summed = {a.name for a in stage.reduce_axes if a.extent > 1}
        terms = [(load, s) for load, s in strides if summed & set(s)]
        self.along = [(load, s) for load, s in terms if self.vector.name in s]
        self.broadcast = [(load, s) for load, s in terms if self.vector.name not in s]
        self.all, self.terms = strides, terms
        self.window, self.tall = self._window(-1), self._window(-2)
        # Axes that only the broadcast operand has: rows of the register tile.
        self.rows = [
            axis
            for axis in others
            if any(axis.name in s for _, s in self.broadcast)
            and not any(axis.name in s for _, s in self.along)
        ]
        self.batch = [axis for axis in others if axis not in self.rows]

    @property
    def contraction(self) -> bool:
        """Whether every value read can serve several sums."""
        return bool(self.along and self.broadcast and self.rows)

    def turned(self) -> "Shape":
        """With vectors along another axis, where those along the last one are cut short.

        So for windows over channels first: vectors of output channels read packed weights, and are
        written one by one, once for each sum.
        """
        extent, lanes = self.vector.extent, self.spec.lanes
        if self.packable() or extent > FULL * -(-extent // lanes) * lanes:
            return self
        steps = math.prod(axis.extent for axis in self.stage.reduce_axes)
        for axis in self.rows:
            other = Shape(self.stage, self.spec, axis)
            wide = axis.extent >= self.spec.lanes and other.contraction
            uses = math.prod(row.extent for row in other.rows)
            if wide and steps >= TURN_STEPS and uses >= TURN_ROWS and other.packable():
                return other
        return self

    def pours(self) -> bool:
        """Whether weights of a window are many, and used too seldom to be packed.

        Then a few of its channels at a time are summed up over all rows, by one vector of columns,
        so that what these rows share stays in the first caches.
        """
        reduce = self.stage.reduce
        if reduce is None or len(reduce.axes) == 1 or reduce.dtype != self.stage.tensor.dtype:
            return False
        steps = math.prod(axis.extent for axis in reduce.axes)
        many = 2 * self.spec.lanes * steps > caches(self.spec).second // 16  # a quarter of it
        return many and self.spec.lanes > 8 and self.group == 1 and not self.packable()

    def across(self) -> bool:
        """Whether lanes had better hold parts of one sum: the summed axis is the contiguous one."""
        if not self.stage.reduce_axes:
            return False
        inner = self.stage.reduce_axes[-1].name
        contiguous = [s for _, s in self.all if s.get(inner) == 1]
        if not contiguous or any(s.get(self.vector.name) == 1 for _, s in self.terms):
            return False
        rows = 1
        for axis in self.rows:
            rows *= axis.extent
        return not self.contraction or rows <= FEW_ROWS

    def _window(self, place: int) -> Axis | None:
        """The spatial axis that the summed axis in that place slides along, where there is one."""
        if len(self.stage.reduce_axes) < -place:
            return None
        inner = self.stage.reduce_axes[place].name
        for load in self.stage.loads:
            for index in load.indices:
                for axis in self.stage.axes[:-1]:
                    if {axis.name, inner} == {name for name, _ in index.terms}:
                        return axis
        return None

    def columns(self) -> int:
        """Windows side by side, which share what they read: as many as leave no rest, if any."""
        extent = self.window.extent if self.window else 1
        most = max(1, min(self.spec.vector_registers // 2, extent))
        return max(range(1, most + 1), key=lambda n: (n > most // 2 and extent % n == 0, n))

    def slide(self, columns: int, vectors: int, rows: int = 1, unroll: int = 0) -> Schedule:
        """Windows side by side, the innermost summed axis unrolled, or so many steps."""
        blocks = {axis.name: 1 for axis in self.stage.axes}
        for axis, block in ((self.tall, rows), (self.window, columns)):
            if axis is not None:
                blocks[axis.name] = min(block, axis.extent)
        blocks[self.vector.name] = vectors * self.spec.lanes
        unroll = unroll or min(8, self.stage.reduce_axes[-1].extent)
        return Schedule(tuple(blocks.items()), self.spec.lanes, unroll)

    def slide_both(self) -> Schedule:
        """Windows side by side in two directions, which share rows, written out as a whole."""
        steps = math.prod(axis.extent for axis in self.stage.reduce_axes)
        if self.tall is None or self.window is None or self.tall.extent == 1 or steps > WINDOW:
            return self.slide(self.columns(), 1)
        if self.spec.vector_registers < 32:
            return self.slide(2, 1, 3, steps)
        extent = self.window.extent
        if extent > SMALL:
            return self.slide(2, 1, 4, steps)
        even = max(n for n in range(1, 8) if extent % n == 0)
        return self.slide(max(even, 3), 1, 2, steps)

    def parts_of_sums(self, most: int) -> Schedule:
        """Several sums at a time, each in the lanes of a few vectors."""
        inner = self.stage.reduce_axes[-1]
        lanes = self.spec.lanes
        while lanes > 1 and lanes > inner.extent:
            lanes //= 2
        many = min(most, self.vector.extent)
        loops = [(axis.name, 1) for axis in self.stage.axes[:-1]] + [(self.vector.name, many)]
        return Schedule(tuple(loops), lanes, max(1, 8 // many), vector=inner.name)

    def tiles(self) -> Iterator[tuple[int, int]]:
        """(rows, vectors) worth trying: rows up to what there are."""
        most = 1
        for axis in self.rows:
            most *= axis.extent
        for rows, vectors in itertools.product(range(1, min(16, most) + 1), range(1, 5)):
            if (vectors - 1) * self.spec.lanes < self.vector.extent:
                yield rows, vectors

    def fits(self, rows: int, vectors: int) -> bool:
        """Whether accumulators, a row of operands and what is broadcast stay in registers."""
        broadcast = 1 if self.last else rows  # windows over channels first read it again at once
        return rows * vectors + vectors + broadcast <= self.spec.vector_registers

    def cost(self, tile: tuple[int, int]) -> tuple[float, int]:
        """What the edges waste, and loads for each multiply-add; larger tiles on a tie."""
        rows, vectors = tile
        sides = {self.vector.name: vectors * self.spec.lanes, **dict(self.blocks(rows))}
        waste = 1.0
        for axis in (*self.rows, self.vector):
            side = sides[axis.name]
            waste *= -(-axis.extent // side) * side / axis.extent
        # A wide multiply-add takes as long as two loads; a narrow one no longer than its own.
        loads = (rows + vectors) / (rows * vectors) * (WIDE if self.spec.lanes > 8 else NARROW)
        return waste * (1 + loads), -rows * vectors

    def blocks(self, rows: int) -> list[tuple[str, int]]:
        """The rows of a tile, taken from the innermost axis first."""
        found = []
        for axis in reversed(self.rows):
            block = min(rows, axis.extent)
            found.append((axis.name, block))
            rows //= block
        return found[::-1]

    def contract(  # noqa: PLR0917
        self,
        rows: int,
        vectors: int,
        block: int = 0,
        unroll: int = 1,
        packs: Sequence[str] | None = None,
        outer: int = 0,
    ) -> Schedule:
        """A register tile of rows x vectors; what is vectorised is packed panel by panel.

        With `outer` the panels of all columns are packed at once, and so many rows done at a time.
        """
        columns = vectors * self.spec.lanes
        loops = [(axis.name, 1) for axis in self.batch]
        summed, extents = self.stage.reduce_axes, self.stage.extents
        plain = self.stage.reduce is not None and self.stage.tensor.dtype == self.stage.reduce.dtype
        if len(summed) == 1 and plain:
            wide = caches(self.spec).second // 8  # elements of four bytes in half of it
            panel = wide if self.spec.lanes > 8 else NARROW_PANEL
            size = block or max(64, min(summed[0].extent, self.group * panel // max(64, columns)))
            loops.append((summed[0].name, size))
        order: tuple[str, ...] = ()
        if not block and self.pours():
            long, *others = sorted((a.name for a in summed), key=lambda n: -extents[n])
            loops.append((long, POURED))
            order = (others[0], long, *others[1:])  # few streams of weights at a time
        depth = len(loops)
        if outer:
            loops.append((self.rows[-1].name, outer))
        loops += [(self.vector.name, columns), *self.blocks(rows)]
        if self.group > 1 and not outer and self.vector.extent > 2 * columns:
            # Products are so fast that rows are fetched for two panels at a time.
            loops[depth] = (self.vector.name, 2 * columns)
            loops.append((self.vector.name, columns))
        wanted = packs if packs is not None else self.packable()
        along = self.along[0][0].tensor.name
        made = [Pack(name, depth + (name == along and not outer)) for name in wanted]
        group = self.group if along in wanted else 1
        own = "" if self.last else self.vector.name
        return Schedule(tuple(loops), self.spec.lanes, unroll, tuple(made), own, order, group=group)

    @property
    def unroll(self) -> int:
        """Steps of a sum at a time that are worth their longer code."""
        if self.spec.arch == "wasm32":
            # Devices that end what runs too long look at their clock in every round of its loops.
            return 2
        reduce = self.stage.reduce
        if reduce is None or len(reduce.axes) > 1 or self.spec.lanes <= 8:
            return 1
        return 2 if reduce.dtype == "float32" or self.group > 1 else 1

    def asking(self, schedule: Schedule) -> Schedule:
        """With prefetches of the next rows, where the step to them takes hardware by surprise."""
        rows, summed = self.rows[-1].name, self.stage.reduce_axes
        (load, strides), *more = self.broadcast
        long = len(summed) == 1 and summed[0].extent >= LONG and strides.get(summed[0].name) == 1
        if self.spec.lanes <= 8 or self.group > 1 or more or not long or rows not in strides:
            return schedule
        ahead = schedule.tile(self.stage.extents)[rows]
        names = (load.tensor.name, self.stage.tensor.name)
        asked = tuple(Prefetch(one, rows, ahead) for one in names)
        return replace(schedule, unroll=4, prefetches=asked)  # fewer times for each line

    @property
    def group(self) -> int:
        """Steps of the sum that one instruction does."""
        inner = self.stage.reduce_axes[-1].name
        moving = [load.strides()[0].get(inner, 0) for load, _ in self.broadcast]
        whole = all(inner not in dict(test.terms) for test in self.stage.tests)
        suits = whole and available(self.stage.reduce, self.spec) and set(moving) <= {1}
        return group_of(self.stage.reduce) if suits else 1

    def packable(self) -> list[str]:
        """The operand along the vectors, where its panels are used often enough."""
        load, _ = self.along[0]
        lone = all(len(index.terms) <= 1 for index in load.indices)
        uses = 1
        for axis in self.rows:
            uses *= axis.extent
        once = len(self.along) == 1 and load.tensor.compute is None and lone
        turned = load.strides()[0][self.vector.name] != 1
        enough = uses >= (TURN_USES if turned else PACK_USES) or self.group > 1
        return [load.tensor.name] if once and enough else []

    def apart(self, sides: Mapping[str, int] = NO_SIDES) -> Schedule:
        """All that is told apart in one tile, beside it one vector of every other axis."""
        lanes, vector = self.spec.lanes, self.vector.name
        loops = [
            (axis.name, lanes if axis is self.vector else sides.get(axis.name, 1))
            for axis in self.stage.axes
            if not picked(axis.name)
        ]
        return Schedule(tuple(loops), lanes, vector="" if self.last else vector)

    def stream(self, vectors: int) -> Schedule:
        """A few vectors at a time; moves in squares that are turned in registers."""
        lanes = self.spec.lanes
        loops = [(axis.name, 1) for axis in self.stage.axes[:-1]]
        for _, strides in self.all:
            turned = [a.name for a in self.stage.axes[:-1] if strides.get(a.name) == 1]
            if turned and strides.get(self.vector.name, 0) > 1 and self.stage.reduce is None:
                loops = [(axis, lanes if axis == turned[-1] else 1) for axis, _ in loops]
                vectors = 1
        return Schedule((*loops, (self.vector.name, lanes * vectors)), lanes)


def on_threads(schedule: Schedule, output: Tensor, spec: TargetSpec, threads: int) -> Schedule:
    """The schedule with its loops dealt out, and those of stages computed whole before them.

    Where packs lie around the loop that would be dealt out, the axis gets a loop around them first:
    each thread packs for itself, sooner than it could read what another has packed.
    What has no loop to deal out stays as it is. Raises: InvalidScheduleError.
    """
    if threads == 1:
        return schedule
    attached = {attach.stage: attach for attach in schedule.stages}
    *before, last = plan(suited(output, spec), attached)

    def dealt_out(one: Schedule, stage: Stage) -> Schedule:
        spatial = {axis.name for axis in stage.axes}
        if not any(axis in spatial for axis, _ in one.loops):
            return one
        one = replace(one, threads=threads)
        depth = dealt(one, stage)
        axis, block = one.loops[depth]
        if axis in dict(one.loops[:depth]) or all(pack.depth > depth for pack in one.packs):
            return one
        rounds = -(-stage.extents[axis] // block)
        return replace(
            one,
            loops=((axis, -(-rounds // threads) * block), *one.loops),
            packs=tuple(replace(pack, depth=pack.depth + 1) for pack in one.packs),
            stages=tuple(replace(s, depth=s.depth + (s.depth > 0)) for s in one.stages),
            parallel=axis,
        )

    stages = {stage.tensor.name: stage for stage in before}
    whole = tuple(
        replace(one, schedule=dealt_out(one.schedule, stages[one.stage])) if not one.depth else one
        for one in schedule.stages
    )
    return dealt_out(replace(schedule, stages=whole), last)
