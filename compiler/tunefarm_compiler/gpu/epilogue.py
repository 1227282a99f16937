"""What is done with sums in registers: the rest of the expression, conversions, stores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tunefarm_compiler import functions
from tunefarm_compiler.emit import SIZES, Emitter, Value, constant, kind
from tunefarm_compiler.gpu import instructions as ptx
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.products import VECTOR, Flat
from tunefarm_compiler.stages import Stage
from tunefarm_compiler.te import Cast, Constant, Expr, Load, Total
from tunefarm_compiler.values import Values


@dataclass(frozen=True)
class Place:
    """Where a thread stands: `rows` and `columns` from its first ones, which may lie outside.

    `batch` are the values of the batch axes; `tails` say whether rows and columns may lie outside.
    """

    batch: Mapping[str, Value]
    rows: Flat
    columns: Flat
    row: Value
    column: Value
    tails: tuple[bool, bool]


class Epilogue:
    """Of one thread. `bases` are the addresses of the tensors by their names."""

    def __init__(
        self, emit: GpuEmitter, stage: Stage, place: Place, bases: Mapping[str, str], level: int
    ) -> None:
        self.emit, self.stage, self.place, self.bases = emit, stage, place, bases
        self.level = level
        self._values = Values(emit, stage, {})
        self._depends: dict[int, tuple[bool, bool]] = {}
        # With the expression, so that no other one gets its identity meanwhile.
        self._memo: dict[tuple[int, int | None, int | None], tuple[str, Expr]] = {}
        self._expanded: dict[int, Expr] = {}
        self._first: dict[object, str] = {}
        self._lines: dict[tuple[object, int], str] = {}
        self._apart: dict[tuple[bool, int], dict[str, Value]] = {}
        self._fits: dict[tuple[bool, int], str] = {}

    def store(
        self, body: Expr, to: Load, sums: Sequence[str], at: Sequence[tuple[int, int]], run: int
    ) -> None:
        """Put the expression of each sum, which is at that row and column, where `to` says.

        Every `run` of them lie in one row and follow each other.
        """
        wide = self._wide(to, run)
        for first in range(0, len(sums), wide):
            row, column = at[first]
            found = self._values_of(body, sums, at, range(first, first + wide))
            self._put(to, row, column, found)

    def store_by_pairs(
        self, body: Expr, to: Load, sums: Sequence[str], at: Sequence[tuple[int, int]], lane: Value
    ) -> None:
        """The same of halves in squares of tensor cores, an even number of them in a row.

        Of two squares side by side, lanes next to each other exchange what they have, so that each
        has four in a row: 4 lanes then fill 32 bytes, which memory takes at once.
        """
        emit = self.emit
        odd = emit.divide(lane, 2)[1]
        turned = emit.value("c", f"icmp ne i32 {odd}, 0")
        column = emit.add(self.place.column, emit.multiply(odd, 6))
        moved = replace(self.place, column=column)
        there = Epilogue(emit, self.stage, moved, self.bases, self.level)
        for first in (start + half for start in range(0, len(sums), 8) for half in (0, 2)):
            both = []
            for number in (first, first + 4):
                found = self._values_of(body, sums, at, range(number, number + 2))
                both += packed(emit, found, to.dtype)
            kept = emit.value("x", f"select i1 {turned}, i32 {both[1]}, i32 {both[0]}")
            given = emit.value("x", f"select i1 {turned}, i32 {both[0]}, i32 {both[1]}")
            got = emit.exchanged(given, 1)
            words = [
                emit.value("x", f"select i1 {turned}, i32 {one}, i32 {other}")
                for one, other in ((got, kept), (kept, got))
            ]
            where, fits = there._address(to, *at[first]), there._both(*at[first])
            ptx.store_global(emit, where, words, 8, fits)

    def pairs(self, to: Load, squares: int) -> bool:
        """Whether `store_by_pairs` can: halves, four of which lie side by side."""
        return SIZES[to.dtype] == 2 and squares % 2 == 0 and self._wide(to, 4) == 4

    def _values_of(
        self, body: Expr, sums: Sequence[str], at: Sequence[tuple[int, int]], numbers: range
    ) -> list[str]:
        """The expression of some sums."""
        found = []
        for number in numbers:
            self._total = sums[number]
            found.append(self._value(body, *at[number]))
            for key in [key for key in self._memo if None not in key]:
                del self._memo[key]  # what depends on a sum is of that one alone
        return found

    def _put(self, to: Load, row: int, column: int, values: list[str]) -> None:
        where = self._address(to, row, column)
        size = SIZES[to.dtype]
        words = packed(self.emit, values, to.dtype)
        fits = self._both(row, column)
        ptx.store_global(self.emit, where, words, size * len(values), fits)

    def _wide(self, to: Load, run: int) -> int:
        """How many side by side are stored at once."""
        strides, length = to.strides()[0], 1
        own = set()
        for axis in reversed(self.place.columns.axes):
            if strides.get(axis.name, 0) != length:
                break
            own.add(axis.name)
            length *= axis.extent
        others = [step for axis, step in strides.items() if axis not in own]
        wide = min(run, VECTOR // SIZES[to.dtype])
        while wide > 1 and any(value % wide for value in (length, to.strides()[1], *others)):
            wide //= 2
        return wide

    # Addresses

    def _along(self, column: bool, flat: Flat, index: Value, move: int) -> dict[str, Value]:
        """The axes of rows or columns at an index moved on."""
        key = (column, move)
        if key not in self._apart:
            left, values = self.emit.add(index, move), dict[str, Value]()
            for axis in reversed(flat.axes[1:]):
                left, values[axis.name] = self.emit.divide(left, axis.extent)
            if flat.axes:
                values[flat.axes[0].name] = left
            self._apart[key] = values
        return self._apart[key]

    def _address(self, load: Load, row: int, column: int) -> str:
        """Of an element: the parts that do not change are added once."""
        place, key = self.place, load.key()
        strides, known = load.strides()
        steps = place.rows.stride(strides), place.columns.stride(strides)
        size = SIZES[load.dtype]
        if key not in self._first:
            parts = [(value, strides.get(axis, 0)) for axis, value in place.batch.items()]
            for index, step in zip((place.row, place.column), steps, strict=True):
                parts += [(index, step)] if step is not None else []
            where = self.bases[load.tensor.name]
            for value, step in parts:
                where = self._moved(where, value, step * size)
            self._first[key] = self._moved(where, known, size)
        if (key, row) not in self._lines:
            where = self._first[key]
            if steps[0] is None:
                found = self._along(False, place.rows, place.row, row)
                where = self._moved(where, self._total_of(found, strides), size)
            self._lines[key, row] = where
        where, moved = self._lines[key, row], row * (steps[0] or 0)
        if steps[1] is None:
            found = self._along(True, place.columns, place.column, column)
            where = self._moved(where, self._total_of(found, strides), size)
        else:
            moved += column * steps[1]
        return self._moved(where, moved, size)

    def _total_of(self, values: Mapping[str, Value], strides: Mapping[str, int]) -> Value:
        total: Value = 0
        for axis, value in values.items():
            total = self.emit.add(total, self.emit.multiply(value, strides.get(axis, 0)))
        return total

    def _moved(self, where: str, value: Value, size: int) -> str:
        if value == 0 or not size:
            return where
        emit = self.emit
        if isinstance(value, int):
            far = str(value * size)
        else:
            far = emit.value("l", f"sext i32 {value} to i64")
            far = emit.value("l", f"mul nsw i64 {far}, {size}") if size != 1 else far
        return emit.value("p", f"getelementptr i8, {ptx.GLOBAL} {where}, i64 {far}")

    def _within(self, column: bool, move: int) -> str:
        """Whether a row or column lies inside; "" where it must."""
        place = self.place
        if not place.tails[column]:
            return ""
        if (column, move) not in self._fits:
            flat, index = (place.columns, place.column) if column else (place.rows, place.row)
            at = self.emit.add(index, move)
            self._fits[column, move] = self.emit.value("c", f"icmp ult i32 {at}, {flat.total}")
        return self._fits[column, move]

    def _both(self, row: int | None, column: int | None) -> str:
        one = "" if row is None else self._within(False, row)
        two = "" if column is None else self._within(True, column)
        if one and two:
            return self.emit.value("c", f"and i1 {one}, {two}")
        return one or two

    # Values

    def _needs(self, expr: Expr) -> tuple[bool, bool]:
        """Whether an expression changes along rows, and along columns."""
        if id(expr) not in self._depends:
            if isinstance(expr, Total):
                found = (True, True)
            elif isinstance(expr, Load):
                used = {axis for index in expr.indices for axis, _ in index.terms}
                sides = (self.place.rows, self.place.columns)
                one, two = (bool(used & {axis.name for axis in side.axes}) for side in sides)
                found = (one, two)
            else:
                inner = [self._needs(child) for child in expr.children()]
                found = any(row for row, _ in inner), any(column for _, column in inner)
            self._depends[id(expr)] = found
        return self._depends[id(expr)]

    def _value(self, expr: Expr, row: int, column: int) -> str:
        by_row, by_column = self._needs(expr)
        key = (id(expr), row if by_row else None, column if by_column else None)
        if key not in self._memo:
            self._memo[key] = self._compute(expr, row, column, key[1:]), expr
        return self._memo[key][0]

    def _compute(
        self, expr: Expr, row: int, column: int, own: tuple[int | None, int | None]
    ) -> str:
        match expr:
            case Total():
                return self._total
            case Constant(number, dtype):
                return constant(number, dtype)
            case Load():
                return self._load(expr, row, column, self._both(*own))
            case Cast(value, "bfloat16") if value.dtype == "float32":
                if self.level >= 80:
                    wide = self._value(value, row, column)
                    return ptx.convert(self.emit, "rn.bf16.f32", wide, "i16")
                if id(expr) not in self._expanded:
                    self._expanded[id(expr)] = functions.to_bfloat(value)
                return self._value(self._expanded[id(expr)], row, column)
        inner = [self._value(child, row, column) for child in expr.children()]
        return self._values.apply(expr, inner, 1)

    def _load(self, load: Load, row: int, column: int, fits: str) -> str:
        emit, size = self.emit, SIZES[load.dtype]
        where = self._address(load, row, column)
        word = ptx.load_global(emit, where, size, fits)[0]
        if size < 4:
            word = emit.value("v", f"trunc i32 {word} to i{8 * size}")
        wide = kind(load.dtype)
        if wide in ("float", "half"):
            word = emit.value("v", f"bitcast i{8 * size} {word} to {wide}")
        return word


def packed(emit: Emitter, values: Sequence[str], dtype: str) -> list[str]:
    """Values side by side, in words; one narrow value in the low bits of one."""
    size, wide = SIZES[dtype], kind(dtype)
    plain = f"i{8 * size}"
    bits = list(values)
    if wide in ("float", "half"):
        bits = [emit.value("b", f"bitcast {wide} {value} to {plain}") for value in values]
    if size == 4:
        return bits
    words, each = [], 4 // size
    for first in range(0, len(bits), each):
        word = ""
        for number, value in enumerate(bits[first : first + each]):
            part = emit.value("b", f"zext {plain} {value} to i32")
            if number:
                part = emit.value("b", f"shl i32 {part}, {8 * size * number}")
            word = emit.value("b", f"or i32 {word}, {part}") if word else part
        words.append(word)
    return words
