"""The register tile: spatial loops unrolled into vectors, carried through the reduce loops."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler import dots
from tunefarm_compiler.access import Access, Piece
from tunefarm_compiler.additions import identity
from tunefarm_compiler.bounds import Ranges, decide, segments
from tunefarm_compiler.clip import branches, clipped, limits, moving, parted
from tunefarm_compiler.emit import SIZES, Emitter, Value, constant, kind
from tunefarm_compiler.schedule import MAX_TILE_VALUES, Schedule
from tunefarm_compiler.stages import Stage
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Binary, Index, Load, walk
from tunefarm_compiler.values import Values

RARE = 8  # an axis so many tiles long has few steps in its rest
LINE = 64  # bytes that a prefetch brings


def spans(
    extent: int, lanes: int, masks: bool = False, least: int = 1
) -> list[tuple[int, int, int]]:
    """(start, lanes, valid) of vectors that cover `extent` elements and touch nothing beside them.

    A tail is one masked vector where the processor has masks, else takes powers of two.
    """
    left = extent % lanes
    found = [(start, lanes, lanes) for start in range(0, extent - left, lanes)]
    if left and (least > 1 or (masks and left > 1)):
        width = max(least, 1 << (left - 1).bit_length())
        return [*found, (extent - left, width, left)]
    while left:
        width = 1 << left.bit_length() - 1
        found.append((extent - left, width, width))
        left -= width
    return found


@dataclass(frozen=True)
class Nest:
    """A stage with its schedule and where its results go."""

    stage: Stage
    schedule: Schedule
    output: Access

    @cached_property
    def clipped(self) -> dict[Index, str]:
        """Conditions that loops inside the tile are bounded by, and their axes."""
        return clipped(self.stage, self.schedule)

    @cached_property
    def parted(self) -> dict[Index, str]:
        """Conditions by which rounds of loops inside the tile go different ways, and their axes."""
        return parted(self.stage, self.schedule)

    @cached_property
    def cut(self) -> list[Index]:
        """Those that the loops are cut by."""
        return [t for t in self.stage.tests if t not in self.clipped and t not in self.parted]


class Tile:
    """Emits one register tile of a nest."""

    values_type: type[Values] = Values

    def __init__(
        self, emit: Emitter, nest: Nest, accesses: Mapping[object, Access], spec: TargetSpec
    ) -> None:
        self.emit, self.spec, self.nest = emit, spec, nest
        self.stage, self.schedule = stage, schedule = nest.stage, nest.schedule
        self.values = self.values_type(emit, stage, accesses)
        self.values.vector = schedule.vector_axis(stage)
        # Lanes hold parts of one sum.
        self.across = self.values.vector in schedule.reduce_order(stage)
        if stage.reduce is not None:
            self.reduce = stage.reduce
            self.neutral = identity(self.reduce.op, self.reduce.dtype)
        self.words = dots.operands(stage.reduce) if schedule.group > 1 else None
        self.halves = dots.halves(stage.reduce, spec)
        self.ranges: Ranges = {}
        self.failing = 0  # ways around this one where a condition fails
        self.sides = schedule.tile(stage.extents)
        self.chains = schedule.unroll if self.across else 1
        self.outward = not self.across  # loops around the innermost one are written out as well

    def run(self, ranges: Ranges, first: Value, last: Value) -> bool:
        """Compute the tile there. `first`: the outputs hold nothing yet; `last`: they are complete.

        Returns whether the zeros of `values.NOTHING` are used.
        """
        values, stage = self.values, self.stage
        bases = {key: access.base for key, access in values.accesses.items()}
        self.ranges, values.ranges, values.pointers = ranges, ranges, bases
        tile = list(self._pieces(ranges))
        if len(tile) > MAX_TILE_VALUES:
            raise InvalidScheduleError(
                f"schedule: a register tile of {stage.tensor.name} holds {len(tile)} vectors, "
                f"{MAX_TILE_VALUES} is the limit",
                "add loops with smaller blocks",
            )
        self._ask(tile)
        if stage.reduce is not None:
            self._run_reduce(tile, first)
        values.ranges, values.pointers, values.steps = ranges, bases, {}
        values.forget()
        if isinstance(last, str):
            self.emit.either(last, [], *(partial(self._finish, tile, way) for way in (True, False)))
        else:
            self._finish(tile, last)
        return values.uses_nothing

    def _finish(self, tile: list[Piece], last: Value) -> list[str]:
        """Store what is computed from the totals, or, before the last of them, these."""
        for piece in tile:
            done = self.values.value(self.stage.body, piece) if last else self.values.totals[piece]
            self._store(done, piece)
        return []

    def describe(self) -> str:
        """One line for people: what the tile computes, in which vectors."""
        sides = " x ".join(f"{a.name} {self.ranges[a.name].extent}" for a in self.stage.axes)
        order = self.schedule.reduce_order(self.stage)
        over = ", ".join(f"{axis} {self.ranges[axis].extent}" for axis in order)
        unrolled = f" by {self.schedule.unroll}" if self.schedule.unroll > 1 else ""
        vectors = f"vectors of {self.schedule.lanes} along {self.values.vector}"
        sums = f" over {over}{unrolled}" if over else ""
        asked = "".join(
            f", prefetch of {one.tensor} {one.ahead} ahead in {one.axis}"
            for one in self.schedule.prefetches
        )
        return f"tile of {self.stage.tensor.name}: {sides or 'one number'}{sums}, {vectors}{asked}"

    def _pieces(self, ranges: Ranges) -> Iterator[Piece]:
        """The vectors of a tile; points where lanes hold parts of a sum."""
        vector = self.values.vector
        outer = [range(ranges[a.name].extent) for a in self.stage.axes if a.name != vector]
        along = [(0, 1, 1)]
        if not self.across and vector:
            least = dots.GROUP if self.schedule.group > 1 else 1
            along = spans(ranges[vector].extent, self.schedule.lanes, self.spec.masks, least)
        for point in itertools.product(*outer):
            for start, lanes, valid in along:
                yield Piece(point, start, lanes, valid)

    def _store(self, value: str, piece: Piece) -> None:
        emit, access, lanes = self.emit, self.nest.output, piece.lanes
        offset = access.at + self.values.offset(access.strides, piece)
        along = access.strides.get(self.values.vector, 0)
        where = emit.pointer(access.base, offset, access.dtype)
        if lanes == 1 or (along == 1 and piece.valid == lanes):
            emit.store(value, where, access.dtype, lanes, math.gcd(access.aligned, offset))
        elif along == 1 and piece.valid > 1:  # LLVM writes beyond a lone i16 of four
            emit.store_masked(value, where, access.dtype, lanes, piece.guard.mask)
        else:
            for lane in range(piece.valid):
                one = emit.part(value, lane, 1, access.dtype, lanes)
                emit.store(one, emit.pointer(where, lane * along, access.dtype), access.dtype)

    # Reductions

    def _run_reduce(self, tile: list[Piece], first: Value) -> None:
        """Fill `values.totals`."""
        dtype, lanes = self.reduce.dtype, self.schedule.lanes
        self.parts = tile
        if self.across:
            self.parts = [Piece(piece.point, 0, lanes, lanes) for piece in tile]
        each = [part.lanes for part in self.parts for _ in range(self.chains)]
        self.kinds = [kind(dtype, lanes) for lanes in each]
        totals = [constant(self.neutral, dtype, lanes) for lanes in each]
        if not self.across:
            totals = self._before(totals, tile, first)
        totals = self._loops(self.schedule.reduce_order(self.stage), totals)
        if self.across:
            chains = [totals[n : n + self.chains] for n in range(0, len(totals), self.chains)]
            totals = [self._across(chain) for chain in chains]
            if first is not True:
                before = self._before([constant(self.neutral, dtype)] * len(tile), tile, first)
                totals = [self._combine(a, b, 1) for a, b in zip(before, totals, strict=True)]
        self.values.totals = dict(zip(tile, totals, strict=True))

    def _before(self, nothing: list[str], tile: list[Piece], first: Value) -> list[str]:
        """What the blocks of the sum before this one have left; nothing where this is the first."""
        output, read = self.nest.output, self.values.read
        if isinstance(first, str):
            kinds = [kind(output.dtype, piece.lanes) for piece in tile]
            left = partial(self._before, nothing, tile, False)
            return self.emit.either(first, kinds, lambda: nothing, left)
        return nothing if first else [read(output, output.base, p, p.guard) for p in tile]

    def _loops(self, axes: Sequence[str], totals: list[str]) -> list[str]:
        """The reduce loops from the outermost of `axes`, around the steps."""
        values = self.values
        if not axes:
            return self._step(self.parts, totals, 0)
        (axis, *inner), ranges = axes, values.ranges
        here, pointers = ranges[axis], values.pointers
        mine = [test for test, by in self.nest.clipped.items() if by == axis]
        if open_ := [test for test in mine if decide(test, ranges) is None]:
            totals = self._clipped(axis, inner, open_, totals)
            values.ranges, values.pointers = ranges, pointers
            return totals
        mine = [test for test, by in self.nest.parted.items() if by == axis]
        parted = moving(mine, ranges)
        others = [test for test in self.stage.tests if test not in parted]
        for part in segments(others, ranges, axis, here.extent, 1):
            blocks = self._blocks(axis, part.start, part.rounds, inner)
            for start, rounds, size in [(part.start, part.rounds, 1)] if parted else blocks:
                last = start + (rounds - 1) * size
                values.ranges = {**ranges, axis: here.part(here.at, start, last, size)}
                if self._skipped():
                    continue
                values.pointers = self._moved(pointers, axis, start)
                stepped = values.pointers if rounds > 1 else {}
                carried = [*zip(self.kinds, totals, strict=True)]
                carried += [("ptr", pointer) for pointer in stepped.values()]
                with self.emit.loop(rounds, carried) as loop:
                    at = self.emit.add(here.at, start)
                    if self.stage.tests:
                        at = self.emit.add(at, self.emit.multiply(loop.iv, size))
                    values.ranges = {**ranges, axis: here.part(at, start, last, size)}
                    totals, begun = loop.values[: len(totals)], loop.values[len(totals) :]
                    stepped = dict(zip(stepped, begun, strict=True))
                    values.pointers = values.pointers | stepped
                    if parted:
                        totals = self._parted(axis, inner, parted, totals)
                    else:
                        totals = self._unrolled(axis, inner, size, totals)
                    loop.next = [*totals, *self._moved(stepped, axis, size).values()]
                totals = loop.final[: len(totals)]
        values.ranges, values.pointers = ranges, pointers
        return totals

    def _clipped(
        self, axis: str, inner: Sequence[str], tests: list[Index], totals: list[str]
    ) -> list[str]:
        """A reduce loop that runs only where the conditions hold."""
        values, ranges = self.values, self.values.ranges
        here = ranges[axis]
        first, stop = limits(self.emit, tests, axis, ranges)
        with self.emit.between(first, stop, [*zip(self.kinds, totals, strict=True)]) as loop:
            values.assumed |= set(tests)
            values.ranges = {**ranges, axis: here.part(loop.iv, 0, here.extent - 1, 1)}
            values.pointers = self._moved(values.pointers, axis, loop.iv)
            loop.next = self._loops(inner, loop.values)
            values.assumed -= set(tests)
        return loop.final

    def _parted(
        self, axis: str, inner: Sequence[str], tests: list[Index], totals: list[str]
    ) -> list[str]:
        """A round of a reduce loop: written for where all conditions hold, and for each other way.

        Where one fails, what narrows its axes decides most of the others.
        """
        values, ranges = self.values, self.values.ranges
        pointers, held, assumed = values.pointers, values.held, values.assumed

        def way(known: Mapping[Index, tuple[int, int]], where: Ranges) -> list[str]:
            values.assumed = assumed if known else assumed | {*tests}
            values.held, values.ranges = {**held, **known}, where
            self.failing += bool(known)
            values.enter()
            found = self._loops(inner, totals)
            self.failing -= bool(known)
            values.assumed, values.held = assumed, held
            values.pointers, values.ranges = pointers, ranges
            return found

        offsets = {t: {values.offset(dict(t.terms), p) for p in self.parts} for t in tests}
        return branches(self.emit, offsets, axis, ranges, self.kinds, way)

    def _blocks(
        self, axis: str, start: int, extent: int, inner: Sequence[str]
    ) -> Iterator[tuple[int, int, int]]:
        """(start, rounds, size) of loops over a part of an axis: unrolled, then what is left."""
        step = self.schedule.lanes if axis == self.values.vector else 1
        step = self.schedule.group if not inner and self.schedule.group > 1 else step
        unroll = self._unroll(axis) // math.prod(self.stage.extents[name] for name in inner)
        unroll = max(1, min(unroll, extent // step)) if self.outward or not inner else 1
        for size in (step * unroll, step, extent % step):
            if size and (rounds := extent // size):
                yield start, rounds, size
                start, extent = start + rounds * size, extent - rounds * size

    def _unroll(self, axis: str) -> int:
        """Steps at a time: one in small rests, and at edges, where other axes' tests are open."""
        if self.failing:
            return 1
        inside = {*self.nest.clipped, *moving(self.nest.parted, self.ranges)}
        tests = [test for test in self.stage.tests if test not in inside]
        if self.across or any(axis in dict(test.terms) for test in tests):
            return self.schedule.unroll
        rest = any(
            self.ranges[one.name].extent < self.sides[one.name] <= one.extent // RARE
            for one in self.stage.axes
        )
        edge = any(decide(test, self.ranges) is None for test in tests)
        return 1 if edge or rest else self.schedule.unroll

    def _moved(self, pointers: Mapping[object, str], axis: str, steps: Value) -> dict[object, str]:
        moved = {}
        for key, pointer in pointers.items():
            access = self.values.accesses[key]
            far = self.emit.multiply(steps, access.strides.get(axis, 0))
            moved[key] = self.emit.pointer(pointer, far, access.dtype)
        return moved

    def _skipped(self) -> bool:
        """Whether conditions make every term here the one that changes nothing."""
        return not self.values.certain and all(
            self.values.known(self.reduce.body, piece, whole=True) == self.neutral
            for piece in self.parts
        )

    def _unrolled(self, axis: str, inner: Sequence[str], size: int, totals: list[str]) -> list[str]:
        """`size` indices of a reduce axis, written out; what they read in common is read once."""
        outside = self.values.steps
        if inner:
            for number in range(size):
                self.values.steps = {**outside, axis: number}
                totals = self._loops(inner, totals)
            self.values.steps = outside
            return totals
        step = min(size, self.schedule.lanes) if axis == self.values.vector else 1
        if self.schedule.group > 1:
            step = self.values.grouped = min(size, self.schedule.group)
        parts = self.parts
        self.values.enter()
        self._ask(parts, range(0, size, step), axis)
        for number in range(size // step):
            self.values.steps = {**outside, axis: number * step}
            if step < self.schedule.lanes and axis == self.values.vector:
                parts = [replace(piece, valid=step) for piece in parts]
            totals = self._step(parts, totals, number % self.chains)
        self.values.steps = outside
        return totals

    def _ask(self, pieces: list[Piece], steps: Sequence[int] = (0,), axis: str = "") -> None:
        """Prefetch what tiles further on touch: what steps of an axis read, or else the rest."""
        values, roots = self.values, [self.stage.reduce.body] if self.stage.reduce else []
        for one in self.schedule.prefetches:
            terms = {expr.key() for expr in walk(*roots) if isinstance(expr, Load)}
            asked = [
                (values.accesses[load.key()], values.pointers[load.key()], 0)
                for load in self.stage.loads
                if load.tensor.name == one.tensor and (load.key() in terms) == bool(axis)
            ]
            if one.tensor == self.stage.tensor.name and not axis:
                asked.append((self.nest.output, self.nest.output.base, 1))
            for access, pointer, writes in asked:
                reach = access.at + one.ahead * access.outer.get(one.axis, 0)
                step = access.strides.get(axis, 0)
                line, end = LINE // SIZES[access.dtype], -math.inf
                at = {values.offset(access.strides, p) + n * step for p in pieces for n in steps}
                for offset in sorted(at):
                    if offset >= end:
                        end = offset + line
                        where = self.emit.pointer(pointer, offset + reach, access.dtype)
                        flags = f"i32 {writes}, i32 {4 - one.cache}, i32 1"
                        self.emit.line(f"call void @llvm.prefetch.p0(ptr {where}, {flags})")

    def _step(self, parts: list[Piece], totals: list[str], chain: int) -> list[str]:
        """One term more in one of the chains of every total."""
        self.values.step_on()
        totals = list(totals)
        for number, piece in enumerate(parts):
            at = number * self.chains + chain
            totals[at] = self._accumulate(piece, totals[at])
        return totals

    def _accumulate(self, piece: Piece, total: str) -> str:
        reduce, values, emit, lanes = self.reduce, self.values, self.emit, piece.lanes
        term, whole = reduce.body, piece.valid == lanes
        if not values.certain and values.known(term, piece) == self.neutral:
            return total
        if self.words is not None:
            left, right = self.words
            words = (values.word(left, piece), values.word(right, piece))
            return dots.emit_dot(emit, self.spec, total, words, (left.dtype, right.dtype), lanes)
        if self.halves and whole and lanes == 4:
            factors = [values.value(one, piece) for one in self.halves]
            return dots.emit_halves(emit, total, factors)
        if whole and (reduce.op, reduce.dtype) == ("add", "float32"):
            match term:
                case Binary("mul", left, right):
                    factors = [values.value(one, piece) for one in (left, right)]
                    return emit.call("acc", "fma", "float32", lanes, *factors, total)
        value = values.value(term, piece)
        if self.across and not whole:
            other = constant(self.neutral, reduce.dtype, lanes)
            value = emit.select(piece.guard.mask, value, other, reduce.dtype, lanes)
        return self._combine(total, value, lanes)

    def _combine(self, left: str, right: str, lanes: int) -> str:
        op, dtype = self.reduce.op, self.reduce.dtype
        if op != "add":
            return self.values.extreme(op, left, right, dtype, lanes)
        op = "fadd" if dtype.startswith("float") else "add"
        return self.emit.value("acc", f"{op} {kind(dtype, lanes)} {left}, {right}")

    def _across(self, chains: list[str]) -> str:
        """One number of the lanes of all chains, halves by halves."""
        lanes, dtype, emit = self.schedule.lanes, self.reduce.dtype, self.emit
        while len(chains) > 1:
            pairs = itertools.zip_longest(chains[::2], chains[1::2])
            chains = [self._combine(a, b, lanes) if b else a for a, b in pairs]
        (value,) = chains
        while lanes > 1:
            half = lanes // 2
            low, high = (emit.part(value, begin, half, dtype, lanes) for begin in (0, half))
            value, lanes = self._combine(low, high, half), half
        return value
