"""Tensor expressions: what a kernel computes, without how.

    m, n, k = 512, 512, 512
    a, b = placeholder("A", (m, k)), placeholder("B", (k, n))
    r = reduce_axis("k", k)
    c = compute("C", (("i", m), ("j", n)), lambda i, j: sum_of(a[i, r] * b[r, j], r))
    d = compute("D", (("i", m), ("j", n)), lambda i, j: maximum(c[i, j], 0.0))

Indices are affine in the axes, by numbers known when compiling. What lies outside a tensor is never
read: `select(y.within(0, h), a[y, x], 0.0)` pads without a copy. `functions.py` has `exp` and more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

from tunefarm_compiler import wrong

FLOATS = ("float32", "float16", "bfloat16")
INTEGERS = ("int8", "uint8", "int32", "uint32")
Operand: TypeAlias = "Expr | float"


class Affine(wrong.Place):
    """What can stand in an index: an axis, or a sum of axes by constants."""

    def index(self) -> "Index":
        """As an affine form."""
        raise NotImplementedError

    def __add__(self, other: "Affine | int") -> "Index":
        left, right = self.index(), as_index(other)
        terms = dict(left.terms)
        for axis, coefficient in right.terms:
            terms[axis] = terms.get(axis, 0) + coefficient
        kept = tuple(sorted((axis, c) for axis, c in terms.items() if c))
        return Index(kept, left.offset + right.offset)

    __radd__ = __add__

    def __sub__(self, other: "Affine | int") -> "Index":
        return self + as_index(other) * -1

    def __rsub__(self, other: int) -> "Index":
        return self * -1 + other

    def __neg__(self) -> "Index":
        return self * -1

    def __mul__(self, factor: int) -> "Index":
        here, factor = self.index(), factor if factor.__class__ is int else wrong.whole(factor)
        kept = tuple((axis, c * factor) for axis, c in here.terms if c * factor)
        return Index(kept, here.offset * factor)

    __rmul__ = __mul__

    def within(self, low: int, high: int) -> "Inside":
        """Whether low <= self < high."""
        return Inside((self - low, self * -1 + high - 1))


@dataclass(frozen=True)
class Index(Affine):
    """An affine form over axis names: sum of coefficient x axis, plus an offset."""

    terms: tuple[tuple[str, int], ...] = ()
    offset: int = 0

    @cached_property
    def _hash(self) -> int:
        return hash((self.terms, self.offset))

    def __hash__(self) -> int:  # they are looked up far more often than made
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:  # another process hashes otherwise
        return Index, (self.terms, self.offset)

    def index(self) -> "Index":
        """Itself."""
        return self

    def substitute(self, axes: dict[str, "Index"]) -> "Index":
        """With axes replaced by affine forms."""
        total = Index((), self.offset)
        for axis, coefficient in self.terms:
            total += axes.get(axis, Index(((axis, 1),))) * coefficient
        return total


class _Key:
    """A tuple whose hash is taken once."""

    def __init__(self, value: tuple[object, ...]) -> None:
        self._value = value
        self._hash = hash(value)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:  # another process hashes otherwise
        return _Key, (self._value,)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Key) and self._value == other._value)


@dataclass(frozen=True)
class Axis(Affine):
    """A loop of `extent` iterations; `reduce` axes are summed (or maximised) over."""

    name: str
    extent: int
    reduce: bool = False

    def index(self) -> Index:
        """The form that is this axis alone."""
        return Index(((self.name, 1),))


def as_index(value: Affine | int) -> Index:
    """An index from an axis, a number or an index. Raises: ExpressionError."""
    if isinstance(value, Affine):
        return value.index()
    return Index((), value if value.__class__ is int else wrong.place(value))


class Expr(wrong.Value):
    """A scalar expression at one point of the output. Equal only to itself."""

    @property
    def dtype(self) -> str:
        """Type of its value; "bool" for conditions."""
        raise NotImplementedError

    def __add__(self, other: Operand) -> "Expr":
        return binary("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> "Expr":
        return binary("sub", self, other)

    def __rsub__(self, other: float) -> "Expr":
        return binary("sub", as_expr(other, self.dtype), self)

    def __mul__(self, other: Operand) -> "Expr":
        return binary("mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> "Expr":
        return binary("div", self, other)

    def __rtruediv__(self, other: float) -> "Expr":
        return binary("div", as_expr(other, self.dtype), self)

    def __neg__(self) -> "Expr":
        return Unary("neg", self)

    def __lt__(self, other: Operand) -> "Expr":
        return Compare("lt", self, as_expr(other, self.dtype))

    def __gt__(self, other: Operand) -> "Expr":
        return Compare("gt", self, as_expr(other, self.dtype))

    def children(self) -> list["Expr"]:
        """Expressions that this one is made of."""
        held = [getattr(self, one.name) for one in fields(self)]  # type: ignore[arg-type]
        return [value for value in held if isinstance(value, Expr)]


@dataclass(frozen=True, eq=False)
class Constant(Expr):
    """A number."""

    value: float
    kind: str = "float32"

    @property
    def dtype(self) -> str:
        """Its type."""
        return self.kind


@dataclass(frozen=True, eq=False)
class Unary(Expr):
    """`op` is neg, abs, sqrt, on GPUs exp2 (to 2 ulp), of floats; ctpop (ones) of integers."""

    op: str
    value: Expr

    @cached_property
    def dtype(self) -> str:
        """That of its operand."""
        return self.value.dtype


@dataclass(frozen=True, eq=False)
class Binary(Expr):
    """`op` is add, sub, mul, div, max, min; of integers also shl, lshr, and, or, xor."""

    op: str
    left: Expr
    right: Expr

    @cached_property
    def dtype(self) -> str:
        """That of both operands."""
        return self.left.dtype


@dataclass(frozen=True, eq=False)
class Fma(Expr):
    """left x right + addend, rounded once where the processor can."""

    left: Expr
    right: Expr
    addend: Expr

    @cached_property
    def dtype(self) -> str:
        """That of its operands."""
        return self.left.dtype


@dataclass(frozen=True, eq=False)
class Compare(Expr):
    """`op` is lt, gt or eq; false where either is NaN."""

    op: str
    left: Expr
    right: Expr

    @property
    def dtype(self) -> str:
        """A condition."""
        return "bool"


@dataclass(frozen=True, eq=False)
class Inside(Expr):
    """Whether every one of these affine forms is at least 0."""

    tests: tuple[Index, ...]

    @property
    def dtype(self) -> str:
        """A condition."""
        return "bool"

    def __and__(self, other: "Inside") -> "Inside":
        return Inside(self.tests + wrong.inside(other).tests)


@dataclass(frozen=True, eq=False)
class Select(Expr):
    """`yes` where the condition holds, else `no`. Under an `Inside`, nothing outside is read."""

    condition: Expr
    yes: Expr
    no: Expr

    @cached_property
    def dtype(self) -> str:
        """That of both branches."""
        return self.yes.dtype


@dataclass(frozen=True, eq=False)
class _Converted(Expr):
    value: Expr
    to: str

    @property
    def dtype(self) -> str:
        """The type asked for."""
        return self.to


class Cast(_Converted):
    """The same number in another type; from float to integer towards zero."""


class Bits(_Converted):
    """The same bits read as another type of the same size."""


@dataclass(frozen=True, eq=False)
class Reduce(Expr):
    """`op` (add, max, min) over reduce axes of `body`."""

    op: str
    body: Expr
    axes: tuple[Axis, ...]

    @cached_property
    def dtype(self) -> str:
        """That of its body."""
        return self.body.dtype


@dataclass(frozen=True, eq=False)
class Total(Expr):
    """Inside the lowering: the result of a stage's reduction."""

    kind: str

    @property
    def dtype(self) -> str:
        """Its type."""
        return self.kind


@dataclass(frozen=True)
class Compute:
    """Axes of a tensor and the expression of each of its elements."""

    axes: tuple[Axis, ...]
    body: Expr


@dataclass(frozen=True)
class Tensor(wrong.Array):
    """A contiguous array, C order; computed from others where `compute` is given.

    `view` is the shape that callers see: the same elements in the same order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    compute: Compute | None = field(default=None, compare=False)
    view: tuple[int, ...] = ()

    def __getitem__(self, indices: "Affine | int | tuple[Affine | int, ...]") -> "Load":
        return Load(self, tuple(map(as_index, wrong.read(self.name, self.shape, indices))))

    @property
    def outside(self) -> tuple[int, ...]:
        """The shape that callers see."""
        return self.view or self.shape

    def steps(self) -> tuple[int, ...]:
        """Elements from one index of each dimension to the next."""
        found, step = [], 1
        for extent in reversed(self.shape):
            found.append(step)
            step *= extent
        return tuple(reversed(found))


@dataclass(frozen=True, eq=False)
class Load(Expr):
    """One element of a tensor."""

    tensor: Tensor
    indices: tuple[Index, ...]

    @property
    def dtype(self) -> str:
        """That of the tensor."""
        return self.tensor.dtype

    def strides(self, steps: Sequence[int] | None = None) -> tuple[dict[str, int], int]:
        """Elements that each axis moves the access by, and its constant offset."""
        total = self._total(steps) if steps else self._own_total
        return dict(total.terms), total.offset

    def _total(self, steps: Sequence[int]) -> Index:
        pairs = zip(self.indices, steps, strict=True)
        return sum((index * step for index, step in pairs), Index())

    @cached_property
    def _own_total(self) -> Index:
        return self._total(self.tensor.steps())

    @cached_property
    def _key(self) -> "_Key":
        return _Key((self.tensor.name, self.indices))

    def key(self) -> object:
        """Equal for equal accesses."""
        return self._key


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every expression below, each object once, parents first."""
    seen: set[int] = set()
    todo = list(reversed(roots))
    while todo:
        expr = todo.pop()
        if id(expr) not in seen:
            seen.add(id(expr))
            yield expr
            todo += reversed(expr.children())


def rewrite(expr: Expr, leaf: Callable[[Expr], Expr | None], memo: dict[int, Expr]) -> Expr:
    """A copy with `leaf(e)` in place of each e for which it is not None. Sharing is kept."""
    if id(expr) not in memo:
        made = leaf(expr)
        if made is None:
            changed: dict[str, Any] = {}
            for one in fields(expr):  # type: ignore[arg-type]
                value = getattr(expr, one.name)
                if isinstance(value, Expr) and (new := rewrite(value, leaf, memo)) is not value:
                    changed[one.name] = new
            made = replace(expr, **changed) if changed else expr  # type: ignore[type-var]
        memo[id(expr)] = made
    return memo[id(expr)]


def as_expr(value: Operand, dtype: str) -> Expr:
    """An expression from a number. Raises: ExpressionError."""
    return value if isinstance(value, Expr) else Constant(wrong.number(value, dtype), dtype)


def binary(op: str, left: Expr, right: Operand) -> Expr:
    """One operation on two values of one type. Raises: ExpressionError."""
    return Binary(op, left, wrong.alike(op, left, as_expr(right, wrong.valued(left).dtype)))


def placeholder(
    name: str, shape: Sequence[int], dtype: str = "float32", view: Sequence[int] = ()
) -> Tensor:
    """An input of that shape; callers see `view` where it is given."""
    extents = wrong.shaped(wrong.named(name), shape)
    return Tensor(name, extents, wrong.typed(dtype), None, wrong.seen(name, extents, view))


def reduce_axis(name: str, extent: int) -> Axis:
    """An axis to sum or maximise over."""
    return Axis(wrong.named(name), wrong.extent(name, extent), reduce=True)


def sum_of(body: Expr, *axes: Axis) -> Reduce:
    """The sum of `body` over `axes`."""
    return Reduce("add", wrong.valued(body), wrong.summed(axes))


def max_of(body: Expr, *axes: Axis) -> Reduce:
    """The largest `body` over `axes`; NaN where one is."""
    return Reduce("max", wrong.valued(body), wrong.summed(axes))


def min_of(body: Expr, *axes: Axis) -> Reduce:
    """The smallest `body` over `axes`; NaN where one is."""
    return Reduce("min", wrong.valued(body), wrong.summed(axes))


def maximum(left: Expr, right: Operand) -> Expr:
    """The larger of two; NaN where either is."""
    return binary("max", left, right)


def minimum(left: Expr, right: Operand) -> Expr:
    """The smaller of two; NaN where either is."""
    return binary("min", left, right)


def select(condition: Expr, yes: Expr, no: Operand) -> Expr:
    """`yes` where the condition holds, else `no`."""
    return Select(wrong.condition(condition), yes, as_expr(no, wrong.valued(yes).dtype))


def ones(value: Expr) -> Expr:
    """How many bits of an integer are 1."""
    return Unary("ctpop", wrong.valued(value))


def cast(value: Expr, dtype: str) -> Expr:
    """The same number in another type."""
    return value if wrong.valued(value).dtype == dtype else Cast(value, wrong.typed(dtype))


def compute(
    name: str,
    axes: Sequence[tuple[str, int]],
    body: Callable[..., Operand],
    view: Sequence[int] = (),
) -> Tensor:
    """A tensor with the given (name, extent) axes; `body` gets an Axis for each."""
    made = tuple(Axis(axis, extent) for axis, extent in wrong.pairs(wrong.named(name), axes))
    expr = as_expr(wrong.bodied(name, body, made), "float32")
    shape = tuple(axis.extent for axis in made)
    return Tensor(name, shape, expr.dtype, Compute(made, expr), wrong.seen(name, shape, view))


def show(output: Tensor, schedule: Any = None, target: str = "local") -> str:
    """The loops of an expression before a schedule and after it; the default one if none is given.

    Raises: InvalidRequestError, InvalidScheduleError, UnknownTargetError.
    """
    from tunefarm_compiler import targets
    from tunefarm_compiler.show import show as loops

    return loops(output, schedule, targets.resolve(target))
