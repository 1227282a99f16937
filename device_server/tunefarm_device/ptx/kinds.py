"""The types of PTX, and the numpy types that hold them.

A register is held as unsigned integers of its width (a predicate as booleans), whatever its type.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

# A numpy array of one dimension. Its element type is a register's, known only when a text is read.
Array: TypeAlias = Any


@dataclass(frozen=True)
class Kind:
    """One type: `family` is one of b, u, s, f, bf, tf, pred, f16x2, bf16x2 and the like."""

    name: str
    family: str
    bits: int
    raw: np.dtype[Any]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """The size in memory."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        """Whether it is f16, f32 or f64, or bf16."""
        return self.family in ("f", "bf")

    @property
    def is_signed(self) -> bool:
        """Whether it is a signed integer."""
        return self.family == "s"

    @property
    def is_integer(self) -> bool:
        """Whether it is a signed or unsigned integer."""
        return self.family in ("s", "u")


def raw_of(bits: int) -> np.dtype[Any]:
    """The unsigned integers that hold a register of so many bits."""
    return np.dtype(bool) if bits == 1 else np.dtype(f"uint{bits}")


def _kind(name: str, family: str, bits: int, dtype: str = "") -> Kind:
    raw = raw_of(bits) if bits <= 64 else np.dtype("uint64")
    return Kind(name, family, bits, raw, np.dtype(dtype) if dtype else raw)


KINDS = {
    kind.name: kind
    for kind in (
        *(_kind(f"{f}{n}", f, n) for f in "bu" for n in (8, 16, 32, 64)),
        *(_kind(f"s{n}", "s", n, f"int{n}") for n in (8, 16, 32, 64)),
        *(_kind(f"f{n}", "f", n, f"float{n}") for n in (16, 32, 64)),
        _kind("b128", "b", 128),
        _kind("bf16", "bf", 16),
        _kind("tf32", "tf", 32),
        _kind("f16x2", "f16x2", 32),
        _kind("bf16x2", "bf16x2", 32),
        _kind("f32x2", "f32x2", 64),
        _kind("u16x2", "u16x2", 32),
        _kind("s16x2", "s16x2", 32),
        _kind("e4m3", "e4m3", 8),
        _kind("e5m2", "e5m2", 8),
        _kind("e4m3x2", "e4m3x2", 16),
        _kind("e5m2x2", "e5m2x2", 16),
        _kind("pred", "pred", 1),
    )
}

PRED = KINDS["pred"]
B8, B16, B32, B64 = (KINDS[f"b{n}"] for n in (8, 16, 32, 64))
U32, S32, U64, S64 = KINDS["u32"], KINDS["s32"], KINDS["u64"], KINDS["s64"]
F16, F32, F64, BF16 = KINDS["f16"], KINDS["f32"], KINDS["f64"], KINDS["bf16"]


def bits_kind(bits: int) -> Kind:
    """The untyped kind of a width."""
    return PRED if bits == 1 else KINDS[f"b{bits}"]
