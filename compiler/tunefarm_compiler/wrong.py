"""What makes no tensor expression, said where it is written; what only a whole one tells: sound."""

import inspect
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Protocol, TypeVar

from tunefarm_proto.errors import InvalidRequestError


class Typed(Protocol):
    """What has a type of its elements."""

    @property
    def dtype(self) -> str:
        """Its name."""


T = TypeVar("T", bound=Typed)
A = TypeVar("A")


class ExpressionError(InvalidRequestError, ValueError):
    """A part of an expression that cannot stand there."""


def number(value: Any) -> Any:
    """A number, as it is. Raises: ExpressionError for anything else."""
    if isinstance(value, Real):
        return value
    if hasattr(value, "shape") and hasattr(value, "name"):
        raise ExpressionError(
            f"{value.name} is a tensor, not one value of it", f"say which: {value.name}[i, j]"
        )
    raise ExpressionError(f"{value!r:.60} is no expression", "give a number, or what tensors hold")


def alike(op: str, left: Typed, right: T) -> T:
    """The right operand. Raises: ExpressionError where it is of another type than the left one."""
    if right.dtype != left.dtype:
        raise ExpressionError(f"{op} of {left.dtype} and {right.dtype}", "cast one of them")
    return right


def valued(value: T) -> T:
    """An expression, as it is. Raises: ExpressionError for a number, a tensor and the like."""
    if not hasattr(value, "children"):
        number(value)
        raise ExpressionError(f"{value!r:.60} stands where its type is not known", "swap the two")
    return value


def whole(factor: Any) -> int:
    """What an index may be multiplied by. Raises: ExpressionError."""
    if not isinstance(factor, int):
        raise ExpressionError(f"an index times {factor!r:.60}", "give a whole number")
    return factor


def summed(axes: tuple[A, ...]) -> tuple[A, ...]:
    """Axes to reduce over. Raises: ExpressionError where one is something else."""
    for axis in axes:
        if not getattr(axis, "reduce", False):
            raise ExpressionError(f"{axis!r:.60} is no reduce axis", "make it by reduce_axis")
    return axes


def pairs(name: str, axes: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
    """Names and extents of a tensor's axes. Raises: ExpressionError."""
    for pair in axes:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ExpressionError(f"{name}: {pair!r:.60} is no axis", 'give ("i", 512)')
    return axes


def bodied(name: str, body: Callable[..., Any], axes: Sequence[object]) -> Any:
    """What a tensor's function gives for its axes. Raises: ExpressionError."""
    try:
        inspect.signature(body).bind(*axes)
    except TypeError as error:
        raise ExpressionError(
            f"{name} has {len(axes)} axes, and its function takes others: {error}",
            "let it take one argument for each",
        ) from None
    except ValueError:  # of a function in C, nothing is known of its arguments
        pass
    return body(*axes)
