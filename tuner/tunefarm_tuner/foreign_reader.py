"""Programs of TIR as forms."""

import math
from typing import TypeAlias

from tunefarm_compiler.te import Index

from tunefarm_tuner.foreign_forms import (
    Form,
    Space,
    call,
    cast,
    const,
    many,
    minus,
    reciprocal,
    select,
)
from tunefarm_tuner.foreign_tir import Program, Whole, loaded, lowest, span

Env: TypeAlias = dict[int, Index]


class Reader:
    """Forms of a program of TIR. Raises: ValueError, KeyError for what has none.

    `loads` holds for each load of an input its number and indices, None where one is not affine.
    """

    def __init__(self, program: Program, space: Space, whole: bool = False) -> None:
        self.program = program
        self.space = space
        self.loads: list[tuple[int, tuple[Index | None, ...]]] = []
        self.dtypes: set[str] = set()
        self._read: set[int] = set()
        self._index = Whole(program, space.extents)
        self._whole = whole  # axes of extent 1 too; then a form is not of any use

    def output(self, at: list[Index]) -> Form:
        """The output's element."""
        form = self._stage(self.program.output, at, len(self.program.stages))
        if self._read != set(self.program.stages):
            raise ValueError("a stage for nothing")
        return form

    def _stage(self, buffer: int, at: list[Index], before: int) -> Form:
        stage = self.program.stages[buffer]
        if stage.number >= before:
            raise ValueError("a buffer read before it is there")
        self._read.add(buffer)
        env = {var: one for var, one in zip(stage.axes, at, strict=True) if var is not None}
        names: tuple[str, ...] = ()
        for var, extent in stage.reduced:
            env[var], named = self._reduced(stage.value, var, extent)
            names += named
        self.dtypes.add(self.program.buffers[buffer].dtype)
        value = self._value(stage.value, env, stage.number)
        if not names:
            return value
        return ("reduce", stage.op, tuple((one, self.space.extents[one]) for one in names), value)

    def _reduced(self, value: int, var: int, extent: int) -> tuple[Index, tuple[str, ...]]:
        """The axis of a variable: two where it is only ever divided by the same number."""
        by = _divisors(self.program, value, var)
        if len(by) == 1 and extent % (size := by.pop()) == 0 and 1 < size < extent:
            (outer, one), (inner, two) = self.space.axis(extent // size), self.space.axis(size)
            return outer * size + inner, one + two
        return self.space.axis(extent, self._whole)

    def _value(self, at: int, env: Env, before: int) -> Form:
        self.program.budget.take()
        graph, kind = self.program.graph, self.program.graph.kind(at)
        if kind in ("IntImm", "FloatImm"):
            return self._const(at)
        if kind == "BufferLoad":
            return self._load(at, env, before)
        if kind == "Cast":
            return self._cast(at, env, before)
        if kind in ("Call", "Select"):
            return self._call(at, env, before)
        if kind not in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
            raise ValueError(f"a value by {kind}")
        self._typed(at)
        left, right = (self._value(graph.field(at, side), env, before) for side in "ab")
        if kind == "Sub":
            return minus(left, right)
        if kind != "Div":
            return many(kind.lower(), left, right)
        if "float" not in graph.dtype(at):
            raise ValueError("a division of whole numbers")
        return many("mul", left, reciprocal(right))

    def _typed(self, at: int) -> None:
        self.dtypes.add(self.program.graph.dtype(at))

    def _const(self, at: int) -> Form:
        graph = self.program.graph
        value, dtype = graph.number(at), graph.dtype(at)
        least = "float" in dtype and value == lowest(dtype)
        return const(-math.inf if least else value)

    def _load(self, at: int, env: Env, before: int) -> Form:
        graph, program = self.program.graph, self.program
        buffer, indices = loaded(graph, at), graph.items(graph.field(at, "indices"))
        if buffer not in program.inputs:
            places = [self._at(one, env) for one in indices]
            for place, extent in zip(places, program.buffers[buffer].shape, strict=True):
                low, high = span(self.space.extents, place)
                if low < 0 or high >= extent:
                    raise ValueError("a load from outside of a buffer")
            return self._stage(buffer, places, before)
        held, number = program.buffers[buffer], program.inputs.index(buffer)
        if self._whole:
            self.loads.append((number, tuple(self._maybe(one, env) for one in indices)))
            return ("load", number)
        pairs = zip(indices, held.steps, strict=True)
        address = sum((self._index.form(one, env) * step for one, step in pairs), Index())
        self.dtypes.add(held.dtype)
        return ("load", number, address)

    def _at(self, at: int, env: Env) -> Index:
        """Where another stage is read; where the form is of no use, what is not affine may be."""
        found = self._maybe(at, env) if self._whole else self._index.form(at, env)
        return found if found is not None else self.space.axis(1, keep=True)[0]

    def _maybe(self, at: int, env: Env) -> Index | None:
        try:
            return self._index.form(at, env)
        except ValueError:
            return None

    def _cast(self, at: int, env: Env, before: int) -> Form:
        graph = self.program.graph
        inner = graph.field(at, "value")
        to, of = graph.dtype(at), graph.dtype(inner)
        self.dtypes.add(to)
        if "float" in to and of in ("int32", "int64"):  # how many there are, say
            return const(self._number(inner, env))
        value = self._value(inner, env, before)
        return value if "float" in to and "float" in of else cast(to, value)

    def _number(self, at: int, env: Env) -> float:
        self.program.budget.take()
        graph = self.program.graph
        if graph.kind(at) == "Mul":
            return self._number(graph.field(at, "a"), env) * self._number(graph.field(at, "b"), env)
        if graph.kind(at) in ("Max", "Min"):
            pick = max if graph.kind(at) == "Max" else min
            return pick(self._number(graph.field(at, side), env) for side in "ab")
        form = self._index.form(at, env)
        if form.terms and not self._whole:
            raise ValueError("a number that changes")
        return float(form.offset)

    def _call(self, at: int, env: Env, before: int) -> Form:
        graph = self.program.graph
        if graph.kind(at) == "Select":
            name = "if_then_else"
            given = [graph.field(at, one) for one in ("condition", "true_value", "false_value")]
        else:
            name, given = graph.name(graph.field(at, "op")), graph.items(graph.field(at, "args"))
        self._typed(at)
        if name == "if_then_else":
            condition, yes, no = given
            tests = [] if self._whole else self._tests(condition, env)
            values = self._value(yes, env, before), self._value(no, env, before)
            return select(self.space.tests(tests), *values)
        if name not in ("exp", "sqrt", "rsqrt", "sigmoid", "tanh", "erf") or len(given) != 1:
            raise ValueError(f"a call of {name}")
        return call(name, self._value(given[0], env, before))

    def _tests(self, at: int, env: Env) -> list[Index]:
        """What a condition asks to be at least 0, all of it."""
        self.program.budget.take()
        graph, kind = self.program.graph, self.program.graph.kind(at)
        if kind == "And":
            sides = graph.field(at, "a"), graph.field(at, "b")
            return [test for side in sides for test in self._tests(side, env)]
        if kind not in ("LT", "LE", "GT", "GE"):
            raise ValueError(f"a condition by {kind}")
        left, right = (self._index.form(graph.field(at, side), env) for side in "ab")
        apart = right - left if kind in ("LT", "LE") else left - right
        return [apart - 1 if kind in ("LT", "GT") else apart]


def _divisors(program: Program, value: int, var: int) -> set[int]:
    """What a variable is divided by, by itself, anywhere in a value."""
    graph, found, todo, seen = program.graph, set[int](), [value], set[int]()
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        program.budget.take()
        kind = graph.kind(at)
        if kind in ("FloorDiv", "FloorMod") and graph.field(at, "a") == var:
            found.add(graph.whole(graph.field(at, "b")))
        for name in (
            "a",
            "b",
            "value",
            "indices",
            "args",
            "condition",
            "true_value",
            "false_value",
        ):
            if name in graph.names(at) and kind not in ("IntImm", "FloatImm"):
                todo.append(graph.field(at, name))
        if kind == "Array":
            todo += graph.items(at)
    return found
