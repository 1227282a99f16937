"""One lowering for every expression: from loops to LLVM text.

In order: every access becomes a stride for each axis; the loops of the schedule are walked from the
outermost, an imperfect split running its remainder as a second, smaller copy, and cut where a
condition becomes certain, so that inner loops have no guards; packs and attached stages fill
scratch for the loops inside; the innermost blocks are register tiles. A loop that is dealt out to
threads becomes a function, in which each thread has scratch of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.access import Access
from tunefarm_compiler.bounds import Range, Ranges, segments
from tunefarm_compiler.dots import available
from tunefarm_compiler.emit import SIZES, Emitter, Value
from tunefarm_compiler.pack import copy_panels
from tunefarm_compiler.parallel import Share
from tunefarm_compiler.regions import Region, Side, needed, placed
from tunefarm_compiler.schedule import MAX_SCRATCH_BYTES, Schedule, check, dealt
from tunefarm_compiler.stages import Stage, inputs
from tunefarm_compiler.suit import suited
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Load, Tensor
from tunefarm_compiler.threads import DEAL
from tunefarm_compiler.tile import Nest, Tile
from tunefarm_compiler.values import NOTHING

# A whole vector may be read at the end of a pack, of which the lanes in excess are not used.
SPARE = 64
LINE = 128  # threads do not write to one cache line

Part = tuple[int, int, int]  # a loop over a part of an axis: start, rounds, size of its blocks
Rounds = tuple[Value, Value]  # the first round of a loop, and the one after the last


@dataclass(frozen=True)
class Place:
    """Where the walk stands: what is left of each axis, and what it has to do there."""

    ranges: Ranges
    accesses: Mapping[object, Access]
    first: Value = True  # no reduce block came before this one; an i1 where it depends
    last: Value = True  # none comes after it


class Lowering:
    """The body of one kernel."""

    nest_type: type[Nest] = Nest

    def __init__(self, output: Tensor, schedule: Schedule, spec: TargetSpec) -> None:
        stages = check(schedule, suited(output, spec))
        self.arguments = [*inputs(output), stages[-1].tensor]
        if schedule.group > 1 and not available(stages[-1].reduce, spec):
            raise InvalidScheduleError(
                f"schedule: {spec.cpu} has no instruction for group {schedule.group}",
                "leave it out",
            )
        nests = (schedule, *(attach.schedule for attach in schedule.stages))
        if spec.arch == "wasm32" and any(nest.threads > 1 for nest in nests):
            raise InvalidScheduleError("schedule: WebAssembly has no threads", "leave them out")
        self._start(stages, schedule, spec, Emitter(spec.index))

    def _start(
        self, stages: list[Stage], schedule: Schedule, spec: TargetSpec, emit: Emitter
    ) -> None:
        *self.before, self.stage = stages
        self.schedule, self.spec, self.emit = schedule, spec, emit
        self.attached = {attach.stage: attach for attach in schedule.stages}
        self.scratch: dict[str, int] = {}  # bytes by name
        self.copies: dict[str, int] = {}  # of what each thread has its own
        self.shares: list[str] = []  # functions of loops that are dealt out
        self._threads = 0  # of the loop around that is dealt out
        self.trace: list[str] = []
        self._indent = 0
        self._regions: dict[str, Region] = {}
        self._nothing = False

    def run(self) -> list[str]:
        """The function's lines."""
        emit, stage = self.emit, self.stage
        for place, tensor in enumerate(self.arguments):
            slot = emit.value("a", f"getelementptr inbounds ptr, ptr %args, {emit.index} {place}")
            base = emit.value("t", f"load ptr, ptr {slot}")
            self._regions[tensor.name] = Region(base, tensor.steps())
        output = self._access(stage.tensor[stage.axes])
        ranges = {axis: Range.whole(extent) for axis, extent in stage.extents.items()}
        nest = Nest(stage, self.schedule, output)
        self._walk(nest, 0, Place(ranges, self._accesses(stage)))
        self.emit.line("ret i32 0")
        return self.emit.lines

    def globals(self) -> list[str]:
        """The scratch that the body uses. Raises: InvalidScheduleError."""
        sizes = {name: -(-size // LINE) * LINE for name, size in self.scratch.items()}
        total = sum(size * self.copies.get(name, 1) for name, size in sizes.items())
        if total > MAX_SCRATCH_BYTES:
            raise InvalidScheduleError(
                f"schedule: it needs {total >> 20} MiB of scratch, "
                f"{MAX_SCRATCH_BYTES >> 20} MiB is the limit",
                "pack and attach at a greater depth",
            )
        found = []
        for name, size in sizes.items():
            held = f"internal global [{self.copies.get(name, 1)} x %{name[1:]}]"
            found.append(f"%{name[1:]} = type [{size} x i8]")
            found.append(f"{name} = {held} zeroinitializer, align {LINE}")
        if self.shares:
            found.append(f"declare void {DEAL}(ptr, {self.emit.index}, i32)")
        if self._nothing:
            found.append(f"{NOTHING} = internal constant i64 0")
        return found

    def _access(self, load: Load) -> Access:
        return self._regions[load.tensor.name].access(load)

    def _accesses(self, stage: Stage) -> dict[object, Access]:
        """Of all that is there by now."""
        given = [load for load in stage.loads if load.tensor.name in self._regions]
        return {load.key(): self._access(load) for load in given}

    # Loops

    def _walk(self, nest: Nest, depth: int, place: Place) -> None:
        if nest.stage is self.stage:
            place = self._attach(depth, place)
        for pack in nest.schedule.packs:
            if pack.depth == depth:
                place = self._pack(nest, pack.tensor, place)
        if depth == len(nest.schedule.loops):
            self._tile(nest, place)
            return
        axis, block = nest.schedule.loops[depth]
        parts = self._blocks(nest, axis, block, place)
        if depth == dealt(nest.schedule, nest.stage):
            self._deal(nest, depth, parts, place)
            return
        for part in parts:
            self._block(nest, depth, part, place)

    def _deal(self, nest: Nest, depth: int, parts: list[Part], place: Place) -> None:
        """Blocks dealt out to threads, all parts of the axis at once."""
        outer, regions = self.emit, self._regions
        share = Share(outer, f"share.{nest.stage.tensor.name}.{len(self.shares)}")
        self.emit, self._threads = share.emit, nest.schedule.threads
        self._regions = {name: replace(r, base=share.base(r)) for name, r in regions.items()}
        accesses = {key: replace(a, base=share.base(a)) for key, a in place.accesses.items()}
        first, last = (share.take(value, "i1") for value in (place.first, place.last))
        place = Place(share.ranges(place.ranges), accesses, first, last)
        nest = replace(nest, output=replace(nest.output, base=share.base(nest.output)))
        number = 0
        for part in parts:
            self._block(nest, depth, part, place, share.between(number, part[1]))
            number += part[1]
        self.shares.append(share.close(number, self._threads))
        self.emit, self._regions, self._threads = outer, regions, 0

    def _blocks(self, nest: Nest, axis: str, block: int, place: Place) -> list[Part]:
        """The loops that cover an axis."""
        extent = place.ranges[axis].extent
        rounds, rest = divmod(extent, block)
        parts = [
            (part.start * block, part.rounds, block)
            for part in segments(nest.cut, place.ranges, axis, rounds, block)
        ]
        return [*parts, (rounds * block, 1, rest)] if rest else parts

    def _only(self, already: Value, round_: Value, number: int) -> Value:
        """Whether `already`, and that round of a loop."""
        if isinstance(round_, int) or not already:
            return already
        here = self.emit.value("c", f"icmp eq {self.emit.index} {round_}, {number}")
        return here if already is True else self.emit.value("c", f"and i1 {already}, {here}")

    def _block(
        self, nest: Nest, depth: int, part: Part, place: Place, share: Rounds | None = None
    ) -> None:
        """A loop over blocks; of one that is dealt out, the rounds that are a thread's share."""
        (start, rounds, size), (axis, _) = part, nest.schedule.loops[depth]
        stop = start + rounds * size
        head = (
            f"for {axis} in {start}..{stop} by {size}"
            if rounds > 1
            else f"with {axis} at {start}..{stop}"
        )
        self.note(f"{head}, dealt out to {self._threads} threads:" if share else f"{head}:")
        self._indent += 1
        with self.emit.between(*share, []) if share else self.emit.loop(rounds, []) as loop:
            round_ = loop.iv if rounds > 1 else 0
            inside = self.emit.add(self.emit.multiply(round_, size), start)
            here = place.ranges[axis]
            at = self.emit.add(here.at, inside)
            where = here.part(at, start, stop - size, size)
            first, last = place.first, place.last
            if axis in {reduce.name for reduce in nest.stage.reduce_axes}:
                # The first block of a sum starts from nothing, the others from what is there; the
                # last one does what is left to do with the sum.
                first = not start and self._only(first, round_, 0)
                ends = stop == here.extent
                last = nest.stage.plain or (ends and self._only(last, round_, rounds - 1))
            ranges = {**place.ranges, axis: where}
            self._walk(nest, depth + 1, Place(ranges, place.accesses, first, last))
        self._indent -= 1

    def _tile(self, nest: Nest, place: Place) -> None:
        def there(access: Access) -> Access:
            return replace(access, base=access.standing(self.emit, place.ranges))

        accesses = {key: there(access) for key, access in place.accesses.items()}
        tile = Tile(self.emit, replace(nest, output=there(nest.output)), accesses, self.spec)
        self._nothing |= tile.run(place.ranges, place.first, place.last)
        self.note(tile.describe())

    def note(self, text: str) -> None:
        """A line of the loop text that `show` prints."""
        self.trace.append("  " * self._indent + text)

    # What is filled for the loops inside

    def _pack(self, nest: Nest, tensor: str, place: Place) -> Place:
        load = next(load for load in nest.stage.loads if load.tensor.name == tensor)
        access = place.accesses[load.key()]
        scratch = f"@pack.{nest.stage.tensor.name}.{tensor}"
        own = self._own(scratch)
        packed, panels = copy_panels(self.emit, nest, load, access, place.ranges, own)
        self._reserve(scratch, panels.elements * SIZES[access.dtype] + SPARE)
        self.note(f"pack {panels.side} x {panels.steps} of {tensor} in panels of {panels.width}")
        return replace(place, accesses={**place.accesses, load.key(): packed})

    def _reserve(self, scratch: str, size: int) -> None:
        self.scratch[scratch] = max(self.scratch.get(scratch, 0), size)
        if self._threads:
            self.copies[scratch] = self._threads

    def _own(self, scratch: str) -> str:
        """This thread's copy of scratch; the only one where no loop around is dealt out."""
        if not self._threads:
            return scratch
        step = f"getelementptr %{scratch[1:]}, ptr {scratch}, {self.emit.index} %worker"
        return self.emit.value("p", step)

    def _attach(self, depth: int, place: Place) -> Place:
        held = [s for s in self.before if self.attached[s.tensor.name].depth >= depth]
        here = [s for s in held if self.attached[s.tensor.name].depth == depth]
        if not here:
            return place
        boxes = needed([*held, self.stage], place.ranges)
        for stage in here:
            self._fill(stage, boxes[stage.tensor.name], place.ranges)
        filled = {stage.tensor.name for stage in here}
        loads = [load for load in self.stage.loads if load.tensor.name in filled]
        accesses = {load.key(): self._access(load) for load in loads}
        return replace(place, accesses={**place.accesses, **accesses})

    def _fill(self, stage: Stage, box: list[Side], ranges: Ranges) -> None:
        """Compute a box of a stage into scratch."""
        name, scratch = stage.tensor.name, f"@stage.{stage.tensor.name}"
        region, where = self._scratch(scratch, stage, box, ranges)
        self._regions[name] = region
        own = {axis.name: side for axis, side in zip(stage.axes, where, strict=True)}
        own |= {axis.name: Range.whole(axis.extent) for axis in stage.reduce_axes}
        accesses, output = self._accesses(stage), self._access(stage.tensor[stage.axes])
        self.note(f"stage {name}:")
        self._indent += 1
        nest = self.nest_type(stage, self.attached[name].schedule, output)
        self._walk(nest, 0, Place(own, accesses))
        self._indent -= 1

    def _scratch(
        self, scratch: str, stage: Stage, box: list[Side], ranges: Ranges
    ) -> tuple[Region, list[Range]]:
        """Room for a box of a stage, and where its axes stand."""
        region, where, size = placed(self.emit, self._own(scratch), box, ranges, stage.tensor.dtype)
        self._reserve(scratch, size)
        return region, where


def function(name: str, output: Tensor, schedule: Schedule, spec: TargetSpec) -> str:
    """LLVM text of one kernel with its scratch. Raises: InvalidScheduleError.

    Scratch is static, so a kernel must not run twice at the same time in one process.
    """
    lowering = Lowering(output, schedule, spec)
    lines = lowering.run()
    head = f"define i32 @{name}(ptr noalias readonly %args) #0 {{"
    return "\n".join([*lowering.globals(), *lowering.shares, head, *lines, "}"]) + "\n"
