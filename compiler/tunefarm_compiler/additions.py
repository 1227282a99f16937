"""Stages that an expression does not have, made for schedules that keep them.

`C.cache` holds the sums of the output C, `C.parts64` 64 parts of each of them, of the longest of
the axes that they are taken over; `A.shared` is a copy of the input A, for shared memory, and
`A.layout021` one with its dimensions in that order, so that the second lies side by side.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from tunefarm_compiler.te import (
    Axis,
    Compute,
    Constant,
    Expr,
    Index,
    Inside,
    Load,
    Reduce,
    Select,
    Tensor,
    rewrite,
)

PART = "part"
SHARED, LAYOUT = ".shared", ".layout"  # what copies of an input are called, after its own name
IDENTITY = {"add": 0.0, "max": -float("inf"), "min": float("inf")}
_LIMITS = {"max": {"int8": -128, "int32": -(1 << 31)}, "min": {"int8": 127, "int32": (1 << 31) - 1}}


def at_forms(expr: Expr, axes: dict[str, Index]) -> Expr | None:
    """A load or a condition, with forms in the place of axes; None for anything else."""
    if isinstance(expr, Load):
        return Load(expr.tensor, tuple(index.substitute(axes) for index in expr.indices))
    if isinstance(expr, Inside):
        return Inside(tuple(test.substitute(axes) for test in expr.tests))
    return None


def identity(op: str, dtype: str) -> float:
    """What changes nothing in a reduction."""
    return _LIMITS.get(op, {}).get(dtype, IDENTITY[op])


def cache(output: Tensor) -> str:
    """Name of the stage that holds the output's reduction, for a schedule that gives it scratch."""
    return f"{output.name}.cache"


def cached(output: Tensor, kept: Collection[str]) -> Tensor:
    """The output as a function of that stage, where it is kept."""
    if cache(output) not in kept or output.compute is None:
        return output
    axes, found = output.compute.axes, list[Tensor]()

    def leaf(expr: Expr) -> Expr | None:
        if not isinstance(expr, Reduce):
            return None
        shape = tuple(axis.extent for axis in axes)
        found.append(Tensor(cache(output), shape, expr.dtype, Compute(axes, expr)))
        return found[0][axes]

    body = rewrite(output.compute.body, leaf, {})
    return replace(output, compute=Compute(axes, body)) if len(found) == 1 else output


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

    body = rewrite(reduce.body, lambda expr: at_forms(expr, moved), {})
    if length * count > longest.extent:
        inside = moved[longest.name].within(0, longest.extent)
        nothing = Constant(identity(reduce.op, reduce.dtype), reduce.dtype)
        body = Select(Inside(inside.tests[1:]), body, nothing)
    shorter = Axis(longest.name, length, reduce=True)
    over = tuple(shorter if axis is longest else axis for axis in reduce.axes)
    every = (*axes, part)
    shape = tuple(axis.extent for axis in every)
    return Tensor(name, shape, reduce.dtype, Compute(every, Reduce(reduce.op, body, over)))


def copied(tensor: Tensor) -> Tensor:
    """The stage that holds a copy of an input, along axes d0, d1, ... of it."""
    return _copy(tensor, SHARED, range(len(tensor.shape)))


def laid_out(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """The stage that holds a copy of an input with its dimensions in that order."""
    return _copy(tensor, LAYOUT + "".join(map(str, order)), order)


def _copy(tensor: Tensor, what: str, order: Iterable[int]) -> Tensor:
    axes = [Axis(f"d{n}", extent) for n, extent in enumerate(tensor.shape)]
    turned = tuple(axes[n] for n in order)
    shape = tuple(axis.extent for axis in turned)
    made = Compute(turned, tensor[tuple(axes)])
    return Tensor(tensor.name + what, shape, tensor.dtype, made)


def from_copies(tensor: Tensor, body: Expr, kept: Collection[str]) -> Expr:
    """The body of a tensor with inputs read from their copies, where these are kept."""
    names = sorted(name for name in kept if SHARED in name or LAYOUT in name)
    if not names or tensor.name in names:
        return body

    def leaf(expr: Expr) -> Expr | None:
        if not isinstance(expr, Load) or expr.tensor.compute is not None:
            return None
        own, indices = expr.tensor, expr.indices
        if own.name + SHARED in names:
            return Load(copied(own), indices)
        for name in names:
            order = _order(name.removeprefix(own.name + LAYOUT))
            if sorted(order) == list(range(len(indices))):
                return Load(laid_out(own, order), tuple(indices[n] for n in order))
        return None

    return rewrite(body, leaf, {})


def _order(digits: str) -> list[int]:
    return [int(digit) for digit in digits] if digits.isdecimal() else []
