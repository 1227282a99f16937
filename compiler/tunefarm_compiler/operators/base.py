"""What an operator is."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.functions import ACTIVATIONS

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Values: TypeAlias = Sequence[Array]


@dataclass(frozen=True)
class Field:
    """A size or choice in a workload's text. One without a default must be given.

    `like` is a field before it, which has its value where it is given none.
    """

    name: str
    default: int | str | None = None
    low: int = 1
    choices: tuple[str, ...] = ()
    high: int = 1 << 28
    like: str = ""

    @property
    def needed(self) -> bool:
        """Whether it must be given."""
        return self.default is None and not self.like

    @property
    def form(self) -> str:
        """How it is written."""
        return f"{self.name}={'|'.join(self.choices) if self.choices else 'N'}"


def fields(*required: str, **optional: int) -> tuple[Field, ...]:
    """Required sizes, then optional ones with their defaults; what is 0 by default may be 0."""
    more = [Field(name, value, min(value, 1)) for name, value in optional.items()]
    return (*(Field(name) for name in required), *more)


ACT = Field("act", "none", choices=tuple(ACTIVATIONS))


@dataclass(frozen=True)
class Operator:
    """A kind of workload. Its functions take the fields by name.

    `reference` takes the inputs in float64 and then the fields. `terms` is how many rounded
    operations lie behind an output of size 1, for inputs that are standard normal; 0 where the
    output is exact.
    """

    fields: tuple[Field, ...]
    expression: Callable[..., te.Tensor]
    operations: Callable[..., int]
    reference: Callable[..., Array]
    terms: Callable[..., int]
    dtypes: tuple[str, ...] = ("float32",)
    file: str = ""  # that a user named; none for those of packages

    def __call__(self, *given: int | str, **named: int | str) -> te.Tensor:
        """The expression, as the function gives it."""
        return self.expression(*given, **named)

    def express(self, dtype: str, **given: int | str) -> te.Tensor:
        """The expression; operators of one dtype need not know of it."""
        return (
            self.expression(**given) if len(self.dtypes) == 1 else self.expression(dtype, **given)
        )


def operator(
    *,
    operations: Callable[..., int],
    reference: Callable[..., Array],
    terms: Callable[..., int],
    dtypes: Sequence[str] = ("float32",),
    fields: Sequence[Field] = (),
) -> Callable[[Callable[..., te.Tensor]], Operator]:
    """Make an operator of a function that gives a tensor expression; it bears the function's name.

    Its fields are the function's parameters, whole numbers, unless `fields` says more of them.
    Where `dtypes` are several, the function takes the dtype first. What else: see `Operator`.
    Raises: ValueError.
    """
    if not dtypes or any(one not in (*te.FLOATS, *te.INTEGERS) for one in dtypes):
        known = ", ".join((*te.FLOATS, *te.INTEGERS))
        raise ValueError(f"dtypes={dtypes!r}: known are {known}")

    def made(expression: Callable[..., te.Tensor]) -> Operator:
        named = list(inspect.signature(expression).parameters.values())[len(dtypes) > 1 :]
        own = tuple(fields) or tuple(_field(one) for one in named)
        if {one.name for one in own} & {"dtype", "source"}:
            raise ValueError("dtype and source are no names of fields")
        for number, one in enumerate(own):
            if one.like and one.like not in {before.name for before in own[:number]}:
                raise ValueError(f"{one.name} is like {one.like}, which is no field before it")
        return Operator(own, expression, operations, reference, terms, tuple(dtypes))

    return made


def _field(given: inspect.Parameter) -> Field:
    """The field of a function's parameter: one that must be given, or has a number by default."""
    if given.kind in (given.VAR_POSITIONAL, given.VAR_KEYWORD, given.POSITIONAL_ONLY):
        raise ValueError(f"parameter {given} has no name of its own")
    if given.default is given.empty:
        return Field(given.name)
    if not isinstance(given.default, int):
        raise ValueError(f"{given}: name what it may be, by fields=")
    return Field(given.name, int(given.default), min(int(given.default), 1))


# Inputs, and what is summed in: int8 gives int32, halves are rounded once at the end.
SUMS = {"float32": "float32", "float16": "float32", "bfloat16": "float32", "int8": "int32"}
EVERY = (*te.FLOATS, "int8")


def widened(value: te.Expr) -> te.Expr:
    """A value in the type that it is worked on in: halves in float32, which is exact."""
    return te.cast(value, "float32") if value.dtype in te.FLOATS else value


def product(left: te.Expr, right: te.Expr) -> te.Expr:
    """left x right in the type that sums of them are taken in."""
    total = SUMS[left.dtype]
    return te.cast(left, total) * te.cast(right, total)


def rounded(total: te.Expr, dtype: str) -> te.Expr:
    """A sum as the result of inputs of that dtype."""
    return te.cast(total, dtype) if dtype in te.FLOATS else total


def activated(total: te.Expr, act: str, dtype: str) -> te.Expr:
    """A sum through its activation, as the result of inputs of that dtype. Raises: ValueError."""
    if dtype == "int8" and act not in ("none", "relu"):
        raise ValueError(f"act={act} of int32 sums is not defined, only relu is")
    return rounded(ACTIVATIONS[act](total), dtype)
