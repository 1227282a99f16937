"""What a kernel of a sum of products is made of, and the text around its body."""

from dataclasses import dataclass

from tunefarm_compiler.contract import Contract
from tunefarm_compiler.emit import Value
from tunefarm_compiler.gpu import instructions as ptx
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.products import Flat, Product
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Axis, Load, Tensor

ALIGNED = 16  # bytes that every argument begins at a multiple of


@dataclass(frozen=True)
class Task:
    """One kernel: `arguments` are its parameters, of which it writes the one named `written`.

    `parts` is where sums of a part of k go or come from.
    """

    symbol: str
    found: Product
    contract: Contract
    spec: TargetSpec
    arguments: tuple[Tensor, ...]
    written: str
    parts: Tensor | None = None


class Text:
    """Its text: parameters, head and foot."""

    def __init__(self, task: Task) -> None:
        self.emit, self.task = GpuEmitter(), task
        self.found, self.contract, self.parts = task.found, task.contract, task.parts
        self.bases = {one.name: f"%in.{n}" for n, one in enumerate(task.arguments)}

    def wrapped(self, threads: int, head: str = "", resident: int = 1) -> str:
        """The kernel around the lines that were emitted."""
        parameters = []
        for number, tensor in enumerate(self.task.arguments):
            reads = "" if tensor.name == self.task.written else "readonly "
            parameters.append(f"{ptx.GLOBAL} noalias {reads}align {ALIGNED} %in.{number}")
        start = f"define ptx_kernel void @{self.task.symbol}({', '.join(parameters)})"
        start += f' nounwind "nvvm.reqntid"="{threads},1,1"'
        start += f' "nvvm.minctasm"="{resident}" {{' if resident > 1 else " {"
        lines = [*([head] if head else []), start, *self.emit.lines, "  ret void", "}"]
        return "\n".join(lines) + "\n"


def at_axes(tensor: Tensor, axes: tuple[Axis, ...]) -> Load:
    """A tensor at those axes, or at its one element."""
    return tensor[axes] if axes else tensor[tuple(0 for _ in tensor.shape)]


def apart(emit: GpuEmitter, flat: Flat, index: Value) -> dict[str, Value]:
    """The axes of a flat index."""
    values: dict[str, Value] = {}
    for axis in reversed(flat.axes[1:]):
        index, values[axis.name] = emit.divide(index, axis.extent)
    if flat.axes:
        values[flat.axes[0].name] = index
    return values
