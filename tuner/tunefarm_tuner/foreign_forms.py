"""What an expression computes, as a form: equal for those that do the same to the same memory.

A form is nested tuples. Each element of the output is one, at axes that the caller chose: stages
before it are written out where they are read, loads are of one address, an affine form of axes.
Sums and products know no order, a division is a product, and casts between floats are left out:
what is equal differs in rounding alone.
"""

import itertools
import math
import struct
from typing import Any, TypeAlias

from tunefarm_compiler import te
from tunefarm_compiler.te import Index

from tunefarm_tuner.foreign_tir import Budget, span

Form: TypeAlias = tuple[Any, ...]
REDUCED = 4  # axes of one reduction that are put in every order


def const(value: float) -> Form:
    """A number, as float32 has it."""
    if math.isfinite(value) and abs(value) < 3.4e38:
        value = struct.unpack("f", struct.pack("f", value))[0]
    return ("const", float(value))


def many(op: str, *given: Form) -> Form:
    """add, mul, max or min of any number."""
    found, number = list[Form](), {"add": 0.0, "mul": 1.0}.get(op)
    for one in given:
        for part in one[1] if one[0] == op else (one,):
            if part[0] == "const" and op == "add" and number is not None:
                number += part[1]
            elif part[0] == "const" and op == "mul" and number is not None:
                number *= part[1]
            else:
                found.append(part)
    if number is not None and (number != (1.0 if op == "mul" else 0.0) or not found):
        found.append(const(number))
    return found[0] if len(found) == 1 else (op, tuple(found))


def reciprocal(given: Form) -> Form:
    """1 / x."""
    if given[0] == "const" and given[1]:
        return const(1 / given[1])
    if given[0] == "mul":
        return many("mul", *(reciprocal(one) for one in given[1]))
    return given[2] if given[:2] == ("call", "reciprocal") else call("reciprocal", given)


def call(name: str, given: Form) -> Form:
    """A function of one number."""
    if name == "rsqrt":
        return reciprocal(call("sqrt", given))
    if name == "sigmoid":
        return reciprocal(many("add", const(1), call("exp", many("mul", const(-1), given))))
    return ("call", name, given)


def minus(left: Form, right: Form) -> Form:
    """left - right."""
    return many("add", left, many("mul", const(-1), right))


def select(tests: frozenset[Index], yes: Form, no: Form) -> Form:
    """`yes` where each of these is at least 0."""
    if yes[0] == "select" and yes[3] == no:
        tests, yes = tests | yes[1], yes[2]
    return ("select", tests, yes, no) if tests and yes != no else yes


def cast(to: str, given: Form) -> Form:
    """As another type; between floats it is nothing."""
    if given[0] == "const":
        return given
    if given[0] == "select":
        return select(given[1], cast(to, given[2]), cast(to, given[3]))
    return ("cast", to, given)


class Space:
    """Axes and their extents; those of reductions get names of their own."""

    def __init__(self, extents: dict[str, int]) -> None:
        self.extents = dict(extents)

    def axis(self, extent: int, keep: bool = False) -> tuple[Index, tuple[str, ...]]:
        """One more: its form, and its name where it has any steps."""
        if extent == 1 and not keep:
            return Index(), ()
        name = f"r{len(self.extents)}"
        self.extents[name] = extent
        return Index(((name, 1),)), (name,)

    def tests(self, given: list[Index]) -> frozenset[Index]:
        """Those that are not always so, each at least 0. Raises: ValueError where one never is."""
        found = set()
        for one in given:
            low, high = span(self.extents, one)
            if high < 0:
                raise ValueError("a condition that never holds")
            if low < 0:
                step = math.gcd(*(c for _, c in one.terms))
                terms = tuple((axis, c // step) for axis, c in one.terms)
                found.add(Index(terms, one.offset // step))
        return frozenset(found)


def of_expression(output: te.Tensor, given: list[te.Tensor], space: Space, at: list[Index]) -> Form:
    """The form of one of our expressions, at `at`. Raises: ValueError for what has none."""
    assert output.compute is not None  # noqa: S101 (inputs are not asked for)
    env = dict(zip((axis.name for axis in output.compute.axes), at, strict=True))

    def value(expr: te.Expr) -> Form:
        if isinstance(expr, te.Constant):
            return const(expr.value)
        if isinstance(expr, te.Load):
            indices = [one.substitute(env) for one in expr.indices]
            if expr.tensor.compute is not None:
                return of_expression(expr.tensor, given, space, indices)
            pairs = zip(indices, expr.tensor.steps(), strict=True)
            address = sum((one * step for one, step in pairs), Index())
            return ("load", given.index(expr.tensor), address)
        if isinstance(expr, te.Reduce):
            names: tuple[str, ...] = ()
            for axis in expr.axes:
                env[axis.name], named = space.axis(axis.extent)
                names += named
            body = value(expr.body)
            axes = tuple((one, space.extents[one]) for one in names)
            return ("reduce", expr.op, axes, body) if names else body
        if isinstance(expr, te.Select) and isinstance(expr.condition, te.Inside):
            tests = space.tests([one.substitute(env) for one in expr.condition.tests])
            return select(tests, value(expr.yes), value(expr.no))
        if isinstance(expr, te.Cast):
            floats = expr.to in te.FLOATS and expr.value.dtype in te.FLOATS
            return value(expr.value) if floats else cast(expr.to, value(expr.value))
        return _arithmetic(expr, value)

    return value(output.compute.body)


def _arithmetic(expr: te.Expr, value: Any) -> Form:
    if isinstance(expr, te.Unary) and expr.op in ("sqrt", "neg"):
        held = value(expr.value)
        return call("sqrt", held) if expr.op == "sqrt" else many("mul", const(-1), held)
    name = getattr(expr, "name", "")
    if name == "exp":
        return call("exp", value(getattr(expr, "argument")))  # noqa: B009 (of a Function)
    if isinstance(expr, te.Binary) and name in ("", "quotient"):
        left, right = value(expr.left), value(expr.right)
        if expr.op == "sub":
            return minus(left, right)
        if expr.op in ("add", "mul", "max", "min"):
            return many(expr.op, left, right)
        if expr.op == "div":
            return many("mul", left, reciprocal(right))
    raise ValueError("an expression without a form")


def canonical(form: Form, budget: Budget, depth: int = 0) -> Form:
    """The same for forms that differ in names and order alone. Raises: ValueError, of too much."""
    budget.take()
    kind = form[0]
    if kind in ("add", "mul", "max", "min"):
        parts = (canonical(one, budget, depth) for one in form[1])
        return (kind, tuple(sorted(parts, key=repr)))
    if kind in ("call", "cast"):
        return (kind, form[1], canonical(form[2], budget, depth))
    if kind == "select":
        tests = tuple(sorted(form[1], key=repr))
        return (kind, tests, *(canonical(one, budget, depth) for one in form[2:]))
    if kind != "reduce":
        return form
    if len(form[2]) > 2 * REDUCED or len((merged := _merged(form))[2]) > REDUCED:
        raise ValueError("a reduction over too many axes")
    _, op, axes, body = merged
    found = list[Form]()
    for order in itertools.permutations(axes):
        names = {name: f"#{depth}.{at}" for at, (name, _) in enumerate(order)}
        inner = canonical(_renamed(body, names), budget, depth + 1)
        found.append((kind, op, tuple(extent for _, extent in order), inner))
    return min(found, key=repr)


def _renamed(form: Form, names: dict[str, str]) -> Form:
    env = {old: Index(((new, 1),)) for old, new in names.items()}
    made: Form = _substituted(form, env)
    return made


def _substituted(form: Any, env: dict[str, Index]) -> Any:
    if isinstance(form, Index):
        return form.substitute(env)
    if isinstance(form, tuple):
        return tuple(_substituted(one, env) for one in form)
    if isinstance(form, frozenset):
        return frozenset(_substituted(one, env) for one in form)
    return form


def _indices(form: Any) -> list[Index]:
    if isinstance(form, Index):
        return [form]
    inside = form if isinstance(form, tuple | frozenset) else ()
    return [index for one in inside for index in _indices(one)]


def _merged(form: Form) -> Form:
    """With one axis where two are only ever one after the other, as rows and columns are."""
    _, op, axes, body = form
    held = [dict(index.terms) for index in _indices(body)]
    for (outer, rows), (inner, columns) in itertools.permutations(axes, 2):
        if all(one.get(outer, 0) == one.get(inner, 0) * columns for one in held):
            left = [one for one in axes if one[0] not in (outer, inner)]
            body = _substituted(body, {outer: Index()})
            return _merged(("reduce", op, (*left, (inner, rows * columns)), body))
    return form
