"""Winograd's minimal filtering for windows of 3, by stages that only a schedule makes.

Two outputs side by side take six products with a window of 3; F(2, 3) takes four, of sums of inputs
and of sums of weights, and adds these up. Where a sum runs over channels too, this is done in both
directions, F(2 x 2, 3 x 3): 16 products for 36, each a matrix product over the channels. `C` is
computed so where a schedule keeps `C.winograd.filters`, the transformed weights, and, of sums over
channels, `C.winograd.inputs` and `C.winograd.sums`. A window in one direction costs ten operations
for nine, but only six multiplications: it pays where additions have units of their own.

Its coefficients are 0, 1 and 1/2, so answers are as near to the exact ones as those of the sum as
it is written, where values under a window are of one size: errors go by the largest value times the
largest weight, not by the largest product. But what is infinite, or nearly too large, may give NaN
where that gives infinity.
After A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.additions import at_forms, laid_out
from tunefarm_compiler.te import (
    Axis,
    Binary,
    Compute,
    Constant,
    Expr,
    Fma,
    Index,
    Inside,
    Load,
    Reduce,
    Select,
    Tensor,
    rewrite,
    sum_of,
    walk,
)

# Two outputs of windows of 3 over four inputs.
OUTPUTS, WINDOW, TERMS = 2, 3, 4
INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
FILTER = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
PART, TERM = ".part", ".term"  # axes of the outputs side by side, and of the terms they are made of


def filters(output: Tensor) -> str:
    """Name of the stage that holds the transformed weights, for a schedule that wants them."""
    return f"{output.name}.winograd.filters"


def picked(axis: str) -> bool:
    """Whether an axis tells terms or outputs apart, each by an expression of its own."""
    return axis.endswith((PART, TERM))


@dataclass(frozen=True)
class Slide:
    """An axis of the output along which a window of 3 slides."""

    axis: Axis
    step: Axis

    @property
    def term(self) -> Axis:
        """The axis of its terms."""
        return Axis(self.axis.name + TERM, TERMS)

    @property
    def part(self) -> Axis:
        """The axis of outputs side by side."""
        return Axis(self.axis.name + PART, OUTPUTS)

    def at(self, step: int) -> dict[str, Index]:
        """The first of two windows side by side, at a step from there."""
        return {self.axis.name: self.axis * OUTPUTS, self.step.name: Index((), step)}


@dataclass(frozen=True)
class Windows:
    """A sum of products of what lies under windows by their weights, in an output's expression."""

    output: Tensor
    axes: tuple[Axis, ...]
    body: Expr
    reduce: Reduce
    data: Expr
    weight: Load
    rows: Slide
    columns: Slide

    @property
    def channels(self) -> tuple[Axis, ...]:
        """What is summed over beside the window."""
        return tuple(a for a in self.reduce.axes if a not in (self.rows.step, self.columns.step))

    @property
    def own(self) -> tuple[Axis, ...]:
        """Axes of the output that the weights alone are read by: output channels, last of all."""
        both = self._of(self.data)
        return tuple(axis for axis in self._of(self.weight) if axis not in both)

    def names(self) -> tuple[str, ...]:
        """The stages that a schedule keeps; one of them inputs with their channels last."""
        if not self.channels:
            return (filters(self.output),)
        stages = [f"{self.output.name}.winograd.{one}" for one in ("inputs", "sums")]
        load = self.data.yes if isinstance(self.data, Select) else self.data
        assert isinstance(load, Load)  # noqa: S101
        summed = {axis.name for axis in self.channels}
        read = [{axis for axis, _ in index.terms} for index in load.indices]
        last = [n for n, names in enumerate(read) if names and names <= summed]
        order = [n for n in range(len(load.indices)) if n not in last] + last
        if order != sorted(order) and load.tensor.compute is None:
            stages.append(laid_out(load.tensor, order).name)
        return (filters(self.output), *stages)

    def vectors(self) -> str:
        """The axis of the output that vectors run along; "" where there is none."""
        if self.channels:
            return self.own[-1].name if self.own else ""
        last = self.axes[-1]
        return last.name if last in self._of(self.weight) else ""

    def rewritten(self) -> Tensor:
        """The output, computed so."""
        return self._both() if self.channels else self._along()

    def _along(self) -> Tensor:
        """In one direction: of each row under the window its terms, added up over the rows."""
        side, row, own = self.columns, self.rows.step, self._of(self.weight)
        steps = [self._weight({}, column) for column in range(WINDOW)]
        held = _pick(side.term, [_combined(line, steps) for line in FILTER])
        made = _tensor(filters(self.output), [_plain(row), side.term, *own], held)
        read = [
            [self._data({row.name: Index((), r)} | side.at(n)) for n in range(TERMS)]
            for r in range(WINDOW)
        ]
        terms = []
        for number, line in enumerate(INPUT):
            first, *others = [
                (made[(r, number, *own)], _combined(line, read[r])) for r in range(WINDOW)
            ]
            total = first[0] * first[1]
            for weight, value in others:
                total = Fma(weight, value, total)
            terms.append(total)
        return self._output(_pick(side.part, [_combined(line, terms) for line in OUTPUT]), (side,))

    def _both(self) -> Tensor:
        """In both directions: terms of weights and of inputs, sums of their products, outputs."""
        rows, columns, over = self.rows, self.columns, self.channels
        both = (rows.term, columns.term)
        outer = [axis for axis in self._of(self.weight) if axis not in self.own]
        window = [
            [self._weight({rows.step.name: Index((), r)}, s) for r in range(WINDOW)]
            for s in range(WINDOW)
        ]
        square = [
            [self._data(rows.at(r) | columns.at(s)) for r in range(TERMS)] for s in range(TERMS)
        ]
        of_weights = (*both, *outer, *map(_plain, over), *self.own)
        of_inputs = (*self._with_terms(self._of(self.data)), *map(_plain, over))
        others = [axis for axis in self.axes if axis not in self.own]
        of_sums = (*self._with_terms(others), *self.own)
        names = self.names()
        made = _tensor(names[0], of_weights, _squared(FILTER, *both, window))
        read = _tensor(names[1], of_inputs, _squared(INPUT, *both, square))
        summed = _tensor(names[2], of_sums, sum_of(read[of_inputs] * made[of_weights], *over))

        def term(i: int, j: int) -> Expr:
            fixed = {rows.term.name: i, columns.term.name: j}
            return summed[tuple(fixed.get(axis.name, axis) for axis in of_sums)]

        terms = [[term(i, j) for i in range(TERMS)] for j in range(TERMS)]
        return self._output(_squared(OUTPUT, rows.part, columns.part, terms), (rows, columns))

    def _with_terms(self, axes: Sequence[Axis]) -> tuple[Axis, ...]:
        """Axes of halves, the terms behind the rows."""
        found: list[Axis] = []
        for axis in axes:
            found.append(self._halved(axis))
            if axis == self.rows.axis:
                found += [self.rows.term, self.columns.term]
        return tuple(found)

    def _halved(self, axis: Axis) -> Axis:
        split = axis in (self.rows.axis, self.columns.axis)
        return Axis(axis.name, axis.extent // OUTPUTS) if split else axis

    # Parts of both

    def _of(self, expr: Expr) -> list[Axis]:
        """Axes of the output that an expression depends on."""
        names = _moving(expr)
        return [axis for axis in self.axes if axis.name in names]

    def _data(self, at: dict[str, Index]) -> Expr:
        return rewrite(self.data, lambda expr: at_forms(expr, at), {})

    def _weight(self, at: dict[str, Index], column: int) -> Expr:
        at = at | {self.columns.step.name: Index((), column)}
        return Load(self.weight.tensor, tuple(i.substitute(at) for i in self.weight.indices))

    def _output(self, value: Expr, sides: Sequence[Slide]) -> Tensor:
        """The output with that in the place of its sum, axes of windows split in two."""
        axes: list[Axis] = []
        moved: dict[str, Index] = {}
        for axis in self.axes:
            side = next((one for one in sides if one.axis == axis), None)
            axes.append(self._halved(axis) if side else axis)
            if side:
                axes.append(side.part)
                moved[axis.name] = axis * OUTPUTS + side.part

        def leaf(expr: Expr) -> Expr | None:
            return value if expr is self.reduce else at_forms(expr, moved)

        made = _tensor(self.output.name, axes, rewrite(self.body, leaf, {}))
        return replace(made, view=self.output.outside)


Inline: TypeAlias = Callable[[Expr, Collection[str]], Expr]


def minimal(output: Tensor, kept: frozenset[str], inline: Inline) -> Tensor:
    """The output by fewer products, where the stage of their weights is kept.

    Raises: InvalidScheduleError.
    """
    if filters(output) not in kept or output.compute is None:
        return output
    return _minimal(output, output.compute, kept, inline)


@lru_cache(64)  # a search asks for the same one with each candidate
def _minimal(output: Tensor, made: Compute, kept: frozenset[str], inline: Inline) -> Tensor:
    found, own = windows(output, inline(made.body, kept)), filters(output)
    if found is None:
        raise InvalidScheduleError(
            f"schedule: no stage {own!r}",
            f"{output.name} is no float32 sum under windows of 3 x 3 in steps of 1, whose rows and "
            "columns are even in number, with nothing else of it kept",
        )
    if missing := {f"{output.name}.winograd.sums"} & {*found.names()} - kept:
        raise InvalidScheduleError(f"schedule: {own} without {min(missing)}", "attach it too")
    return found.rewritten()


def windows(output: Tensor, body: Expr) -> Windows | None:
    """The windows in an output's expression, all inlined, where they can be computed so."""
    reductions = [expr for expr in walk(body) if isinstance(expr, Reduce)]
    if len(reductions) != 1 or output.compute is None:
        return None
    (reduce,), axes = reductions, output.compute.axes
    if (reduce.op, reduce.dtype) != ("add", "float32") or not isinstance(reduce.body, Binary):
        return None
    if not _free(output, axes, body, reduce):
        return None
    left, right = reduce.body.left, reduce.body.right
    for data, weight in ((left, right), (right, left)) if reduce.body.op == "mul" else ():
        load = data.yes if isinstance(data, Select) else data
        if not isinstance(load, Load) or not isinstance(weight, Load):
            continue
        slides = list(_slides(load, axes, reduce.axes))
        if len(slides) == 2 and _sound(data, load, weight, slides):
            found = Windows(output, axes, body, reduce, data, weight, *slides)
            return found if found.vectors() else None
    return None


def _slides(load: Load, axes: Sequence[Axis], summed: Sequence[Axis]) -> Iterator[Slide]:
    for index in load.indices:
        names = dict(index.terms)
        if len(names) == 2 and set(names.values()) == {1}:
            along = [axis for axis in axes if axis.name in names]
            steps = [axis for axis in summed if axis.name in names and axis.extent == WINDOW]
            if along and steps and along[0].extent % OUTPUTS == 0:
                yield Slide(along[0], steps[0])


def _free(output: Tensor, axes: Sequence[Axis], body: Expr, reduce: Reduce) -> bool:
    """Whether new axes and stages have names of their own, and no condition is around the sum.

    What it reads outside of such a condition may not be there.
    """
    names = [axis.name for axis in (*axes, *reduce.axes)]
    if len(set(names)) < len(names) or any(map(picked, names)):
        return False
    for expr in walk(body):
        if isinstance(expr, Load) and expr.tensor.name.startswith(f"{output.name}.winograd."):
            return False
        guards = isinstance(expr, Select) and isinstance(expr.condition, Inside)
        if guards and any(one is reduce for one in walk(expr)):
            return False
    return True


def _moving(expr: Expr) -> set[str]:
    """Axes that what is read, or whether it is, depends on."""
    found: set[str] = set()
    for one in walk(expr):
        forms = one.indices if isinstance(one, Load) else ()
        forms = one.tests if isinstance(one, Inside) else forms
        found |= {axis for form in forms for axis, _ in form.terms}
    return found


def _sound(data: Expr, load: Load, weight: Load, slides: Sequence[Slide]) -> bool:
    """Whether nothing but the windows moves with them."""
    names = [name for one in slides for name in (one.axis.name, one.step.name)]
    if len(set(names)) < len(names):
        return False
    tests: tuple[Index, ...] = ()
    if isinstance(data, Select):
        if not isinstance(data.condition, Inside) or not isinstance(data.no, Constant):
            return False
        if data.no.value != 0:
            return False
        tests = data.condition.tests
    together = all(
        dict(test.terms).get(one.axis.name, 0) == dict(test.terms).get(one.step.name, 0)
        for test in tests
        for one in slides
    )
    read = [name for index in load.indices for name, _ in index.terms if name in names]
    used = [index.terms for index in weight.indices if {a for a, _ in index.terms} & {*names}]
    lone = sorted(used) == sorted(((one.step.name, 1),) for one in slides)
    return together and len(read) == len(names) and lone


def _plain(axis: Axis) -> Axis:
    """A summed axis as one of a tensor that holds its terms."""
    return Axis(axis.name, axis.extent)


def _tensor(name: str, axes: Sequence[Axis], body: Expr) -> Tensor:
    shape = tuple(axis.extent for axis in axes)
    return Tensor(name, shape, body.dtype, Compute(tuple(axes), body))


def _pick(axis: Axis, values: Sequence[Expr]) -> Expr:
    """One of them for each index of an axis."""
    *first, made = values
    for number in reversed(range(len(first))):
        made = Select(Inside((axis * -1 + number,)), first[number], made)  # up to that one
    return made


def _combined(line: Sequence[float], values: Sequence[Expr]) -> Expr:
    """A sum of values, each added, taken away or left out; of those by a half, half of the sum."""
    added = [value for by, value in zip(line, values, strict=True) if by > 0]
    taken = [value for by, value in zip(line, values, strict=True) if by < 0]
    total, *more = added
    for value in more:
        total = total + value
    for value in taken:
        total = total - value
    return total * 0.5 if 0.5 in line else total


def _squared(
    lines: Sequence[Sequence[float]], rows: Axis, columns: Axis, steps: Sequence[Sequence[Expr]]
) -> Expr:
    """Columns of values combined by rows, and these by columns."""
    inner = [_pick(rows, [_combined(line, column) for line in lines]) for column in steps]
    return _pick(columns, [_combined(line, inner) for line in lines])
