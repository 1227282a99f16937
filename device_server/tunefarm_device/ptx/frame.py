"""What the instructions of a running kernel work on: the lanes of a batch of blocks.

A lane is one thread. Blocks are padded to whole warps, so lane `n` is of warp `n // 32` of the
batch. A register is an array of one value per lane, or of length 1 where every lane has the same
value. Arrays in registers are never changed in place, so a move is a reference.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .kinds import Array
from .syntax import Instruction

if TYPE_CHECKING:
    from .copies import Copies
    from .memory import Memory
    from .shared import Shared
    from .statistics import Recorder
    from .traffic import Traffic


@dataclass(frozen=True)
class Geometry:
    """A launch: grid and block in threads, and how many lanes a block is padded to."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]

    @property
    def threads(self) -> int:
        """Threads in a block."""
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def blocks(self) -> int:
        """Blocks in the grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def padded(self) -> int:
        """Lanes that a block takes: its threads, up to whole warps."""
        return -(-self.threads // 32) * 32


@dataclass(slots=True)
class Frame:
    """The state of a batch of blocks.

    `mask` says which lanes execute, None all of them. `live` are the lanes that are threads.
    """

    geometry: Geometry
    first: int
    blocks: int
    regs: list[Array]
    memory: "Memory"
    shared: "Shared"
    local: Array
    copies: "Copies"
    recorder: "Recorder | None"
    traffic: "Traffic | None"
    parameters: Array
    mask: Array | None = None
    at: Instruction | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def lanes(self) -> int:
        """How many lanes there are, padding counted."""
        return self.blocks * self.geometry.padded

    @property
    def warps(self) -> int:
        """How many warps there are."""
        return self.lanes // 32

    def put(self, slot: int, value: Array) -> None:
        """Sets a register in the lanes that execute; `value` has a value per lane, or one."""
        mask = self.mask
        if mask is None:
            self.regs[slot] = value
        else:
            self.regs[slot] = np.where(mask, value, self.regs[slot])

    def scatter(self, slot: int, lanes: Array | None, value: Array) -> None:
        """Sets a register in some lanes, by their numbers; None is all lanes."""
        if lanes is None:
            self.regs[slot] = value
            return
        new = np.array(np.broadcast_to(self.regs[slot], (self.lanes,)))
        new[lanes] = value
        self.regs[slot] = new

    def active(self) -> Array | None:
        """The numbers of the lanes that execute; None is all of them."""
        return None if self.mask is None else np.flatnonzero(self.mask)

    def full(self, slot: int) -> Array:
        """A register with a value for every lane."""
        value = self.regs[slot]
        return value if len(value) > 1 else np.broadcast_to(value, (self.lanes,))

    def present(self) -> Array:
        """The lanes that execute, as booleans."""
        if self.mask is not None:
            return self.mask
        everyone = self.cache.get("everyone")
        if everyone is None:
            everyone = self.cache["everyone"] = np.ones(self.lanes, bool)
        return everyone

    def block_numbers(self) -> Array:
        """For each lane the number of its block in the grid, plus 1."""
        numbers = self.cache.get("blocks")
        if numbers is None:
            blocks = self.first + 1 + self.lane_numbers() // self.geometry.padded
            numbers = self.cache["blocks"] = blocks.astype(np.int32)
        return numbers

    def lane_numbers(self) -> Array:
        """0 to `lanes` - 1."""
        numbers = self.cache.get("numbers")
        if numbers is None:
            numbers = self.cache["numbers"] = np.arange(self.lanes)
        return numbers
