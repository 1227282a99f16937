"""Functions as tensor expressions: polynomials on a reduced range, so that they run in vectors.

Each states its largest error over all float32 inputs in units in the last place (ulp), as
`tests/compiler/test_functions.py` measures it. No function calls the C library.
"""

import math
from collections.abc import Sequence

from tunefarm_compiler.te import (
    Binary,
    Bits,
    Cast,
    Compare,
    Constant,
    Expr,
    Fma,
    Operand,
    Unary,
    as_expr,
    maximum,
    minimum,
    select,
)

# Adding 1.5 x 2^23 rounds to a whole number, which then lies in the low bits.
ROUND = 12582912.0
# ln 2 in two parts, of which the first has few bits: n times it is exact.
LN2_HIGH, LN2_LOW = 0.693145751953125, 1.4286068203094172e-06


def _f(value: float) -> Constant:
    return Constant(value)


def _i(value: int) -> Constant:
    return Constant(value, "int32")


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's rule, the highest power first."""
    total: Expr = _f(coefficients[0])
    for coefficient in coefficients[1:]:
        total = Fma(total, x, _f(coefficient))
    return total


def sqrt(x: Expr) -> Expr:
    """Square root, rounded correctly."""
    return Unary("sqrt", x)


def absolute(x: Expr) -> Expr:
    """The value without its sign."""
    return Unary("abs", x)


def fma(left: Expr, right: Operand, addend: Operand) -> Expr:
    """left x right + addend, rounded once where the processor can."""
    return Fma(left, as_expr(right, left.dtype), as_expr(addend, left.dtype))
