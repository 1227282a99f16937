"""Blocks that use each other's global memory within one launch, which nothing puts in order.

For each granule: which block wrote it in this launch, and which block read it. A kernel that orders
its blocks itself (by fences or atomic operations) is not looked at.
"""

from dataclasses import dataclass

import numpy as np

from .errors import GlobalRaceError
from .kinds import Array
from .memory import Allocation

_NOBODY = 0
_SEVERAL = -1


@dataclass
class _Shadow:
    """Of each granule the number of a block plus 1."""

    written: Array | None
    read: Array


class Traffic:
    """What the blocks of a launch read and wrote; `granule` is their smallest access in bytes."""

    def __init__(self, granule: int) -> None:
        self.granule = granule
        self.shadows: dict[int, _Shadow] = {}

    def _shadow(self, allocation: Allocation) -> _Shadow:
        shadow = self.shadows.get(allocation.start)
        if shadow is None:
            read = np.zeros(len(allocation.data) // self.granule, np.int32)
            shadow = self.shadows[allocation.start] = _Shadow(None, read)
        return shadow

    def _granules(self, offsets: Array, blocks: Array, size: int) -> tuple[Array, Array]:
        first = offsets // self.granule
        count = size // self.granule
        if count == 1:
            return first, blocks
        return (first[:, None] + np.arange(count)).reshape(-1), np.repeat(blocks, count)

    def note_read(
        self, allocation: Allocation, offsets: Array, blocks: Array, size: int, constant: bool
    ) -> None:
        """Blocks (numbers plus 1, of each offset) read; `constant` promises that nobody writes.

        Raises: GlobalRaceError.
        """
        shadow = self._shadow(allocation)
        at, me = self._granules(offsets, blocks, size)
        if constant:
            me = np.full(1, _SEVERAL, np.int32)
        if shadow.written is not None:
            writer = shadow.written[at]
            wrong = (writer != _NOBODY) & (writer != me)
            if np.count_nonzero(wrong):
                bad = int(np.flatnonzero(wrong)[0])
                raise GlobalRaceError(
                    f"0x{allocation.start + int(at[bad]) * self.granule:x} was written by block"
                    f" {int(writer[bad]) - 1} in this launch"
                    + (", and .nc promises that nobody writes it" if constant else "")
                )
        old = shadow.read[at]
        new = np.where((old == _NOBODY) | (old == me), me, np.int32(_SEVERAL))
        shadow.read[at] = new
        missed = shadow.read[at] != new
        if np.count_nonzero(missed):
            shadow.read[at[missed]] = _SEVERAL

    def note_write(
        self, allocation: Allocation, offsets: Array, blocks: Array, size: int, changed: Array
    ) -> None:
        """Blocks write; `changed` says where that changes anything. Raises: GlobalRaceError."""
        shadow = self._shadow(allocation)
        if shadow.written is None:
            shadow.written = np.zeros_like(shadow.read)
        at, me = self._granules(offsets, blocks, size)
        changed = np.repeat(changed, len(at) // len(changed))
        for who, what in ((shadow.written[at], "wrote"), (shadow.read[at], "read")):
            wrong = (who != _NOBODY) & (who != me) & changed
            if np.count_nonzero(wrong):
                bad = int(np.flatnonzero(wrong)[0])
                other = "another block" if who[bad] < 0 else f"block {int(who[bad]) - 1}"
                raise GlobalRaceError(
                    f"{other} {what} 0x{allocation.start + int(at[bad]) * self.granule:x}"
                    f" in this launch, which block {int(me[bad]) - 1} writes"
                )
        shadow.written[at] = me
