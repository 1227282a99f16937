"""The shared memory of a batch of blocks, with what a GPU would not notice: races and stale reads.

Each granule (the smallest access that the kernel makes) has two stamps: who wrote it last, and who
read it last. A stamp is `epoch * 64 + warp + 1`; the epoch grows at each barrier of the block. A
stamp of this epoch by another warp is a race. 0 is never written; a negative stamp is an
asynchronous copy under way.
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

_EPOCH = 64
_SEVERAL = 63
_ATOMIC = 62


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
        self.code = (lanes % geometry.padded // 32 + 1).astype(np.int32)
        self.floor = np.full(len(lanes), _EPOCH, np.int32)
        self.written = np.zeros(len(self.data) // granule, np.int32)
        self.read = np.zeros(len(self.data) // granule, np.int32)

    def barrier(self, lanes: Array | None) -> None:
        """All threads of the blocks that these lanes (booleans; None: all) are of have met."""
        if lanes is None:
            self.floor = self.floor + np.int32(_EPOCH)
        else:
            self.floor = np.where(lanes, self.floor + np.int32(_EPOCH), self.floor)

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

    # -- what

    def note_read(self, lanes: Array, places: Array, size: int) -> None:
        """Checks a read. Raises: UninitialisedReadError, SharedRaceError."""
        at, lanes = self._granules(lanes, places, size)
        floor = self.floor[lanes]
        me = floor + self.code[lanes]
        stamp = self.written[at]
        fine = ((stamp > 0) & (stamp < floor)) | (stamp == me)
        if np.count_nonzero(fine) != len(fine):
            self._refuse_read(lanes, at, stamp, int(np.flatnonzero(~fine)[0]))
        old = self.read[at]
        new = np.where((old < floor) | (old == me), me, floor + np.int32(_SEVERAL))
        self.read[at] = new
        missed = self.read[at] != new
        if np.count_nonzero(missed):
            self.read[at[missed]] = (floor + np.int32(_SEVERAL))[missed]

    def _refuse_read(self, lanes: Array, at: Array, stamps: Array, bad: int) -> None:
        where = f"{self._address(int(lanes[bad]), int(at[bad]))}, {self.who(int(lanes[bad]))}"
        if stamps[bad] == 0:
            raise UninitialisedReadError(f"nothing was written to {where}")
        raise SharedRaceError(f"{self._other(int(stamps[bad]))} {where}, which reads it")

    def _address(self, lane: int, granule: int) -> str:
        return f"shared address {granule * self.granule - int(self.base[lane])}"

    def _other(self, stamp: int) -> str:
        if stamp < 0:
            return f"an asynchronous copy of warp {-stamp - 1}, not waited for, writes"
        code = stamp % _EPOCH
        if code == _ATOMIC:
            return "since the last barrier an atomic operation wrote"
        return f"since the last barrier warp {code - 1} wrote"

    def note_write(self, lanes: Array, places: Array, size: int, *, copy: bool = False) -> None:
        """Checks a write; `copy` is one that is still under way. Raises: SharedRaceError."""
        at, lanes = self._granules(lanes, places, size)
        floor = self.floor[lanes]
        code = self.code[lanes]
        me = floor + code
        stamp, read = self.written[at], self.read[at]
        fine = ((stamp >= 0) & (stamp < floor)) | (stamp == me)
        if np.count_nonzero(fine) != len(fine):
            bad = int(np.flatnonzero(~fine)[0])
            where = f"{self._address(int(lanes[bad]), int(at[bad]))}, {self.who(int(lanes[bad]))}"
            raise SharedRaceError(f"{self._other(int(stamp[bad]))} {where}, which writes it")
        fine = (read < floor) | (read == me)
        if np.count_nonzero(fine) != len(fine):
            bad = int(np.flatnonzero(~fine)[0])
            where = f"{self._address(int(lanes[bad]), int(at[bad]))}, {self.who(int(lanes[bad]))}"
            raise SharedRaceError(
                f"since the last barrier another warp read {where}, which writes it"
            )
        new = -code if copy else me
        self.written[at] = new
        missed = self.written[at] != new
        if np.count_nonzero(missed):
            bad = int(np.flatnonzero(missed)[0])
            where = f"{self._address(int(lanes[bad]), int(at[bad]))}, {self.who(int(lanes[bad]))}"
            raise SharedRaceError(f"another warp writes at the same time {where}")

    def land(self, lanes: Array, places: Array, size: int) -> None:
        """An asynchronous copy has been waited for."""
        at, lanes = self._granules(lanes, places, size)
        self.written[at] = self.floor[lanes] + self.code[lanes]

    def note_atomic(self, lanes: Array, places: Array, size: int) -> None:
        """Checks an atomic operation. Raises: SharedRaceError, UninitialisedReadError."""
        at, lanes = self._granules(lanes, places, size)
        floor = self.floor[lanes]
        me, atomic = floor + self.code[lanes], floor + np.int32(_ATOMIC)
        stamp, read = self.written[at], self.read[at]
        fine = ((stamp > 0) & (stamp < floor)) | (stamp == me) | (stamp == atomic)
        if np.count_nonzero(fine) != len(fine):
            self._refuse_read(lanes, at, stamp, int(np.flatnonzero(~fine)[0]))
        fine = (read < floor) | (read == me)
        if np.count_nonzero(fine) != len(fine):
            bad = int(np.flatnonzero(~fine)[0])
            where = f"{self._address(int(lanes[bad]), int(at[bad]))}, {self.who(int(lanes[bad]))}"
            raise SharedRaceError(
                f"since the last barrier another warp read {where}, which writes it"
            )
        self.written[at] = atomic
