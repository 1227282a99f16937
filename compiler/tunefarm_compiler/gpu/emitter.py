"""LLVM text for GPUs: what index values are multiples of, barriers, exchange between threads."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from tunefarm_compiler.emit import Emitter, Value


class GpuEmitter(Emitter):
    """Knows of every index and address which number of elements it is a multiple of."""

    def __init__(self) -> None:
        super().__init__("i32")
        self._multiples: dict[str, int] = {}

    def multiple(self, value: Value) -> int:
        """A number that divides a value, or an address counted from its array; 0 divides 0."""
        return value if isinstance(value, int) else self._multiples.get(value, 1)

    def begins(self, pointer: str) -> str:
        """An address where an array begins."""
        self._multiples[pointer] = 0
        return pointer

    def _known(self, value: Value, multiple: int) -> Value:
        if isinstance(value, str):
            self._multiples[value] = multiple
        return value

    def add(self, left: Value, right: Value) -> Value:
        """left + right."""
        multiple = math.gcd(self.multiple(left), self.multiple(right))
        return self._known(super().add(left, right), multiple)

    def multiply(self, left: Value, factor: int) -> Value:
        """left x factor."""
        multiple = self.multiple(left) * abs(factor)
        return self._known(super().multiply(left, factor), multiple)

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
        """The larger or smaller of two."""
        multiple = math.gcd(self.multiple(left), self.multiple(right))
        return self._known(super().extreme(op, left, right), multiple)

    def pointer(self, base: str, elements: Value, dtype: str = "float32") -> str:
        """Address of an element of an array."""
        multiple = math.gcd(self.multiple(base), self.multiple(elements))
        made = super().pointer(base, elements, dtype)
        self._known(made, multiple)
        return made

    def special(self, register: str) -> str:
        """A special register, as in "tid.x"."""
        return self.value("s", f"call i32 @llvm.nvvm.read.ptx.sreg.{register}()")

    def digits(self, number: str, counts: list[int], most: int) -> list[Value]:
        """A number in digits of so many values each, the last one the lowest.

        `most` is what it is below; beyond the product of the counts it begins anew.
        """
        found: list[Value] = []
        left: Value = number
        for count in reversed(counts):
            if count == 1 or most == 1:
                found.append(0)
            elif count == most:
                found.append(left)
            else:
                found.append(self.value("d", f"urem i32 {left}, {count}"))
                left = self.value("d", f"udiv i32 {left}, {count}")
            most = -(-most // count)
        return found[::-1]

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Run the block where the condition holds; no value of it may be used behind it."""
        inside, after = self.name("when"), self.name("after")
        self.line(f"br i1 {condition}, label %{inside}, label %{after}")
        self.begin(inside)
        yield
        self.line(f"br label %{after}")
        self.begin(after)

    def barrier(self) -> None:
        """All threads of the block come here before one goes on."""
        self.line("call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)")

    def exchanged(self, word: str, distance: int) -> str:
        """What the thread of the warp whose number differs in that bit holds, of 32 bits."""
        name = "@llvm.nvvm.shfl.sync.bfly.i32"
        return self.value("w", f"call i32 {name}(i32 -1, i32 {word}, i32 {distance}, i32 31)")
