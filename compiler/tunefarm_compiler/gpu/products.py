"""Sums of products of two tensors, recognised in a stage and brought into one form.

Axes of the output that both factors move with are the batch; those of one factor alone are its
side: rows (m) of the left one, columns (n) of the right one. Axes of a side count as one, in the
output's order, and so do the reduce axes (k).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.emit import SIZES
from tunefarm_compiler.stages import Stage, plan
from tunefarm_compiler.te import (
    FLOATS,
    Axis,
    Binary,
    Cast,
    Constant,
    Expr,
    Index,
    Inside,
    Load,
    Reduce,
    Select,
    Tensor,
    walk,
)

VECTOR = 16  # bytes in the widest access


@dataclass(frozen=True)
class Flat:
    """Axes counted as one, the last of them fastest; those of one index are left out."""

    axes: tuple[Axis, ...]

    @cached_property
    def total(self) -> int:
        """Indices in all."""
        return prod(axis.extent for axis in self.axes)

    def stride(self, strides: Mapping[str, int]) -> int | None:
        """What one step moves an access by, where that is the same everywhere."""
        if not self.axes:
            return 0
        step = strides.get(self.axes[-1].name, 0)
        inner = 1
        for axis in reversed(self.axes):
            if strides.get(axis.name, 0) != step * inner:
                return None
            inner *= axis.extent
        return step


@dataclass(frozen=True)
class Window:
    """0 <= index < extent must hold for an access: two tests of one form."""

    index: Index
    extent: int


@dataclass(frozen=True)
class Factor:
    """One of the two: what is read, and where it is 0 instead."""

    load: Load
    windows: tuple[Window, ...]
    side: Flat
    k: Flat

    @property
    def dtype(self) -> str:
        """Its type in memory."""
        return self.load.dtype

    @cached_property
    def strides(self) -> dict[str, int]:
        """Elements that each axis moves it by."""
        return self.load.strides()[0]

    @property
    def offset(self) -> int:
        """Its first element, where every axis is 0."""
        return self.load.strides()[1]

    def tested(self, flat: Flat) -> bool:
        """Whether any of these axes decides whether it is read."""
        names = {axis.name for axis in flat.axes}
        return any(names & set(dict(one.index.terms)) for one in self.windows)

    def step(self, flat: Flat) -> int | None:
        """What a step along a side moves it by, where that is a number and nothing is tested."""
        return None if self.tested(flat) else flat.stride(self.strides)

    def run(self, flat: Flat) -> int:
        """How many indices in a row, from any multiple of it, lie side by side in memory."""
        found, length = 1, 1
        tested = {axis for one in self.windows for axis, _ in one.index.terms}
        for axis in reversed(flat.axes):
            if self.strides.get(axis.name, 0) != length or axis.name in tested:
                break
            length *= axis.extent
            found = length
        return found

    @cached_property
    def along(self) -> str:
        """What its lines in shared memory run along, "k" or "side": what lies closer in memory."""
        near = {"k": self.width(self.k), "side": self.width(self.side)}
        if near["k"] != near["side"]:
            return max(near, key=lambda name: near[name])
        steps = [self.strides.get(f.axes[-1].name, 0) if f.axes else 0 for f in (self.side, self.k)]
        if 0 in steps:
            return "k" if steps[0] == 0 else "side"
        return "side" if abs(steps[0]) < abs(steps[1]) or self.side.total >= 64 else "k"

    def width(self, flat: Flat) -> int:
        """Elements that one access may take along a side: a power of two, whole and aligned."""
        most, run = VECTOR // SIZES[self.dtype], self.run(flat)
        own, length = set(), 1
        for axis in reversed(flat.axes):
            if length >= run:
                break
            own.add(axis.name)
            length *= axis.extent
        others = [s for axis, s in self.strides.items() if axis not in own]
        while most > 1 and any(value % most for value in (run, self.offset, *others)):
            most //= 2
        return most


@dataclass(frozen=True)
class Product:
    """A sum of products: what contraction kernels compute."""

    stage: Stage
    left: Factor
    right: Factor
    batch: Flat
    m: Flat
    n: Flat
    k: Flat

    @property
    def total(self) -> str:
        """The type of the sums."""
        return self.stage.reduce.dtype if self.stage.reduce else self.stage.tensor.dtype

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch.total * self.m.total * self.n.total * self.k.total


def product(output: Tensor) -> Product | None:
    """The sum of products that a tensor is, with all before it inlined; None where it is none."""
    try:
        stages = plan(output, ())
    except InvalidScheduleError:
        return None
    stage = stages[-1]
    match stage.reduce:
        case Reduce("add", Binary("mul", one, two), axes):
            first, second = _peeled(one, stage.reduce.dtype), _peeled(two, stage.reduce.dtype)
        case _:
            return None
    if first is None or second is None or not _simple(stage):
        return None
    (left, left_windows), (right, right_windows) = first, second
    used = [_axes(left, left_windows), _axes(right, right_windows)]
    spatial = [axis for axis in stage.axes if axis.extent > 1]
    lone = [
        [axis for axis in spatial if (axis.name in used[0], axis.name in used[1]) == where]
        for where in ((True, False), (False, True))
    ]
    batch = [axis for axis in spatial if axis not in lone[0] and axis not in lone[1]]
    k = Flat(tuple(axis for axis in axes if axis.extent > 1))
    sides = [(left, left_windows, lone[0]), (right, right_windows, lone[1])]
    if spatial and spatial[-1] in lone[0]:  # columns lie side by side in the output
        sides.reverse()
    rows, columns = (Factor(load, windows, Flat(tuple(own)), k) for load, windows, own in sides)
    return Product(stage, rows, columns, Flat(tuple(batch)), rows.side, columns.side, k)


def _simple(stage: Stage) -> bool:
    """Whether what is done with the sum reads tensors as they are, and under no condition."""
    parts = [*walk(stage.body)]
    return not any(isinstance(one, Inside) for one in parts) and all(
        load.tensor.compute is None for load in stage.loads
    )


def _axes(load: Load, windows: Sequence[Window]) -> set[str]:
    indices = [*load.indices, *(window.index for window in windows)]
    return {axis for index in indices for axis, _ in index.terms}


def _peeled(expr: Expr, total: str) -> tuple[Load, tuple[Window, ...]] | None:
    """The access behind a factor, without its conversion and its padding by zeros."""
    match expr:
        case Load() if expr.tensor.compute is None and _widens(expr.dtype, total):
            return expr, ()
        case Cast(value) if expr.dtype == total:
            return _peeled(value, total)
        case Select(Inside(tests), yes, Constant(0)):
            inner, windows = _peeled(yes, total), _windows(tests)
            if inner is not None and windows is not None:
                return inner[0], (*inner[1], *windows)
    return None


def _widens(dtype: str, total: str) -> bool:
    """Whether every number of one type is one of the other."""
    if total == "float32":
        return dtype in FLOATS
    return total == "int32" and dtype in ("int8", "uint8", "int32")


def _windows(tests: Sequence[Index]) -> tuple[Window, ...] | None:
    """Tests in pairs, index >= 0 and index < extent; None where one is alone."""
    found, left = [], list(tests)
    while left:
        low = left.pop(0)
        for other in left:
            both = low + other
            if not both.terms:
                left.remove(other)
                found.append(Window(low, both.offset + 1))
                break
        else:
            return None
    return tuple(found)
