"""Functions as tensor expressions: polynomials on a reduced range, so that they run in vectors.

Each states its largest error in units in the last place (ulp) of float32, over all float32 inputs,
as `tests/compiler/test_functions.py` measures it. No function calls the C library. The
coefficients are least-maximum fits of the relative error in double precision, rounded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
from tunefarm_compiler.wrong import valued

# Adding 1.5 x 2^23 rounds to a whole number, which then lies in the low bits.
ROUND = 12582912.0
ROUND_BITS = 0x4B400000
# ln 2 in two parts, of which the first has few bits: n times it is exact.
LN2_HIGH, LN2_LOW = 0.693145751953125, 1.4286068203094172e-06
HALF_ROOT_BITS = 0x3F3504F3  # of sqrt(1/2)

EXP = (0.0013814515, 0.008368756, 0.041668393, 0.1666652, 0.49999994, 1.0, 1.0)
LOG = (-0.0763443, 0.1276155, -0.13160194, 0.14201762, -0.16623357, 0.20001227, -0.25000823)
LOG_LAST = 0.3333333
ERF = (2.0259097e-06, 0.00028468826, 0.0038081731, 0.05287548, 0.19155054, 1.1283791)
ERF_BELOW = (3.7831847e-05, 0.0011707292, 0.015055113, 0.114559725, 0.5030899, 1.0)
ERF_END = 3.95
TANH = (1.3319052e-08, 2.0583464e-05, 0.0034940336, 0.13379717, 1.0)
TANH_BELOW = (7.7620103e-07, 0.0003283091, 0.025871068, 0.46713033, 1.0)
TANH_END = 9.02


@dataclass(frozen=True, eq=False)
class Function(Binary):
    """The last step of a function, written out for processors without an instruction for it."""

    name: str = ""
    argument: Expr | None = None

    def children(self) -> list[Expr]:
        """Expressions that this one is made of; the argument is among theirs."""
        return [self.left, self.right]


def _f(value: float) -> Constant:
    return Constant(value)


def _i(value: int) -> Constant:
    return Constant(value, "int32")


def _int(op: str, left: Expr, right: int) -> Expr:
    return Binary(op, left, _i(right))


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's rule, the highest power first."""
    total: Expr = _f(coefficients[0])
    for coefficient in coefficients[1:]:
        total = Fma(total, x, _f(coefficient))
    return total


def quotient(left: Expr, right: Expr) -> Expr:
    """left / right for a divisor of 2^-126 at least; within 2 ulp where that is much faster."""
    return Function("div", left, right, "quotient")


def sqrt(x: Expr) -> Expr:
    """Square root, rounded correctly."""
    return Unary("sqrt", valued(x))


def absolute(x: Expr) -> Expr:
    """The value without its sign."""
    return Unary("abs", valued(x))


def fma(left: Expr, right: Operand, addend: Operand) -> Expr:
    """left x right + addend, rounded once where the processor can."""
    dtype = valued(left).dtype
    return Fma(left, as_expr(right, dtype), as_expr(addend, dtype))


def exp(x: Expr) -> Expr:
    """e to the x, within 1.5 ulp; below 2^-125 it is 0, beyond the largest number infinite."""
    given, x = x, minimum(maximum(x, -87.6), 89.0)
    shifted = Fma(x, _f(math.log2(math.e)), _f(ROUND))
    whole = shifted - ROUND
    rest = Fma(whole, _f(-LN2_LOW), Fma(whole, _f(-LN2_HIGH), x))
    # 2^n in two steps, since 2^128 times a half is still a number.
    exponent = _int("add", Bits(shifted, "int32"), 126 - ROUND_BITS)
    scale = Bits(_int("shl", exponent, 23), "float32")
    return Function("mul", polynomial(rest, EXP) * scale, _f(2.0), "exp", given)


def exp_by_exp2(x: Expr) -> Expr:
    """The same where 2 to the x is an instruction, within 2 ulp."""
    x = maximum(x, -104.0)  # else -infinity would be no number
    power = x * math.log2(math.e)
    # What rounding took from the power, in terms of x.
    rest = Fma(power, _f(-LN2_LOW), Fma(power, _f(-LN2_HIGH), x))
    value = Unary("exp2", power)
    return select(value < math.inf, Fma(value, rest, value), value)


def log(x: Expr) -> Expr:
    """The natural logarithm, within 1.5 ulp; NaN below 0, -infinity at 0."""
    small = x < 2.0**-126
    bits = Bits(select(small, x * 2.0**23, x), "int32")
    shifted = _int("sub", bits, HALF_ROOT_BITS)
    exponent: Expr = Cast(_int("ashr", shifted, 23), "float32")
    exponent = select(small, exponent - 23.0, exponent)
    near = _int("add", _int("and", shifted, 0x7FFFFF), HALF_ROOT_BITS)
    f = Bits(near, "float32") - 1.0
    square = f * f
    tail = square * f * Fma(polynomial(f, LOG), f, _f(LOG_LAST))
    tail = Fma(exponent, _f(LN2_LOW), tail)
    value: Expr = Fma(exponent, _f(LN2_HIGH), f + Fma(square, _f(-0.5), tail))
    value = select(x < math.inf, value, x)  # infinite and NaN stay
    value = select(Compare("eq", x, _f(0.0)), _f(-math.inf), value)
    return select(x < 0.0, _f(math.nan), value)


def _odd(x: Expr, end: float, above: Sequence[float], below: Sequence[float]) -> Expr:
    """x times a quotient of polynomials in its square, constant beyond `end`."""
    x = minimum(maximum(x, -end), end)
    square = x * x
    return quotient(x * polynomial(square, above), polynomial(square, below))


def erf(x: Expr) -> Expr:
    """The error function, within 6 ulp."""
    return _odd(x, ERF_END, ERF, ERF_BELOW)


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent, within 6 ulp."""
    return _odd(x, TANH_END, TANH, TANH_BELOW)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x), within 3 ulp; 0 where e^-x is infinite."""
    return quotient(_f(1.0), exp(-x) + 1.0)


def relu(x: Expr) -> Expr:
    """The larger of x and 0."""
    return maximum(x, 0.0)


def gelu(x: Expr) -> Expr:
    """x times the normal distribution up to x: within 4e-7 x |x|."""
    half = x * 0.5
    return Fma(half, erf(x * math.sqrt(0.5)), half)


def from_half(x: Expr) -> Expr:
    """float16 to float32, exactly, by integers."""
    bits = Cast(Bits(x, "uint16"), "int32")
    moved = _int("shl", _int("and", bits, 0x7FFF), 13)
    number = Bits(moved, "float32") * 2.0**112  # also right for subnormal numbers
    odd = Bits(_int("or", moved, 0x7F800000), "float32")  # infinite, or no number
    sign = _int("shl", _int("and", bits, 0x8000), 16)
    size = Bits(select(moved > 0x0F7FFFFF, odd, number), "int32")
    return Bits(Binary("or", size, sign), "float32")


def to_half(x: Expr) -> Expr:
    """float32 to float16, rounded to the nearest, to even on a tie, by integers."""
    bits = Bits(x, "int32")
    # Adding a power of two that fits the exponent leaves the bits of the result at the end.
    scale = maximum(_int("and", bits, 0x7F800000), 0x38800000)
    base = Unary("abs", x) * 2.0**112 * 2.0**-110
    total = Bits(base + Bits(_int("add", scale, 0x07800000), "float32"), "int32")
    exponent = _int("and", _int("lshr", total, 13), 0x7C00)
    number = exponent + _int("and", total, 0xFFF)
    size = select(_int("and", bits, 0x7FFFFFFF) > 0x7F800000, _i(0x7E00), number)
    sign = _int("and", _int("lshr", bits, 16), 0x8000)
    return Bits(Cast(Binary("or", size, sign), "uint16"), "float16")


def from_bfloat(x: Expr) -> Expr:
    """bfloat16 to float32, exactly: the upper half of its bits."""
    return Bits(_int("shl", Cast(Bits(x, "uint16"), "int32"), 16), "float32")


def to_bfloat(x: Expr) -> Expr:
    """float32 to bfloat16, rounded to the nearest, to even on a tie."""
    bits = Bits(x, "int32")
    upper = _int("lshr", bits, 16)
    rounded = _int("lshr", bits + 0x7FFF + _int("and", upper, 1), 16)
    number = select(_int("and", bits, 0x7FFFFFFF) > 0x7F800000, _int("or", upper, 0x40), rounded)
    return Bits(Cast(number, "uint16"), "bfloat16")


def identity(x: Expr) -> Expr:
    """x itself."""
    return x


ACTIVATIONS = {
    "none": identity,
    "relu": relu,
    "gelu": gelu,
    "sigmoid": sigmoid,
    "tanh": tanh,
}

__all__ = [
    "ACTIVATIONS", "absolute", "erf", "exp", "fma", "gelu", "identity", "log",
    "polynomial", "relu", "sigmoid", "sqrt", "tanh",
]  # fmt: skip
