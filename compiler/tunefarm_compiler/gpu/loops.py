"""Any expression on a GPU: the loops of the one lowering, dealt out to blocks and threads.

A thread has a register tile, as on processors. Loops that are bound stand where the thread's
numbers say; blocks that are left over are a smaller copy of their own, or, where that costs less
code, lie over the ones before them and compute the same once more. Stages attached inside are
computed by all threads of a block into shared memory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.access import Access
from tunefarm_compiler.binding import WARP
from tunefarm_compiler.bounds import Range, Ranges
from tunefarm_compiler.emit import SIZES, Value
from tunefarm_compiler.gpu import checks
from tunefarm_compiler.gpu.divide import Division, divide, power
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.kernels import GpuCode, GpuLaunch
from tunefarm_compiler.gpu.tile import Crew, Team, ThreadTile
from tunefarm_compiler.lower import Lowering, Place
from tunefarm_compiler.regions import Region, Side, placed
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.stages import Stage, inputs
from tunefarm_compiler.suit import suited
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Tensor
from tunefarm_compiler.tile import Nest

ALIGNED = 16  # bytes that every array begins at a multiple of


@dataclass(frozen=True)
class GpuNest(Nest):
    """A nest whose loops are bound; `digits` are the numbers that bound loops stand at."""

    binds: tuple[str, ...] = ()
    digits: Mapping[int, tuple[Value, int]] = field(default_factory=dict)
    crew: Crew | None = None
    outer: bool = False

    @property
    def overlaps(self) -> bool:
        """Whether blocks left over lie over others, instead of being smaller.

        All threads of a team have to come to the same places. Elsewhere a number is written once.
        """
        return bool(self.crew and self.crew.teams)


class Kernel(Lowering):
    """One kernel: stages in shared memory, then one that fills memory."""

    nest_type = GpuNest

    def __init__(
        self, symbol: str, stages: list[Stage], schedule: Schedule, spec: TargetSpec, threads: int
    ) -> None:
        self._start(stages, schedule, spec, GpuEmitter())
        self.emit: GpuEmitter
        self.symbol = symbol
        made = {stage.tensor.name for stage in self.before}
        read = {
            load.tensor.name: load.tensor
            for stage in stages
            for load in stage.loads
            if load.tensor.name not in made
        }
        self.arguments = [*read.values(), self.stage.tensor]
        self.shared = 0
        self.threads = self.blocks = 1
        self._known = threads  # of the block, once that is known; 0 before
        self._again = False  # a loop around runs more than once

    def text(self) -> str:
        """LLVM text of the kernel and its globals. Raises: InvalidScheduleError."""
        emit, symbol = self.emit, self.symbol
        parameters = []
        for number, tensor in enumerate(self.arguments):
            reads = "" if tensor is self.stage.tensor else "readonly "
            parameters.append(f"ptr addrspace(1) noalias {reads}align {ALIGNED} %in.{number}")
            base = emit.value("t", f"addrspacecast ptr addrspace(1) %in.{number} to ptr")
            self._regions[tensor.name] = Region(emit.begins(base), tensor.steps())
        self._thread, self._block_ = emit.special("tid.x"), emit.special("ctaid.x")
        stage = self.stage
        output = self._access(stage.tensor[stage.axes])
        ranges = {axis: Range.whole(extent) for axis, extent in stage.extents.items()}
        nest = GpuNest(stage, self.schedule, output, outer=True)
        self._walk(nest, 0, Place(ranges, {}))
        emit.line("ret void")
        checks.check_shared(self.shared, self.spec)
        self.threads = -(-self.threads // WARP) * WARP
        head = f"define ptx_kernel void @{symbol}({', '.join(parameters)})"
        head += f' nounwind "nvvm.reqntid"="{self.threads},1,1" {{'
        return "\n".join([*self.globals(), head, *emit.lines, "}"]) + "\n"

    def globals(self) -> list[str]:
        """Shared memory, and zeros to be read in place of what lies outside."""
        found = []
        if self.shared:
            held = "external addrspace(3) global [0 x i8]"
            found.append(f"@{self.symbol}_shared = {held}, align {ALIGNED}")
        if self._nothing:
            held = f"internal addrspace(1) constant [{ALIGNED} x i8] zeroinitializer"
            found.append(f"@{self.symbol}_nothing = {held}, align {ALIGNED}")
        return found

    # Loops

    def _enter(self, nest: GpuNest, place: Place) -> tuple[GpuNest, Place]:
        """The nest with its reduce axes divided, and where its threads stand."""
        made = divide(nest.stage, nest.schedule)
        binds = made.schedule.gpu.binds if made.schedule.gpu else ()
        ranges = {**place.ranges, **{axis: Range.whole(n) for axis, n in made.shared.items()}}
        ranges |= {axis.name: Range.whole(axis.extent) for axis in made.stage.reduce_axes}
        counts = _counts(made, binds, ranges)
        total = math.prod(n for n, bind in zip(counts, binds, strict=True) if bind == "thread")
        checks.check_threads(total)
        self.threads = max(self.threads, total)
        digits = self._digits(self._thread, counts, binds, "thread", self._alone(total))
        if nest.outer:
            digits |= self._digits(self._block_, counts, binds, "block", True)
            self.blocks = math.prod(n for n, b in zip(counts, binds, strict=True) if b == "block")
        crew = self._crew(made, digits, total)
        entered = replace(
            nest, stage=made.stage, schedule=made.schedule, binds=binds, digits=digits, crew=crew
        )
        return entered, replace(place, ranges=ranges, accesses=self._accesses(made.stage))

    def _digits(
        self, number: str, counts: list[int], binds: Sequence[str], bind: str, all_: bool
    ) -> dict[int, tuple[Value, int]]:
        """A thread's or block's place in the loops bound so; `all_`: there are no more of them."""
        depths = [depth for depth, one in enumerate(binds) if one == bind]
        own = [counts[depth] for depth in depths]
        found = self.emit.digits(number, own, math.prod(own) if all_ else 0)
        return {d: (at, n) for d, at, n in zip(depths, found, own, strict=True)}

    def _alone(self, total: int) -> bool:
        """Whether the block has just those threads."""
        return total == self._known or (not self.before and total % WARP == 0)

    def _crew(self, made: Division, digits: Mapping[int, tuple[Value, int]], total: int) -> Crew:
        """Who works on a nest of so many threads."""
        emit, teams, step = self.emit, [], 1
        inside = "" if self._alone(total) else self._below(self._thread, total)
        first: Value = 0
        binds = made.schedule.gpu.binds if made.schedule.gpu else ()
        for depth in reversed([depth for depth, bind in enumerate(binds) if bind == "thread"]):
            digit, count = digits[depth]
            if made.schedule.loops[depth][0] in made.shared and isinstance(digit, str):
                teams.append(Team(count, step, digit))
                first = emit.value("d", f"or i32 {first}, {digit}")
            step *= count
        stores = inside
        if teams:
            leads = emit.value("c", f"icmp eq i32 {first}, 0")
            stores = emit.value("c", f"and i1 {leads}, {inside}") if inside else leads
        thread = self._thread
        if inside and teams:
            thread = emit.value("d", f"urem i32 {thread}, {total}")
        again = "" in binds or self._again
        return Crew(total, thread, tuple(teams), inside, stores, again)

    def _below(self, value: Value, stop: int) -> str:
        return self.emit.value("c", f"icmp ult i32 {value}, {stop}")

    def _walk(self, nest: Nest, depth: int, place: Place) -> None:
        assert isinstance(nest, GpuNest)  # noqa: S101 (this class makes no other)
        if depth == 0:
            nest, place = self._enter(nest, place)
        if nest.outer and any(self.attached[s.tensor.name].depth == depth for s in self.before):
            self._again = "" in nest.binds[:depth]
            place = replace(self._attach(depth, place), accesses=self._accesses(nest.stage))
        if depth == len(nest.schedule.loops):
            inside = nest.crew.inside if nest.crew and not nest.crew.teams else ""
            with self.emit.when(inside) if inside else nullcontext():
                self._tile(nest, place)
            return
        axis, block = nest.schedule.loops[depth]
        for part in self._parts(nest, depth, place.ranges[axis].extent, block):
            if nest.binds[depth]:
                self._bound(nest, depth, part, place)
                continue
            start, rounds, size = part
            written = rounds <= nest.schedule.unroll and "" not in nest.binds[depth + 1 :]
            whole = [(start + n * size, 1, size) for n in range(rounds)] if written else [part]
            for one in whole:
                self._block(nest, depth, one, place)

    def _parts(
        self, nest: GpuNest, depth: int, extent: int, block: int
    ) -> Iterator[tuple[int, int, int]]:
        """(start, rounds, size) of the loops that cover an axis."""
        rounds, rest = divmod(extent, block)
        if rounds and rest and nest.binds[depth] and nest.overlaps:
            yield 0, rounds + 1, block
            return
        if rounds:
            yield 0, rounds, block
        if rest:
            yield rounds * block, 1, rest

    def _bound(self, nest: GpuNest, depth: int, part: tuple[int, int, int], place: Place) -> None:
        """Blocks of a loop, one for each of the threads or blocks that it is bound to."""
        (start, rounds, size), (axis, block) = part, nest.schedule.loops[depth]
        (digit, count), number = nest.digits[depth], start // block
        emit, here, crew = self.emit, place.ranges[axis], nest.crew
        stop = start + rounds * size
        self.note(f"{nest.binds[depth]}s over {axis} in {start}..{stop} by {size}:")
        self._indent += 1
        inside: Value = start if rounds == 1 else emit.multiply(digit, block)
        condition = ""
        if rounds < count:
            one = rounds == 1
            condition = self._equal(digit, number) if one else self._below(digit, rounds)
        if crew is not None and crew.teams:  # all come along, but only these store
            nest = replace(nest, crew=self._storing(crew, condition))
            condition = ""
        if rounds > 1 and (stop > here.extent or (rounds < count and not condition)):
            inside = emit.extreme("smin", inside, here.extent - size)
            if stop > here.extent and not nest.outer:
                raise InvalidScheduleError(
                    f"schedule: threads' blocks of {size} of {axis} overlap in shared memory",
                    f"make it a divisor of {here.extent}",
                )
        with emit.when(condition) if condition else nullcontext():
            last = min(stop, here.extent) - size
            where = here.part(emit.add(here.at, inside), start, last, size)
            self._walk(nest, depth + 1, replace(place, ranges={**place.ranges, axis: where}))
        self._indent -= 1

    def _equal(self, value: Value, other: int) -> str:
        return self.emit.value("c", f"icmp eq i32 {value}, {other}")

    def _storing(self, crew: Crew, condition: str) -> Crew:
        """The crew of which only those store for which that holds as well."""
        if not condition:
            return crew
        stores = self.emit.value("c", f"and i1 {crew.stores}, {condition}")
        return replace(crew, stores=stores)

    def _tile(self, nest: Nest, place: Place) -> None:
        assert isinstance(nest, GpuNest) and nest.crew is not None  # noqa: S101
        emit, stage = self.emit, nest.stage
        vector = nest.schedule.vector_axis(stage)
        summed = {axis.name for axis in stage.reduce_axes}
        # A sum along the vectors is cut where a condition changes.
        cut = any(vector in dict(test.terms) for test in stage.tests) and vector in summed

        def there(access: Access) -> Access:
            base = access.standing(emit, place.ranges)
            steps = [s for axis, s in access.strides.items() if axis != vector or cut]
            return replace(access, base=base, aligned=math.gcd(emit.multiple(base), *steps))

        accesses = {key: there(access) for key, access in place.accesses.items()}
        kept = tuple(loop for loop in nest.schedule.loops if loop[0] in stage.extents)
        nothing = f"addrspacecast (ptr addrspace(1) @{self.symbol}_nothing to ptr)"
        tile = ThreadTile(
            emit,
            replace(nest, schedule=replace(nest.schedule, loops=kept), output=there(nest.output)),
            accesses,
            self.spec,
            nest.crew,
            self._memory,
            nothing,
        )
        self._nothing |= tile.run(place.ranges, True, True)
        self.note(tile.describe())

    # Shared memory

    def _memory(self, size: int) -> str:
        """So many bytes of shared memory."""
        begin = self.shared
        self.shared += -(-size // ALIGNED) * ALIGNED
        base = f"ptr addrspacecast (ptr addrspace(3) @{self.symbol}_shared to ptr)"
        return self.emit.begins(self.emit.value("p", f"getelementptr i8, {base}, i32 {begin}"))

    def _fill(self, stage: Stage, box: list[Side], ranges: Ranges) -> None:
        if self._again:
            self.emit.barrier()
        super()._fill(stage, box, ranges)
        self.emit.barrier()

    def _scratch(
        self, scratch: str, stage: Stage, box: list[Side], ranges: Ranges
    ) -> tuple[Region, list[Range]]:
        gpu = self.attached[stage.tensor.name].schedule.gpu
        pad = gpu.pad if gpu else 0
        dtype = stage.tensor.dtype
        _, _, size = placed(GpuEmitter(), "", box, ranges, dtype, pad)
        base = self._memory(size)
        region, where, _ = placed(self.emit, base, box, ranges, dtype, pad)
        return region, where


def _counts(made: Division, binds: Sequence[str], ranges: Ranges) -> list[int]:
    """How many blocks each loop has, where none is smaller than the others."""
    left, found = {axis: where.extent for axis, where in ranges.items()}, []
    for (axis, block), bind in zip(made.schedule.loops, binds, strict=True):
        count = -(-left[axis] // block)
        # Teams exchange by the bits of their threads' numbers.
        found.append(power(count) if made.shared and bind == "thread" else count)
        left[axis] = min(left[axis], block)
    return found


def compile_loops(name: str, output: Tensor, schedule: Schedule, spec: TargetSpec) -> GpuCode:
    """The kernels of a function: one for each stage at depth 0, and the output's own."""
    stages = checks.check(schedule, suited(output, spec), spec)
    attached = {attach.stage: attach for attach in schedule.stages}
    *before, last = stages
    alone = [stage for stage in before if attached[stage.tensor.name].depth == 0]
    inside = [stage for stage in before if stage not in alone]
    arguments = [tensor.name for tensor in (*inputs(output), output)]
    places = {tensor: n for n, tensor in enumerate(arguments)}
    places |= {stage.tensor.name: len(arguments) + n for n, stage in enumerate(alone)}
    texts, launches, loops = [], [], list[str]()
    for one in [*([stage] for stage in alone), [*inside, last]]:
        own = one[-1].tensor.name
        symbol = (
            name if one[-1] is last else f"{name}_{''.join(c if c.isalnum() else '_' for c in own)}"
        )
        how = schedule if one[-1] is last else attached[own].schedule
        kernel = Kernel(symbol, one, how, spec, 0)
        text = kernel.text()
        if len(one) > 1:  # stages need not ask which threads are theirs where all are
            kernel = Kernel(symbol, one, how, spec, kernel.threads)
            text = kernel.text()
        texts.append(text)
        launches.append(
            GpuLaunch(
                symbol,
                (kernel.blocks, 1, 1),
                (kernel.threads, 1, 1),
                tuple(places[tensor.name] for tensor in kernel.arguments),
                kernel.shared,
            )
        )
        loops += [f"kernel {symbol}, {kernel.blocks} blocks of {kernel.threads} threads:"]
        loops += [f"  {line}" for line in kernel.trace]
    scratch = [math.prod(stage.tensor.shape) * SIZES[stage.tensor.dtype] for stage in alone]
    return GpuCode("".join(texts), tuple(launches), tuple(scratch), tuple(loops))
