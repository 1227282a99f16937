"""cvt: from any type to any other."""

from collections.abc import Callable

import numpy as np

from ..decode import Decoded, Reader, Step, handles
from ..errors import UnsupportedError
from ..frame import Frame
from ..kinds import BF16, F16, F32, KINDS, Array, Kind
from ..rounding import directed, flush32, saturate
from .floats import bits_from, values_of

_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_ROUNDINGS = ("rn", "rz", "rm", "rp")


@handles("cvt")
def cvt(r: Reader) -> Decoded:
    """cvt{.rounding}{.ftz}{.sat}.dtype.atype d, a."""
    kind, result = r.kind(), r.kind()
    if result.family in ("f16x2", "bf16x2"):
        return _packed(r, result, kind)
    if result.family == "tf":
        return _tf32(r, result)
    if "x2" in result.name or "x2" in kind.name:
        raise UnsupportedError(f"cvt.{result.name}.{kind.name}")
    if kind.is_float:
        return _from_float(r, result, kind)
    return _from_integer(r, result, kind)


def _converting(r: Reader, result: Kind, kind: Kind, function: Callable[[Array], Array]) -> Step:
    """`d, a`, where both registers may be wider than their types."""
    target, wider = r.wide_target(result)
    source, cut = r.wide_source(kind)
    r.done()

    def step(f: Frame) -> None:
        bits = f.regs[source]
        out = function(bits.astype(kind.raw) if cut else bits)
        if wider is not None:
            out = out.view(result.dtype).astype(wider.dtype).view(wider.raw)
        f.put(target, out)

    return step


def _from_integer(r: Reader, result: Kind, kind: Kind) -> Step:
    if result.is_float:
        return _integer_to_float(r, result, kind)
    saturates = bool(r.flag("sat"))

    def run(bits: Array) -> Array:
        value = bits.view(kind.dtype)
        if saturates:
            return _clamped(value, result)
        return value.astype(result.dtype).view(result.raw)

    return _converting(r, result, kind, run)


def _clamped(value: Array, result: Kind) -> Array:
    """An integer within the bounds of another type."""
    info, own = np.iinfo(result.dtype), np.iinfo(value.dtype)
    low, high = max(info.min, own.min), min(info.max, own.max)
    return np.clip(value, low, high).astype(result.dtype).view(result.raw)


def _integer_to_float(r: Reader, result: Kind, kind: Kind) -> Step:
    mode = r.choose(*_ROUNDINGS)
    r.flag("ftz")
    clips = bool(r.flag("sat"))
    if kind.bits == 64 and mode != "rn":
        raise UnsupportedError(f"cvt.{mode} of 64-bit integers")

    def run(bits: Array) -> Array:
        value = bits.view(kind.dtype)
        if result.bits == 64 or (result is F32 and mode == "rn"):
            out = value.astype(result.dtype)
        else:
            out = directed(value.astype(np.float64), result, mode)
        if clips:
            out = saturate(values_of(bits_from(out, result), result))
        return bits_from(out, result)

    return _converting(r, result, kind, run)


def _from_float(r: Reader, result: Kind, kind: Kind) -> Step:
    whole = r.flag(*_TO_INTEGER)
    flush = bool(r.flag("ftz")) and (F32 in (kind, result))
    if not result.is_float:
        return _float_to_integer(r, result, kind, whole, flush)
    mode = r.flag(*_ROUNDINGS)
    clips, relu = bool(r.flag("sat")), bool(r.flag("relu"))
    if result.bits < kind.bits and not mode:
        raise UnsupportedError("cvt to a narrower float without a rounding")

    def run(bits: Array) -> Array:
        value = values_of(bits, kind)
        if flush and value.dtype == np.float32 and kind is F32:
            value = flush32(value)
        if whole:
            value = _TO_INTEGER[whole](value)
        if mode and result is not kind:
            value = directed(value.astype(np.float64), result, mode)
        elif result is not kind:
            value = value.astype(result.dtype) if result is not BF16 else value
        if clips or relu:
            value = values_of(bits_from(value, result), result)
            value = saturate(value) if clips else _no_negatives(value)
        out = bits_from(value, result)
        if flush and result is F32:
            out = flush32(out.view(np.float32)).view(np.uint32)
        return out

    return _converting(r, result, kind, run)


def _no_negatives(value: Array) -> Array:
    return np.where(value < 0, value.dtype.type(0), value)


def _float_to_integer(r: Reader, result: Kind, kind: Kind, whole: str, flush: bool) -> Step:
    if not whole:
        raise UnsupportedError("cvt to an integer without a rounding")
    r.flag("sat")
    info = np.iinfo(result.dtype)
    # The ISA: 0 for narrow types, else the highest bit alone.
    nothing = 0 if kind.bits < 64 and result.bits < 64 else 1 << (result.bits - 1)
    of_nan = np.array([nothing], result.raw)
    high, low = float(info.max), float(info.min)

    def run(bits: Array) -> Array:
        value = values_of(bits, kind)
        if flush:
            value = flush32(value)
        wide = _TO_INTEGER[whole](value.astype(np.float64))
        inside = np.where((wide < high) & (wide > low), wide, 0.0).astype(result.dtype)
        out = np.where(wide >= high, result.dtype.type(info.max), inside)
        out = np.where(wide <= low, result.dtype.type(info.min), out)
        return np.where(np.isnan(wide), of_nan, out.view(result.raw))

    return _converting(r, result, kind, run)


def _packed(r: Reader, result: Kind, kind: Kind) -> Step:
    """cvt.{rn,rz}{.relu}.{f16x2,bf16x2}.f32 d, a, b: a is the upper half."""
    part = F16 if result.family == "f16x2" else BF16
    mode = r.choose("rn", "rz")
    relu = bool(r.flag("relu"))
    if kind is not F32 or r.modifiers:
        raise UnsupportedError(f"cvt.{result.name}.{kind.name}")
    target, upper, lower = r.target(result), r.source(kind), r.source(kind)
    r.done()

    def step(f: Frame) -> None:
        halves = []
        for slot in (lower, upper):
            value = f.regs[slot].view(np.float32).astype(np.float64)
            value = _no_negatives(value) if relu else value
            bits = bits_from(directed(value, part, mode), part)
            halves.append(bits.astype(np.uint32))
        f.put(target, halves[0] | (halves[1] << np.uint32(16)))

    return step


def _tf32(r: Reader, result: Kind) -> Step:
    """cvt.{rna,rn,rz}.tf32.f32: 10 bits of fraction, in a register of 32."""
    mode = r.choose("rna", "rn", "rz")
    relu = bool(r.flag("relu"))
    target, source = r.target(KINDS["b32"]), r.source(F32)
    r.done()
    cut = np.uint32(0xFFFFE000)

    def step(f: Frame) -> None:
        bits = f.regs[source]
        value = bits.view(np.float32)
        if mode == "rna":
            out = (bits + np.uint32(0x1000)) & cut
        elif mode == "rn":
            out = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & cut
        else:
            out = bits & cut
        out = np.where(np.isfinite(value), out, bits)
        out = np.where(np.isnan(value), np.uint32(0x7FFFE000), out)
        f.put(target, np.where(value < 0, np.uint32(0), out) if relu else out)

    return step
