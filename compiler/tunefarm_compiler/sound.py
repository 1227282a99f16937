"""Whether a tensor expression makes sense: said before any loop is made of it.

What cannot be proved to lie inside a tensor is refused: an index whose range does, or one under a
`select` whose condition says so (`row.within(0, h)`).
"""

from collections.abc import Mapping

from tunefarm_compiler.emit import SIZES
from tunefarm_compiler.te import (
    FLOATS,
    INTEGERS,
    Binary,
    Bits,
    Cast,
    Compare,
    Compute,
    Expr,
    Fma,
    Index,
    Inside,
    Load,
    Reduce,
    Select,
    Tensor,
    Unary,
    walk,
)
from tunefarm_compiler.wrong import ExpressionError, told

DTYPES = (*FLOATS, *INTEGERS)
# What each kind of type has instructions for. (bfloat16 is worked on in float32.)
_OPS = {
    "float": ["add", "sub", "mul", "div", "max", "min", "fma", "neg", "abs", "sqrt", "exp2"],
    "int": ["add", "sub", "mul", "max", "min", "shl", "lshr", "ashr", "and", "or", "xor", "ctpop"],
    "bool": ["and", "or", "xor"],
    "bfloat": [],
}
Extents = Mapping[str, int]


def check(output: Tensor) -> None:
    """Of a tensor and all that it is computed from. Raises: ExpressionError."""
    if not isinstance(output, Tensor):
        raise ExpressionError(f"{told(output)} is no tensor", "give what compute returned")
    if output.compute is None:
        raise ExpressionError(f"{output.name} is an input", "give what is computed")
    if not output.shape:
        raise ExpressionError(f"{output.name} has no axes", "give it one of extent 1")
    todo, seen = [output], dict[str, Tensor]()
    while todo:
        tensor = todo.pop()
        known = seen.get(tensor.name)
        if known is None:
            seen[tensor.name] = tensor
            todo += _tensor(tensor)
        elif known is not tensor and (known != tensor or known.compute or tensor.compute):
            raise ExpressionError(f"two tensors are named {tensor.name}", "give each its own name")


def _tensor(tensor: Tensor) -> list[Tensor]:
    """Those that it reads."""
    if tensor.dtype not in DTYPES:
        raise ExpressionError(
            f"{tensor.name} is of {tensor.dtype}", f"known are {', '.join(DTYPES)}"
        )
    if any(type(extent) is not int or extent < 1 for extent in tensor.shape):
        raise ExpressionError(
            f"{tensor.name} has the shape {tensor.shape}", "give whole numbers, 1 or more"
        )
    if tensor.compute is None:
        return []
    return _Body(tensor, tensor.compute).loads()


class _Body:
    def __init__(self, tensor: Tensor, compute: Compute) -> None:
        self._name = tensor.name
        self._body = compute.body
        names = [axis.name for axis in compute.axes]
        if len(set(names)) < len(names):
            raise self._wrong(f"two axes of {', '.join(names)} have one name", "name each its own")
        sums = [expr for expr in walk(self._body) if isinstance(expr, Reduce)]
        if len(sums) > 1:
            raise self._wrong(f"{len(sums)} sums or extremes", "compute a tensor for each first")
        self._extents = {axis.name: axis.extent for axis in compute.axes}
        self._found: dict[int, Tensor] = {}
        self._seen: set[tuple[int, tuple[Index, ...], tuple[str, ...]]] = set()

    def _wrong(self, said: str, hint: str) -> ExpressionError:
        return ExpressionError(f"{self._name}: {said}", hint)

    def loads(self) -> list[Tensor]:
        """The tensors that the body reads, where it reads nothing outside of them."""
        self._walk(self._body, (), self._extents)
        return list(self._found.values())

    def _walk(self, expr: Expr, true: tuple[Index, ...], extents: Extents) -> None:
        """`true` are forms that are 0 or more wherever `expr` is computed."""
        key = (id(expr), true, tuple(extents))
        if key in self._seen:
            return
        self._seen.add(key)
        self._types(expr)
        match expr:
            case Select(Inside(tests) as condition, yes, no):
                self._walk(condition, true, extents)
                self._walk(yes, (*true, *tests), extents)
                self._walk(no, true, extents)
                return
            case Reduce(_, body, axes):
                for axis in axes:
                    if axis.name in extents or axis.extent < 1:
                        raise self._wrong(
                            f"it reduces over {axis.name} of {axis.extent}",
                            "give a reduce axis an extent of 1 or more and a name of its own",
                        )
                inner = {**extents, **{axis.name: axis.extent for axis in axes}}
                self._walk(body, (), inner)  # sums are taken whether they are selected or not
                return
            case Inside(tests):
                for test in tests:
                    self._range(test, extents)
            case Load(tensor, indices):
                self._found[id(tensor)] = tensor
                for place, index in enumerate(indices):
                    self._inside(tensor, place, index, true, extents)
        for child in expr.children():
            self._walk(child, true, extents)

    def _types(self, expr: Expr) -> None:
        op, values = "", list[Expr]()
        match expr:
            case Cast(value, to) | Bits(value, to) if to not in SIZES:
                raise self._wrong(f"a cast to {to}", f"known are {', '.join(SIZES)}")
            case Bits(value, to) if SIZES.get(value.dtype) != SIZES[to]:
                raise self._wrong(f"the bits of {value.dtype} as {to}", "cast it")
            case Unary(op, value) | Reduce(op, value):
                values = [value]
            case Binary(op, left, right):
                values = [left, right]
            case Compare(_, left, right):  # of what can be added
                op, values = "add", [left, right]
            case Fma(left, right, addend):
                op, values = "fma", [left, right, addend]
            case Select(condition, yes, no):
                if condition.dtype != "bool":
                    raise self._wrong(f"select by {condition.dtype}", "select by x > 0.0, say")
                values = [yes, no]
        found = dict.fromkeys(value.dtype for value in values)
        if len(found) > 1:
            raise self._wrong(
                f"{type(expr).__name__.lower()} of {' and '.join(found)}", "cast one of them"
            )
        for dtype in found if op else ():
            there = _OPS.get(dtype.lstrip("u").rstrip("0123456789"))
            if there is not None and op not in there:  # of a type that is none is said elsewhere
                kinds = [kind for kind, ops in _OPS.items() if op in ops]
                hint = (
                    f"cast to a type of {' or '.join(kinds)}" if kinds else "there is no such one"
                )
                what = "comparison" if isinstance(expr, Compare) else op
                raise self._wrong(f"{what} of {dtype}", hint)

    def _range(self, index: Index, extents: Extents) -> tuple[int, int]:
        """The least and the largest that it can be."""
        low = high = index.offset
        for name, by in index.terms:
            if name not in extents:
                raise self._wrong(
                    f"axis {name} is none of its own",
                    f"its axes are {', '.join(extents) or 'none'}",
                )
            end = by * (extents[name] - 1)
            low, high = low + min(end, 0), high + max(end, 0)
        return low, high

    def _inside(
        self, tensor: Tensor, place: int, index: Index, true: tuple[Index, ...], extents: Extents
    ) -> None:
        low, high = self._range(index, extents)
        last = tensor.shape[place] - 1
        above = low >= 0 or any(self._range(index - one, extents)[0] >= 0 for one in true)
        rest = index * -1 + last
        below = high <= last or any(self._range(rest - one, extents)[0] >= 0 for one in true)
        if not above or not below:
            raise self._wrong(
                f"it reads {tensor.name} at {low} to {high} of axis {place}, which has 0 to {last}",
                "read what may lie outside under select(INDEX.within(0, EXTENT), ..., 0.0), "
                "which stands inside of a sum, not around it",
            )
