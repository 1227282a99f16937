"""Sums of products on a GPU: blocks in shared memory, sums in registers, copies under way.

A block of threads goes over k. While it multiplies one block of k from shared memory, the next ones
are on their way there, and the next step's numbers on their way to registers. The one barrier of
each block of k says both that the next block has come and that the last one's memory is free.
"""

from dataclasses import dataclass

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.binding import Gpu
from tunefarm_compiler.contract import WARP, Contract
from tunefarm_compiler.emit import SIZES, Value, kind
from tunefarm_compiler.gpu import instructions as ptx
from tunefarm_compiler.gpu.adding import SUM_BYTES, Adder, axes_of, part_at, parts_of
from tunefarm_compiler.gpu.copies import Copies, Form, Region
from tunefarm_compiler.gpu.epilogue import Epilogue, Place
from tunefarm_compiler.gpu.fitting import ASYNC, check, held, level, stage_bytes, tile_of, to_k
from tunefarm_compiler.gpu.groups import Groups
from tunefarm_compiler.gpu.kernels import GpuCode, GpuLaunch
from tunefarm_compiler.gpu.products import product
from tunefarm_compiler.gpu.registers import Fma, Mma, Operand, Unit
from tunefarm_compiler.gpu.task import Task, Text, apart, at_axes
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.stages import inputs
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Tensor, Total


def compile_schedule(name: str, output: Tensor, schedule: Schedule, spec: TargetSpec) -> GpuCode:
    """The kernels of a schedule with a contract. Raises: InvalidScheduleError."""
    gpu = schedule.gpu
    if (
        gpu is None
        or gpu.contract is None
        or schedule != Schedule((), 1, gpu=Gpu((), 0, gpu.contract))
    ):
        raise InvalidScheduleError(
            "schedule: a contract beside loops, binds or stages",
            "give one or the other: a contract says it all, with loops=() and lanes=1",
        )
    return compile_contraction(name, output, gpu.contract, spec)


def compile_contraction(name: str, output: Tensor, contract: Contract, spec: TargetSpec) -> GpuCode:
    """The kernel of a sum of products, and that which adds up its parts where k is cut.

    Raises: InvalidScheduleError for an output that is none, or a contract that does not suit it.
    """
    found = product(output)
    if found is None:
        raise InvalidScheduleError(
            f"contraction: {output.name} is no sum of products of two tensors",
            "give its schedule loops and binds instead",
        )
    check(found, contract, spec)
    arguments = (*inputs(output), output)
    places = tuple(range(len(arguments)))
    if contract.split == 1:
        made = Kernel(Task(name, found, contract, spec, arguments, output.name))
        return GpuCode(made.text(), (made.launch(places),), loops=made.loops())
    parts = parts_of(found, name)
    own = Task(f"{name}_parts", found, contract, spec, (*arguments[:-1], parts), parts.name, parts)
    made = Kernel(own)
    adder = Adder(Task(name, found, contract, spec, (*arguments, parts), output.name), parts)
    more = len(arguments)
    launches = (made.launch((*places[:-1], more)), adder.launch((*places, more)))
    told = (*made.loops(), f"then {adder.total} sums of {contract.split} parts each")
    scratch = contract.split * adder.total * SUM_BYTES
    return GpuCode(made.text() + adder.text(), launches, (scratch,), told)


TYPES = {"float16": "f16", "bfloat16": "bf16"}


@dataclass
class _State:
    """What goes round the loop over k besides sums: pointers, k, and where stages lie."""

    pointers: list[str]
    k: Value
    reading: Value
    writing: Value
    more: str = ""  # whether there is another block to copy; "" where there must be


class Kernel(Text):
    """Blocks of sums of products, with all of the expression, or parts of sums in memory."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        found, contract = task.found, task.contract
        self.sizes = stage_bytes(found, contract)
        self.stage_bytes = sum(self.sizes)
        self.shared = self.stage_bytes * contract.stages
        rows, columns, depth = contract.block
        self.tiles = -(-found.m.total // rows), -(-found.n.total // columns)
        deep = -(-found.k.total // depth)
        self.rounds = -(-deep // contract.split)
        self.blocks = self.tiles[0] * self.tiles[1] * found.batch.total * contract.split
        self.level = level(task.spec)

    def launch(self, arguments: tuple[int, ...]) -> GpuLaunch:
        """How it is launched, its parameters being those arguments."""
        threads, symbol = self.contract.threads, self.task.symbol
        return GpuLaunch(symbol, (self.blocks, 1, 1), (threads, 1, 1), arguments, self.shared)

    def loops(self) -> tuple[str, ...]:
        """What the kernel does, to be read."""
        contract, found = self.contract, self.found
        rows, columns, depth = contract.block
        tall, wide = contract.tile
        how = f"mma {contract.mma}" if contract.mma else "multiply-adds"
        return (
            f"blocks: {found.batch.total} x m {found.m.total} / {rows} x n {found.n.total} / "
            f"{columns} x parts {contract.split} = {self.blocks}",
            f"  {contract.threads} threads, {self.shared} bytes in {contract.stages} stages",
            f"  for k {found.k.total} / {depth} / {contract.split} = {self.rounds}",
            f"    each warp {tall} x {wide} by {how}",
        )

    def text(self) -> str:
        """LLVM text of the kernel and its shared memory."""
        emit, contract, found = self.emit, self.contract, self.found
        self.thread = emit.special("tid.x")
        part, batch, row, column = self._place()
        memory = f"@{self.task.symbol}_shared"
        shared = emit.value("a", f"ptrtoint {ptx.SHARED} {memory} to i32")
        values = apart(emit, found.batch, batch)
        k = emit.multiply(part, self.rounds * contract.block[2])
        self.copies, operands, pointers = [], [], []
        start: Value = shared
        for number, factor in enumerate((found.left, found.right)):
            first = (row, column)[number]
            region = Region(
                values, first, k, contract.block[number], contract.block[2],
                self.rounds * contract.split,
            )  # fmt: skip
            form = Form(
                held(found, contract, factor),
                to_k(contract, factor),
                contract.vector,
                self.level >= ASYNC,
            )
            tile = tile_of(emit, start, found, contract, number)
            copies = Copies(emit, factor, region, form, contract.threads)
            pointers.append(copies.prepare(tile, self.bases[factor.load.tensor.name], self.thread))
            self.copies.append(copies)
            operands.append(Operand(tile, form.to_k))
            start = emit.add(start, self.sizes[number])
        self.asynchronous = any(one.asynchronous for one in self.copies)
        self.needs_k = any(one.needs_k for one in self.copies)
        sides = operands[0], operands[1]
        if contract.mma == "wgmma":
            groups = Groups(emit, contract, sides, TYPES[found.left.dtype])
            self.rows, self.columns, self.run = groups.rows, groups.columns, groups.run
            own = groups.prepare(self.thread)
            sums = self._loop_of_groups(groups, pointers, k)
        else:
            self.unit = self._unit(sides)
            self.rows, self.columns, self.run = self.unit.rows, self.unit.columns, self.unit.run
            own = self.unit.prepare(self.thread)
            sums = self._loop(pointers, k)
        place = Place(
            values, found.m, found.n, emit.add(row, own[0]), emit.add(column, own[1]),
            (
                found.m.total % contract.block[0] != 0,
                found.n.total % contract.block[1] != 0,
            ),
        )  # fmt: skip
        self._end(place, part, sums)
        head = f"{memory} = external addrspace(3) global [0 x i8], align 1024"
        return self.wrapped(contract.threads, head, contract.resident)

    def _unit(self, operands: tuple[Operand, Operand]) -> Unit:
        contract, found = self.contract, self.found
        if not contract.mma:
            return Fma(self.emit, contract, operands, found.total)
        form = contract.mma
        if form == "s8":
            names = [one.dtype.replace("int", "") for one in (found.left, found.right)]
            form = ".".join({"8": "s8", "u8": "u8"}[name] for name in names)
        old = self.level < 80
        size = SIZES[found.left.dtype]
        return Mma(self.emit, contract, operands, found.total, form=form, size=size, old=old)

    def _place(self) -> tuple[Value, Value, Value, Value]:
        """Part of k, batch, first row and column of this block of threads."""
        emit, (down, across) = self.emit, self.tiles
        number = emit.special("ctaid.x") if self.blocks > 1 else 0
        outer, tile = emit.divide(number, down * across) if down * across > 1 else (number, 0)
        part: Value = 0
        batch = outer
        if self.contract.split > 1:
            part, batch = emit.divide(outer, self.found.batch.total)
        if self.found.batch.total == 1:
            batch = 0
        at = self._neighbours(tile if self.blocks > down * across else number)
        rows, columns, _ = self.contract.block
        return part, batch, emit.multiply(at[0], rows), emit.multiply(at[1], columns)

    def _neighbours(self, tile: Value) -> tuple[Value, Value]:
        """Tiles that run at the same time are near each other in both directions."""
        emit, (down, across) = self.emit, self.tiles
        group = min(self.contract.group, down)
        if across == 1 or group == 1:
            return emit.divide(tile, across)
        if down == 1:
            return 0, tile
        band, rest = emit.divide(tile, group * across)
        first = emit.multiply(band, group) if down > group else 0
        if down % group == 0:
            beside, below = emit.divide(rest, group)
            return emit.add(first, below), beside
        left = emit.extreme("smin", emit.value("i", f"sub i32 {down}, {first}"), group)
        beside = emit.value("i", f"udiv i32 {rest}, {left}")
        below = emit.value("i", f"urem i32 {rest}, {left}")
        return emit.add(first, below), beside

    # The loops over k

    def _loop_of_groups(self, groups: Groups, pointers: list[str], k: Value) -> list[str]:
        """The sums, where groups of warps multiply one block of k while the next one begins.

        So the block that is copied to is not that of the last round but that of the one before.
        """
        emit, contract, depth = self.emit, self.contract, self.contract.block[2]
        ahead = contract.stages - 2
        pointers, k = self._fill(pointers, k, ahead)
        sums = ["0.0"] * len(groups.rows)
        kinds = ["float"] * len(sums) + [ptx.GLOBAL] * 2 + ["i32"] * 3
        first = [*sums, *pointers, str(k), "0", str(ahead * self.stage_bytes)]
        more = ahead < self.rounds
        with emit.loop(self.rounds, [*zip(kinds, first, strict=True)]) as loop:
            count = len(sums)
            state = loop.values[count:]
            k, reading, writing = (_value(one) for one in state[2:])
            when = ""
            if more and not isinstance(loop.iv, int):
                when = emit.value("c", f"icmp ult i32 {loop.iv}, {self.rounds - ahead}")
            if self.asynchronous:
                ptx.wait(emit, ahead - 1)
            ptx.copies_seen(emit)
            emit.barrier()
            read = self._begin(state[:2], k, writing, when) if more else None
            if read is None and self.asynchronous:
                ptx.commit(emit)
            sums = groups.multiply(reading, loop.values[:count])
            sums = groups.wait(1, sums)
            if read is not None:
                self._finish(read, writing)
            pointers = [
                one.advance(pointer) for one, pointer in zip(self.copies, state[:2], strict=True)
            ]
            loop.next = [
                *sums, *pointers, str(emit.add(k, depth)), str(self._next(reading)),
                str(self._next(writing)),
            ]  # fmt: skip
        return groups.wait(0, loop.final[:count])

    def _fill(self, pointers: list[str], k: Value, ahead: int) -> tuple[list[str], Value]:
        """Begin to copy the first blocks. Gives the pointers and the index of the one after."""
        for number in range(ahead):
            if number < self.rounds:
                read = self._begin(pointers, k, number * self.stage_bytes, "")
                self._finish(read, number * self.stage_bytes)
            elif self.asynchronous:
                ptx.commit(self.emit)
            pointers = [
                one.advance(pointer) for one, pointer in zip(self.copies, pointers, strict=True)
            ]
            k = self.emit.add(k, self.contract.block[2])
        return pointers, k

    def _begin(
        self, pointers: list[str], k: Value, stage: Value, when: str
    ) -> list[list[list[str]]]:
        read = [
            one.begin(pointer, k, stage, when)
            for one, pointer in zip(self.copies, pointers, strict=True)
        ]
        if self.asynchronous:
            ptx.commit(self.emit)
        return read

    def _finish(self, read: list[list[list[str]]], stage: Value) -> None:
        for one, words in zip(self.copies, read, strict=True):
            one.finish(words, stage)

    def _ready(self, left: int) -> None:
        """All but the last so many blocks are in shared memory, for every thread."""
        if self.asynchronous:
            ptx.wait(self.emit, left)
        self.emit.barrier()

    def _loop(self, pointers: list[str], k: Value) -> list[str]:
        """The sums."""
        emit, contract, unit = self.emit, self.contract, self.unit
        ahead, depth = contract.stages - 1, contract.block[2]
        pointers, k = self._fill(pointers, k, ahead)
        self._ready(ahead - 1)
        sums = ["0" if self.found.total == "int32" else "0.0"] * len(unit.rows)
        current = unit.read(0, 0)
        kinds = [kind(self.found.total)] * len(sums) + unit.kinds
        kinds += [ptx.GLOBAL] * 2 + ["i32"] * 3
        more = ahead < self.rounds
        state = [*pointers, str(k), "0", str(ahead * self.stage_bytes)]
        with emit.loop(self.rounds, [*zip(kinds, [*sums, *current, *state], strict=True)]) as loop:
            values, count = loop.values, len(sums)
            state = values[count + len(current) :]
            k, reading, writing = (_value(one) for one in state[2:])
            now = _State(state[:2], k, reading, writing)
            if more and not isinstance(loop.iv, int):
                now.more = emit.value("c", f"icmp ult i32 {loop.iv}, {self.rounds - ahead}")
            own = values[:count], values[count : count + len(current)]
            sums, current = self._round(now, *own, loop.iv, begins=more)
            pointers = [
                one.advance(pointer) for one, pointer in zip(self.copies, now.pointers, strict=True)
            ]
            loop.next = [
                *sums, *current, *pointers, str(emit.add(now.k, depth)),
                str(now.reading), str(self._next(now.writing)),
            ]  # fmt: skip
        return loop.final[:count]

    def _round(
        self, now: _State, sums: list[str], current: list[str], iv: Value, *, begins: bool
    ) -> tuple[list[str], list[str]]:
        """Multiply one block of k; `now.reading` is moved to the next one."""
        unit, contract = self.unit, self.contract
        steps = contract.block[2] // unit.depth
        read = None
        for step in range(steps):
            if step == 0:
                if begins:
                    read = self._begin(now.pointers, now.k, now.writing, now.more)
                elif self.asynchronous:
                    ptx.commit(self.emit)
            if step < steps - 1:
                following = unit.read(step + 1, now.reading)
            else:
                if read is not None:
                    self._finish(read, now.writing)
                self._ready(contract.stages - 2)
                now.reading = self._after(now.reading, iv)
                following = unit.read(0, now.reading)
            sums = unit.multiply(current, sums)
            current = following
        return sums, current

    def _next(self, stage: Value) -> Value:
        """The byte of the stage after that one."""
        emit = self.emit
        after = emit.add(stage, self.stage_bytes)
        if isinstance(after, int):
            return after % self.shared
        beyond = emit.value("c", f"icmp eq i32 {after}, {self.shared}")
        return emit.value("i", f"select i1 {beyond}, i32 0, i32 {after}")

    def _after(self, stage: Value, iv: Value) -> Value:
        """That of the next block of k; after the last one the same again, which is not used."""
        if isinstance(iv, int):
            return stage
        last = self.emit.value("c", f"icmp eq i32 {iv}, {self.rounds - 1}")
        after = self._next(stage)
        return self.emit.value("i", f"select i1 {last}, i32 {stage}, i32 {after}")

    def _end(self, place: Place, part: Value, sums: list[str]) -> None:
        found, stage = self.found, self.found.stage
        at = [*zip(self.rows, self.columns, strict=True)]
        bases = dict(self.bases)
        body, to = stage.body, at_axes(stage.tensor, stage.axes)
        if self.parts is not None:
            body, to = Total(found.total), at_axes(self.parts, axes_of(found))
            bases[self.parts.name] = part_at(self.emit, bases[self.parts.name], part, found)
        epilogue = Epilogue(self.emit, stage, place, bases, self.level)
        if self.contract.mma and epilogue.pairs(to, self.contract.tile[1] // 8):
            lane = self.emit.divide(self.thread, WARP)[1]
            epilogue.store_by_pairs(body, to, sums, at, lane)
            return
        epilogue.store(body, to, sums, at, self.run)


def _value(text: str) -> Value:
    """An index out of the loop's values: a number where it goes round only once."""
    return int(text) if text.isdigit() else text
