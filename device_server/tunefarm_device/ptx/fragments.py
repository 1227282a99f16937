"""Which lane holds which element of the matrices of mma, after the tables of the PTX ISA.

With `group` = lane // 4 and `thread` = lane % 4, and `pack` elements in a register:
A: register r has row group + 8 * (r % 2), columns from thread * pack + (r // 2) * 4 * pack;
B: register r has rows from thread * pack + r * 4 * pack, column group;
C and D: register r has row group + 8 * (r // 2), column thread * 2 + r % 2 (two packed float16:
row group + 8 * r, columns from thread * 2). Where there are 8 rows, the second 8 are left out.
"""

from dataclasses import dataclass

import numpy as np

from .errors import UnsupportedError
from .kinds import KINDS, Array, Kind

# Shapes that the tables are for, by the type of A: (m, n, k).
SHAPES = {
    "f16": ((16, 8, 8), (16, 8, 16)),
    "bf16": ((16, 8, 8), (16, 8, 16)),
    "tf32": ((16, 8, 4), (16, 8, 8)),
    "s8": ((8, 8, 16), (16, 8, 16), (16, 8, 32)),
    "u8": ((8, 8, 16), (16, 8, 16), (16, 8, 32)),
    "e4m3": ((16, 8, 16), (16, 8, 32)),
    "e5m2": ((16, 8, 16), (16, 8, 32)),
    "f64": ((8, 8, 4), (16, 8, 4), (16, 8, 8), (16, 8, 16)),
}


@dataclass(frozen=True)
class Fragment:
    """One matrix: its shape, its registers in each lane, and where its elements are.

    `order[row * columns + column]` is the place among the elements of a warp, lane after lane.
    """

    rows: int
    columns: int
    registers: int
    order: Array

    def matrices(self, elements: Array) -> Array:
        """(warps, elements) to (warps, rows, columns)."""
        return elements[:, self.order].reshape(len(elements), self.rows, self.columns)

    def elements(self, matrices: Array) -> Array:
        """(warps, rows, columns) to (warps, elements)."""
        flat = matrices.reshape(len(matrices), -1)
        out = np.empty_like(flat)
        out[:, self.order] = flat
        return out


def _fragment(rows: int, columns: int, row: Array, column: Array) -> Fragment:
    """`row` and `column` of each element, for (lane, register, element)."""
    _, registers, _ = np.broadcast_shapes(row.shape, column.shape)
    places = (row + 0 * column) * columns + column
    order = np.empty(rows * columns, np.int64)
    order[places.reshape(-1)] = np.arange(rows * columns)
    return Fragment(rows, columns, registers, order)


def _axes(registers: int, pack: int) -> tuple[Array, Array, Array, Array]:
    """Group, thread, register and element, ready to be broadcast against each other."""
    lane = np.arange(32)[:, None, None]
    return lane // 4, lane % 4, np.arange(registers)[None, :, None], np.arange(pack)[None, None, :]


def fragments(shape: tuple[int, int, int], kind: Kind, result: Kind) -> tuple[Fragment, ...]:
    """A, B and C of an mma, by the types of A and C. Raises: UnsupportedError."""
    if shape not in SHAPES.get(kind.name, ()):
        raise UnsupportedError(f"mma m{shape[0]}n{shape[1]}k{shape[2]} of .{kind.name}")
    m, n, k = shape
    tall = m // 8
    pack = max(1, 32 // kind.bits)
    group, thread, register, element = _axes(tall * k // (4 * pack), pack)
    first = _fragment(
        m, k, group + 8 * (register % tall), thread * pack + element + register // tall * 4 * pack
    )
    group, thread, register, element = _axes(k // (4 * pack), pack)
    second = _fragment(k, n, thread * pack + element + register * 4 * pack, group)
    if result is KINDS["f16"]:
        group, thread, register, element = _axes(tall, 2)
        return first, second, _fragment(m, n, group + 8 * register, thread * 2 + element)
    group, thread, register, element = _axes(2 * tall, 1)
    third = _fragment(m, n, group + 8 * (register // 2), thread * 2 + register % 2 + element)
    return first, second, third
