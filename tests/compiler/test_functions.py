"""The functions in float32 against double precision, all over the range of float32."""

import math

import ml_dtypes
import numpy as np
import pytest
from kernel_harness import evaluate
from tunefarm_compiler import functions, te
from tunefarm_compiler.schedule import Schedule

COUNT = 1 << 21
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.2e-38, 88.72, 88.73, -87.3, -104, 1, -1],
    np.float32,
)  # fmt: skip


def everywhere(low, high):
    """Floats evenly spread over their bits, and over the range; special ones."""
    bits = np.linspace(0, 0x7F7FFFFF, COUNT // 2).astype(np.uint32).view(np.float32)
    line = np.linspace(low, high, COUNT, dtype=np.float32)
    return np.concatenate([bits, -bits, line, SPECIAL]).astype(np.float32)


def evaluated(function, x):
    a = te.placeholder("A", x.shape)
    out = te.compute("C", (("i", x.size),), lambda i: function(a[i]))
    return evaluate(out, x, schedule=Schedule((("i", 32),), 16))


def ulps(got, exact):
    """Distance in units in the last place of the exact value, at least those of 2^-126."""
    exponent = np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-126)))
    with np.errstate(invalid="ignore"):  # inf - inf, which the caller judges apart
        return np.abs(got.astype(np.float64) - exact) / 2.0 ** (exponent - 23)


@pytest.mark.parametrize(
    ("name", "exact", "bound", "low", "high"),
    [
        ("exp", np.exp, 1.5, -90, 90),
        ("log", np.log, 1.5, 0, 10),
        ("tanh", np.tanh, 6, -10, 10),
        ("erf", np.vectorize(math.erf), 6, -5, 5),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 3, -90, 90),
        ("sqrt", np.sqrt, 0.5, 0, 10),
    ],
)
def test_a_function_is_within_its_bound(name, exact, bound, low, high):
    x = everywhere(low, high)
    with np.errstate(all="ignore"):
        want = exact(x.astype(np.float64))
        got = evaluated(getattr(functions, name), x)
        rounded = want.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    big = np.isinf(rounded)
    np.testing.assert_array_equal(got[big], rounded[big])
    plain = np.isfinite(want) & ~big
    tiny = np.abs(want) < 2.0**-125  # may be 0
    error = np.where(tiny & (np.abs(got) < 2.0**-124), 0, ulps(got, want))[plain]
    worst = int(np.argmax(error))
    assert error[worst] <= bound, (x[plain][worst], error[worst])


def test_gelu():
    x = np.linspace(-10, 10, COUNT, dtype=np.float32)
    exact = x * 0.5 * (1 + np.vectorize(math.erf)(x.astype(np.float64) / math.sqrt(2)))
    error = np.abs(evaluated(functions.gelu, x) - exact)
    assert (error <= 4e-7 * np.maximum(np.abs(x), 1e-30)).all()


def test_extremes_keep_what_is_no_number():
    x, y = np.array([np.nan, 1, np.nan, 2], "f"), np.array([1, np.nan, np.nan, 3], "f")
    a, b = te.placeholder("A", (4,)), te.placeholder("B", (4,))
    for function, want in ((te.maximum, 3), (te.minimum, 2)):
        out = te.compute("C", (("i", 4),), lambda i, f=function: f(a[i], b[i]))
        got = evaluate(out, x, y, schedule=Schedule((), 4))
        assert np.isnan(got[:3]).all() and got[3] == want


def test_bfloats_are_exact():
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    a = te.placeholder("A", every.shape, "bfloat16")
    wide = te.compute("C", (("i", every.size),), lambda i: functions.from_bfloat(a[i]))
    got = evaluate(wide, every, schedule=Schedule((("i", 32),), 16))
    np.testing.assert_array_equal(got, every.astype(np.float32))
    x = everywhere(-2, 2)
    b = te.placeholder("B", x.shape)
    narrow = te.compute("C", (("i", x.size),), lambda i: functions.to_bfloat(b[i]))
    got = evaluate(narrow, x, schedule=Schedule((("i", 32),), 16)).astype(np.float32)
    np.testing.assert_array_equal(got, x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_halves_by_integers_are_exact():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    a = te.placeholder("A", halves.shape, "float16")
    wide = te.compute("C", (("i", halves.size),), lambda i: functions.from_half(a[i]))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(
            evaluate(wide, halves, schedule=Schedule((("i", 32),), 16)), halves.astype(np.float32)
        )
        x = np.concatenate(
            [everywhere(-70000, 70000), np.ldexp(1.0, np.arange(-30, 17)).astype("f")]
        )
        b = te.placeholder("B", x.shape)
        narrow = te.compute("C", (("i", x.size),), lambda i: functions.to_half(b[i]))
        got = evaluate(narrow, x, schedule=Schedule((("i", 32),), 16))
        np.testing.assert_array_equal(got, x.astype(np.float16))


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_a_tensor_is_read_in_two_directions_at_once(lanes):
    a = te.placeholder("A", (8, 8))
    turned = te.compute("C", [("i", 8), ("j", 8)], lambda i, j: a[i, j] - a[j, i] * 2.0 + a[i, 0])
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    got = evaluate(turned, x, schedule=Schedule((), lanes))
    assert (got == x - 2 * x.T + x[:, :1]).all()
