"""Floats rounded once, as the ISA has it, where numpy alone would round twice.

A sum that float64 cannot hold is rounded to odd: of the two neighbours the one whose last bit is
set. Rounding that once more to fewer bits gives what one rounding of the exact value gives
(Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
"""

from fractions import Fraction

import numpy as np

from .kinds import Array, Kind

_HALF = np.int64(1 << 28)
_BELOW = np.int64((1 << 29) - 1)
_SMALLEST_NORMAL = 2.0**-126


def narrow_bfloat(value: Array) -> Array:
    """float32 to the bits of bfloat16, to nearest even."""
    bits = value.view(np.uint32)
    up = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + (np.uint32(0x7FFF) + up)) >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(value)
    return np.where(nan, np.uint16(0x7FFF), rounded) if np.count_nonzero(nan) else rounded


def widen_bfloat(bits: Array) -> Array:
    """The bits of bfloat16 to float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def odd_sum(a: Array, b: Array) -> Array:
    """The sum of float64 values, rounded to odd."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return to_odd(total, error)


def to_odd(value: Array, error: Array) -> Array:
    """`value` + `error` rounded to odd, where `value` is that sum to nearest."""
    bits = value.view(np.int64)
    change = (error != 0) & ((bits & 1) == 0) & np.isfinite(value) & np.isfinite(error)
    step = np.where((error > 0) == (value > 0), np.int64(1), np.int64(-1))
    return np.where(change, bits + step, bits).view(np.float64)


def odd_float32(value: Array) -> Array:
    """float64 to float32, rounded to odd."""
    near = value.astype(np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.int32)
    change = (back != value) & ((bits & 1) == 0) & ~np.isnan(value)
    away = np.where(np.abs(back) < np.abs(value), np.int32(1), np.int32(-1))
    return np.where(change, bits + away, bits).view(np.float32)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32, rounded once to nearest even.

    The product is exact in float64. The sum there may be rounded onto the middle between two
    float32 values, which is the one case that has to be looked at again.
    """
    product = a.astype(np.float64) * b
    wide = c.astype(np.float64)
    total = product + wide
    result = total.astype(np.float32)
    doubtful = (total.view(np.int64) & _BELOW) == _HALF
    small = np.abs(total) < _SMALLEST_NORMAL
    if np.count_nonzero(small):
        doubtful = doubtful | (small & (total != 0))
    if np.count_nonzero(doubtful):
        return np.where(doubtful, odd_sum(product, wide).astype(np.float32), result)
    return result


def directed(value: Array, kind: Kind, mode: str) -> Array:
    """float64 (exact, or rounded to odd) to a narrower type: rn, rz, rm or rp."""
    if kind.family == "bf":
        return _directed_bfloat(value, mode)
    near = value.astype(kind.dtype)
    if mode == "rn":
        return near
    back = near.astype(np.float64)
    goal = {"rz": 0.0, "rm": -np.inf, "rp": np.inf}[mode]
    wrong = {
        "rz": np.abs(back) > np.abs(value),
        "rm": back > value,
        "rp": back < value,
    }[mode]
    return np.where(wrong, np.nextafter(near, kind.dtype.type(goal)), near)


def _directed_bfloat(value: Array, mode: str) -> Array:
    """The bits of bfloat16."""
    odd = odd_float32(value)
    if mode == "rn":
        return narrow_bfloat(odd)
    bits = odd.view(np.uint32)
    cut = (bits >> np.uint32(16)).astype(np.uint16)
    inexact = (bits & np.uint32(0xFFFF)) != 0
    negative = bits >> np.uint32(31) != 0
    away = {"rz": False, "rm": negative, "rp": ~negative}[mode]
    result = np.where(inexact & away, cut + np.uint16(1), cut)
    return np.where(np.isnan(odd), np.uint16(0x7FFF), result)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The product of float64 values, and its error, exact unless it overflows or underflows."""
    product = a * b

    def halves(x: Array) -> tuple[Array, Array]:
        big = 134217729.0 * x
        high = big - (big - x)
        return high, x - high

    ah, al = halves(a)
    bh, bl = halves(b)
    return product, ((ah * bh - product) + ah * bl + al * bh) + al * bl


def fma64(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float64, rounded once to nearest even."""
    a, b, c = np.broadcast_arrays(a, b, c)
    product, error = two_product(a, b)
    total = product + c
    part = total - product
    rest = (product - (total - part)) + (c - part)
    result = total + to_odd_rest(rest, error)
    low, high = 2.0**-900, 2.0**900
    sizes = [np.abs(x) for x in (a, b, c, product)]
    easy = np.ones(a.shape, bool)
    for size in sizes:
        easy &= ((size > low) & (size < high)) | (size == 0)
    easy &= (product != 0) | (a == 0) | (b == 0)
    hard = np.isfinite(a) & np.isfinite(b) & np.isfinite(c) & ~easy
    result = np.where(easy, result, a * b + c)
    for place in np.flatnonzero(hard):
        exact = Fraction(float(a[place])) * Fraction(float(b[place])) + Fraction(float(c[place]))
        result[place] = _nearest(exact, float(result[place]))
    return result


def to_odd_rest(rest: Array, error: Array) -> Array:
    """The sum of the two small parts of an fma, rounded to odd."""
    return odd_sum(rest, error)


def _nearest(exact: Fraction, otherwise: float) -> float:
    if not exact:
        return otherwise if otherwise == 0 else 0.0
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


def flush32(value: Array) -> Array:
    """float32 without subnormals: they become zero of their sign."""
    bits = value.view(np.uint32)
    small = (bits & np.uint32(0x7F800000)) == 0
    if not np.count_nonzero(small):
        return value
    return np.where(small, bits & np.uint32(0x80000000), bits).view(np.float32)


def flush16(value: Array) -> Array:
    """float16 without subnormals."""
    bits = value.view(np.uint16)
    small = (bits & np.uint16(0x7C00)) == 0
    return np.where(small, bits & np.uint16(0x8000), bits).view(np.float16)


def saturate(value: Array) -> Array:
    """Between 0 and 1; a NaN becomes +0."""
    return np.where(value > 0, np.minimum(value, value.dtype.type(1)), value.dtype.type(0))


def smaller(a: Array, b: Array) -> Array:
    """min of the ISA: a NaN gives the other, -0 is below +0."""
    return _with_zeros(np.fmin(a, b), a, b, np.bitwise_or)


def larger(a: Array, b: Array) -> Array:
    """max of the ISA: a NaN gives the other, -0 is below +0."""
    return _with_zeros(np.fmax(a, b), a, b, np.bitwise_and)


def _with_zeros(result: Array, a: Array, b: Array, join: np.ufunc) -> Array:
    zero = result == 0
    if not np.count_nonzero(zero):
        return result
    raw = np.dtype(f"uint{result.dtype.itemsize * 8}")
    both = (a == b) & zero
    return np.where(both, join(a.view(raw), b.view(raw)), result.view(raw)).view(result.dtype)
