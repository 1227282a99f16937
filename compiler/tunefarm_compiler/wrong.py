"""What makes no tensor expression, said where it is written; what only a whole one tells: sound."""

from numbers import Real
from typing import Any, Protocol, TypeVar

from tunefarm_proto.errors import InvalidRequestError


class Typed(Protocol):
    """What has a type of its elements."""

    @property
    def dtype(self) -> str:
        """Its name."""


T = TypeVar("T", bound=Typed)


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
