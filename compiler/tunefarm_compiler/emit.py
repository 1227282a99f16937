"""LLVM text, line by line: types, names, loops, addresses."""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

# An integer known when compiling, or the name of an SSA value of the index type.
Value = int | str

_SCALARS = {
    "bool": "i1",
    "float32": "float",
    "float16": "half",
    "bfloat16": "i16",
    "int8": "i8",
    "uint8": "i8",
    "int16": "i16",
    "uint16": "i16",
    "int32": "i32",
    "uint32": "i32",
}
SIZES = {
    "float32": 4, "float16": 2, "bfloat16": 2,
    "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4,
}  # fmt: skip


@cache
def kind(dtype: str, lanes: int = 1) -> str:
    """LLVM's name of a type: a vector of `lanes`, or the plain type for one."""
    scalar = _SCALARS[dtype]
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


@cache
def suffix(dtype: str, lanes: int = 1) -> str:
    """How the names of intrinsics end for a type: f32, v16f32."""
    scalar = {"float": "f32", "half": "f16"}.get(_SCALARS[dtype], _SCALARS[dtype])
    return scalar if lanes == 1 else f"v{lanes}{scalar}"


def constant(value: float, dtype: str, lanes: int = 1) -> str:
    """A number in LLVM's text, in every lane."""
    if dtype == "bool":
        text = "true" if value else "false"
    elif dtype.startswith("float"):
        exact = struct.unpack("f", struct.pack("f", value))[0]
        text = f"0x{struct.unpack('<Q', struct.pack('<d', exact))[0]:016X}"
    else:
        text = str(int(value))
    return text if lanes == 1 else f"splat ({_SCALARS[dtype]} {text})"


def vector(elements: Sequence[str]) -> str:
    """A constant vector of typed elements."""
    return f"<{', '.join(elements)}>"


def lanes_mask(on: Sequence[bool]) -> str:
    """A constant mask."""
    return vector([f"i1 {'true' if lane else 'false'}" for lane in on])


class Emitter:
    """Collects the body of one function. `index` is the type of indices: "i64" or "i32"."""

    def __init__(self, index: str) -> None:
        self.index = index
        self.lines: list[str] = ["entry:"]
        self._next = 0
        self._block = "entry"

    @property
    def block(self) -> str:
        """Label of the block that is being written."""
        return self._block

    def name(self, hint: str) -> str:
        """A fresh SSA or label name, without sigil."""
        self._next += 1
        return f"{hint}.{self._next}"

    def line(self, text: str) -> None:
        """One instruction without a result."""
        self.lines.append(f"  {text}")

    def value(self, hint: str, text: str) -> str:
        """One instruction; the name of its result."""
        self._next += 1  # as `name` and `line` do, without their calls
        name = f"%{hint}.{self._next}"
        self.lines.append(f"  {name} = {text}")
        return name

    def add(self, left: Value, right: Value) -> Value:
        """left + right, folded where both are known."""
        if isinstance(left, int) and isinstance(right, int):
            return left + right
        if right == 0:
            return left
        if left == 0:
            return right
        return self.value("i", f"add nsw {self.index} {left}, {right}")

    def multiply(self, left: Value, factor: int) -> Value:
        """left x factor, folded where it is known."""
        if isinstance(left, int):
            return left * factor
        if factor in (0, 1):
            return left if factor else 0
        return self.value("i", f"mul nsw {self.index} {left}, {factor}")

    def xor(self, left: Value, right: Value) -> Value:
        """The bits of one but not of both, folded where both are known."""
        if isinstance(left, int) and isinstance(right, int):
            return left ^ right
        if 0 in (left, right):
            return right if left == 0 else left
        return self.value("i", f"xor {self.index} {left}, {right}")

    def divide(self, value: Value, by: int) -> tuple[Value, Value]:
        """Quotient and remainder of an index that is not negative, folded where known."""
        if isinstance(value, int):
            return divmod(value, by)
        if by == 1:
            return value, 0
        quotient = self.value("i", f"udiv {self.index} {value}, {by}")
        return quotient, self.value("i", f"urem {self.index} {value}, {by}")

    def extreme(self, op: str, left: Value, right: Value) -> Value:
        """The larger ("smax") or smaller ("smin") of two signed indices, folded where known."""
        if isinstance(left, int) and isinstance(right, int):
            return max(left, right) if op == "smax" else min(left, right)
        index = self.index
        return self.value("i", f"call {index} @llvm.{op}.{index}({index} {left}, {index} {right})")

    @contextmanager
    def between(
        self, first: Value, stop: Value, carried: list[tuple[str, str]]
    ) -> Iterator["Between"]:
        """Run the block for first <= iv < stop, perhaps not at all. Used as `loop` is."""
        loop = Between(self, first, stop, carried)
        yield loop
        loop.close()

    def either(
        self, condition: Value, kinds: Sequence[str], *ways: Callable[[], list[str]]
    ) -> list[str]:
        """What the first of two ways gives where the condition holds, else the second."""
        yes, no, done = (self.name(hint) for hint in ("yes", "no", "done"))
        self.line(f"br i1 {condition}, label %{yes}, label %{no}")
        rows, ends = [], []
        for label, way in zip((yes, no), ways, strict=True):
            self.lines.append(f"{label}:")
            self._block = label
            rows.append(way())
            ends.append(self._block)
            self.line(f"br label %{done}")
        self.lines.append(f"{done}:")
        self._block = done
        return [
            self.value("v", f"phi {kind} [ {one}, %{ends[0]} ], [ {two}, %{ends[1]} ]")
            for kind, one, two in zip(kinds, *rows, strict=True)
        ]

    def pointer(self, base: str, elements: Value, dtype: str = "float32") -> str:
        """Address of an element of an array."""
        if elements == 0:
            return base
        # Not inbounds: the base of a packed access lies before its scratch.
        return self.value("p", f"getelementptr {kind(dtype)}, ptr {base}, {self.index} {elements}")

    def load(self, where: str, dtype: str, lanes: int = 1, aligned: int = 1) -> str:
        """What is there, aligned to so many elements."""
        size = SIZES[dtype] * math.gcd(lanes, aligned)
        return self.value("x", f"load {kind(dtype, lanes)}, ptr {where}, align {size}")

    def store(self, value: str, where: str, dtype: str, lanes: int = 1, aligned: int = 1) -> None:
        """Put it there, aligned to so many elements."""
        size = SIZES[dtype] * math.gcd(lanes, aligned)
        self.line(f"store {kind(dtype, lanes)} {value}, ptr {where}, align {size}")

    def splat(self, scalar: str, dtype: str, lanes: int) -> str:
        """A scalar in every lane."""
        if lanes == 1:
            return scalar
        wide = kind(dtype, lanes)
        one = self.value("e", f"insertelement {wide} poison, {kind(dtype)} {scalar}, i32 0")
        return self.shuffle(one, "poison", [0] * lanes, dtype, lanes)

    def shuffle(self, left: str, right: str, order: Sequence[int], dtype: str, lanes: int) -> str:
        """Lanes of two vectors, those of the second counted on from the first's."""
        wide = kind(dtype, lanes)
        picks = vector([f"i32 {lane}" for lane in order]) if any(order) else "zeroinitializer"
        return self.value(
            "h", f"shufflevector {wide} {left}, {wide} {right}, <{len(order)} x i32> {picks}"
        )

    def transpose(self, rows: list[str], dtype: str, lanes: int) -> list[str]:
        """The columns of a square of `lanes` vectors, by exchanging ever larger blocks."""
        step = 1
        while step < lanes:
            turned = list(rows)
            low = [n if not n & step else n - step + lanes for n in range(lanes)]
            high = [n + step if not n & step else n + lanes for n in range(lanes)]
            for at in range(lanes):
                if not at & step:
                    turned[at] = self.shuffle(rows[at], rows[at + step], low, dtype, lanes)
                    turned[at + step] = self.shuffle(rows[at], rows[at + step], high, dtype, lanes)
            rows, step = turned, 2 * step
        return rows

    @contextmanager
    def loop(self, count: int, carried: list[tuple[str, str]]) -> Iterator["Loop"]:
        """Run the block `count` >= 1 times. `carried` are (type, first value) of its phis.

        The block sets `Loop.next` to the values for the next round; after it `Loop.final` holds
        the last ones. A single round emits no branch.
        """
        loop = Loop(self, count, carried)
        yield loop
        loop.close()


class Loop:
    """A counted loop under construction. `iv` counts rounds from 0."""

    def __init__(self, emit: Emitter, count: int, carried: list[tuple[str, str]]) -> None:
        self._emit = emit
        self._count = count
        self._types = [kind for kind, _ in carried]
        self.next: list[str] = []
        if count == 1:
            self.iv: Value = 0
            self.values = [value for _, value in carried]
            return
        before, self._head = emit._block, emit.name("loop")
        self.iv = f"%{emit.name('iv')}"
        self._iv_next = f"%{emit.name('ivn')}"
        emit.line(f"br label %{self._head}")
        emit.lines.append(f"{self._head}:")
        emit._block = self._head
        self._phis = len(emit.lines)
        emit.line("")  # the phis, when the latch is known
        self.values = [f"%{emit.name('v')}" for _ in carried]
        self._before, self._first = before, [value for _, value in carried]

    def close(self) -> None:
        """Branch back."""
        if self._count == 1:
            self.final = self.next
            return
        emit, latch = self._emit, self._emit._block
        index = emit.index
        phis = [f"  {self.iv} = phi {index} [ 0, %{self._before} ], [ {self._iv_next}, %{latch} ]"]
        for kind, name, first, after in zip(
            self._types, self.values, self._first, self.next, strict=True
        ):
            phis.append(
                f"  {name} = phi {kind} [ {first}, %{self._before} ], [ {after}, %{latch} ]"
            )
        emit.lines[self._phis] = "\n".join(phis)
        emit.line(f"{self._iv_next} = add nuw nsw {index} {self.iv}, 1")
        more = emit.value("more", f"icmp ult {index} {self._iv_next}, {self._count}")
        done = emit.name("done")
        emit.line(f"br i1 {more}, label %{self._head}, label %{done}")
        emit.lines.append(f"{done}:")
        emit._block = done
        self.final = self.next


class Between:
    """A loop with bounds that are not known when compiling, under construction."""

    def __init__(
        self, emit: Emitter, first: Value, stop: Value, carried: list[tuple[str, str]]
    ) -> None:
        self._emit = emit
        self.next: list[str] = []
        self.iv = f"%{emit.name('iv')}"
        self.values = [f"%{emit.name('v')}" for _ in carried]
        self.final = self.values
        self._names = [emit.name(hint) for hint in ("loop", "body", "done")]
        self._iv_next = f"%{emit.name('ivn')}"
        self._first, self._carried, self._before = first, carried, emit._block
        head, body, done = self._names
        emit.line(f"br label %{head}")
        emit.lines.append(f"{head}:")
        self._phis = len(emit.lines)
        emit.line("")  # the phis, when the latch is known
        more = emit.value("more", f"icmp slt {emit.index} {self.iv}, {stop}")
        emit.line(f"br i1 {more}, label %{body}, label %{done}")
        emit.lines.append(f"{body}:")
        emit._block = body

    def close(self) -> None:
        """Branch back."""
        emit, latch = self._emit, self._emit._block
        head, _, done = self._names
        rows = [(emit.index, self.iv, str(self._first), self._iv_next)]
        for (kind_, first), name, after in zip(self._carried, self.values, self.next, strict=True):
            rows.append((kind_, name, first, after))
        emit.lines[self._phis] = "\n".join(
            f"  {name} = phi {kind_} [ {first}, %{self._before} ], [ {after}, %{latch} ]"
            for kind_, name, first, after in rows
        )
        emit.line(f"{self._iv_next} = add nuw nsw {emit.index} {self.iv}, 1")
        emit.line(f"br label %{head}")
        emit.lines.append(f"{done}:")
        emit._block = done
