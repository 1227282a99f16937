"""Sums of products on a GPU: blocks in shared memory, sums in registers, copies under way.

A block of threads goes over k. While it multiplies one block of k from shared memory, the next ones
are on their way there, and the next step's numbers on their way to registers. The one barrier of
each block of k says both that the next block has come and that the last one's memory is free.
"""

from dataclasses import dataclass

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.emit import SIZES, Value, kind
from tunefarm_compiler.gpu import instructions as ptx
from tunefarm_compiler.gpu.contract import Contract
from tunefarm_compiler.gpu.copies import Copies, Form, Region
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.epilogue import Epilogue, Place
from tunefarm_compiler.gpu.kernels import GpuCode, GpuLaunch
from tunefarm_compiler.gpu.products import Factor, Flat, Product, product
from tunefarm_compiler.gpu.registers import STEP, Fma, Mma, Operand, Unit
from tunefarm_compiler.gpu.shared import PIECE, Tile
from tunefarm_compiler.stages import inputs
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Load, Tensor, Total

ALIGNED = 16
ADDERS = 256  # threads in a block of the kernel that adds parts up
KINDS = {"f16": ("float16",), "bf16": ("bfloat16",), "tf32": ("float32",), "s8": ("int8", "uint8")}
LEVELS = {"": 0, "f16": 75, "s8": 75, "bf16": 80, "tf32": 80}
ASYNC = 80  # from this level on shared memory is filled without registers


def compile_contraction(
    name: str, output: Tensor, contract: Contract, spec: TargetSpec
) -> GpuCode:
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
    arguments = [*inputs(output), output]
    places = tuple(range(len(arguments)))
    if contract.split == 1:
        made = Kernel(name, found, contract, spec, arguments)
        launch = GpuLaunch(name, (made.blocks, 1, 1), (contract.threads, 1, 1), places, made.shared)
        return GpuCode(made.text(), (launch,))
    parts = _parts(found, name)
    made = Kernel(f"{name}_parts", found, contract, spec, [*arguments[:-1], parts], parts)
    adder = Adder(name, found, contract, spec, [*arguments, parts], parts)
    scratch = contract.split * adder.total * 4
    first = GpuLaunch(
        f"{name}_parts", (made.blocks, 1, 1), (contract.threads, 1, 1),
        (*places[:-1], len(arguments)), made.shared,
    )  # fmt: skip
    second = GpuLaunch(name, (adder.blocks, 1, 1), (ADDERS, 1, 1), (*places, len(arguments)))
    return GpuCode(made.text() + adder.text(), (first, second), (scratch,))


def level(spec: TargetSpec) -> int:
    """Its compute capability, as in 80."""
    return int(spec.cpu.removeprefix("sm_").rstrip("a"))


def check(found: Product, contract: Contract, spec: TargetSpec) -> None:
    """Whether a contract suits a product on that GPU. Raises: InvalidScheduleError."""
    contract.check()
    dtypes = {found.left.dtype, found.right.dtype}
    if contract.mma:
        if not dtypes <= set(KINDS[contract.mma]):
            raise InvalidScheduleError(
                f"contraction: mma={contract.mma!r} of {' and '.join(sorted(dtypes))}",
                f"it is for {' and '.join(KINDS[contract.mma])}",
            )
        if level(spec) < LEVELS[contract.mma]:
            raise InvalidScheduleError(
                f"contraction: {spec.cpu} has no mma of {contract.mma}",
                f"it needs sm_{LEVELS[contract.mma]}, or leave mma out",
            )
        least = STEP // SIZES[found.left.dtype]
        if contract.block[2] < least:
            raise InvalidScheduleError(
                f"contraction: a block of {contract.block[2]} along k", f"{least} at least"
            )
    needs = sum(_bytes(found, contract)) * contract.stages
    if needs > spec.shared_bytes:
        raise InvalidScheduleError(
            f"contraction: {needs} bytes of shared memory, {spec.cpu} has {spec.shared_bytes}",
            "take smaller blocks or fewer stages",
        )
    if contract.split > 1 and (contract.split - 1) * contract.block[2] >= found.k.total:
        raise InvalidScheduleError(
            f"contraction: {contract.split} parts of k={found.k.total}",
            f"each needs more than none of its blocks of {contract.block[2]}",
        )


def _held(found: Product, contract: Contract, factor: Factor) -> str:
    """The type of a factor in shared memory."""
    return factor.dtype if contract.mma else found.total


def _to_k(contract: Contract, factor: Factor) -> bool:
    """Whether a factor's lines in shared memory run along k."""
    return bool(contract.mma) and (SIZES[factor.dtype] != 2 or factor.along == "k")


def _tile(
    emit: GpuEmitter, start: Value, found: Product, contract: Contract, number: int
) -> Tile:
    """The tile of the left factor (0) or of the right one."""
    factor = (found.left, found.right)[number]
    side, depth = contract.block[number], contract.block[2]
    size = SIZES[_held(found, contract, factor)]
    to_k = _to_k(contract, factor)
    lines, width = (side, depth) if to_k else (depth, side)
    layout = contract.layout
    if not contract.mma:  # threads read along a line; lines collide where columns are written
        layout = "pad" if factor.along == "k" and layout != "plain" else "plain"
    return Tile(emit, start, lines, max(PIECE, width * size), layout)


def _bytes(found: Product, contract: Contract) -> tuple[int, int]:
    emit = GpuEmitter()
    one, two = (_tile(emit, 0, found, contract, number).size for number in (0, 1))
    return one, two


def _parts(found: Product, name: str) -> Tensor:
    """Memory for the sums of one part of k: the output's axes in the order batch, m, n."""
    axes = (*found.batch.axes, *found.m.axes, *found.n.axes)
    return Tensor(f"{name}.parts", tuple(axis.extent for axis in axes) or (1,), found.total)


def _own(tensor: Tensor, axes: tuple[object, ...]) -> Load:
    """A tensor at those axes, or at its one element."""
    return tensor[axes or (0,)]  # type: ignore[index]


class _Text:
    """What both kernels have: parameters, head and foot."""

    def __init__(self, symbol: str, spec: TargetSpec, arguments: list[Tensor], last: int) -> None:
        self.emit, self.symbol, self.spec = GpuEmitter(), symbol, spec
        self.arguments = arguments
        self.bases = {one.name: f"%in.{number}" for number, one in enumerate(arguments)}
        self._written = arguments[last].name

    def _wrapped(self, lines: list[str], threads: int, head: str = "") -> str:
        parameters = []
        for number, tensor in enumerate(self.arguments):
            reads = "" if tensor.name == self._written else "readonly "
            parameters.append(f"{ptx.GLOBAL} noalias {reads}align {ALIGNED} %in.{number}")
        start = f"define ptx_kernel void @{self.symbol}({', '.join(parameters)})"
        start += f' nounwind "nvvm.reqntid"="{threads},1,1" {{'
        return "\n".join([*([head] if head else []), start, *lines, "  ret void", "}"]) + "\n"


@dataclass
class _State:
    """What goes round the loop over k besides sums: pointers, k, and where stages lie."""

    pointers: list[str]
    k: Value
    reading: Value
    writing: Value


class Kernel(_Text):
    """Blocks of sums of products, with all of the expression, or parts of sums in memory."""

    def __init__(
        self, symbol: str, found: Product, contract: Contract, spec: TargetSpec,
        arguments: list[Tensor], parts: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__(symbol, spec, arguments, -1)
        self.found, self.contract, self.parts = found, contract, parts
        self.sizes = _bytes(found, contract)
        self.stage_bytes = sum(self.sizes)
        self.shared = self.stage_bytes * contract.stages
        rows, columns, depth = contract.block
        self.tiles = -(-found.m.total // rows), -(-found.n.total // columns)
        self.rounds = -(-(-(-found.k.total // depth)) // contract.split)
        self.blocks = self.tiles[0] * self.tiles[1] * found.batch.total * contract.split

    def text(self) -> str:
        """LLVM text of the kernel and its shared memory."""
        emit, contract, found = self.emit, self.contract, self.found
        self.thread = emit.special("tid.x")
        part, batch, row, column = self._place()
        held = f"@{self.symbol}_shared"
        shared = emit.value("a", f"ptrtoint {ptx.SHARED} {held} to i32")
        values = _apart(emit, found.batch, batch)
        k = emit.multiply(part, self.rounds * contract.block[2])
        self.copies, operands, pointers = [], [], []
        start: Value = shared
        for number, factor in enumerate((found.left, found.right)):
            first = (row, column)[number]
            region = Region(
                values, first, k, contract.block[number], contract.block[2],
                self.rounds * contract.split,
            )  # fmt: skip
            to_k = _to_k(contract, factor)
            form = Form(
                _held(found, contract, factor), to_k, contract.vector, level(self.spec) >= ASYNC
            )
            tile = _tile(emit, start, found, contract, number)
            copies = Copies(emit, factor, region, form, contract.threads)
            pointers.append(
                copies.prepare(tile, self.bases[factor.load.tensor.name], self.thread)
            )
            self.copies.append(copies)
            operands.append(Operand(tile, to_k))
            start = emit.add(start, self.sizes[number])
        self.asynchronous = any(one.asynchronous for one in self.copies)
        self.needs_k = any(one.needs_k for one in self.copies)
        self.unit = self._unit((operands[0], operands[1]))
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
        head = f"{held} = external addrspace(3) global [0 x i8], align 128"
        return self._wrapped(emit.lines, contract.threads, head)

    def _unit(self, operands: tuple[Operand, Operand]) -> Unit:
        contract, found = self.contract, self.found
        if not contract.mma:
            return Fma(self.emit, contract, operands, found.total)
        form = contract.mma
        if form == "s8":
            names = [one.dtype.replace("int", "") for one in (found.left, found.right)]
            form = ".".join({"8": "s8", "u8": "u8"}[name] for name in names)
        old = level(self.spec) < 80
        size = SIZES[found.left.dtype]
        return Mma(self.emit, contract, operands, found.total, form=form, size=size, old=old)

    def _place(self) -> tuple[Value, Value, Value, Value]:
        """Part of k, batch, first row and column of this block of threads."""
        emit, (down, across) = self.emit, self.tiles
        number = emit.special("ctaid.x") if self.blocks > 1 else 0
        outer, tile = emit.divide(number, down * across) if down * across > 1 else (number, 0)
        if self.contract.split == 1:
            part, batch = 0, outer
        else:
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

    # The loop over k

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
        for number in range(ahead):
            if number < self.rounds:
                read = self._begin(pointers, k, number * self.stage_bytes, "")
                self._finish(read, number * self.stage_bytes)
            elif self.asynchronous:
                ptx.commit(emit)
            pointers = [
                one.advance(pointer)
                for one, pointer in zip(self.copies, pointers, strict=True)
            ]
            k = emit.add(k, depth)
        self._ready(ahead - 1)
        sums = ["0" if self.found.total == "int32" else "0.0"] * len(unit.rows)
        current = unit.read(0, 0)
        kinds = [kind(self.found.total)] * len(sums) + unit.kinds
        kinds += [ptx.GLOBAL] * 2 + ["i32"] * 3
        more = ahead < self.rounds
        state = [*pointers, str(k), "0", str(ahead * self.stage_bytes)]
        with emit.loop(
            self.rounds, [*zip(kinds, [*sums, *current, *state], strict=True)]
        ) as loop:
            values, count = loop.values, len(sums)
            state = values[count + len(current) :]
            now = _State(state[:2], _value(state[2]), _value(state[3]), _value(state[4]))
            when = ""
            if more and not isinstance(loop.iv, int):
                when = emit.value("c", f"icmp ult i32 {loop.iv}, {self.rounds - ahead}")
            sums, current = self._round(
                now, values[:count], values[count : count + len(current)], loop.iv, more, when
            )
            pointers = [
                one.advance(pointer)
                for one, pointer in zip(self.copies, now.pointers, strict=True)
            ]
            loop.next = [
                *sums, *current, *pointers, str(emit.add(now.k, depth)),
                str(now.reading), str(self._next(now.writing)),
            ]  # fmt: skip
        return loop.final[:count]

    def _round(
        self, now: _State, sums: list[str], current: list[str], iv: Value, more: bool, when: str
    ) -> tuple[list[str], list[str]]:
        """Multiply one block of k; `now.reading` is moved to the next one."""
        unit, contract = self.unit, self.contract
        steps = contract.block[2] // unit.depth
        read = None
        for step in range(steps):
            if step == 0:
                if more:
                    read = self._begin(now.pointers, now.k, now.writing, when)
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
        at = [*zip(self.unit.rows, self.unit.columns, strict=True)]
        bases = dict(self.bases)
        body, to = stage.body, stage.tensor[stage.axes] if stage.axes else _own(stage.tensor, ())
        if self.parts is not None:
            axes = (*found.batch.axes, *found.m.axes, *found.n.axes)
            body, to = Total(found.total), _own(self.parts, axes)
            bases[self.parts.name] = _part(self.emit, bases[self.parts.name], part, found)
        epilogue = Epilogue(self.emit, stage, place, bases, level(self.spec))
        epilogue.store(body, to, sums, at, self.unit.run)


class Adder(_Text):
    """The parts of sums added up, and the rest of the expression: one output for each thread."""

    def __init__(
        self, symbol: str, found: Product, contract: Contract, spec: TargetSpec,
        arguments: list[Tensor], parts: Tensor,
    ) -> None:  # fmt: skip
        super().__init__(symbol, spec, arguments, -2)
        self.found, self.contract, self.parts = found, contract, parts
        self.axes = (*found.batch.axes, *found.m.axes, *found.n.axes)
        self.flat = Flat(self.axes)
        self.total = self.flat.total
        self.blocks = -(-self.total // ADDERS)

    def text(self) -> str:
        """LLVM text of the kernel."""
        emit, found, stage = self.emit, self.found, self.found.stage
        block = emit.special("ctaid.x") if self.blocks > 1 else 0
        index = emit.add(emit.multiply(block, ADDERS), emit.special("tid.x"))
        tail = self.total % ADDERS != 0
        fits = emit.value("c", f"icmp ult i32 {index}, {self.total}") if tail else ""
        long = emit.value("l", f"zext i32 {index} to i64")
        first = f"getelementptr i32, {ptx.GLOBAL} {self.bases[self.parts.name]}, i64 {long}"
        pointer = emit.value("p", first)
        wide = kind(found.total)
        zero = "0" if found.total == "int32" else "0.0"
        with emit.loop(self.contract.split, [(wide, zero), (ptx.GLOBAL, pointer)]) as loop:
            total, where = loop.values
            word = ptx.load_global(emit, where, 4, fits)[0]
            if found.total == "float32":
                word = emit.value("v", f"bitcast i32 {word} to float")
            add = "fadd" if found.total == "float32" else "add"
            after = f"getelementptr i32, {ptx.GLOBAL} {where}, i64 {self.total}"
            loop.next = [
                emit.value("v", f"{add} {wide} {total}, {word}"), emit.value("p", after)
            ]  # fmt: skip
        place = Place({}, Flat(()), self.flat, 0, index, (False, tail))
        to = stage.tensor[stage.axes] if stage.axes else _own(stage.tensor, ())
        epilogue = Epilogue(emit, stage, place, self.bases, level(self.spec))
        epilogue.store(stage.body, to, loop.final[:1], [(0, 0)], 1)
        return self._wrapped(emit.lines, ADDERS)


def _part(emit: GpuEmitter, base: str, part: Value, found: Product) -> str:
    """Where the sums of a part of k begin."""
    size = found.batch.total * found.m.total * found.n.total * 4
    long = emit.value("l", f"zext i32 {part} to i64")
    far = emit.value("l", f"mul nsw i64 {long}, {size}")
    return emit.value("p", f"getelementptr i8, {ptx.GLOBAL} {base}, i64 {far}")


def _apart(emit: GpuEmitter, flat: Flat, index: Value) -> dict[str, Value]:
    """The axes of a flat index."""
    values: dict[str, Value] = {}
    for axis in reversed(flat.axes[1:]):
        index, values[axis.name] = emit.divide(index, axis.extent)
    if flat.axes:
        values[flat.axes[0].name] = index
    return values


def _value(text: str) -> Value:
    """An index out of the loop's values: a number where it goes round only once."""
    return int(text) if text.isdigit() else text


