"""What makes the steps of each instruction, by opcode. Importing this registers all of them."""

from . import (
    bits,
    compare,
    control,
    convert,
    copying,
    floats,
    groups,
    integers,
    matrices,
    memory,
    moves,
    warps,
)

__all__ = [
    "bits", "compare", "control", "convert", "copying", "floats", "groups", "integers", "matrices",
    "memory", "moves", "warps",
]  # fmt: skip
