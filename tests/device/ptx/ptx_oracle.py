"""Floats rounded by exact fractions: slow, and nothing but the definition."""

import math
from fractions import Fraction

# Bits of the fraction, and the smallest exponent of a normal number.
FORMATS = {
    "f16": (10, -14, 15),
    "bf16": (7, -126, 127),
    "f32": (23, -126, 127),
    "f64": (52, -1022, 1023),
}
WIDTH = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}


def value_of(bits: int, kind: str) -> float | Fraction:
    """The number that bits are: a fraction, or a float for infinities and NaN; -0 is a float."""
    fraction, low, high = FORMATS[kind]
    sign = -1 if bits >> (WIDTH[kind] - 1) else 1
    exponent = (bits >> fraction) & ((1 << (WIDTH[kind] - 1 - fraction)) - 1)
    part = bits & ((1 << fraction) - 1)
    if exponent == 2 * high + 1:
        return math.nan if part else sign * math.inf
    if exponent == 0:
        if not part:
            return sign * 0.0
        return sign * Fraction(part) * Fraction(2) ** (low - fraction)
    whole = Fraction((1 << fraction) + part)
    return sign * whole * Fraction(2) ** (exponent - high - fraction)


def bits_of(value: Fraction, kind: str, mode: str = "rn", negative_zero: bool = False) -> int:
    """A number rounded to a format."""
    fraction, low, high = FORMATS[kind]
    top = 1 << (WIDTH[kind] - 1)
    if value == 0:
        return top if negative_zero else 0
    sign = value < 0
    size = abs(value)
    exponent = max(low, size.numerator.bit_length() - size.denominator.bit_length() - 1)
    while size >= Fraction(2) ** (exponent + 1):
        exponent += 1
    scaled = size / Fraction(2) ** (exponent - fraction)
    whole, rest = scaled.numerator // scaled.denominator, scaled - math.floor(scaled)
    up = {
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1),
        "rz": False,
        "rm": sign and rest > 0,
        "rp": not sign and rest > 0,
    }[mode]
    whole += up
    if whole == 2 << fraction:
        whole, exponent = 1 << fraction, exponent + 1
    if exponent > high:
        infinite = (2 * high + 1) << fraction
        away = mode == "rn" or (mode == "rm" and sign) or (mode == "rp" and not sign)
        bits = infinite if away else infinite - 1
    elif whole < 1 << fraction:
        bits = whole
    else:
        bits = ((exponent + high) << fraction) + whole - (1 << fraction)
    return bits | top if sign else bits


def is_nan(bits: int, kind: str) -> bool:
    """Whether the bits are a NaN."""
    value = value_of(bits, kind)
    return isinstance(value, float) and math.isnan(value)
