"""Packs: what the loops inside read of a tensor, copied into contiguous panels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tunefarm_compiler.access import Access
from tunefarm_compiler.bounds import Ranges, position
from tunefarm_compiler.dots import flipped
from tunefarm_compiler.emit import Emitter, Value, constant, kind
from tunefarm_compiler.te import Load
from tunefarm_compiler.tile import Nest, spans

# Sides of squares that are turned: larger ones are no faster, and take LLVM three times as long.
SQUARE = 4


@dataclass(frozen=True)
class Panels:
    """Panels of `width` along the side, each for every step of the reduce axes, in their order.

    `along` are (extent, stride) of the reduce axes, in as few as can be; strides of the source.
    """

    width: int
    side: int
    side_stride: int
    along: tuple[tuple[int, int], ...]
    group: int = 1  # steps that lie side by side for each element of the side

    @property
    def steps(self) -> int:
        """Steps of the reduce axes in a panel."""
        *outer, last = (extent for extent, _ in self.along)
        return math.prod(outer) * -(-last // self.group) * self.group

    @property
    def elements(self) -> int:
        """Elements of all panels, the last one filled up."""
        return -(-self.side // self.width) * self.width * self.steps


def copy_panels(  # noqa: PLR0917
    emit: Emitter, nest: Nest, load: Load, access: Access, ranges: Ranges, scratch: str
) -> tuple[Access, Panels]:
    """Emit the copy. Returns how the loops inside find their elements."""
    stage, schedule = nest.stage, nest.schedule
    flip = flipped(stage.reduce, load) if schedule.group > 1 else 0
    order = [axis for axis in schedule.reduce_order(stage) if axis in access.strides]
    spatial = [axis.name for axis in stage.axes if axis.name in access.strides]
    side = next((axis for axis in spatial if ranges[axis].extent > 1), spatial[-1])
    extents = [ranges[axis].extent for axis in order]
    panels = Panels(
        width=schedule.tile(stage.extents)[side],
        side=ranges[side].extent,
        side_stride=access.strides[side],
        along=_merged(extents, [access.strides[axis] for axis in order], schedule.group),
        group=schedule.group,
    )
    begin = emit.pointer(access.standing(emit, ranges), access.at, access.dtype)
    copier = _Copier(emit, panels, schedule.lanes, access.dtype, flip)
    full, rest = divmod(panels.side, panels.width)
    if full:
        with emit.loop(full, []) as loop:
            copier.panel(begin, scratch, emit.multiply(loop.iv, panels.width), panels.width)
    if rest:
        copier.panel(begin, scratch, full * panels.width, rest)
    # Offsets count from the axes' beginnings, so the base goes back by where the pack begins.
    inner = {side: panels.group}
    step = panels.width
    for axis, extent in zip(reversed(order), reversed(extents), strict=True):
        inner[axis] = step
        step *= -(-extent // panels.group) * panels.group if step == panels.width else extent
    outer = {**inner, side: panels.steps}
    back = position(emit, ((axis, -stride) for axis, stride in outer.items()), ranges)
    base = emit.pointer(scratch, back, access.dtype)
    return Access(base, inner, outer, access.dtype, True, flip), panels


def _merged(extents: list[int], strides: list[int], group: int) -> tuple[tuple[int, int], ...]:
    """(extent, stride) of the reduce axes, those that follow each other in the source as one."""
    found: list[tuple[int, int]] = []
    for extent, stride in zip(reversed(extents), reversed(strides), strict=True):
        if found and group == 1 and stride == found[0][0] * found[0][1]:
            found[0] = (extent * found[0][0], found[0][1])
        else:
            found.insert(0, (extent, stride))
    return tuple(found)


@dataclass(frozen=True)
class _Copier:
    emit: Emitter
    panels: Panels
    lanes: int
    dtype: str
    flip: int = 0

    def panel(self, source: str, scratch: str, start: Value, filled: int) -> None:
        """Copy one panel, of which `filled` elements of the side are there."""
        emit, panels = self.emit, self.panels
        read = emit.pointer(source, emit.multiply(start, panels.side_stride), self.dtype)
        write = emit.pointer(scratch, emit.multiply(start, panels.steps), self.dtype)
        self._loops(panels.along, read, write, filled)

    def _read(self, source: str, at: int, lanes: int) -> str:
        """Elements of the source from one along the side on."""
        where = self.emit.pointer(source, at * self.panels.side_stride, self.dtype)
        return self.emit.load(where, self.dtype, lanes)

    def _loops(self, along: Sequence[tuple[int, int]], read: str, write: str, filled: int) -> str:
        """The reduce axes from the outermost of these. Returns where the next step is written."""
        emit, dtype, panels = self.emit, self.dtype, self.panels
        if not along:
            for at, width, _ in spans(filled, self.lanes if panels.side_stride == 1 else 1):
                value = self._read(read, at, width)
                emit.store(value, emit.pointer(write, at, dtype), dtype, width)
            return emit.pointer(write, panels.width, dtype)
        (extent, stride), *inner = along
        if not inner and panels.group > 1:
            return self._grouped(extent, stride, read, write, filled)
        if not inner and stride == 1 and panels.side_stride != 1:
            return self._transposed(extent, read, write, filled)
        with emit.loop(extent, [("ptr", read), ("ptr", write)]) as loop:
            here, there = loop.values
            there = self._loops(inner, here, there, filled)
            loop.next = [emit.pointer(here, stride, dtype), there]
        return loop.final[1]

    def _repeated(
        self, count: int, where: list[str], moved: tuple[int, int], body: Callable[[str, str], None]
    ) -> list[str]:
        """A body, so many times. Returns where the next one would read and write."""
        if not count:
            return where
        with self.emit.loop(count, [("ptr", pointer) for pointer in where]) as loop:
            body(*loop.values)
            pairs = zip(loop.values, moved, strict=True)
            loop.next = [self.emit.pointer(pointer, by, self.dtype) for pointer, by in pairs]
        return loop.final

    def _grouped(self, steps: int, stride: int, read: str, write: str, filled: int) -> str:
        """Words of steps for each element of the side; steps that are not there are 0."""
        group, where = self.panels.group, [read, write]
        rest = steps % group
        for rounds, count in ((steps // group, group), (min(rest, 1), rest)):
            moved = (count * stride, self.panels.width * group)
            body = partial(self._words, filled, count, stride)
            where = self._repeated(rounds, where, moved, body)
        return where[1]

    def _words(self, filled: int, count: int, stride: int, read: str, write: str) -> None:
        emit, side, dtype = self.emit, self.panels.side_stride, self.dtype
        for at, lanes, _ in spans(filled, self.lanes if side == 1 else 1):
            begin = emit.pointer(read, at * side, dtype)
            if stride == 1 and count == self.panels.group:
                word = emit.value("s", f"load i32, ptr {begin}, align 1")
            else:
                wide = kind("int32", lanes)
                word = constant(0, "int32", lanes)
                for step in range(count):
                    taken = emit.load(emit.pointer(begin, step * stride, dtype), dtype, lanes)
                    value = emit.value("z", f"zext {kind(dtype, lanes)} {taken} to {wide}")
                    shift = constant(32 // self.panels.group * step, "int32", lanes)
                    moved = emit.value("z", f"shl {wide} {value}, {shift}")
                    word = emit.value("z", f"or {wide} {word}, {moved}")
            if self.flip:
                mask = constant(self.flip * 0x01010101 - (1 << 32), "int32", lanes)
                word = emit.value("z", f"xor {kind('int32', lanes)} {word}, {mask}")
            where = emit.pointer(write, at * self.panels.group, dtype)
            emit.line(f"store {kind('int32', lanes)} {word}, ptr {where}, align 1")

    def _transposed(self, steps: int, read: str, write: str, filled: int) -> str:
        """Steps that lie side by side in the source: blocks turned as squares."""
        where = [read, write]
        along = [lanes for _, lanes, _ in spans(steps, min(self.lanes, SQUARE))]
        for size in sorted({*along}, reverse=True):
            moved = (size, size * self.panels.width)
            body = partial(self._squares, filled, size)
            where = self._repeated(along.count(size), where, moved, body)
        return where[1]

    def _squares(self, filled: int, size: int, read: str, write: str) -> None:
        """So many steps of all elements of the side."""
        emit, dtype = self.emit, self.dtype
        for start in range(0, filled, size):
            kept = min(size, filled - start)
            rows = [self._read(read, start + at, size) for at in range(kept)]
            columns = emit.transpose(rows + ["poison"] * (size - kept), dtype, size)
            for step, column in enumerate(columns):
                first = step * self.panels.width + start
                for begin, lanes, _ in spans(kept, size):
                    part = emit.part(column, begin, lanes, dtype, size)
                    emit.store(part, emit.pointer(write, first + begin, dtype), dtype, lanes)
