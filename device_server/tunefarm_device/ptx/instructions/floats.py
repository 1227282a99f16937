"""Float arithmetic. Approximate instructions give the correctly rounded value.

float16 and bfloat16 are computed in float32, whose second rounding is harmless for one operation
(24 bits are at least twice 11, plus 2); fma is computed in float64, rounded to odd.
"""

from collections.abc import Callable

import numpy as np

from .. import rounding
from ..decode import Decoded, Reader, Step, handles
from ..errors import UnsupportedError
from ..kinds import BF16, F16, F32, KINDS, Array, Kind
from .elementwise import elementwise
from .integers import integer

_ROUNDINGS = ("rn", "rz", "rm", "rp")
Function = Callable[..., Array]


def is_float(kind: Kind) -> bool:
    """Whether the type is a float, or two of them."""
    return kind.is_float or kind.family in ("f16x2", "bf16x2", "f32x2")


def part_of(kind: Kind) -> Kind:
    """Of a packed type the type of one part."""
    return {"f16x2": F16, "bf16x2": BF16, "f32x2": F32}.get(kind.family, kind)


def values_of(bits: Array, kind: Kind) -> Array:
    """Registers as floats (bfloat16 as float32); packed ones in rows of two."""
    part = part_of(kind)
    raw = bits.view(part.raw)
    if part is not kind:
        raw = raw.reshape(-1, 2)
    return rounding.widen_bfloat(raw) if part is BF16 else raw.view(part.dtype)


def bits_from(values: Array, kind: Kind) -> Array:
    """Floats of `values_of`, or wider ones that are rounded to nearest, as registers."""
    part = part_of(kind)
    if part is BF16:
        bits = values if values.dtype == np.uint16 else rounding.narrow_bfloat(_single(values))
    else:
        bits = values.astype(part.dtype).view(part.raw)
    return np.ascontiguousarray(bits).view(kind.raw).reshape(-1)


def _single(values: Array) -> Array:
    return rounding.odd_float32(values) if values.dtype == np.float64 else values


class Shape:
    """What an instruction's type and modifiers ask for around its function."""

    def __init__(self, r: Reader, kind: Kind) -> None:
        self.kind = kind
        self.part = part_of(kind)
        self.rounding = r.flag(*_ROUNDINGS)
        self.flush = bool(r.flag("ftz"))
        self.saturate = bool(r.flag("sat"))
        self.relu = bool(r.flag("relu"))

    @property
    def to_nearest(self) -> bool:
        """Whether results are rounded to nearest even."""
        return self.rounding in ("", "rn")

    def flushed(self, values: Array) -> Array:
        """Without subnormals, where that is asked for."""
        if not self.flush:
            return values
        if values.dtype == np.float32:
            return rounding.flush32(values)
        return rounding.flush16(values) if values.dtype == np.float16 else values

    def wrap(self, function: Function) -> Function:
        """From registers to registers, around a function of floats."""
        kind = self.kind
        if kind is F32 and not (self.flush or self.saturate or self.relu):
            single = np.dtype(np.float32)
            return lambda *bits: function(*[b.view(single) for b in bits]).view(np.uint32)

        def run(*bits: Array) -> Array:
            values = function(*[self.flushed(values_of(b, kind)) for b in bits])
            if self.saturate or self.relu:
                values = self._clipped(values)
            out = bits_from(values, kind)
            if self.flush:
                out = bits_from(self.flushed(values_of(out, kind)), kind)
            return out

        return run

    def _clipped(self, values: Array) -> Array:
        if values.dtype == np.uint16:
            values = rounding.widen_bfloat(values)
        if self.saturate:
            return rounding.saturate(values)
        return np.where(
            values > 0, values, np.where(np.isnan(values), values, values.dtype.type(0))
        )


def floating(r: Reader, shape: Shape, count: int, function: Function) -> Step:
    """`d, a, b, ...`, all of the one float type."""
    kind = KINDS[f"b{shape.kind.bits}"]
    target = r.target(shape.kind)
    sources = [r.source(shape.kind) for _ in range(count)]
    r.done()
    return elementwise(target, kind, sources, [kind] * count, shape.wrap(function))


def _computed(shape: Shape, function: Function) -> Function:
    """A function of one rounding, in the type that holds it."""
    if shape.to_nearest:
        if shape.part is F16:
            return lambda *v: function(*[x.astype(np.float32) for x in v])
        return function
    if shape.part.bits != 32:
        raise UnsupportedError(f".{shape.rounding} for .{shape.kind.name}")
    return lambda *v: rounding.directed(
        function(*[x.astype(np.float64) for x in v]), shape.part, shape.rounding
    )


def _fma(shape: Shape) -> Function:
    kind, mode = shape.part, shape.rounding or "rn"
    if kind.bits == 64:
        if mode != "rn":
            raise UnsupportedError(f"fma.{mode}.f64")
        return rounding.fma64
    if kind is F32 and mode == "rn":
        return rounding.fma32

    def run(a: Array, b: Array, c: Array) -> Array:
        product = a.astype(np.float64) * b.astype(np.float64)
        exact = rounding.odd_sum(product, c.astype(np.float64))
        return rounding.directed(exact, kind, mode)

    return run


@handles("add", "sub", "mul", "fma", "mad", "div", "min", "max", "abs", "neg", "rem")
def arithmetic(r: Reader) -> Decoded:
    """The opcodes that integers and floats share."""
    names = [name for name in r.modifiers if name in KINDS]
    if not names or not is_float(KINDS[names[-1]]):
        return integer(r, r.opcode)
    if len(names) > 1:
        return _mixed(r)
    shape = Shape(r, r.kind())
    if r.opcode in ("fma", "mad"):
        return floating(r, shape, 3, _fma(shape))
    if r.opcode == "div":
        return _divide(r, shape)
    if r.opcode in ("min", "max"):
        return _extreme(r, shape)
    if r.opcode in ("abs", "neg"):
        return _sign(r, shape)
    if r.opcode == "rem":
        raise UnsupportedError("rem of floats")
    function: Function = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[r.opcode]
    if not shape.to_nearest and r.opcode != "mul":
        other = -1.0 if r.opcode == "sub" else 1.0
        return floating(r, shape, 2, _computed(shape, lambda a, b: rounding.odd_sum(a, other * b)))
    return floating(r, shape, 2, _computed(shape, function))


def _mixed(r: Reader) -> Decoded:
    """add, sub and fma of .f32 with operands of .f16 or .bf16."""
    narrow, wide = r.kind(), r.kind()
    if wide is not F32 or narrow not in (F16, BF16):
        raise UnsupportedError(f".{wide.name}.{narrow.name}")
    shape = Shape(r, wide)
    target = r.target(wide)
    first = [r.source(narrow)] if r.opcode != "fma" else [r.source(narrow), r.source(narrow)]
    last = r.source(wide)
    r.done()
    kinds = [KINDS["b16"]] * len(first) + [KINDS["b32"]]
    one = np.array([0x3F800000], np.uint32)
    inner = shape.wrap(_fma(shape))

    def run(*bits: Array) -> Array:
        wider = [values_of(b, narrow).astype(np.float32).view(np.uint32) for b in bits[:-1]]
        c = bits[-1]
        if r.opcode == "sub":
            c = c ^ np.uint32(0x80000000)
        return inner(wider[0], wider[1] if len(wider) > 1 else one, c)

    return elementwise(target, KINDS["b32"], [*first, last], kinds, run)


def _divide(r: Reader, shape: Shape) -> Decoded:
    r.flag("approx", "full")
    if not shape.to_nearest:
        raise UnsupportedError(f"div.{shape.rounding}")
    return floating(r, shape, 2, np.divide)


def _extreme(r: Reader, shape: Shape) -> Decoded:
    keeps_nan = r.flag("NaN")
    absolute, sign = r.flag("abs"), r.flag("xorsign")
    if absolute or sign:
        raise UnsupportedError("min and max with .xorsign.abs")
    function = rounding.smaller if r.opcode == "min" else rounding.larger

    def run(a: Array, b: Array) -> Array:
        result = function(a, b)
        if keeps_nan:
            result = np.where(np.isnan(a) | np.isnan(b), result.dtype.type(np.nan), result)
        return result

    return floating(r, shape, len(r.operands) - 1, run)


def _sign(r: Reader, shape: Shape) -> Decoded:
    """abs and neg change the sign's bit alone."""
    kind = shape.kind
    target, source = r.target(kind), r.source(kind)
    r.done()
    bits = shape.part.bits
    sign = 1 << (bits - 1)
    if shape.part is not kind:
        sign |= sign << bits
    mask = kind.raw.type(sign)
    raw = KINDS[f"b{kind.bits}"]
    negate = r.opcode == "neg"

    def run(a: Array) -> Array:
        out = a ^ mask if negate else a & ~mask
        return bits_from(shape.flushed(values_of(out, kind)), kind) if shape.flush else out

    return elementwise(target, raw, [source], [raw], run)


_FUNCTIONS: dict[str, Function] = {
    "rcp": lambda x: 1.0 / x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


@handles(*_FUNCTIONS)
def function_of_one(r: Reader) -> Decoded:
    """rcp, sqrt, rsqrt, ex2, lg2, sin, cos, tanh: by float64, rounded once more."""
    approximate = r.flag("approx")
    shape = Shape(r, r.kind())
    if not shape.to_nearest or not (approximate or shape.rounding):
        raise UnsupportedError(f"{r.opcode} with this rounding")
    inner = _FUNCTIONS[r.opcode]
    if shape.part.bits == 64:
        if r.opcode not in ("rcp", "sqrt", "rsqrt"):
            raise UnsupportedError(f"{r.opcode} of .f64")
        return floating(r, shape, 1, inner)
    return floating(r, shape, 1, lambda x: _narrowed(inner(x.astype(np.float64)), shape.part))


def _narrowed(values: Array, part: Kind) -> Array:
    return values if part is BF16 else values.astype(part.dtype)


@handles("copysign")
def copysign(r: Reader) -> Decoded:
    """copysign.type d, a, b: the sign of a on b."""
    shape = Shape(r, r.kind())
    return floating(r, shape, 2, lambda a, b: np.copysign(b, a))


@handles("testp")
def testp(r: Reader) -> Decoded:
    """testp.{finite,infinite,number,notanumber,normal,subnormal}.type p, a."""
    kind = r.kind()
    what = r.choose("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    pred = KINDS["pred"]
    target, source = r.target(pred), r.source(kind)
    r.done()
    tiny = np.finfo(kind.dtype).tiny

    def run(a: Array) -> Array:
        size = np.abs(a)
        answers: dict[str, Function] = {
            "finite": np.isfinite,
            "infinite": np.isinf,
            "number": lambda x: ~np.isnan(x),
            "notanumber": np.isnan,
            "normal": lambda x: np.isfinite(x) & (size >= tiny),
            "subnormal": lambda x: (x != 0) & (size < tiny),
        }
        return answers[what](a)

    return elementwise(target, pred, [source], [kind], run)
