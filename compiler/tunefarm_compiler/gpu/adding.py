"""Parts of sums, of k cut in several: memory for them, and the kernel that adds them up."""

from tunefarm_compiler.emit import Value, kind
from tunefarm_compiler.gpu import instructions as ptx
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.epilogue import Epilogue, Place
from tunefarm_compiler.gpu.fitting import level
from tunefarm_compiler.gpu.kernels import GpuLaunch
from tunefarm_compiler.gpu.products import Flat, Product
from tunefarm_compiler.gpu.task import Task, Text, at_axes
from tunefarm_compiler.te import Axis, Tensor

ADDERS = 256  # threads in a block
SUM_BYTES = 4


def axes_of(found: Product) -> tuple[Axis, ...]:
    """The output's axes in the order in which parts of sums lie."""
    return (*found.batch.axes, *found.m.axes, *found.n.axes)


def parts_of(found: Product, name: str) -> Tensor:
    """Memory for the sums of one part of k."""
    shape = tuple(axis.extent for axis in axes_of(found)) or (1,)
    return Tensor(f"{name}.parts", shape, found.total)


def part_at(emit: GpuEmitter, base: str, part: Value, found: Product) -> str:
    """Where the sums of a part of k begin."""
    size = found.batch.total * found.m.total * found.n.total * SUM_BYTES
    long = emit.value("l", f"zext i32 {part} to i64")
    far = emit.value("l", f"mul nsw i64 {long}, {size}")
    return emit.value("p", f"getelementptr i8, {ptx.GLOBAL} {base}, i64 {far}")


class Adder(Text):
    """The parts of sums added up, and the rest of the expression: one output for each thread."""

    def __init__(self, task: Task, parts: Tensor) -> None:
        super().__init__(task)
        self.flat = Flat(axes_of(task.found))
        self.total = self.flat.total
        self.blocks = -(-self.total // ADDERS)
        self._parts = self.bases[parts.name]

    def launch(self, arguments: tuple[int, ...]) -> GpuLaunch:
        """How it is launched, its parameters being those arguments."""
        return GpuLaunch(self.task.symbol, (self.blocks, 1, 1), (ADDERS, 1, 1), arguments)

    def text(self) -> str:
        """LLVM text of the kernel."""
        emit, found, stage = self.emit, self.found, self.found.stage
        block = emit.special("ctaid.x") if self.blocks > 1 else 0
        index = emit.add(emit.multiply(block, ADDERS), emit.special("tid.x"))
        tail = self.total % ADDERS != 0
        fits = emit.value("c", f"icmp ult i32 {index}, {self.total}") if tail else ""
        long = emit.value("l", f"zext i32 {index} to i64")
        first = f"getelementptr i32, {ptx.GLOBAL} {self._parts}, i64 {long}"
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
        epilogue = Epilogue(emit, stage, place, self.bases, level(self.task.spec))
        epilogue.store(stage.body, at_axes(stage.tensor, stage.axes), loop.final[:1], [(0, 0)], 1)
        return self.wrapped(ADDERS)
