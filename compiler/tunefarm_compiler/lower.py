"""One lowering for every expression: from loops to LLVM text.

In order: every access becomes a stride for each axis; the loops of the schedule are walked from the
outermost, an imperfect split running its remainder as a second, smaller copy, so that inner loops
have no guards; packs copy what they hold into panels; the innermost blocks are register tiles.
"""

from dataclasses import dataclass, replace

from tunefarm_compiler.emit import Emitter, Value
from tunefarm_compiler.schedule import Pack, Schedule, check, pack_elements
from tunefarm_compiler.te import Compute
from tunefarm_compiler.tile import Access, Tile, spans, standing, vector_type


@dataclass(frozen=True)
class Place:
    """Where the walk stands: what is left of each axis, and where each begins."""

    extents: dict[str, int]
    at: dict[str, Value]
    accesses: dict[int, Access]
    first: bool  # no reduce block came before this one


class Lowering:
    """The body of one kernel."""

    def __init__(self, compute: Compute, schedule: Schedule, index: str) -> None:
        check(schedule, compute)
        self.compute = compute
        self.schedule = schedule
        self.emit = Emitter(index)
        self.tile = schedule.tile(compute)
        self.loads = compute.loads()
        self.reduce = {axis.name for axis in compute.reduce_axes}
        self.scratch: list[str] = []
        self.output = Access("", {}, {})

    def run(self) -> list[str]:
        """The function's lines."""
        tensors = [*self.compute.inputs(), self.compute.output]
        arguments = {}
        for place, tensor in enumerate(tensors):
            slot = self.emit.value(
                "a", f"getelementptr inbounds ptr, ptr %args, {self.emit.index} {place}"
            )
            arguments[tensor.name] = self.emit.value("t", f"load ptr, ptr {slot}")
        accesses = {}
        for number, load in enumerate(self.loads):
            strides, offset = load.strides()
            base = self.emit.pointer(arguments[load.tensor.name], offset)
            accesses[number] = Access(base, strides, strides)
        strides, _ = self.compute.output[self.compute.axes].strides()
        self.output = Access(arguments[self.compute.output.name], strides, strides)
        axes = self.compute.extents
        self._walk(0, Place(axes, dict.fromkeys(axes, 0), accesses, True))
        self.emit.line("ret i32 0")
        return self.emit.lines

    def _walk(self, depth: int, place: Place) -> None:
        for pack in self.schedule.packs:
            if pack.depth == depth:
                place = self._pack(pack, place)
        if depth == len(self.schedule.loops):
            self._tile(place)
            return
        axis, block = self.schedule.loops[depth]
        extent = place.extents[axis]
        rounds, rest = divmod(extent, block)
        done = 0
        if rounds and axis in self.reduce and place.first:
            # The first block of a sum starts from zero, the others from what is there.
            self._block(depth, axis, block, 1, 0, place)
            rounds, done = rounds - 1, block
            place = replace(place, first=False)
        if rounds:
            self._block(depth, axis, block, rounds, done, place)
            done += rounds * block
        if rest:
            self._block(depth, axis, rest, 1, done, place)

    def _block(  # noqa: PLR0917
        self, depth: int, axis: str, block: int, rounds: int, start: int, place: Place
    ) -> None:
        with self.emit.loop(rounds, []) as loop:
            inside = self.emit.add(self.emit.multiply(loop.iv, block), start)
            at = {**place.at, axis: self.emit.add(place.at[axis], inside)}
            extents = {**place.extents, axis: block}
            self._walk(depth + 1, replace(place, extents=extents, at=at))

    def _tile(self, place: Place) -> None:
        emit = self.emit
        accesses = {
            number: replace(access, base=standing(emit, access, place.at))
            for number, access in place.accesses.items()
        }
        output = replace(self.output, base=standing(emit, self.output, place.at))
        lanes, unroll = self.schedule.lanes, self.schedule.unroll
        Tile(emit, self.compute, accesses, output, lanes, unroll).run(place.extents, place.first)

    def _pack(self, pack: Pack, place: Place) -> Place:
        """Copy into panels: each holds one tile's side, for every step of the reduce axis."""
        emit = self.emit
        number = next(i for i, load in enumerate(self.loads) if load.tensor.name == pack.tensor)
        access = place.accesses[number]
        steps_axis = next(axis for axis in access.strides if axis in self.reduce)
        side_axis = next(axis for axis in access.strides if axis not in self.reduce)
        scratch = f"@scratch.{len(self.scratch)}"
        elements = pack_elements(pack, self.schedule, self.compute)
        self.scratch.append(
            f"{scratch} = internal global [{elements} x float] zeroinitializer, align 64"
        )
        width, steps = self.tile[side_axis], place.extents[steps_axis]
        panel = Panel(access.strides[side_axis], access.strides[steps_axis], width, steps)
        source = standing(emit, access, place.at)
        panels, rest = divmod(place.extents[side_axis], width)
        if panels:
            with emit.loop(panels, []) as loop:
                self._copy(panel, scratch, source, emit.multiply(loop.iv, width), width)
        if rest:
            self._copy(panel, scratch, source, panels * width, rest)
        # Offsets count from the axes' beginnings, so the base goes back by where the pack begins.
        back = emit.add(
            emit.multiply(place.at[side_axis], -steps), emit.multiply(place.at[steps_axis], -width)
        )
        inner = {side_axis: 1, steps_axis: width}
        outer = {side_axis: steps, steps_axis: width}
        packed = Access(emit.pointer(scratch, back), inner, outer)
        return replace(place, accesses={**place.accesses, number: packed})

    def _copy(self, panel: "Panel", scratch: str, source: str, start: Value, filled: int) -> None:
        """Copy one panel, of which `filled` elements of the side are there."""
        emit = self.emit
        begin = emit.pointer(source, emit.multiply(start, panel.side_stride))
        end = emit.pointer(scratch, emit.multiply(start, panel.steps))
        with emit.loop(panel.steps, [("ptr", begin), ("ptr", end)]) as loop:
            read, write = loop.values
            lanes = self.schedule.lanes if panel.side_stride == 1 else 1
            for at, width in spans(filled, lanes):
                kind = vector_type(width)
                taken = emit.pointer(read, at * panel.side_stride)
                value = emit.value("x", f"load {kind}, ptr {taken}, align 4")
                emit.line(f"store {kind} {value}, ptr {emit.pointer(write, at)}, align 4")
            loop.next = [emit.pointer(read, panel.step_stride), emit.pointer(write, panel.width)]


@dataclass(frozen=True)
class Panel:
    """The shape of a pack: strides of its source, elements of its side, steps of its length."""

    side_stride: int
    step_stride: int
    width: int
    steps: int


def function(name: str, compute: Compute, schedule: Schedule, index: str) -> str:
    """LLVM text of one kernel with its scratch. Raises: InvalidScheduleError.

    Scratch is static, so a kernel must not run twice at the same time in one process.
    """
    lowering = Lowering(compute, schedule, index)
    lines = lowering.run()
    head = f"define i32 @{name}(ptr noalias readonly %args) #0 {{"
    return "\n".join([*lowering.scratch, head, *lines, "}"]) + "\n"
