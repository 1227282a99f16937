"""Expressions to LLVM values: one vector of a register tile at a time."""

import math
from collections.abc import Mapping, Sequence

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.access import WHOLE, Access, Guard, Piece
from tunefarm_compiler.bounds import Ranges, decide, interval, position
from tunefarm_compiler.clip import known
from tunefarm_compiler.dots import BYTES
from tunefarm_compiler.emit import SIZES, Emitter, constant, kind, lanes_mask, suffix, vector
from tunefarm_compiler.stages import Stage
from tunefarm_compiler.te import (
    FLOATS,
    Binary,
    Bits,
    Cast,
    Compare,
    Constant,
    Expr,
    Fma,
    Index,
    Inside,
    Load,
    Select,
    Total,
    Unary,
)

_FLOAT_OPS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_COMPARE = {"lt": ("olt", "slt", "ult"), "gt": ("ogt", "sgt", "ugt"), "eq": ("oeq", "eq", "eq")}
_TRUE, _FALSE = Constant(1, "bool"), Constant(0, "bool")  # kept: values are found by identity
NOTHING = "@nothing"  # zeros, read in place of what lies outside


class Values:
    """Computes expressions of one stage where its loops stand."""

    def __init__(self, emit: Emitter, stage: Stage, accesses: Mapping[object, Access]) -> None:
        self.emit = emit
        self.stage = stage
        self.accesses = accesses  # by the load's key
        self.vector = stage.axes[-1].name if stage.axes else ""
        self._spatial = [axis.name for axis in stage.axes]
        self.pointers: dict[object, str] = {}
        self.steps: dict[str, int] = {}  # how far unrolled steps are from the pointers
        self.assumed: set[Index] = set()  # conditions that loop bounds see to
        self.held: dict[Index, tuple[int, int]] = {}  # values of conditions that branches see to
        self._ranges: Ranges = {}
        self._sure: dict[Index, bool | None] = {}  # what holds, or not, all over the ranges
        # Least and greatest value of a condition at the first piece, and what each axis adds.
        self._limits: dict[tuple[Index, bool], tuple[int, int, dict[str, int]]] = {}
        self.certain = True  # whether every condition holds all over the ranges
        self.totals: dict[Piece, str] = {}
        self.uses_nothing = False
        self.nothing = NOTHING
        self.grouped = 1  # indices in a step, where one instruction does several
        self._loaded: dict[object, str] = {}  # by pointer and offset
        self._block = ""
        # With the expression, so that no other one gets its identity meanwhile.
        self._memo: dict[tuple[int, Piece, Guard], tuple[str, Expr]] = {}

    @property
    def ranges(self) -> Ranges:
        """Where the loops stand, and what is left of each axis."""
        return self._ranges

    @ranges.setter
    def ranges(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._sure = {t: t in self.assumed or decide(t, ranges) for t in self.stage.tests}
        self._limits = {}
        self.certain = all(self._sure.values())

    def forget(self) -> None:
        """The loops have moved on: nothing loaded or computed holds any longer."""
        self._loaded.clear()
        self._memo.clear()

    def enter(self) -> None:
        """In another block of the code, nothing that was loaded holds."""
        if self._block != self.emit.block:
            self._block = self.emit.block
            self.forget()

    def step_on(self) -> None:
        """An unrolled step further: what was loaded from a constant offset still holds."""
        self._memo.clear()

    def value(self, expr: Expr, piece: Piece, guard: Guard | None = None) -> str:
        """The expression on a piece; what lies outside the guard is not read."""
        guard = piece.guard if guard is None else guard
        key = (id(expr), piece, guard)
        if key not in self._memo:
            self._memo[key] = self._compute(expr, piece, guard), expr
        return self._memo[key][0]

    def _compute(self, expr: Expr, piece: Piece, guard: Guard) -> str:
        lanes = piece.lanes
        match expr:
            case Load():
                key = expr.key()
                return self.read(self.accesses[key], self.pointers[key], piece, guard)
            case Constant(number, dtype):
                return constant(number, dtype, lanes)
            case Total():
                return self.totals[piece]
            case Select(Inside() as test, yes, no):
                if self.certain:
                    return self.value(yes, piece, guard)
                return self._padded(test, yes, no, piece, guard)
            case Inside():
                return self._padded(expr, _TRUE, _FALSE, piece, guard)
        inner = [self.value(child, piece, guard) for child in expr.children()]
        return self.apply(expr, inner, lanes)

    def apply(self, expr: Expr, inner: list[str], lanes: int) -> str:
        """One operation on values of its operands."""
        emit, wide = self.emit, kind(expr.dtype, lanes)
        match expr:
            case Binary("max" | "min" as op, left, right):
                ordered = (_ordered(left), _ordered(right))
                return self.extreme(op, inner[0], inner[1], expr.dtype, lanes, *ordered)
            case Binary(op):
                name = _FLOAT_OPS.get(op, op) if expr.dtype in FLOATS else op
                return emit.once("x", f"{name} {wide} {inner[0]}, {inner[1]}")
            case Fma():
                return emit.call("x", "fma", expr.dtype, lanes, *inner)
            case Unary("neg"):
                return emit.once("x", f"fneg {wide} {inner[0]}")
            case Unary(op):
                return emit.call("x", {"abs": "fabs"}.get(op, op), expr.dtype, lanes, *inner)
            case Compare(op, left):
                whole = 0 if left.dtype in FLOATS else 1 + left.dtype.startswith("u")
                test = f"{'icmp' if whole else 'fcmp'} {_COMPARE[op][whole]}"
                return emit.once("c", f"{test} {kind(left.dtype, lanes)} {inner[0]}, {inner[1]}")
            case Select():
                return emit.select(inner[0], inner[1], inner[2], expr.dtype, lanes)
            case Cast(value):
                return self._cast(inner[0], value.dtype, expr.dtype, lanes)
            case Bits(value):
                return emit.once("x", f"bitcast {kind(value.dtype, lanes)} {inner[0]} to {wide}")
        raise AssertionError(f"no code for {expr}")

    def extreme(
        self, op: str, left: str, right: str, dtype: str, lanes: int, *ordered: bool
    ) -> str:
        """The larger or smaller of two; NaN where either is, unless one of them is ordered."""
        emit, wide = self.emit, kind(dtype, lanes)
        if dtype not in FLOATS:
            sign = "u" if dtype.startswith("u") else "s"
            return emit.call("m", sign + op, dtype, lanes, left, right)
        if True not in ordered:
            name = f"llvm.{op}imum.{suffix(dtype, lanes)}"
            return emit.value("m", f"call nsz {wide} @{name}({wide} {left}, {wide} {right})")
        if ordered[0]:
            left, right = right, left
        test = "ugt" if op == "max" else "ult"  # also true where `left` is NaN
        above = emit.value("c", f"fcmp {test} {wide} {left}, {right}")
        return emit.select(above, left, right, dtype, lanes)

    def _cast(self, value: str, before: str, after: str, lanes: int) -> str:
        old, new = kind(before, lanes), kind(after, lanes)
        unsigned = before == "bool" or before.startswith("u")
        if (before, after) == ("bfloat16", "float32"):  # the upper half of its bits
            wide = kind("int32", lanes)
            low = self.emit.value("x", f"zext {old} {value} to {wide}")
            high = self.emit.value("x", f"shl {wide} {low}, {constant(16, 'int32', lanes)}")
            return self.emit.value("x", f"bitcast {wide} {high} to {new}")
        if before in FLOATS and after in FLOATS:
            name = "fpext" if SIZES[before] < SIZES[after] else "fptrunc"
        elif before in FLOATS:
            name = "fptoui" if after.startswith("u") else "fptosi"
        elif after in FLOATS:
            name = "uitofp" if unsigned else "sitofp"
        elif old == new:
            return value
        elif before != "bool" and SIZES[before] > SIZES[after]:
            name = "trunc"
        else:
            name = "zext" if unsigned else "sext"
        return self.emit.value("x", f"{name} {old} {value} to {new}")

    # Conditions

    def known(self, expr: Expr, piece: Piece, whole: bool = False) -> float | None:
        """The value of an expression on a piece where conditions decide it.

        `whole`: for all that the reduce loops leave, not only for the step where they stand.
        """
        return known(expr, lambda test: self._verdict(test, piece, whole))

    def _padded(self, test: Inside, yes: Expr, no: Expr, piece: Piece, guard: Guard) -> str:
        own = self._guard(test.tests, piece)
        if own is None:
            return self.value(no, piece, guard)
        one = self.value(yes, piece, self._joined(guard, own, piece.lanes))
        # What is not read for a condition of all lanes is 0.
        if own == WHOLE or (
            not own.mask and isinstance(yes, Load) and known(no, lambda _: None) == 0
        ):
            return one
        two = self.value(no, piece, guard)
        mask = self._mask(own, piece.lanes)
        return self.emit.select(mask, one, two, yes.dtype, piece.lanes)

    def _guard(self, tests: Sequence[Index], piece: Piece) -> Guard | None:
        """What conditions come to on a piece; None where one of them never holds."""
        verdicts = [self._verdict(test, piece) for test in tests]
        if False in verdicts:
            return None
        found = WHOLE
        for test in (test for test, one in zip(tests, verdicts, strict=True) if one is None):
            found = self._joined(found, self._test(test, piece), piece.lanes)
        return found

    def _joined(self, one: Guard, two: Guard, lanes: int) -> Guard:
        return Guard(self._both(one.every, two.every, 1), self._both(one.mask, two.mask, lanes))

    def _both(self, left: str, right: str, lanes: int) -> str:
        if not left or not right or left == right:
            return left or right
        return self.emit.once("c", f"and {kind('bool', lanes)} {left}, {right}")

    def _mask(self, guard: Guard, lanes: int) -> str:
        """A guard as one mask of all lanes."""
        if not guard.every:
            return guard.mask
        return self._both(self.emit.splat(guard.every, "bool", lanes), guard.mask, lanes)

    def _verdict(self, test: Index, piece: Piece, whole: bool = False) -> bool | None:
        """Whether test >= 0 on a piece: surely, surely not, or None where it depends."""
        if (sure := self._sure.get(test)) is not None:
            return sure
        if (test, whole) not in self._limits:
            reduced = {axis.name for axis in self.stage.reduce_axes} if whole else ()
            own = {a: r if a in reduced else r.point() for a, r in self.ranges.items()}
            ends = self.held.get(test) or interval(test, own)
            self._limits[test, whole] = (*ends, dict(test.terms))
        low, high, strides = self._limits[test, whole]
        moved = self.offset(strides, piece)
        ends = (0, strides.get(self.vector, 0) * (piece.valid - 1))
        if low + moved + min(ends) >= 0:
            return True
        return False if high + moved + max(ends) < 0 else None

    def _test(self, test: Index, piece: Piece) -> Guard:
        """Code that finds out whether test >= 0 on a piece."""
        strides = dict(test.terms)
        along, moved = strides.get(self.vector, 0), self.offset(strides, piece)
        total = position(self.emit, test.terms, self.ranges, test.offset + moved)
        if isinstance(total, int):
            return Guard(mask=lanes_mask([total + along * n >= 0 for n in range(piece.lanes)]))
        index = self.emit.index
        if not along or piece.lanes == 1:
            return Guard(every=self.emit.once("c", f"icmp sge {index} {total}, 0"))
        wide, narrow = kind("int32", piece.lanes), total
        if index != "i32":
            narrow = self.emit.value("i", f"trunc {index} {total} to i32")
        start = self.emit.splat(narrow, "int32", piece.lanes)
        ramp = vector([f"i32 {along * lane}" for lane in range(piece.lanes)])
        each = self.emit.value("i", f"add {wide} {start}, {ramp}")
        return Guard(mask=self.emit.value("c", f"icmp sge {wide} {each}, zeroinitializer"))

    # Narrow numbers in a word

    def word(self, expr: Expr, piece: Piece, guard: str = "") -> str:
        """A word's steps of a narrow expression in each lane, where the access is grouped."""
        lanes = piece.lanes
        match expr:
            case Load():
                return self._load_word(expr, piece, guard)
            case Constant(number, dtype) if number == 0 or dtype in BYTES:
                four = bytes([int(number) & 0xFF] * 4)
                return constant(int.from_bytes(four, "little", signed=True), "int32", lanes)
            case Bits(value):
                return self.word(value, piece, guard)
            case Binary("xor", Load() as load) if self.accesses[load.key()].flip:
                return self._load_word(load, piece, guard)
            case Binary("xor" | "and" | "or" as op, left, right):
                one, two = self.word(left, piece, guard), self.word(right, piece, guard)
                return self.emit.value("x", f"{op} {kind('int32', lanes)} {one}, {two}")
            case Select(Inside(tests), yes, no):
                own = self._guard(tests, piece)
                if own is None:
                    return self.word(no, piece, guard)
                guard = self._both(guard, own.every, 1)
                one = self.word(yes, piece, guard)
                if not guard:
                    return one
                mask, two = self.emit.splat(guard, "bool", lanes), self.word(no, piece)
                return self.emit.select(mask, one, two, "int32", lanes)
        raise InvalidScheduleError(
            f"schedule: {type(expr).__name__} of narrow numbers cannot be grouped",
            "leave group out",
        )

    def _load_word(self, load: Load, piece: Piece, only: str) -> str:
        key = load.key()
        access = self.accesses[key]
        offset, lanes = access.at + self.offset(access.strides, piece), piece.lanes
        along = access.strides.get(self.vector, 0)
        found = ("word", self.pointers[key], offset, along, lanes, only)
        if found in self._loaded:
            return self._loaded[found]
        where = self.emit.pointer(self.pointers[key], offset, access.dtype)
        if along:
            made = self.emit.value("x", f"load {kind('int32', lanes)}, ptr {where}, align 1")
        else:
            if only:
                where = self.unless(only, where)
            whole = 4 // SIZES[access.dtype]
            made = self._parts(where, whole if access.packed else self.grouped, access.dtype)
            made = self.emit.splat(made, "int32", lanes)
        self._loaded[found] = made
        return made

    def _parts(self, where: str, count: int, dtype: str) -> str:
        """So many narrow numbers as a word, the rest of it 0."""
        size = SIZES[dtype]
        if count * size == 4:
            return self.emit.value("s", f"load i32, ptr {where}, align 1")
        total = "0"
        for at in range(count):
            part = self.emit.load(self.emit.pointer(where, at, dtype), dtype)
            wide = self.emit.value("z", f"zext {kind(dtype)} {part} to i32")
            moved = self.emit.value("z", f"shl i32 {wide}, {8 * size * at}")
            total = self.emit.value("z", f"or i32 {total}, {moved}")
        return total

    # Memory

    def offset(self, strides: Mapping[str, int], piece: Piece) -> int:
        """Elements from where the pointers stand to the first lane of a piece."""
        get, total, vector, place = strides.get, 0, self.vector, 0
        if piece.start:
            total = piece.start * get(vector, 0)
        for axis in self._spatial:
            if axis != vector:
                if at := piece.point[place]:
                    total += at * get(axis, 0)
                place += 1
        for axis, step in self.steps.items():
            total += step * get(axis, 0)
        return total

    def read(self, access: Access, base: str, piece: Piece, guard: Guard) -> str:
        """What an access finds on a piece, from where its pointer stands."""
        offset, lanes = access.at + self.offset(access.strides, piece), piece.lanes
        if lanes == 1:
            return self._scalar(access, base, offset, self._both(guard.every, guard.mask, 1))
        along = access.strides.get(self.vector, 0)
        guard = guard if along else Guard(guard.every)  # one number serves all lanes
        found = (base, offset, along, lanes, guard)
        if found not in self._loaded:
            self._loaded[found] = self._lanes(access, base, offset, piece, guard)
        return self._loaded[found]

    def _lanes(self, access: Access, base: str, offset: int, piece: Piece, guard: Guard) -> str:
        along = access.strides.get(self.vector, 0)
        if along == 0:
            scalar = self._scalar(access, base, offset, guard.every)
            return self.emit.splat(scalar, access.dtype, piece.lanes)
        if along == 1:
            return self._contiguous(access, base, offset, piece.lanes, guard)
        turned = guard == WHOLE and self._turned(access, base, offset, piece)
        return turned or self._gather(access, base, offset, piece, guard)

    def _scalar(self, access: Access, base: str, offset: int, only: str) -> str:
        found = (base, offset, only)
        if found not in self._loaded:
            where = self.emit.pointer(base, offset, access.dtype)
            if only:
                where = self.unless(only, where)
            self._loaded[found] = self.emit.load(where, access.dtype)
        return self._loaded[found]

    def unless(self, only: str, where: str) -> str:
        """The address where the condition holds, else that of zeros."""
        self.uses_nothing = True
        return self.emit.once("p", f"select i1 {only}, ptr {where}, ptr {self.nothing}")

    def _contiguous(self, access: Access, base: str, offset: int, lanes: int, guard: Guard) -> str:
        where = self.emit.pointer(base, offset, access.dtype)
        if guard == WHOLE:
            return self.emit.load(where, access.dtype, lanes, math.gcd(access.aligned, offset))
        return self.emit.load_masked(where, access.dtype, lanes, self._mask(guard, lanes))

    def _turned(self, access: Access, base: str, offset: int, piece: Piece) -> str:
        """Of a square that is contiguous along another axis of the tile, the column; "" if none."""
        if not self.certain:  # other pieces may read what is not there
            return ""
        strides, lanes = access.strides, piece.lanes
        outer = [axis.name for axis in self.stage.axes if axis.name != self.vector]
        for axis, at in zip(outer, piece.point, strict=True):
            begin = at // lanes * lanes
            if strides.get(axis) != 1 or begin + lanes > self.ranges[axis].extent:
                continue
            first = offset - (at - begin)
            found = ("turned", base, first, strides[self.vector], lanes)
            if (*found, at - begin) not in self._loaded:
                starts = [first + lane * strides[self.vector] for lane in range(lanes)]
                rows = [self._contiguous(access, base, start, lanes, WHOLE) for start in starts]
                columns = self.emit.transpose(rows, access.dtype, lanes)
                self._loaded |= {(*found, n): column for n, column in enumerate(columns)}
            return self._loaded[*found, at - begin]
        return ""

    def _gather(self, access: Access, base: str, offset: int, piece: Piece, guard: Guard) -> str:
        emit, dtype, lanes = self.emit, access.dtype, piece.lanes
        along = access.strides[self.vector]
        if along == 2 and guard == WHOLE:
            # Two overlapping reads, so that nothing behind the last element is touched.
            where = [emit.pointer(base, offset + a, dtype) for a in (0, lanes - 1)]
            low, high = (emit.load(one, dtype, lanes) for one in where)
            half = lanes // 2
            order = [2 * n for n in range(half)] + [lanes + 2 * n + 1 for n in range(half)]
            return emit.shuffle(low, high, order, dtype, lanes)
        made, constant_mask = constant(0, dtype, lanes), guard.mask.startswith("<")
        on = [part.strip().endswith("true") for part in guard.mask.strip("<>").split(",")]
        for lane in range(lanes):
            only = guard.every
            if constant_mask:
                if not on[lane]:
                    continue
            elif guard.mask:
                only = self._both(only, emit.part(guard.mask, lane, 1, "bool", lanes), 1)
            one = f"{kind(dtype)} {self._scalar(access, base, offset + lane * along, only)}"
            made = emit.value("g", f"insertelement {kind(dtype, lanes)} {made}, {one}, i32 {lane}")
        return made


def _ordered(expr: Expr) -> bool:
    """Whether it can be no NaN."""
    return isinstance(expr, Constant) and not math.isnan(expr.value)
