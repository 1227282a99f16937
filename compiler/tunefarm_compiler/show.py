"""Loops as text: an expression as written, and as a schedule has it computed."""

from collections import Counter

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.defaults import default
from tunefarm_compiler.gpu import compile_function
from tunefarm_compiler.lower import Lowering
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.sound import check
from tunefarm_compiler.stages import Stage, plan
from tunefarm_compiler.suit import suited
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import (
    Binary,
    Bits,
    Cast,
    Compare,
    Constant,
    Expr,
    Fma,
    Index,
    Inside,
    Load,
    Reduce,
    Select,
    Tensor,
    Total,
    Unary,
    walk,
)

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "gt": ">", "eq": "=="}
_NAMES = {"add": "sum", "max": "max", "min": "min"}


def show(output: Tensor, schedule: Schedule | None, spec: TargetSpec) -> str:
    """The loops before a schedule, the default one if none is given, and after it.

    Raises: InvalidRequestError, InvalidScheduleError.
    """
    check(output)
    if not isinstance(schedule, Schedule | None):
        raise InvalidScheduleError(f"{schedule!r:.60} is no schedule", "give a Schedule, or None")
    schedule = schedule or default(output, spec)
    kept = [attach.stage for attach in schedule.stages]
    after = _after(output, schedule, spec)
    before = [line for stage in plan(suited(output, spec), kept) for line in plainly(stage)]
    return "\n".join(["before:", *_indented(before), "after:", *_indented(after)])


def _after(output: Tensor, schedule: Schedule, spec: TargetSpec) -> list[str]:
    if spec.gpu:
        return [*compile_function("kernel", output, schedule, spec).loops]
    lowering = Lowering(output, schedule, spec)
    lowering.run()
    return lowering.trace


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def plainly(stage: Stage) -> list[str]:
    """A stage as loops without any schedule; what is used more than once gets a name."""
    lines = []
    for depth, axis in enumerate(stage.axes):
        lines.append(f"{'  ' * depth}for {axis.name} in 0..{axis.extent}:")
    pad = "  " * len(stage.axes)
    here = ", ".join(axis.name for axis in stage.axes)
    writer = _Writer(stage)
    lines.append(f"{pad}{stage.tensor.name}[{here}] = {writer.text(stage.body)}")
    return lines + [f"{pad}  where {name} = {what}" for name, what in writer.named]


class _Writer:
    """Writes expressions for people to read."""

    def __init__(self, stage: Stage) -> None:
        self.named: list[tuple[str, str]] = []
        self._reduce = stage.reduce
        self._names: dict[int, str] = {}
        roots = [stage.body, *([stage.reduce.body] if stage.reduce else [])]
        self._uses = Counter(id(child) for expr in walk(*roots) for child in expr.children())

    def text(self, expr: Expr) -> str:
        """An expression, or its name if it has one."""
        if self._uses[id(expr)] < 2 or isinstance(expr, Constant | Load):
            return self._plain(expr)
        if id(expr) not in self._names:
            name = self._names[id(expr)] = f"t{len(self._names) + 1}"
            self.named.append((name, self._plain(expr)))
        return self._names[id(expr)]

    def _plain(self, expr: Expr) -> str:
        inner = [self.text(child) for child in expr.children()]
        match expr:
            case Constant(value):
                return f"{value:g}"
            case Load(tensor, indices):
                return f"{tensor.name}[{', '.join(map(form, indices))}]"
            case Inside(tests):
                return " and ".join(f"{form(test)} >= 0" for test in tests)
            case Total() if self._reduce is not None:
                return self._plain(self._reduce)
            case Reduce(op, _, axes):
                over = ", ".join(f"{axis.name} in 0..{axis.extent}" for axis in axes)
                return f"{_NAMES[op]}({inner[0]} for {over})"
            case Binary(op) | Compare(op) if op in _SIGNS:
                return f"({inner[0]} {_SIGNS[op]} {inner[1]})"
            case Fma():
                return f"({inner[0]} * {inner[1]} + {inner[2]})"
            case Select():
                return f"({inner[1]} if {inner[0]} else {inner[2]})"
            case Cast(_, to) | Bits(_, to):
                return f"{to}({inner[0]})"
            case Unary(op) | Binary(op):
                return f"{op}({', '.join(inner)})"
        return type(expr).__name__.lower()


def form(index: Index) -> str:
    """An affine form, as in "y*2 + r - 1"."""
    parts = [name if by == 1 else f"{name}*{by}" for name, by in index.terms]
    if index.offset or not parts:
        parts.append(str(index.offset))
    return " + ".join(parts).replace("+ -", "- ")
