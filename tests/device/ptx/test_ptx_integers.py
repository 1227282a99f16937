"""Integer instructions against Python's integers."""

from collections.abc import Callable

import numpy as np
import pytest
from ptx_columns import RAW, Columns
from ptx_harness import Array

COLUMNS = Columns()
RNG = np.random.default_rng(5)
Function = Callable[..., int]


def values(kind: str, count: int = 300) -> Array:
    """Bits: borders of the type, small numbers, and any."""
    width = int(kind[1:])
    borders = [
        0,
        1,
        2,
        3,
        (1 << width) - 1,
        (1 << width) - 2,
        1 << (width - 1),
        (1 << (width - 1)) - 1,
    ]
    small = RNG.integers(0, 200, count // 3)
    anything = RNG.integers(0, 1 << 63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    every = np.concatenate([np.array(borders * 4, np.uint64), small.astype(np.uint64), anything])
    every = (every & np.uint64((1 << width) - 1)).astype(RAW[width])
    RNG.shuffle(every)
    return every[:count]


def number(bits: int, kind: str) -> int:
    """The integer that bits are."""
    width = int(kind[1:])
    value = int(bits)
    return value - (1 << width) if kind[0] == "s" and value >> (width - 1) else value


def quotient(a: int, b: int) -> int:
    """a / b towards zero."""
    whole = abs(a) // abs(b)
    return whole if (a < 0) == (b < 0) else -whole


TWO: dict[str, tuple[str, Function]] = {
    "add.{t}": ("ab", lambda a, b: a + b),
    "sub.{t}": ("ab", lambda a, b: a - b),
    "mul.lo.{t}": ("ab", lambda a, b: a * b),
    "div.{t}": ("ab", quotient),
    "rem.{t}": ("ab", lambda a, b: a - quotient(a, b) * b),
    "min.{t}": ("ab", min),
    "max.{t}": ("ab", max),
    "mad.lo.{t}": ("abc", lambda a, b, c: a * b + c),
    "sad.{t}": ("abc", lambda a, b, c: abs(a - b) + c),
}
CASES = [
    (COLUMNS.add(
        f"{text.format(t=kind)} {{d}}, " + ", ".join("{" + n + "}" for n in names) + ";",
        int(kind[1:]), *[int(kind[1:])] * len(names)), kind, function)
    for text, (names, function) in TWO.items()
    for kind in ("s16", "u16", "s32", "u32", "s64", "u64")
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "function"), CASES)
def test_arithmetic_wraps_around(text: str, kind: str, function: Function) -> None:
    width = int(kind[1:])
    arrays = [values(kind) for _ in range(3 if "{c}" in text else 2)]
    if text.startswith(("div", "rem")):
        arrays[1][arrays[1] == 0] = 1
    got = COLUMNS.run(text, *arrays)
    for row, result in zip(zip(*arrays, strict=True), got, strict=True):
        want = function(*[number(x, kind) for x in row])
        assert int(result) == want % (1 << width), row


PARTS = [
    (COLUMNS.add(f"{name}.{part}.{kind} {{d}}, {{a}}, {{b}}" + (", {c};" if name == "mad" else ";"),
                 width * (2 if part == "wide" else 1), width, width,
                 *([width * (2 if part == "wide" else 1)] if name == "mad" else [])), kind, part)
    for name in ("mul", "mad")
    for part in ("hi", "wide")
    for kind in ("s16", "u16", "s32", "u32", "s64", "u64")
    for width in (int(kind[1:]),)
    if (part, width) != ("wide", 64)
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "part"), PARTS)
def test_high_and_wide_products(text: str, kind: str, part: str) -> None:
    width = int(kind[1:])
    wide = width * 2 if part == "wide" else width
    arrays = [values(kind), values(kind)]
    if "{c}" in text:
        arrays.append(values(f"{kind[0]}{wide}"))
    got = COLUMNS.run(text, *arrays)
    for row, result in zip(zip(*arrays, strict=True), got, strict=True):
        want = number(row[0], kind) * number(row[1], kind)
        want = want >> width if part == "hi" else want
        want += int(row[2]) if len(row) > 2 else 0
        assert int(result) == want % (1 << wide)


def field(a: int, start: int, length: int, kind: str) -> int:
    """bfe, as the ISA's pseudo code has it."""
    width = int(kind[1:])
    start, length = start & 0xFF, length & 0xFF
    sign = 0
    if kind[0] == "s" and length:
        sign = a >> min(start + length - 1, width - 1) & 1
    bits = 0
    for i in range(width):
        inside = i < length and start + i < width
        bits |= (a >> (start + i) & 1 if inside else sign) << i
    return bits


def insert(a: int, b: int, start: int, length: int) -> int:
    """bfi of 32 bits, as the ISA's pseudo code has it."""
    start, length = start & 0xFF, length & 0xFF
    for i in range(length):
        if start + i < 32:
            b = b & ~(1 << (start + i)) | ((a >> i & 1 if i < 32 else 0) << (start + i))
    return b


def permute(a: int, b: int, selector: int) -> int:
    """prmt without a mode."""
    octets = a.to_bytes(4, "little") + b.to_bytes(4, "little")
    result = 0
    for i in range(4):
        nibble = selector >> (4 * i) & 15
        octet = octets[nibble & 7]
        octet = (0xFF if octet & 0x80 else 0) if nibble & 8 else octet
        result |= octet << (8 * i)
    return result


def shift(a: int, n: int, kind: str, left: bool) -> int:
    """shl and shr: by the width and more all bits are gone."""
    width = int(kind[1:])
    if left:
        return a << n if n < width else 0
    value = number(a, "s" + kind[1:]) if kind[0] == "s" else a
    return value >> min(n, width)


U = "u32"
MASK = (1 << 32) - 1
BITS: list[tuple[str, tuple[str, ...], Function]] = [
    ("and.b32 {d}, {a}, {b};", (U, U), lambda a, b: a & b),
    ("or.b64 {d}, {a}, {b};", ("u64", "u64"), lambda a, b: a | b),
    ("xor.b16 {d}, {a}, {b};", ("u16", "u16"), lambda a, b: a ^ b),
    ("not.b32 {d}, {a};", (U,), lambda a: ~a),
    ("cnot.b32 {d}, {a};", (U,), lambda a: int(a == 0)),
    ("abs.s32 {d}, {a};", ("s32",), lambda a: abs(number(a, "s32"))),
    ("neg.s64 {d}, {a};", ("s64",), lambda a: -a),
    ("shl.b32 {d}, {a}, {b};", (U, "n32"), lambda a, n: shift(a, n, "b32", True)),
    ("shl.b64 {d}, {a}, {b};", ("u64", "n32"), lambda a, n: shift(a, n, "b64", True)),
    ("shl.b16 {d}, {a}, {b};", ("u16", "n32"), lambda a, n: shift(a, n, "b16", True)),
    ("shr.u32 {d}, {a}, {b};", (U, "n32"), lambda a, n: shift(a, n, "u32", False)),
    ("shr.s32 {d}, {a}, {b};", (U, "n32"), lambda a, n: shift(a, n, "s32", False)),
    ("shr.s64 {d}, {a}, {b};", ("u64", "n32"), lambda a, n: shift(a, n, "s64", False)),
    ("shr.s16 {d}, {a}, {b};", ("u16", "n32"), lambda a, n: shift(a, n, "s16", False)),
    ("popc.b32 {d}, {a};", (U,), lambda a: a.bit_count()),
    ("popc.b64 {d}, {a};", ("u64",), lambda a: a.bit_count()),
    ("clz.b32 {d}, {a};", (U,), lambda a: 32 - a.bit_length()),
    ("clz.b64 {d}, {a};", ("u64",), lambda a: 64 - a.bit_length()),
    ("bfind.u32 {d}, {a};", (U,), lambda a: a.bit_length() - 1),
    ("bfind.shiftamt.u32 {d}, {a};", (U,), lambda a: 32 - a.bit_length() if a else -1),
    ("bfind.s32 {d}, {a};", (U,),
     lambda a: (a if a < 1 << 31 else ~a & MASK).bit_length() - 1),
    ("brev.b32 {d}, {a};", (U,), lambda a: int(f"{a:032b}"[::-1], 2)),
    ("brev.b64 {d}, {a};", ("u64",), lambda a: int(f"{a:064b}"[::-1], 2)),
    ("bfe.u32 {d}, {a}, {b}, {c};", (U, "n32", "n32"), lambda a, b, c: field(a, b, c, "u32")),
    ("bfe.s32 {d}, {a}, {b}, {c};", (U, "n32", "n32"), lambda a, b, c: field(a, b, c, "s32")),
    ("bfe.s64 {d}, {a}, {b}, {c};", ("u64", "n32", "n32"), lambda a, b, c: field(a, b, c, "s64")),
    ("bfi.b32 {d}, {a}, {b}, {c}, {e};", (U, U, "n32", "n32"), insert),
    ("prmt.b32 {d}, {a}, {b}, {c};", (U, U, U), permute),
    ("prmt.b32.f4e {d}, {a}, {b}, {c};", (U, U, U),
     lambda a, b, c: ((b << 32 | a) >> 8 * (c & 3)) & MASK),
    ("shf.l.wrap.b32 {d}, {a}, {b}, {c};", (U, U, U),
     lambda a, b, c: ((b << 32 | a) << (c & 31)) >> 32),
    ("shf.r.wrap.b32 {d}, {a}, {b}, {c};", (U, U, U), lambda a, b, c: (b << 32 | a) >> (c & 31)),
    ("shf.r.clamp.b32 {d}, {a}, {b}, {c};", (U, U, "n32"),
     lambda a, b, c: (b << 32 | a) >> min(c, 32)),
    ("lop3.b32 {d}, {a}, {b}, {c}, 0x96;", (U, U, U), lambda a, b, c: a ^ b ^ c),
    ("lop3.b32 {d}, {a}, {b}, {c}, 0xE8;", (U, U, U), lambda a, b, c: a & b | a & c | b & c),
    ("dp4a.s32.u32 {d}, {a}, {b}, {c};", (U, U, U), lambda a, b, c: c + sum(
        number(a >> 8 * i & 255, "s8") * (b >> 8 * i & 255) for i in range(4))),
    ("dp2a.lo.s32.u32 {d}, {a}, {b}, {c};", (U, U, U), lambda a, b, c: c + sum(
        number(a >> 16 * i & 0xFFFF, "s16") * (b >> 8 * i & 255) for i in range(2))),
    ("dp2a.hi.u32.s32 {d}, {a}, {b}, {c};", (U, U, U), lambda a, b, c: c + sum(
        (a >> 16 * i & 0xFFFF) * number(b >> 8 * i + 16 & 255, "s8") for i in range(2))),
    ("bmsk.clamp.b32 {d}, {a}, {b};", ("n32", "n32"),
     lambda a, b: ((1 << min(b, 32)) - 1) << min(a, 32) & MASK),
    ("mul24.lo.s32 {d}, {a}, {b};", (U, U), lambda a, b:
     number(a & 0xFFFFFF, "s24") * number(b & 0xFFFFFF, "s24")),
    ("add.sat.s32 {d}, {a}, {b};", (U, U), lambda a, b: min(max(
        number(a, "s32") + number(b, "s32"), -(1 << 31)), (1 << 31) - 1)),
]  # fmt: skip
for text_of, kinds_of, _ in BITS:
    wide_one = text_of.startswith(("popc", "clz", "bfind"))
    COLUMNS.add(
        text_of, 32 if wide_one else int(kinds_of[0][1:]), *[int(kind[1:]) for kind in kinds_of]
    )


PACKED = {
    COLUMNS.add(f"{name}.{kind}x2 {{d}}, {{a}}, {{b}};", 32, 32, 32): (function, dtype)
    for name, function in (("min", np.minimum), ("max", np.maximum), ("add", np.add))
    for kind, dtype in (("s16", np.int16), ("u16", np.uint16))
}


@pytest.mark.parametrize("text", PACKED)
def test_packed_halves_are_two_operations(text: str) -> None:
    function, dtype = PACKED[text]
    a, b = values("u32"), values("u32")
    halves = function(a.view(dtype).reshape(-1, 2), b.view(dtype).reshape(-1, 2))
    assert np.array_equal(COLUMNS.run(text, a, b).view(dtype).reshape(-1, 2), halves)


@pytest.mark.parametrize(("text", "kinds", "function"), BITS)
def test_bits(text: str, kinds: tuple[str, ...], function: Function) -> None:
    arrays = [
        RNG.integers(0, 70, 300).astype(np.uint32) if kind[0] == "n" else values("u" + kind[1:])
        for kind in kinds
    ]
    got = COLUMNS.run(text, *arrays)
    for row, result in zip(zip(*arrays, strict=True), got, strict=True):
        width = 8 * got.dtype.itemsize
        assert int(result) == function(*map(int, row)) % (1 << width), [hex(x) for x in row]


COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
SETP = [
    (COLUMNS.add(f"setp.{name}.{kind} {{d}}, {{a}}, {{b}};", 1, *[int(kind[1:])] * 2), name, kind)
    for name in COMPARISONS
    for kind in ("s32", "u32", "s64", "u16")
]


@pytest.mark.parametrize(("text", "name", "kind"), SETP)
def test_comparisons_of_integers(text: str, name: str, kind: str) -> None:
    a, b = values(kind), values(kind)
    b[:50] = a[:50]
    got = COLUMNS.run(text, a, b)
    want = [COMPARISONS[name](number(x, kind), number(y, kind)) for x, y in zip(a, b, strict=True)]
    assert got.astype(bool).tolist() == want


FLOAT_SETP = [
    (COLUMNS.add(f"setp.{name}{u}.f32 {{d}}, {{a}}, {{b}};", 1, 32, 32), name, u)
    for name in COMPARISONS
    for u in ("", "u")
]


@pytest.mark.parametrize(("text", "name", "unordered"), FLOAT_SETP)
def test_comparisons_with_a_nan_are_false_or_with_u_true(
    text: str, name: str, unordered: str
) -> None:
    some = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], np.float32)
    a, b = (np.ascontiguousarray(x.reshape(-1)) for x in np.meshgrid(some, some))
    got = COLUMNS.run(text, a.view(np.uint32), b.view(np.uint32)).astype(bool)
    nan = np.isnan(a) | np.isnan(b)
    want = [COMPARISONS[name](x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert np.array_equal(got, np.where(nan, bool(unordered), want))


CONVERT = [
    (COLUMNS.add(f"cvt{sat}.{to}.{of} {{d}}, {{a}};", int(to[1:]), int(of[1:])), of, to, sat)
    for of in ("s16", "u16", "s32", "u32", "s64", "u64")
    for to in ("s16", "u16", "s32", "u32", "s64", "u64")
    for sat in ("", ".sat")
    if of != to and (not sat or int(to[1:]) <= int(of[1:]))
]


@pytest.mark.parametrize(("text", "of", "to", "sat"), CONVERT)
def test_cvt_between_integers(text: str, of: str, to: str, sat: str) -> None:
    given = values(of)
    width = int(to[1:])
    low, high = (
        (-(1 << (width - 1)), (1 << (width - 1)) - 1) if to[0] == "s" else (0, (1 << width) - 1)
    )
    for bits, result in zip(given, COLUMNS.run(text, given), strict=True):
        value = number(bits, of)
        value = min(max(value, low), high) if sat else value
        assert int(result) == value % (1 << width)


BYTES = [
    (COLUMNS.add("cvt.s32.s8 {d}, {a};", 32, 32), lambda a: number(a & 255, "s8")),
    (COLUMNS.add("cvt.u32.u8 {d}, {a};", 32, 16), lambda a: a & 255),
    (COLUMNS.add("cvt.s8.s32 {d}, {a};", 32, 32), lambda a: number(a & 255, "s8")),
    (COLUMNS.add("cvt.u8.u32 {d}, {a};", 16, 32), lambda a: a & 255),
]


@pytest.mark.parametrize(("text", "function"), BYTES)
def test_cvt_of_bytes_fills_the_wider_register(text: str, function: Function) -> None:
    given = values("u16" if "u32.u8" in text else "u32")
    got = COLUMNS.run(text, given)
    width = 8 * got.dtype.itemsize
    assert [int(x) for x in got] == [function(int(x)) % (1 << width) for x in given]


THREE = [
    (COLUMNS.add(
        f"{{{{ .reg .pred c; setp.ne.u32 c, {{c}}, 0; setp.lt.{join}.s32 {{d}}{pair}, {{a}}, {{b}},"
        f" {no}c; {more} }}}}", 1, 32, 32, 32), join, no, bool(pair))
    for join in ("and", "or", "xor")
    for no in ("", "!")
    for pair, more in (("", ""), ("|c", "not.pred {d}, c;"))
]  # fmt: skip


@pytest.mark.parametrize(("text", "join", "no", "second"), THREE)
def test_setp_joins_a_third_predicate_and_gives_the_opposite_too(
    text: str, join: str, no: str, second: bool
) -> None:
    a, b, c = values("s32"), values("s32"), RNG.integers(0, 2, 300).astype(np.uint32)
    less = a.view(np.int32) < b.view(np.int32)
    third = (c == 0) if no else (c != 0)
    joined = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[join]
    want = ~joined(~less, third) if second else joined(less, third)
    assert np.array_equal(COLUMNS.run(text, a, b, c).astype(bool), want)


FLOATS = {
    COLUMNS.add("set.lt.u32.f32 {d}, {a}, {b};", 32, 32, 32):
        lambda a, b: np.where(a < b, np.uint32(MASK), np.uint32(0)),
    COLUMNS.add("set.ge.f32.s32 {d}, {a}, {b};", 32, 32, 32):
        lambda a, b: (a.view(np.int32) >= b.view(np.int32)).astype(np.float32).view(np.uint32),
    COLUMNS.add("slct.b32.s32 {d}, {a}, {b}, {a};", 32, 32, 32):
        lambda a, b: np.where(a.view(np.int32) >= 0, a, b),
    COLUMNS.add("slct.b32.f32 {d}, {a}, {b}, {b};", 32, 32, 32):
        lambda a, b: np.where(b >= 0, a, b),
    COLUMNS.add("{{ .reg .pred p; testp.finite.f32 p, {a}; selp.b32 {d}, {a}, {b}, p; }}",
                32, 32, 32): lambda a, b: np.where(np.isfinite(a), a, b),
    COLUMNS.add("{{ .reg .pred p; testp.subnormal.f32 p, {a}; selp.b32 {d}, 1, 0, p; }}",
                32, 32, 32): lambda a, b: (
                    (a != 0) & (np.abs(a) < 2.0**-126)).astype(np.uint32),
}  # fmt: skip


@pytest.mark.parametrize("text", FLOATS)
def test_values_chosen_by_a_comparison(text: str) -> None:
    some = np.array([0.0, -0.0, 1.5, -2.0, np.inf, np.nan, 1e-40, 7.0], np.float32)
    a, b = (np.ascontiguousarray(x.reshape(-1)) for x in np.meshgrid(some, some))
    want = FLOATS[text](a, b)
    assert np.array_equal(COLUMNS.run(text, a.view(np.uint32), b.view(np.uint32)),
                          want.view(np.uint32))  # fmt: skip


def test_ptxas_takes_all_of_them() -> None:
    COLUMNS.check()
