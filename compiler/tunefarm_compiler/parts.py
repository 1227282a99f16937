"""Sums in two steps: parts of a sum as a stage of its own, for schedules that compute them apart.

`C.parts64` holds 64 parts of each sum of C, of the longest of the axes that it is taken over.
"""

import re
from collections.abc import Collection
from dataclasses import replace

from tunefarm_compiler.te import (
    Axis,
    Compute,
    Constant,
    Expr,
    Inside,
    Load,
    Reduce,
    Select,
    Tensor,
    rewrite,
)

PART = "part"
IDENTITY = {"add": 0.0, "max": -float("inf"), "min": float("inf")}
_LIMITS = {"max": {"int8": -128, "int32": -(1 << 31)}, "min": {"int8": 127, "int32": (1 << 31) - 1}}


def identity(op: str, dtype: str) -> float:
    """What changes nothing in a reduction."""
    return _LIMITS.get(op, {}).get(dtype, IDENTITY[op])


def parts(output: Tensor, count: int) -> str:
    """Name of the stage that holds so many parts of each of the output's sums."""
    return f"{output.name}.parts{count}"


def parted(output: Tensor, kept: Collection[str]) -> Tensor:
    """The output as sums of those parts, where they are kept."""
    own = re.compile(re.escape(output.name) + r"\.parts([1-9]\d{0,5})")
    count = next((int(found[1]) for name in kept if (found := own.fullmatch(name))), 0)
    if not count or output.compute is None:
        return output
    axes, made = output.compute.axes, list[Tensor]()

    def leaf(expr: Expr) -> Expr | None:
        if not isinstance(expr, Reduce) or PART in {axis.name for axis in (*axes, *expr.axes)}:
            return None
        made.append(_tensor(parts(output, count), axes, expr, count))
        part = Axis(PART, count, reduce=True)
        return Reduce(expr.op, made[0][(*axes, part)], (part,))

    body = rewrite(output.compute.body, leaf, {})
    return replace(output, compute=Compute(axes, body)) if len(made) == 1 else output


def _tensor(name: str, axes: tuple[Axis, ...], reduce: Reduce, count: int) -> Tensor:
    longest = max(reduce.axes, key=lambda axis: axis.extent)
    length = -(-longest.extent // count)
    part = Axis(PART, count)
    moved = {longest.name: part * length + longest}

    def leaf(expr: Expr) -> Expr | None:
        if isinstance(expr, Load):
            return Load(expr.tensor, tuple(index.substitute(moved) for index in expr.indices))
        if isinstance(expr, Inside):
            return Inside(tuple(test.substitute(moved) for test in expr.tests))
        return None

    body = rewrite(reduce.body, leaf, {})
    if length * count > longest.extent:
        inside = moved[longest.name].within(0, longest.extent)
        nothing = Constant(identity(reduce.op, reduce.dtype), reduce.dtype)
        body = Select(Inside(inside.tests[1:]), body, nothing)
    shorter = Axis(longest.name, length, reduce=True)
    over = tuple(shorter if axis is longest else axis for axis in reduce.axes)
    every = (*axes, part)
    shape = tuple(axis.extent for axis in every)
    return Tensor(name, shape, reduce.dtype, Compute(every, Reduce(reduce.op, body, over)))
