"""Barriers of a block: who waits at which, and when they go on."""

from dataclasses import dataclass, field

import numpy as np

from .errors import DivergentBarrierError, UnsupportedError
from .frame import Frame
from .kinds import Array


@dataclass
class Waiting:
    """Lanes that wait at one barrier, each with the block of code where it goes on."""

    lanes: Array
    resume: Array
    arrived: Array


@dataclass
class Barriers:
    """Those of a batch, by number."""

    waiting: dict[int, Waiting] = field(default_factory=dict)

    def anyone(self) -> bool:
        """Whether a lane waits."""
        return any(np.count_nonzero(w.lanes) for w in self.waiting.values())

    def arrive(
        self, f: Frame, number: int, count: int, resume: int, *, waits: bool
    ) -> list[tuple[int, Array | None]]:
        """The lanes that execute reach a barrier: who goes on now, and where. None is all lanes.

        `count` is how many threads the barrier is of; 0 is all of the block.
        Raises: DivergentBarrierError, UnsupportedError.
        """
        if f.mask is None and not count and waits and number not in self.waiting:
            f.shared.barrier(None)
            return [(resume, None)]
        if count % 32:
            raise UnsupportedError(f"a barrier of {count} threads, which are no whole warps")
        state = self.waiting.get(number)
        if state is None:
            state = self.waiting[number] = Waiting(
                np.zeros(f.lanes, bool), np.zeros(f.lanes, np.int64), np.zeros(f.blocks, np.int64)
            )
        here = f.present()
        padded = f.geometry.padded
        gone: list[tuple[int, Array | None]] = []
        if waits:
            state.lanes = state.lanes | here
            state.resume[here] = resume
        else:
            state.arrived += here.reshape(f.blocks, padded).sum(1)
            gone.append((resume, f.mask))
        reached = state.lanes.reshape(f.blocks, padded).sum(1) + state.arrived
        full = reached == (count or f.geometry.threads)
        if not full.any():
            return gone
        freed = state.lanes & np.repeat(full, padded)
        self._check(f, state, freed, number)
        state.lanes = state.lanes & ~freed
        state.arrived[full] = 0
        if not state.lanes.any() and not state.arrived.any():
            del self.waiting[number]
        f.shared.barrier(np.repeat(full, padded))
        places = state.resume[freed]
        for place in np.unique(places):
            gone.append((int(place), freed & (state.resume == place)))
        return gone

    def _check(self, f: Frame, state: Waiting, freed: Array, number: int) -> None:
        """Threads of one warp may not meet at two places, nor those of a block at barrier 0."""
        group = f.geometry.padded if number == 0 else 32
        places = state.resume.reshape(-1, group)
        lanes = freed.reshape(-1, group)
        low = np.where(lanes, places, np.int64(2**60)).min(1)
        high = np.where(lanes, places, np.int64(-1)).max(1)
        if ((low != high) & lanes.any(1)).any():
            what = "threads of a block" if number == 0 else "threads of a warp"
            raise DivergentBarrierError(f"{what} wait at two different instructions of a barrier")

    def resume(self) -> int:
        """The block of code where some lane that waits would go on."""
        waiting = next(w for w in self.waiting.values() if np.count_nonzero(w.lanes))
        return int(waiting.resume[waiting.lanes][0])

    def describe(self, f: Frame) -> str:
        """Who waits, for an error."""
        padded = f.geometry.padded
        for number, state in self.waiting.items():
            counts = state.lanes.reshape(f.blocks, padded).sum(1)
            stuck = np.flatnonzero(counts)
            if len(stuck):
                return (
                    f"{int(counts[stuck[0]])} of {f.geometry.threads} threads of block "
                    f"{f.first + int(stuck[0])} wait at barrier {number},"
                    " and the others never come"
                )
        return "nobody waits"
