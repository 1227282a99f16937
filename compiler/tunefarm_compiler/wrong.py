"""What makes no tensor expression, said where it is written; what only a whole one tells: sound."""

import inspect
import operator
from collections.abc import Callable, Sequence
from math import inf, prod
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol, TypeVar

from tunefarm_proto.errors import InvalidRequestError


class Typed(Protocol):
    """What has a type of its elements."""

    @property
    def dtype(self) -> str:
        """Its name."""


LARGEST = 3.4028235e38  # of float32
T = TypeVar("T", bound=Typed)
A = TypeVar("A")


class ExpressionError(InvalidRequestError, ValueError):
    """A part of an expression that cannot stand there."""


def told(value: Any) -> str:
    """What something is, in a few words."""
    if isinstance(value, Array):
        return f"tensor {getattr(value, 'name', '')}"
    if isinstance(value, Place):
        return f"axis {value.name}" if hasattr(value, "name") else "an index"
    if isinstance(value, Value):
        if hasattr(value, "tensor"):
            return f"{value.tensor.name}[...]"
        return f"a value of {getattr(value, 'dtype', '')}"
    if isinstance(value, list | tuple | dict) or callable(value):
        return f"a {type(value).__name__}"
    return " ".join(repr(value).split())[:60]


# Operators of Python's that would be a TypeError, or worse, do something that nobody meant


class _Refusing:
    _refused: ClassVar[dict[str, tuple[str, str]]] = {}  # operators: what they are, what to write

    def __init_subclass__(cls) -> None:
        for names, (said, hint) in cls.__dict__.get("_refused", {}).items():
            for name in names.split():
                setattr(cls, f"__{name}__", _refusal(said, hint))

    def __bool__(self) -> bool:  # else Python asks for the length
        return True


def _refusal(said: str, hint: str) -> Callable[..., Any]:
    def refuse(self: _Refusing, *_: object) -> Any:
        raise ExpressionError(f"{said} {told(self)}", hint)

    return refuse


_NUMBERS = "float int index complex round trunc floor ceil"
_POWERS = "pow rpow floordiv rfloordiv mod rmod divmod rdivmod matmul rmatmul"
_BITS = "and rand or ror xor rxor invert lshift rlshift rshift rrshift"
_HELD = "iter len getitem setitem call contains"


class Value(_Refusing):
    """An expression: known only when the kernel runs."""

    _refused: ClassVar = {
        _NUMBERS: ("Python asks for the number of", "functions has exp, log, sqrt, absolute, ..."),
        "abs": ("abs of", "write functions.absolute(x)"),
        "ge le": (">= or <= of", "write a < b or a > b, and swap what select chooses from"),
        _POWERS: ("a power, remainder, // or @ of", "write it by + - * / and functions"),
        _BITS: ("& | ^ ~ or a shift of", "nest selects; & joins what INDEX.within gives"),
        _HELD: ("a part of", "it is one value: read an element of a tensor, A[i, j]"),
    }

    def __bool__(self) -> bool:
        if getattr(self, "dtype", "") == "bool":  # any other one is there, or None in its place
            raise ExpressionError(
                "Python asks for the truth of a condition",
                "choose by select(CONDITION, YES, NO), maximum or minimum",
            )
        return True

    def __array_ufunc__(self, function: Any, _: str, *given: Any, **__: Any) -> Any:
        """Numpy's numbers may stand before it; numpy's functions know nothing of it."""
        signs = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "truediv"}
        if len(given) == 2 and function.__name__ in signs and not isinstance(given[0], Value):
            return getattr(operator, signs[function.__name__])(number(given[0]), given[1])
        raise ExpressionError(
            f"numpy's {function.__name__} of {told(self)}",
            "functions has exp, log, sqrt, ..., te has maximum and minimum",
        )


class Place(_Refusing):
    """An axis or an index: where something is read, no value."""

    _refused: ClassVar = {
        "lt le gt ge": ("a comparison of", "the condition is INDEX.within(LOW, HIGH)"),
        _NUMBERS: ("Python asks for the number of", "sum_of(BODY, AXIS) goes over a reduce axis"),
        f"{_POWERS} truediv rtruediv": (
            "a quotient, remainder or power of",
            "compute over two axes and read A[outer * 2 + inner]",
        ),
        f"{_BITS} abs": ("& | ^ ~ abs or a shift of", "& joins what INDEX.within gives"),
        _HELD: ("a part of", "sum_of(BODY, AXIS) goes over a reduce axis"),
    }


class Array(_Refusing):
    """A tensor: its elements are worked on one by one."""

    _refused: ClassVar = {
        f"add radd sub rsub mul rmul truediv rtruediv neg abs lt le gt ge {_POWERS} {_BITS}": (
            "arithmetic with the whole of",
            "give each element: compute(NAME, AXES, lambda i, j: A[i, j] * 2.0)",
        ),
        f"{_NUMBERS} iter len contains": (
            "Python asks for the elements of",
            "read one where it is used: A[i, j]; sum_of(A[i, r], r) adds them up",
        ),
        "call": ("a call of", "an element is read by brackets: A[i, j]"),
        "setitem": ("an assignment to", "compute gives each element"),
    }


# Values


def number(value: Any, dtype: str = "float32") -> Any:
    """A number that `dtype` can hold, as Python's own. Raises: ExpressionError for all else."""
    if isinstance(value, Array):
        raise ExpressionError(
            f"{getattr(value, 'name', '')} is a tensor, not one value of it",
            "say which: A[i, j]",
        )
    if not isinstance(value, Real):
        hint = "give a number, or what tensors hold"
        hint = "it says where to read: A[i]" if isinstance(value, Place) else hint
        raise ExpressionError(f"{told(value)} is no expression", hint)
    if isinstance(value, bool):
        raise ExpressionError(
            f"{value} is Python's own, and no condition",
            "conditions are a < b, a > b and INDEX.within(LOW, HIGH)",
        )
    if not _fits(value, dtype):
        raise ExpressionError(f"{value!s:.20} is no {dtype}", "cast the other side to one it fits")
    return int(value) if isinstance(value, Integral) else float(value)


def _fits(value: Any, dtype: str) -> bool:
    kind = dtype.removeprefix("u")
    if kind.startswith("int") and kind[3:].isdecimal():
        bits = int(kind[3:])
        low, high = (0, 1 << bits) if kind != dtype else (-1 << bits - 1, 1 << bits - 1)
        return bool(low <= value < high and value == int(value))
    return not LARGEST < abs(value) < inf


def alike(op: str, left: Typed, right: T) -> T:
    """The right operand. Raises: ExpressionError where it is of another type than the left one."""
    if right.dtype != left.dtype:
        raise ExpressionError(f"{op} of {left.dtype} and {right.dtype}", "cast one of them")
    return right


def valued(value: T) -> T:
    """An expression, as it is. Raises: ExpressionError for a number, a tensor and the like."""
    if not isinstance(value, Value):
        number(value)
        raise ExpressionError(f"{told(value)} stands where its type is not known", "swap the two")
    return value


def condition(value: T) -> T:
    """What chooses. Raises: ExpressionError."""
    if valued(value).dtype != "bool":
        raise ExpressionError(f"{told(value)} is no condition", "write x > 0.0, say")
    return value


def inside(value: A) -> A:
    """What `&` joins to a condition on an index. Raises: ExpressionError."""
    if not hasattr(value, "tests"):
        raise ExpressionError(f"& of {told(value)}", "nest selects; & joins INDEX.within(...)")
    return value


# Places


def whole(factor: Any) -> int:
    """What an index may be multiplied by. Raises: ExpressionError."""
    return _whole(factor, "an index times {}", "give a whole number")


def place(index: Any) -> int:
    """A number as an index. Raises: ExpressionError."""
    return _whole(index, "{} is no index", "give sums of axes and whole numbers")


def _whole(value: Any, said: str, hint: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ExpressionError(said.format(told(value)), hint)
    return int(value)


def read(name: str, shape: Sequence[int], indices: Any) -> tuple[Any, ...]:
    """An index for each axis of a tensor. Raises: ExpressionError."""
    given = indices if isinstance(indices, tuple) else (indices,)
    if len(given) != len(shape):
        axes = f"{name}{[*shape]} has {len(shape)} axes, not {len(given)}"
        raise ExpressionError(axes, "give an index for each, as in A[i, j]")
    return given


def summed(axes: tuple[A, ...]) -> tuple[A, ...]:
    """Axes to reduce over. Raises: ExpressionError where one is something else."""
    for axis in axes:
        if not getattr(axis, "reduce", False):
            raise ExpressionError(
                f"{told(axis)} is no reduce axis",
                "make it by reduce_axis, and give one after the other",
            )
    if not axes or len(set(axes)) < len(axes):
        which = "one axis twice" if axes else "no axis"
        raise ExpressionError(
            f"a sum or extreme over {which}", "as in sum_of(A[i, r] * B[r, j], r)"
        )
    return axes


# Tensors


def named(name: Any) -> str:
    """A name of a tensor or an axis. Raises: ExpressionError."""
    if not isinstance(name, str) or not name.isprintable() or len(name.split()) != 1:
        raise ExpressionError(
            f"{told(name)} is no name", 'give a word, as in placeholder("A", ...)'
        )
    return name


def typed(dtype: Any) -> str:
    """The name of a type. Raises: ExpressionError."""
    if not isinstance(dtype, str):
        raise ExpressionError(f"{dtype!r:.60} is no type's name", 'give "float32", say')
    return dtype


def extent(name: Any, value: Any) -> int:
    """Of an axis. Raises: ExpressionError."""
    return _whole(value, f"{{}} is no extent of {told(name)}", "give a whole number")


def shaped(name: str, shape: Any) -> tuple[int, ...]:
    """The extents of a tensor. Raises: ExpressionError."""
    if isinstance(shape, str) or not hasattr(shape, "__iter__") or isinstance(shape, _Refusing):
        raise ExpressionError(f"{told(shape)} is no shape of {name}", "give (4,) or (4, 8), say")
    return tuple(extent(name, one) for one in shape)


def seen(name: str, shape: Sequence[int], view: Any) -> tuple[int, ...]:
    """The shape that callers see. Raises: ExpressionError."""
    seen = shaped(name, view)
    if seen and prod(seen) != prod(shape):
        raise ExpressionError(
            f"{name}: {[*seen]} holds other than {[*shape]} does", "give a view of as many elements"
        )
    return seen


def pairs(name: str, axes: Any) -> list[tuple[str, int]]:
    """Names and extents of a tensor's axes. Raises: ExpressionError."""
    if not isinstance(axes, Sequence):
        raise ExpressionError(f"{name}: {told(axes)} are no axes", 'give (("i", 512), ("j", 512))')
    for pair in axes:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ExpressionError(f"{name}: {told(pair)} is no axis", 'give ("i", 512)')
    return [(named(axis), extent(axis, size)) for axis, size in axes]


def bodied(name: str, body: Any, axes: Sequence[object]) -> Any:
    """What a tensor's function gives for its axes. Raises: ExpressionError."""
    if not callable(body) or isinstance(body, _Refusing):
        raise ExpressionError(f"{name}: {told(body)} is no function", "give lambda i: ..., say")
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
