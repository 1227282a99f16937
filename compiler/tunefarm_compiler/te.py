"""Tensor expressions: what a kernel computes, without how.

    m, n, k = 512, 512, 512
    a, b = placeholder("A", (m, k)), placeholder("B", (k, n))
    r = reduce_axis("k", k)
    c = compute("C", (("i", m), ("j", n)), lambda i, j: reduce_sum(a[i, r] * b[r, j], r))

Indices are affine in the axes with coefficients and offsets that are known when compiling.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Index:
    """An affine form over axis names: sum of coefficient x axis, plus an offset."""

    terms: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    offset: int = 0

    def __add__(self, other: "Index | int") -> "Index":
        right = as_index(other)
        terms = dict(self.terms)
        for axis, coefficient in right.terms.items():
            terms[axis] = terms.get(axis, 0) + coefficient
        return Index(terms, self.offset + right.offset)

    def __mul__(self, factor: int) -> "Index":
        return Index({a: c * factor for a, c in self.terms.items()}, self.offset * factor)


@dataclass(frozen=True)
class Axis:
    """A loop of `extent` iterations; `reduce` axes are summed over."""

    name: str
    extent: int
    reduce: bool = False


def as_index(value: "Index | Axis | int") -> Index:
    """An index from an axis, a number or an index."""
    if isinstance(value, Axis):
        return Index({value.name: 1})
    return value if isinstance(value, Index) else Index({}, value)


class Expr:
    """A scalar expression at one point of the output."""

    def __add__(self, other: "Expr") -> "Expr":
        return Binary("fadd", self, other)

    def __sub__(self, other: "Expr") -> "Expr":
        return Binary("fsub", self, other)

    def __mul__(self, other: "Expr") -> "Expr":
        return Binary("fmul", self, other)


@dataclass(frozen=True)
class Constant(Expr):
    """A number."""

    value: float


@dataclass(frozen=True)
class Binary(Expr):
    """`op` is LLVM's name: fadd, fsub, fmul; or "maximum"."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Load(Expr):
    """One element of a tensor."""

    tensor: "Tensor"
    indices: tuple[Index, ...]

    def strides(self) -> tuple[dict[str, int], int]:
        """Elements that each axis moves the access by, and its constant offset."""
        strides: dict[str, int] = {}
        offset, step = 0, 1
        for index, extent in reversed(list(zip(self.indices, self.tensor.shape, strict=True))):
            for axis, coefficient in index.terms.items():
                strides[axis] = strides.get(axis, 0) + coefficient * step
            offset += index.offset * step
            step *= extent
        return strides, offset


@dataclass(frozen=True)
class Reduce(Expr):
    """The sum of `body` over reduce axes. Only as the outermost expression."""

    body: Expr
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Tensor:
    """A contiguous float32 array, C order. `shape` in elements."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __getitem__(self, indices: "Index | Axis | int | tuple[Index | Axis | int, ...]") -> Load:
        given = indices if isinstance(indices, tuple) else (indices,)
        if len(given) != len(self.shape):
            raise ValueError(f"{self.name} has {len(self.shape)} axes, {len(given)} indices given")
        return Load(self, tuple(as_index(index) for index in given))


@dataclass(frozen=True)
class Compute:
    """An output tensor and the expression of each of its elements."""

    output: Tensor
    axes: tuple[Axis, ...]
    body: Expr

    @property
    def reduce_axes(self) -> tuple[Axis, ...]:
        """Axes summed over; none for an elementwise expression."""
        return self.body.axes if isinstance(self.body, Reduce) else ()

    @property
    def extents(self) -> dict[str, int]:
        """Extent of every axis by name."""
        return {axis.name: axis.extent for axis in (*self.axes, *self.reduce_axes)}

    def loads(self) -> list[Load]:
        """Every access in the body, each once, in the order written."""
        found: dict[tuple[str, tuple[tuple[object, ...], ...]], Load] = {}

        def walk(expr: Expr) -> None:
            match expr:
                case Load(tensor, indices):
                    key = tuple((*sorted(i.terms.items()), i.offset) for i in indices)
                    found.setdefault((tensor.name, key), expr)
                case Binary(_, left, right):
                    walk(left)
                    walk(right)
                case Reduce(body, _):
                    walk(body)

        walk(self.body)
        return list(found.values())

    def inputs(self) -> list[Tensor]:
        """Tensors read, each once, in the order written."""
        return list({load.tensor.name: load.tensor for load in self.loads()}.values())


def placeholder(name: str, shape: Sequence[int], dtype: str = "float32") -> Tensor:
    """An input of that shape."""
    return Tensor(name, tuple(shape), dtype)


def reduce_axis(name: str, extent: int) -> Axis:
    """An axis to sum over."""
    return Axis(name, extent, reduce=True)


def reduce_sum(body: Expr, *axes: Axis) -> Reduce:
    """The sum of `body` over `axes`."""
    return Reduce(body, axes)


def maximum(left: Expr, right: Expr) -> Expr:
    """The larger of two; NaN where either is."""
    return Binary("maximum", left, right)


def compute(
    name: str, axes: Sequence[tuple[str, int]], body: Callable[..., Expr], dtype: str = "float32"
) -> Compute:
    """An output with the given (name, extent) axes; `body` gets an Axis for each."""
    made = tuple(Axis(axis, extent) for axis, extent in axes)
    return Compute(Tensor(name, tuple(a.extent for a in made), dtype), made, body(*made))
