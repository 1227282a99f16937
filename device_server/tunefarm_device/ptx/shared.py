"""The shared memory of a batch of blocks, with what a GPU would not notice: races and stale reads.

Each granule (the smallest access that the kernel makes) has two stamps: who wrote it last, and who
read it last. A stamp says, from its highest bits: the epoch of the block, which grows at each of
its barriers; the warp plus 1; the round of the thread, which grows at each `bar.warp.sync` too; and
the lane. What was done in an earlier epoch, in an earlier round of the own warp, or by oneself,
comes before; anything else is a race. 0 is never written; a negative stamp is a copy under way.
"""

import numpy as np

from .errors import (
    IllegalAddressError,
    MisalignedAddressError,
    SharedRaceError,
    UninitialisedReadError,
)
from .frame import Geometry
from .kinds import Array

_EPOCH, _WARP, _ROUND = np.int64(1 << 40), np.int64(1 << 34), np.int64(1 << 6)
_LANE = np.int64(63)
# In place of a lane: several of a warp. In place of a warp: several, or atomic operations.
_LANES = np.int64(32)
_ATOMIC, _WARPS = np.int64(62), np.int64(63)


class Shared:
    """Shared memory of `blocks` blocks, of `size` bytes each."""

    def __init__(self, geometry: Geometry, blocks: int, size: int, granule: int) -> None:
        self.size = size
        self.granule = granule
        self.geometry = geometry
        stride = -(-size // 16) * 16
        lanes = np.arange(blocks * geometry.padded)
        self.data = np.full(blocks * stride, 0xFF, np.uint8)
        self.base = lanes // geometry.padded * stride
        # Of each lane: the first stamp of its epoch, and the stamp that it would give now.
        self.floor = np.full(len(lanes), _EPOCH)
        self.me = self.floor + (lanes % geometry.padded // 32 + 1) * _WARP + lanes % 32
        self.written = np.zeros(len(self.data) // granule, np.int64)
        self.read = np.zeros(len(self.data) // granule, np.int64)

    def barrier(self, lanes: Array | None) -> None:
        """All threads of the blocks that these lanes (booleans; None: all) are of have met."""
        step = _EPOCH if lanes is None else np.where(lanes, _EPOCH, np.int64(0))
        self.floor = self.floor + step
        self.me = self.me + step

    def warp_barrier(self, lanes: Array | None) -> None:
        """Threads of a warp have met, for each of these lanes (None: all)."""
        self.me = self.me + (_ROUND if lanes is None else np.where(lanes, _ROUND, np.int64(0)))

    # -- where

    def who(self, lane: int) -> str:
        """A lane in words."""
        padded = self.geometry.padded
        return f"thread {lane % padded} of block {lane // padded} of its batch"

    def locate(self, lanes: Array, addresses: Array, size: int) -> Array:
        """The places in `data` of accesses. Raises: MisalignedAddressError, IllegalAddressError."""
        if size > 1 and np.count_nonzero(addresses & (size - 1)):
            bad = int(np.flatnonzero(addresses & (size - 1))[0])
            raise MisalignedAddressError(
                f"shared address {int(addresses[bad])} is no multiple of {size},"
                f" {self.who(int(lanes[bad]))}"
            )
        outside = (addresses < 0) | (addresses > self.size - size)
        if np.count_nonzero(outside):
            bad = int(np.flatnonzero(outside)[0])
            raise IllegalAddressError(
                f"{size} bytes at shared address {int(addresses[bad])} of {self.size},"
                f" {self.who(int(lanes[bad]))}"
            )
        return self.base[lanes] + addresses

    def _granules(self, lanes: Array, places: Array, size: int) -> tuple[Array, Array]:
        first = places // self.granule
        count = size // self.granule
        if count == 1:
            return first, lanes
        return (first[:, None] + np.arange(count)).reshape(-1), np.repeat(lanes, count)

    # -- in which order

    def _before(self, stamps: Array, floor: Array, me: Array) -> Array:
        """Whether what the stamps tell of comes before what these lanes do now."""
        fine = (stamps >= 0) & (stamps < floor)
        if np.count_nonzero(fine) == len(fine):
            return fine
        own = (stamps & -_WARP) == (me & -_WARP)
        return fine | (own & (stamps < (me & -_ROUND))) | (stamps == me)

    def note_read(self, lanes: Array, places: Array, size: int, *, shares: bool = False) -> None:
        """Checks a read; `shares` says that the whole warp gets what a lane reads.

        Raises: UninitialisedReadError, SharedRaceError.
        """
        at, lanes = self._granules(lanes, places, size)
        floor, me = self.floor[lanes], self.me[lanes]
        if shares:
            me = (me & -_ROUND) | _LANES
        stamps = self.written[at]
        fine = self._before(stamps, floor, me) & (stamps != 0)
        if np.count_nonzero(fine) != len(fine):
            self._refuse(lanes, at, stamps, fine, does="reads")
        old = self.read[at]
        new = me
        clash = (old >= floor) & (old != me)
        if np.count_nonzero(clash):
            new = np.where(clash, _joined(old, me), me)
        self.read[at] = new
        left = self.read[at]
        clash = left != new
        if np.count_nonzero(clash):
            at, left, new = at[clash], left[clash], new[clash]
            self.read[at] = _joined(left, new)
            # Where lanes of several warps read, the last one may have hidden the others.
            apart = (left & -_WARP) != (new & -_WARP)
            self.read[at[apart]] = _several(new[apart])

    def note_write(self, lanes: Array, places: Array, size: int, *, copy: bool = False) -> None:
        """Checks a write; `copy` is one that is still under way. Raises: SharedRaceError."""
        at, lanes = self._granules(lanes, places, size)
        floor, me = self.floor[lanes], self.me[lanes]
        for stamps, what in ((self.written[at], "wrote"), (self.read[at], "read")):
            fine = self._before(stamps, floor, me)
            if np.count_nonzero(fine) != len(fine):
                self._refuse(lanes, at, stamps, fine, does="writes", did=what)
        new = -((me // _WARP & _LANE) * 64 + (me & _LANE)) if copy else me
        self.written[at] = new
        left = self.written[at]
        clash = left != new
        if np.count_nonzero(clash):
            fine = ~clash if copy else (left & -_WARP) == (new & -_WARP)
            if np.count_nonzero(fine) != len(fine):
                self._refuse(lanes, at, left, fine, does="writes at the same time")
            self.written[at[clash]] = (new & -_ROUND | _LANES)[clash]

    def land(self, lanes: Array, places: Array, size: int) -> None:
        """An asynchronous copy has been waited for."""
        at, lanes = self._granules(lanes, places, size)
        self.written[at] = self.me[lanes]

    def note_atomic(self, lanes: Array, places: Array, size: int) -> None:
        """Checks an atomic operation. Raises: SharedRaceError, UninitialisedReadError."""
        at, lanes = self._granules(lanes, places, size)
        floor, me = self.floor[lanes], self.me[lanes]
        atomic = (floor & -_EPOCH) + _ATOMIC * _WARP
        stamps = self.written[at]
        fine = (self._before(stamps, floor, me) & (stamps != 0)) | (stamps == atomic)
        if np.count_nonzero(fine) != len(fine):
            self._refuse(lanes, at, stamps, fine, does="reads and writes")
        stamps = self.read[at]
        fine = self._before(stamps, floor, me)
        if np.count_nonzero(fine) != len(fine):
            self._refuse(lanes, at, stamps, fine, does="reads and writes", did="read")
        self.written[at] = atomic

    def _refuse(
        self, lanes: Array, at: Array, stamps: Array, fine: Array, *, does: str, did: str = "wrote"
    ) -> None:
        bad = int(np.flatnonzero(~fine)[0])
        lane, stamp = int(lanes[bad]), int(stamps[bad])
        address = int(at[bad]) * self.granule - int(self.base[lane])
        where = f"shared address {address}, {self.who(lane)}"
        if not stamp:
            raise UninitialisedReadError(f"nothing was written to {where}")
        raise SharedRaceError(f"{_told(stamp, int(self.me[lane]), did)} {where}, which {does} it")


def _several(stamps: Array) -> Array:
    """The stamps of several warps, in the same epoch."""
    return (stamps & -_EPOCH) + _WARPS * _WARP


def _joined(old: Array, new: Array) -> Array:
    """The stamp of two readers of one epoch."""
    same_round = (old & -_ROUND) == (new & -_ROUND)
    same_warp = (old & -_WARP) == (new & -_WARP)
    several = np.where(same_round, (new & -_ROUND) | _LANES, np.maximum(old, new))
    return np.where(same_warp, several, _several(new))


def _told(stamp: int, me: int, did: str) -> str:
    """Who left a stamp, in words."""
    if stamp < 0:
        return f"an asynchronous copy of warp {-stamp // 64 - 1}, not waited for, writes"
    warp = stamp // int(_WARP) & 63
    if warp == _ATOMIC:
        return "since the last barrier an atomic operation wrote"
    if warp == _WARPS:
        return f"since the last barrier several warps {did}"
    if warp == me // int(_WARP) & 63:
        return f"since the last bar.warp.sync another thread of the warp {did}"
    return f"since the last barrier warp {warp - 1} {did}"
