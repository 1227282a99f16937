"""LLVM text, line by line: types, names, loops, addresses."""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

# An integer known when compiling, or the name of an SSA value of the index type.
Value = int | str
Carried = Sequence[tuple[str, str]]  # types and first values of what a loop carries

_SCALARS = {"bool": "i1", "float32": "float", "float16": "half"}  # the others by their bits
SIZES = {
    "float32": 4, "float16": 2, "bfloat16": 2,
    "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4,
}  # fmt: skip


@cache
def kind(dtype: str, lanes: int = 1) -> str:
    """LLVM's name of a type: a vector of `lanes`, or the plain type for one."""
    scalar = _SCALARS.get(dtype) or f"i{8 * SIZES[dtype]}"
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


@cache
def suffix(dtype: str, lanes: int = 1) -> str:
    """How the names of intrinsics end for a type: f32, v16f32."""
    scalar = {"float32": "f32", "float16": "f16"}.get(dtype) or kind(dtype)
    return scalar if lanes == 1 else f"v{lanes}{scalar}"


def constant(value: float, dtype: str, lanes: int = 1) -> str:
    """A number in LLVM's text, in every lane."""
    if dtype == "bool":
        text = "true" if value else "false"
    elif dtype.startswith("float"):
        exact = struct.unpack("f", struct.pack("f", value))[0]
        text = f"0x{struct.unpack('<Q', struct.pack('<d', exact))[0]:016X}"
    elif dtype == "bfloat16":  # to the nearest, to even on a tie
        bits = int.from_bytes(struct.pack("<f", value), "little")
        text = str((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
    else:
        text = str(int(value))
    return text if lanes == 1 else f"splat ({kind(dtype)} {text})"


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
        self.block = "entry"  # label of the block that is being written
        self._made: dict[str, str] = {}  # in this block, by the instruction

    def name(self, hint: str) -> str:
        """A fresh SSA or label name, without sigil."""
        self._next += 1
        return f"{hint}.{self._next}"

    def line(self, text: str) -> None:
        """One instruction without a result."""
        self.lines.append(f"  {text}")

    def begin(self, label: str) -> None:
        """A new block of code."""
        self.lines.append(f"{label}:")
        self.block, self._made = label, {}

    def value(self, hint: str, text: str) -> str:
        """One instruction; the name of its result."""
        self._next += 1  # as `name` and `line` do, without their calls
        name = f"%{hint}.{self._next}"
        self.lines.append(f"  {name} = {text}")
        return name

    def once(self, hint: str, text: str) -> str:
        """As `value`, of an instruction that gives the same whenever it runs: one for a block."""
        if text not in self._made:
            self._made[text] = self.value(hint, text)
        return self._made[text]

    def add(self, left: Value, right: Value) -> Value:
        """left + right, folded where both are known."""
        if isinstance(left, int) and isinstance(right, int):
            return left + right
        if 0 in (left, right):
            return right if left == 0 else left
        return self.once("i", f"add nsw {self.index} {left}, {right}")

    def multiply(self, left: Value, factor: int) -> Value:
        """left x factor, folded where it is known."""
        if isinstance(left, int):
            return left * factor
        if factor in (0, 1):
            return left if factor else 0
        return self.once("i", f"mul nsw {self.index} {left}, {factor}")

    def extreme(self, op: str, left: Value, right: Value) -> Value:
        """The larger ("smax") or smaller ("smin") of two signed indices, folded where known."""
        if isinstance(left, int) and isinstance(right, int):
            return max(left, right) if op == "smax" else min(left, right)
        index = self.index
        return self.value("i", f"call {index} @llvm.{op}.{index}({index} {left}, {index} {right})")

    def either(
        self, condition: Value, kinds: Sequence[str], *ways: Callable[[], list[str]]
    ) -> list[str]:
        """What the first of two ways gives where the condition holds, else the second."""
        yes, no, done = (self.name(hint) for hint in ("yes", "no", "done"))
        self.line(f"br i1 {condition}, label %{yes}, label %{no}")
        rows, ends = [], []
        for label, way in zip((yes, no), ways, strict=True):
            self.begin(label)
            rows.append(way())
            ends.append(self.block)
            self.line(f"br label %{done}")
        self.begin(done)
        return [
            self.value("v", f"phi {kind} [ {one}, %{ends[0]} ], [ {two}, %{ends[1]} ]")
            for kind, one, two in zip(kinds, *rows, strict=True)
        ]

    def pointer(self, base: str, elements: Value, dtype: str = "float32") -> str:
        """Address of an element of an array."""
        if elements == 0:
            return base
        # Not inbounds: the base of a packed access lies before its scratch.
        return self.once("p", f"getelementptr {kind(dtype)}, ptr {base}, {self.index} {elements}")

    def load(self, where: str, dtype: str, lanes: int = 1, aligned: int = 1) -> str:
        """What is there, aligned to so many elements."""
        size = SIZES[dtype] * math.gcd(lanes, aligned)
        return self.value("x", f"load {kind(dtype, lanes)}, ptr {where}, align {size}")

    def store(self, value: str, where: str, dtype: str, lanes: int = 1, aligned: int = 1) -> None:
        """Put it there, aligned to so many elements."""
        size = SIZES[dtype] * math.gcd(lanes, aligned)
        self.line(f"store {kind(dtype, lanes)} {value}, ptr {where}, align {size}")

    def load_masked(self, where: str, dtype: str, lanes: int, mask: str) -> str:
        """The lanes of a mask from there, 0 in the others."""
        wide, name = kind(dtype, lanes), f"llvm.masked.load.{suffix(dtype, lanes)}.p0"
        how = f"i32 {SIZES[dtype]}, {kind('bool', lanes)} {mask}, {wide} zeroinitializer"
        return self.value("x", f"call {wide} @{name}(ptr {where}, {how})")

    def store_masked(self, value: str, where: str, dtype: str, lanes: int, mask: str) -> None:
        """Put the lanes of a mask there."""
        how = f"ptr {where}, i32 {SIZES[dtype]}, {kind('bool', lanes)} {mask}"
        name = f"llvm.masked.store.{suffix(dtype, lanes)}.p0"
        self.line(f"call void @{name}({kind(dtype, lanes)} {value}, {how})")

    def call(self, hint: str, name: str, dtype: str, lanes: int, *operands: str) -> str:
        """An intrinsic whose operands are of its result's type."""
        wide = kind(dtype, lanes)
        typed = ", ".join(f"{wide} {operand}" for operand in operands)
        return self.once(hint, f"call {wide} @llvm.{name}.{suffix(dtype, lanes)}({typed})")

    def select(self, mask: str, yes: str, no: str, dtype: str, lanes: int) -> str:
        """Of each lane the first value where the mask is set, else the second."""
        wide, masks = kind(dtype, lanes), kind("bool", lanes)
        return self.once("x", f"select {masks} {mask}, {wide} {yes}, {wide} {no}")

    def part(self, vector: str, begin: int, count: int, dtype: str, lanes: int) -> str:
        """So many of the lanes of a vector, from one on; a plain value for one lane."""
        if count == lanes:
            return vector
        if count == 1:
            return self.once("e", f"extractelement {kind(dtype, lanes)} {vector}, i32 {begin}")
        return self.shuffle(vector, "poison", range(begin, begin + count), dtype, lanes)

    def splat(self, scalar: str, dtype: str, lanes: int) -> str:
        """A scalar in every lane."""
        if lanes == 1:
            return scalar
        wide = kind(dtype, lanes)
        one = self.once("e", f"insertelement {wide} poison, {kind(dtype)} {scalar}, i32 0")
        return self.shuffle(one, "poison", [0] * lanes, dtype, lanes)

    def shuffle(self, left: str, right: str, order: Sequence[int], dtype: str, lanes: int) -> str:
        """Lanes of two vectors, those of the second counted on from the first's."""
        wide = kind(dtype, lanes)
        picks = vector([f"i32 {lane}" for lane in order]) if any(order) else "zeroinitializer"
        return self.once(
            "h", f"shufflevector {wide} {left}, {wide} {right}, <{len(order)} x i32> {picks}"
        )

    def transpose(self, rows: list[str], dtype: str, lanes: int) -> list[str]:
        """The columns of a square of `lanes` vectors, by exchanging ever larger blocks."""
        step = 1
        while step < lanes:
            low = [n if not n & step else n - step + lanes for n in range(lanes)]
            high = [n + step if not n & step else n + lanes for n in range(lanes)]
            turned = list(rows)
            for at in (n for n in range(lanes) if not n & step):
                one, two = rows[at], rows[at + step]
                turned[at] = self.shuffle(one, two, low, dtype, lanes)
                turned[at + step] = self.shuffle(one, two, high, dtype, lanes)
            rows, step = turned, 2 * step
        return rows

    @contextmanager
    def loop(self, count: int, carried: Carried) -> Iterator["Loop"]:
        """Run the block `count` >= 1 times. `carried` are (type, first value) of its phis.

        The block sets `Loop.next` to the values for the next round; after it `Loop.final` holds
        the last ones. A single round emits no branch.
        """
        if count == 1:
            loop = Loop("", 0, "", [value for _, value in carried])
            yield loop
        else:
            with self._rounds(0, carried) as loop:
                yield loop
            more = self.value("more", f"icmp ult {self.index} {loop.iv_next}, {count}")
            done = self.name("done")
            self.line(f"br i1 {more}, label %{loop.head}, label %{done}")
            self.begin(done)
        loop.final = loop.next

    @contextmanager
    def between(self, first: Value, stop: Value, carried: Carried) -> Iterator["Loop"]:
        """Run the block for first <= iv < stop, perhaps not at all. Used as `loop` is."""
        with self._rounds(first, carried) as loop:
            body, done = self.name("body"), self.name("done")
            more = self.value("more", f"icmp slt {self.index} {loop.iv}, {stop}")
            self.line(f"br i1 {more}, label %{body}, label %{done}")
            self.begin(body)
            yield loop
        self.line(f"br label %{loop.head}")
        self.begin(done)
        loop.final = loop.values

    @contextmanager
    def _rounds(self, first: Value, carried: Carried) -> Iterator["Loop"]:
        """What begins with phis and ends with the next count; who asks for it branches back."""
        head, iv, iv_next = self.name("loop"), f"%{self.name('iv')}", f"%{self.name('ivn')}"
        loop, before = Loop(head, iv, iv_next, [f"%{self.name('v')}" for _ in carried]), self.block
        self.line(f"br label %{head}")
        self.begin(head)
        place = len(self.lines)
        self.line("")  # the phis, when the latch is known
        yield loop
        rows = [(self.index, iv, first, iv_next)]
        for (type_, begun), name, after in zip(carried, loop.values, loop.next, strict=True):
            rows.append((type_, name, begun, after))
        self.lines[place] = "\n".join(
            f"  {name} = phi {type_} [ {begun}, %{before} ], [ {after}, %{self.block} ]"
            for type_, name, begun, after in rows
        )
        self.line(f"{iv_next} = add nuw nsw {self.index} {iv}, 1")


@dataclass
class Loop:
    """A counted loop under construction: `iv` counts its rounds, `values` are what it carries."""

    head: str
    iv: Value
    iv_next: str
    values: list[str]
    next: list[str] = field(default_factory=list)
    final: list[str] = field(default_factory=list)
