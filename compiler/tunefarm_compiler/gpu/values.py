"""Expressions to LLVM values, by the instructions that GPUs have."""

import math

from tunefarm_compiler.access import Access, Guard
from tunefarm_compiler.emit import kind
from tunefarm_compiler.functions import Function
from tunefarm_compiler.te import FLOATS, Expr, Unary
from tunefarm_compiler.values import Values

EXP2 = "llvm.nvvm.ex2.approx.ftz.f32"


class GpuValues(Values):
    """Computes expressions of one thread's tile.

    `newer`: there are instructions for extremes of floats that may be NaN.
    """

    newer = False

    def apply(self, expr: Expr, inner: list[str], lanes: int) -> str:
        """One operation on values of its operands."""
        if isinstance(expr, Unary) and expr.op == "exp2":
            return self._each(inner[0], lanes)
        if isinstance(expr, Function) and expr.name == "quotient":
            typed = f"{kind(expr.dtype, lanes)} {inner[0]}, {inner[1]}"
            return self.emit.value("x", f"fdiv afn {typed}")
        return super().apply(expr, inner, lanes)

    def extreme(
        self, op: str, left: str, right: str, dtype: str, lanes: int, *ordered: bool
    ) -> str:
        """The larger or smaller of two; NaN where either is."""
        known = () if self.newer and dtype in FLOATS else ordered
        return super().extreme(op, left, right, dtype, lanes, *known)

    def _cast(self, value: str, before: str, after: str, lanes: int) -> str:
        if (before, after) != ("float32", "bfloat16"):
            return super()._cast(value, before, after, lanes)
        narrow = "bfloat" if lanes == 1 else f"<{lanes} x bfloat>"
        made = self.emit.value("x", f"fptrunc {kind(before, lanes)} {value} to {narrow}")
        return self.emit.value("x", f"bitcast {narrow} {made} to {kind(after, lanes)}")

    def _contiguous(self, access: Access, base: str, offset: int, lanes: int, guard: Guard) -> str:
        if not guard.every or guard.mask:
            return super()._contiguous(access, base, offset, lanes, guard)
        where = self.unless(guard.every, self.emit.pointer(base, offset, access.dtype))
        return self.emit.load(where, access.dtype, lanes, math.gcd(access.aligned, offset))

    def _each(self, value: str, lanes: int) -> str:
        """2 to the x of each lane: there is no such instruction for vectors."""
        if lanes == 1:
            return self.emit.value("x", f"call float @{EXP2}(float {value})")
        wide, made = kind("float32", lanes), "poison"
        for lane in range(lanes):
            one = self.emit.part(value, lane, 1, "float32", lanes)
            one = self.emit.value("x", f"call float @{EXP2}(float {one})")
            made = self.emit.value("e", f"insertelement {wide} {made}, float {one}, i32 {lane}")
        return made
