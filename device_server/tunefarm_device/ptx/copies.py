"""Asynchronous copies into shared memory, in groups that each thread commits and awaits.

The bytes land when the thread waits for them, no sooner; until then the place is under way, and who
reads or writes it is refused. A thread's groups are numbered from 0; what is not committed has the
number that the next group will get.
"""

from dataclasses import dataclass

import numpy as np

from .frame import Frame
from .kinds import Array


@dataclass
class Copy:
    """Copies of one instruction that are under way: by lane the group, the place and the bytes."""

    lanes: Array
    groups: Array
    places: Array
    data: Array


class Copies:
    """Those of a batch of blocks."""

    def __init__(self, lanes: int) -> None:
        self.committed = np.zeros(lanes, np.int64)
        self.pending: list[Copy] = []

    def start(self, lanes: Array, places: Array, data: Array) -> None:
        """Copies of `data`, a row of bytes for each lane, to these places of shared memory."""
        self.pending.append(Copy(lanes, self.committed[lanes], places, data))

    def commit(self, f: Frame) -> None:
        """Closes the group of each lane that executes."""
        if f.mask is None:
            self.committed += 1
        else:
            self.committed[f.mask] += 1

    def wait(self, f: Frame, newest: int | None) -> None:
        """Lands all groups but so many of the newest; None lands what is not committed too."""
        limit = self.committed + 1 if newest is None else self.committed - newest
        left: list[Copy] = []
        for copy in self.pending:
            done = copy.groups < limit[copy.lanes]
            if f.mask is not None:
                done &= f.mask[copy.lanes]
            count = np.count_nonzero(done)
            if count == len(done):
                self._land(f, copy)
            elif not count:
                left.append(copy)
            else:
                self._land(f, _part(copy, done))
                left.append(_part(copy, ~done))
        self.pending = left

    def _land(self, f: Frame, copy: Copy) -> None:
        size = copy.data.shape[1]
        f.shared.data[copy.places[:, None] + np.arange(size)] = copy.data
        f.shared.land(copy.lanes, copy.places, size)


def _part(copy: Copy, chosen: Array) -> Copy:
    return Copy(copy.lanes[chosen], copy.groups[chosen], copy.places[chosen], copy.data[chosen])
