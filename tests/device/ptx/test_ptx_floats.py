"""Float instructions against exact fractions, on numbers that are hard to round."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from ptx_columns import RAW, Columns
from ptx_harness import Array
from ptx_oracle import FORMATS, WIDTH, bits_of, is_nan, value_of

COLUMNS = Columns()
RNG = np.random.default_rng(3)
ROUNDINGS = ("rn", "rz", "rm", "rp")


def hard(kind: str, count: int) -> Array:
    """Bits: random ones, and those around every border of the format."""
    width = WIDTH[kind]
    fraction, _, high = FORMATS[kind]
    infinite = (2 * high + 1) << fraction
    one = high << fraction
    borders = [0, 1, 2, (1 << fraction) - 1, 1 << fraction, (1 << fraction) + 1, one - 1, one,
               one + 1, infinite - 1, infinite, infinite + (1 << (fraction - 1))]  # fmt: skip
    borders += [b | (1 << (width - 1)) for b in borders]
    near = RNG.integers(one - (3 << fraction), one + (3 << fraction), count // 2)
    anything = RNG.integers(0, 1 << min(width, 62), count, dtype=np.uint64)
    some = np.concatenate([np.array(borders, np.uint64), near.astype(np.uint64), anything])
    RNG.shuffle(some)
    return some[:count].astype(RAW[width])


def exact(name: str, values: list[float | Fraction]) -> float | Fraction | None:
    """The exact result, a float where it is not finite, None where a rule of zeros decides."""
    numbers = [float(v) if isinstance(v, float) else v for v in values]
    if any(isinstance(v, float) and not math.isfinite(v) for v in values):
        a, b, *c = [float(v) if isinstance(v, float) else float(max(min(v, 4), -4)) for v in values]
        with np.errstate(all="ignore"):
            one = np.float64(a)
            product = {"add": one + b, "sub": one - b, "mul": one * b, "fma": one * b}[name]
            return float(product + c[0]) if c else float(product)
    fractions = [Fraction(v) for v in numbers]
    a, b = fractions[:2]
    return (
        {"add": a + b, "sub": a - b, "mul": a * b}.get(name)
        if name != "fma"
        else (a * b + fractions[2])
    )


def zero_sign(name: str, bits: list[int], width: int, mode: str) -> bool:
    """Whether an exact zero is negative, by IEEE 754."""
    signs = [bool(b >> (width - 1)) for b in bits]
    if name == "mul":
        return signs[0] != signs[1]
    one = signs[0] != signs[1] if name == "fma" else signs[0]
    other = signs[-1] != (name == "sub")
    return one if one == other else mode == "rm"


ARITHMETIC = [
    (name, kind, mode, COLUMNS.add(
        f"{name}.{mode}.{kind} {{d}}, {{a}}, {{b}}" + (", {c};" if name == "fma" else ";"),
        WIDTH[kind], *[WIDTH[kind]] * (3 if name == "fma" else 2)))
    for name in ("add", "sub", "mul", "fma")
    for kind in ("f16", "bf16", "f32", "f64")
    for mode in (ROUNDINGS if kind == "f32" else ("rn",))
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "mode", "text"), ARITHMETIC)
def test_arithmetic_is_rounded_once(name: str, kind: str, mode: str, text: str) -> None:
    arrays = [hard(kind, 300) for _ in range(3 if name == "fma" else 2)]
    got = COLUMNS.run(text, *arrays)
    for row, result in zip(zip(*arrays, strict=True), got, strict=True):
        bits = [int(b) for b in row]
        value = exact(name, [value_of(b, kind) for b in bits])
        if isinstance(value, float):
            answer = value_of(int(result), kind)
            assert answer == value or (math.isnan(value) and is_nan(int(result), kind)), bits
            continue
        assert value is not None
        negative = value == 0 and zero_sign(name, bits, WIDTH[kind], mode)
        want = bits_of(value, kind, mode, negative)
        if value == 0 and mode == "rm" and name in ("add", "sub", "fma"):
            assert int(result) & ~(1 << (WIDTH[kind] - 1)) == 0
        else:
            assert int(result) == want, (text, [hex(b) for b in bits], hex(int(result)), hex(want))


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("subnormal", [False, True])
def test_an_fma_near_the_middle_of_two_floats_is_not_rounded_twice(
    kind: str, subnormal: bool
) -> None:
    # (1 + x)(1 - x) is a little below 1: the sum is that far from the middle of two floats, where
    # it is put by an addition in twice the bits.
    fraction, low, _ = FORMATS[kind]
    rows = []
    for _ in range(400):
        x = Fraction(int(RNG.integers(1, 256)), 1 << fraction)
        sign = 1 if RNG.integers(0, 2) else -1
        odd = 2 * int(RNG.integers(1 << 14, 1 << 20)) + int(RNG.integers(0, 2))
        half = Fraction(2) ** (low - fraction - 1 if subnormal else -fraction - 1)
        scale = Fraction(2) ** ((low - fraction - 1) // 2) if subnormal else Fraction(1)
        a, b = (1 + x) * scale, (1 - x) * sign * half / scale
        c = odd * 2 * half + (0 if subnormal else 1)
        rows.append([bits_of(v, kind) for v in (a, b, c)])
        assert [value_of(v, kind) for v in rows[-1]] == [a, b, c]
    arrays = [np.array(x, RAW[WIDTH[kind]]) for x in zip(*rows, strict=True)]
    got = COLUMNS.run(f"fma.rn.{kind} {{d}}, {{a}}, {{b}}, {{c}};", *arrays)
    for row, result in zip(rows, got, strict=True):
        a, b, c = (Fraction(value_of(v, kind)) for v in row)
        assert int(result) == bits_of(a * b + c, kind)


CONVERSIONS = [
    (of, to, mode, COLUMNS.add(
        f"cvt.{mode}.{to}.{of} {{d}}, {{a}};" if mode else f"cvt.{to}.{of} {{d}}, {{a}};",
        WIDTH[to], WIDTH[of]))
    for of, to, modes in (
        ("f32", "f16", ("rn", "rz")), ("f32", "bf16", ("rn", "rz")), ("f64", "f32", ROUNDINGS),
        ("f64", "f16", ("rn",)), ("f16", "f32", ("",)), ("f16", "f64", ("",)),
        ("f32", "f64", ("",)), ("bf16", "f32", ("",)),
    )
    for mode in modes
]  # fmt: skip


@pytest.mark.parametrize(("of", "to", "mode", "text"), CONVERSIONS)
def test_cvt_between_floats_is_rounded_once(of: str, to: str, mode: str, text: str) -> None:
    bits = hard(of, 600)
    for given, result in zip(bits, COLUMNS.run(text, bits), strict=True):
        value = value_of(int(given), of)
        answer = int(result)
        if isinstance(value, float) and not math.isfinite(value):
            assert value_of(answer, to) == value or (math.isnan(value) and is_nan(answer, to))
        else:
            negative = bool(int(given) >> (WIDTH[of] - 1))
            assert answer == bits_of(Fraction(value), to, mode or "rn", negative)


INTEGERS = [
    (
        kind,
        to,
        whole,
        COLUMNS.add(f"cvt.{whole}.{to}.{kind} {{d}}, {{a}};", int(to[1:]), WIDTH[kind]),
    )
    for kind in ("f16", "f32", "f64")
    for to in ("s32", "u32", "s64", "u64", "s16")
    for whole in ("rni", "rzi", "rmi", "rpi")
]


@pytest.mark.parametrize(("kind", "to", "whole", "text"), INTEGERS)
def test_cvt_to_integers_rounds_and_stays_within_bounds(
    kind: str, to: str, whole: str, text: str
) -> None:
    bits = np.concatenate([hard(kind, 200), _around_integers(kind)])
    width, signed = int(to[1:]), to[0] == "s"
    low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
    rounded = {"rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil, "rni": round}[whole]
    for given, result in zip(bits, COLUMNS.run(text, bits), strict=True):
        value = value_of(int(given), kind)
        if isinstance(value, float) and math.isnan(value):
            want = 0 if kind != "f64" and width < 64 else 1 << (width - 1)
        elif isinstance(value, float) and math.isinf(value):
            want = high if value > 0 else low
        else:
            want = min(max(rounded(Fraction(value)), low), high)
        assert int(result) == want % (1 << width), (hex(int(given)), value)


def _around_integers(kind: str) -> Array:
    sizes = [0.5, 1.5, 2.5, 0.49, 2.0**15, 2.0**16, 2.0**31, 2.0**32, 2.0**63, 2.0**64, 100.75]
    values = np.array([s * x for s, x in itertools.product((1, -1), sizes)])
    if kind == "f16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    floats = values.astype(np.float32 if kind == "f32" else np.float64)
    floats = np.concatenate([floats, np.nextafter(floats, floats.dtype.type(0))])
    return floats.view(RAW[WIDTH[kind]])


FROM_INTEGERS = [
    (of, to, COLUMNS.add(f"cvt.{mode}.{to}.{of} {{d}}, {{a}};", WIDTH[to], int(of[1:])), mode)
    for of in ("s32", "u32", "s64", "u64", "s16")
    for to in ("f16", "f32", "f64")
    for mode in (
        ("rn",) if of[1:] == "64" else ("rn", "rz", "rm", "rp") if to == "f32" else ("rn",)
    )
]


@pytest.mark.parametrize(("of", "to", "text", "mode"), FROM_INTEGERS)
def test_cvt_from_integers_is_rounded_once(of: str, to: str, text: str, mode: str) -> None:
    width = int(of[1:])
    bits = RNG.integers(0, 1 << 63, 400, dtype=np.uint64) * np.uint64(2) >> RNG.integers(
        0, 64, 400
    ).astype(np.uint64)
    bits = np.concatenate(
        [bits, np.array([0, 1, (1 << 64) - 1, 1 << 63, (1 << 24) + 1], np.uint64)]
    )
    given = bits.astype(RAW[width])
    for number, result in zip(given, COLUMNS.run(text, given), strict=True):
        value = int(number)
        if of[0] == "s" and value >> (width - 1):
            value -= 1 << width
        assert int(result) == bits_of(Fraction(value), to, mode)


FTZ = [
    COLUMNS.add("add.ftz.f32 {d}, {a}, {b};", 32, 32, 32),
    COLUMNS.add("mul.ftz.f32 {d}, {a}, {b};", 32, 32, 32),
    COLUMNS.add("fma.rn.ftz.f32 {d}, {a}, {b}, {a};", 32, 32, 32),
]


@pytest.mark.parametrize("text", FTZ)
def test_ftz_makes_subnormals_zeros_of_their_sign(text: str) -> None:
    tiny = np.array([1e-40, -1e-40, 2.0**-126, -(2.0**-126), 1.0, 0.0, 1e-30], np.float32)
    a, b = (np.ascontiguousarray(x.reshape(-1)) for x in np.meshgrid(tiny, tiny))
    got = COLUMNS.run(text, a.view(np.uint32), b.view(np.uint32)).view(np.float32)

    def flush(x: Array) -> Array:
        return np.where(np.abs(x) < 2.0**-126, np.copysign(np.float32(0), x), x)

    x, y = flush(a).astype(np.float64), flush(b).astype(np.float64)
    if text.startswith("fma"):
        exact_result = x * y + x
    else:
        exact_result = x + y if text.startswith("add") else x * y
    want = flush(exact_result.astype(np.float32))
    assert np.array_equal(got.view(np.uint32), want.view(np.uint32))


APPROXIMATE = {
    COLUMNS.add("ex2.approx.f32 {d}, {a};", 32, 32): np.exp2,
    COLUMNS.add("lg2.approx.f32 {d}, {a};", 32, 32): np.log2,
    COLUMNS.add("rcp.approx.f32 {d}, {a};", 32, 32): lambda x: 1 / x,
    COLUMNS.add("sqrt.approx.f32 {d}, {a};", 32, 32): np.sqrt,
    COLUMNS.add("sqrt.rn.f32 {d}, {a};", 32, 32): np.sqrt,
    COLUMNS.add("rcp.rn.f32 {d}, {a};", 32, 32): lambda x: 1 / x,
    COLUMNS.add("rsqrt.approx.f32 {d}, {a};", 32, 32): lambda x: 1 / np.sqrt(x),
    COLUMNS.add("sin.approx.f32 {d}, {a};", 32, 32): np.sin,
    COLUMNS.add("cos.approx.f32 {d}, {a};", 32, 32): np.cos,
    COLUMNS.add("tanh.approx.f32 {d}, {a};", 32, 32): np.tanh,
}


@pytest.mark.parametrize("text", APPROXIMATE)
def test_approximate_functions_are_correctly_rounded(text: str) -> None:
    x = np.concatenate([RNG.standard_normal(500) * 4, [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan]])
    x = x.astype(np.float32)
    with np.errstate(all="ignore"):
        want = APPROXIMATE[text](x.astype(np.float64)).astype(np.float32)
    got = COLUMNS.run(text, x.view(np.uint32)).view(np.float32)
    assert np.array_equal(got, want, equal_nan=True)


MINMAX = [
    (name, kind, nan, COLUMNS.add(
        f"{name}{nan}.{kind} {{d}}, {{a}}, {{b}};", WIDTH[kind], *[WIDTH[kind]] * 2))
    for name in ("min", "max")
    for kind in ("f16", "bf16", "f32", "f64")
    for nan in ("", ".NaN")
    if (kind, nan) != ("f64", ".NaN")
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "nan", "text"), MINMAX)
def test_min_and_max_order_zeros_and_heed_nan(name: str, kind: str, nan: str, text: str) -> None:
    arrays = [hard(kind, 400), hard(kind, 400)]
    arrays[0][:3], arrays[1][:3] = (0, 1 << (WIDTH[kind] - 1), 0), (1 << (WIDTH[kind] - 1), 0, 0)
    top = 1 << (WIDTH[kind] - 1)
    for a, b, result in zip(*arrays, COLUMNS.run(text, *arrays), strict=True):
        pair = [int(a), int(b)]
        numbers = [bits for bits in pair if not is_nan(bits, kind)]
        if not numbers or (nan and len(numbers) < 2):
            assert is_nan(int(result), kind)
            continue
        ordered = sorted(numbers, key=lambda bits: -(bits - top) if bits & top else bits + 1)
        assert int(result) == ordered[0 if name == "min" else -1]


PACKED = {
    COLUMNS.add("add.f16x2 {d}, {a}, {b};", 32, 32, 32): np.add,
    COLUMNS.add("mul.f16x2 {d}, {a}, {b};", 32, 32, 32): np.multiply,
    COLUMNS.add("sub.f16x2 {d}, {a}, {b};", 32, 32, 32): np.subtract,
    COLUMNS.add("max.f16x2 {d}, {a}, {b};", 32, 32, 32): np.fmax,
}


@pytest.mark.parametrize("text", PACKED)
def test_packed_halves_are_two_operations(text: str) -> None:
    a = RNG.standard_normal((300, 2)).astype(np.float16)
    b = RNG.standard_normal((300, 2)).astype(np.float16)
    got = COLUMNS.run(text, a.view(np.uint32)[:, 0], b.view(np.uint32)[:, 0])
    assert np.array_equal(got.view(np.float16).reshape(-1, 2), PACKED[text](a, b))


PACK = [
    (kind, COLUMNS.add(f"cvt.rn.{kind}x2.f32 {{d}}, {{a}}, {{b}};", 32, 32, 32))
    for kind in ("f16", "bf16")
]


@pytest.mark.parametrize(("kind", "text"), PACK)
def test_cvt_of_two_floats_puts_the_first_in_the_upper_half(kind: str, text: str) -> None:
    a, b = hard("f32", 300), hard("f32", 300)
    one = f"cvt.rn.{kind}.f32 {{d}}, {{a}};"
    upper, lower = COLUMNS.run(one, a), COLUMNS.run(one, b)
    want = (upper.astype(np.uint32) << 16) | lower
    assert np.array_equal(COLUMNS.run(text, a, b), want)


TF32 = COLUMNS.add("cvt.rna.tf32.f32 {d}, {a};", 32, 32)


def test_cvt_to_tf32_rounds_ties_away() -> None:
    given = np.array([0x3F801000, 0x3F800FFF, 0xBF801000, 0x3F803000, 0x7F800000], np.uint32)
    want = np.array([0x3F802000, 0x3F800000, 0xBF802000, 0x3F804000, 0x7F800000], np.uint32)
    assert np.array_equal(COLUMNS.run(TF32, given), want)


SAT = COLUMNS.add("add.sat.f32 {d}, {a}, {b};", 32, 32, 32)
RELU = COLUMNS.add("fma.rn.relu.f16 {d}, {a}, {b}, {c};", 16, 16, 16, 16)
NEGATE = COLUMNS.add("neg.bf16x2 {d}, {a};", 32, 32)
ABSOLUTE = COLUMNS.add("abs.f32 {d}, {a};", 32, 32)
COPYSIGN = COLUMNS.add("copysign.f32 {d}, {a}, {b};", 32, 32, 32)


def test_modifiers_of_the_result_and_the_sign() -> None:
    x = np.array([-1.0, 0.25, 2.0, np.nan], np.float32)
    zero = np.zeros(4, np.float32)
    got = COLUMNS.run(SAT, x.view(np.uint32), zero.view(np.uint32)).view(np.float32)
    assert got.tolist() == [0.0, 0.25, 1.0, 0.0]
    h = np.array([-1.0, 2.0], np.float16)
    got = COLUMNS.run(RELU, h.view(np.uint16), np.ones(2, np.float16).view(np.uint16),
                      np.zeros(2, np.uint16))  # fmt: skip
    assert got.view(np.float16).tolist() == [0.0, 2.0]
    assert COLUMNS.run(NEGATE, np.array([0x00018000], np.uint32))[0] == 0x80010000
    assert COLUMNS.run(ABSOLUTE, np.array([0xFFC00000], np.uint32))[0] == 0x7FC00000
    got = COLUMNS.run(COPYSIGN, (-x).view(np.uint32), np.abs(x).view(np.uint32)).view(np.float32)
    assert got[:3].tolist() == [1.0, -0.25, -2.0]


def test_ptxas_takes_all_of_them() -> None:
    COLUMNS.check()
