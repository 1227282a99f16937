"""Launches: batches of blocks run to their end, the lanes at the lowest place of the code first."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .barriers import Barriers
from .decode import Barrier, Branch, Exit, Reduction, Sync
from .errors import DivergentBarrierError, EndlessLoopError, PtxError, UndefinedResultError
from .flow import Block
from .frame import Frame, Geometry
from .kinds import Array
from .launching import Launch, check, frame_of, parameter_bytes
from .memory import Memory
from .module import Kernel
from .statistics import Recorder, Statistics
from .traffic import Traffic

_CLOCK_EVERY = 256


@dataclass(frozen=True)
class Limits:
    """What a launch may take.

    `instructions` are those of the machine (one for all lanes that go together), `seconds` of this
    processor; `shared_bytes` of a block; `lanes` is how many threads run at once.
    """

    instructions: int = 20_000_000
    seconds: float = 120.0
    shared_bytes: int = 227 * 1024
    lanes: int = 8192


def launch(  # noqa: PLR0917  as the driver has it
    kernel: Kernel,
    grid: Sequence[int],
    block: Sequence[int],
    shared_bytes: int,
    params: Sequence[int | float | bytes],
    memory: Memory,
    *,
    limits: Limits | None = None,
    statistics: bool = False,
) -> Statistics:
    """Runs a kernel to its end.

    `grid` and `block` have one to three sizes, x first; `shared_bytes` are those beyond what the
    kernel declares. A parameter is a pointer or the bits of a number. `statistics` counts sectors
    and bank conflicts too, which takes time. Raises: LaunchRefusedError, ExecutionError.
    """
    limits = limits or Limits()
    start = time.monotonic()
    geometry = Geometry(_three(grid), _three(block))
    shared = kernel.shared_bytes + shared_bytes
    check(kernel, geometry, shared, limits.shared_bytes)
    slots = kernel.slots
    traffic = None if slots.orders_blocks else Traffic(slots.global_granule)
    plan = Launch(geometry, shared, parameter_bytes(kernel, params), memory, traffic)
    recorder = Recorder(geometry.padded) if statistics else None
    batch = max(1, limits.lanes // geometry.padded)
    counts = [0] * len(kernel.blocks)
    budget = _Budget(limits, start)
    with np.errstate(all="ignore"):
        for first in range(0, geometry.blocks, batch):
            size = min(batch, geometry.blocks - first)
            frame = frame_of(kernel, plan, first, size, recorder)
            _Run(kernel.blocks, frame, counts, budget).run()
    result = Statistics(geometry.blocks, geometry.threads)
    result.instructions, result.barriers = _counted(kernel.blocks, counts)
    result.accesses = list(recorder.accesses.values()) if recorder else []
    result.seconds = time.monotonic() - start
    return result


def _three(sizes: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = [*sizes, 1, 1][:3]
    return int(x), int(y), int(z)


def _counted(blocks: list[Block], counts: list[int]) -> tuple[Counter[str], int]:
    names: Counter[str] = Counter()
    barriers = 0
    for block, count in zip(blocks, counts, strict=True):
        if not count:
            continue
        for at in block.instructions:
            names[".".join((at.opcode, *at.modifiers))] += count
        if isinstance(block.end, Barrier):
            barriers += count
    return names, barriers


class _Budget:
    """Ends a launch that takes too long."""

    def __init__(self, limits: Limits, start: float) -> None:
        self.limits = limits
        self.start = start
        self.executed = 0
        self.turns = 0

    def spend(self, instructions: int) -> None:
        self.executed += instructions
        self.turns += 1
        if self.executed > self.limits.instructions:
            raise EndlessLoopError(f"more than {self.limits.instructions} instructions")
        late = self.turns % _CLOCK_EVERY == 0 and (
            time.monotonic() - self.start > self.limits.seconds
        )
        if late:
            raise EndlessLoopError(f"more than {self.limits.seconds:g} seconds")


class _Run:
    """One batch on its way: which lanes are at which block of the code."""

    def __init__(
        self, blocks: list[Block], frame: Frame, counts: list[int], budget: _Budget
    ) -> None:
        self.blocks = blocks
        self.frame = frame
        self.counts = counts
        self.budget = budget
        self.groups: dict[int, Array | None] = {0: frame.mask}
        self.live = np.ones(frame.lanes, bool) if frame.mask is None else frame.mask
        self.parked: dict[int, Array] = {}
        self.ended = False
        self.barriers = Barriers()

    def run(self) -> None:
        """Until every lane has ended. Raises: ExecutionError, with its place."""
        frame = self.frame
        try:
            while True:
                if not self.groups and not self.wake():
                    return
                number = min(self.groups)
                self.turn(self.blocks[number], self.groups.pop(number))
        except PtxError as error:
            at = frame.at
            raise error.at(at.line, at.text) if at else error from None

    def turn(self, block: Block, mask: Array | None) -> None:
        """The lanes at a block execute it."""
        frame = self.frame
        if block.number in self.parked:
            mask = self.union(mask, self.parked.pop(block.number))
        frame.mask = mask
        self.budget.spend(len(block.steps) + 1)
        self.counts[block.number] += self.warps(mask)
        for frame.at, step in block.steps:
            step(frame)
        end = block.end
        if end is None:
            self.add(block.number + 1, mask)
            return
        frame.at = block.at
        if isinstance(end, Branch):
            self.branch(block, end)
        elif isinstance(end, Sync):
            self.sync(block, end)
        elif isinstance(end, Barrier):
            self.barrier(block, end)
        else:
            self.exit(block, end)

    # -- groups of lanes

    def warps(self, mask: Array | None) -> int:
        if mask is None:
            return self.frame.warps
        return int(np.count_nonzero(mask.reshape(-1, 32).any(1)))

    def union(self, one: Array | None, other: Array | None) -> Array | None:
        if one is None or other is None:
            return None
        both: Array = one | other
        return None if np.count_nonzero(both) == len(both) else both

    def add(self, number: int, mask: Array | None) -> None:
        """Lanes are at a block now."""
        if number in self.groups:
            mask = self.union(self.groups[number], mask)
        self.groups[number] = mask

    def split(self, chosen: Array) -> tuple[Array | None, Array | None] | bool:
        """The lanes that execute, by a predicate: those and the others; a bool: all agree."""
        if len(chosen) == 1:
            return bool(chosen[0])
        mask = self.frame.mask
        if mask is None:
            count = np.count_nonzero(chosen)
            if count in (0, len(chosen)):
                return bool(count)
            return chosen, ~chosen
        yes = chosen & mask
        count = np.count_nonzero(yes)
        if not count:
            return False
        no = mask & ~chosen
        return (yes, no) if np.count_nonzero(no) else True

    def guard(self, block: Block) -> tuple[Array | None, Array | None] | bool:
        if block.guard is None:
            return True
        slot, negated = block.guard
        chosen = self.frame.regs[slot]
        return self.split(~chosen if negated else chosen)

    # -- ends

    def taken(self, block: Block) -> bool:
        """Whether some lanes come to a block's end; the mask is theirs, the others go on."""
        way = self.guard(block)
        if isinstance(way, bool):
            if not way:
                self.add(block.number + 1, self.frame.mask)
            return way
        self.frame.mask, others = way
        self.add(block.number + 1, others)
        return True

    def branch(self, block: Block, end: Branch) -> None:
        frame = self.frame
        if not self.taken(block):
            return
        if end.index < 0:
            self.add(block.targets[0], frame.mask)
            return
        index, here = frame.full(end.index), frame.present()
        if (index[here] >= len(block.targets)).any():
            raise UndefinedResultError("the index is beyond the list of targets")
        for number in np.unique(index[here]):
            self.add(block.targets[int(number)], here & (index == number))

    def exit(self, block: Block, end: Exit) -> None:
        frame = self.frame
        if not self.taken(block):
            return
        self.live = self.live & ~frame.present()
        self.ended = True

    def barrier(self, block: Block, end: Barrier) -> None:
        frame, after = self.frame, block.number + 1
        if not self.taken(block):
            return
        number = self.one(end.number)
        count = self.one(end.count) if end.count >= 0 else 0
        count = 0 if count == frame.geometry.threads else count
        for place, mask in self.barriers.arrive(frame, number, count, after, waits=end.waits):
            freed = mask if mask is None else self.union(mask, mask)
            if end.reduction is not None:
                frame.mask = freed
                self.reduce(end.reduction)
            self.add(place, freed)

    def reduce(self, asked: Reduction) -> None:
        """What the lanes that leave a barrier together learn of each other's predicates."""
        frame = self.frame
        here = frame.present().reshape(frame.blocks, -1)
        value = (frame.full(asked.predicate) != asked.negated).reshape(here.shape)
        if asked.function == "popc":
            result = (value & here).sum(1).astype(np.uint32)
        else:
            result = (value | ~here).all(1) if asked.function == "and" else (value & here).any(1)
        frame.put(asked.target, np.repeat(result, frame.geometry.padded))

    def one(self, slot: int) -> int:
        """A value that must be the same in all lanes that execute."""
        value = self.frame.regs[slot]
        if len(value) > 1:
            value = np.unique(value[self.frame.present()])
            if len(value) > 1:
                raise UndefinedResultError("threads name different barriers")
        return int(value[0])

    def sync(self, block: Block, end: Sync) -> None:
        """An instruction of whole warps: lanes wait until all that it names are there."""
        frame, after = self.frame, block.number + 1
        if not self.taken(block):
            return
        mask = frame.mask
        members = frame.regs[end.members] if end.members >= 0 else None
        if mask is None and (members is None or (len(members) == 1 and members[0] == 0xFFFFFFFF)):
            end.step(frame)
            self.add(after, None)
            return
        ready, waiting = self.ready(members)
        if waiting is not None:
            self.parked[block.number] = waiting
        if ready is not None:
            frame.mask = self.union(ready, ready)
            end.step(frame)
            self.add(after, frame.mask)

    def ready(self, members: Array | None) -> tuple[Array | None, Array | None]:
        """The lanes whose whole company is there, and the lanes that have to wait."""
        frame = self.frame
        here = frame.present()
        present = np.repeat(_bits(here), 32)
        live = np.repeat(_bits(self.live), 32)
        wanted = live
        if members is not None:
            named = np.broadcast_to(members, (frame.lanes,))
            own = np.left_shift(np.uint32(1), (frame.lane_numbers() % 32).astype(np.uint32))
            if ((named & own) == 0)[here].any():
                raise UndefinedResultError("a thread is not in the mask that it gives")
            wanted = live & named
        complete = here & ((wanted & ~present) == 0)
        rest = here & ~complete
        return (
            complete if np.count_nonzero(complete) else None,
            rest if np.count_nonzero(rest) else None,
        )

    def wake(self) -> bool:
        """Tries lanes again that wait for others, now that some ended. False: all have ended."""
        if self.parked and self.ended:
            self.ended = False
            self.groups = dict(self.parked)
            self.parked = {}
            return True
        if self.parked:
            number, mask = next(iter(self.parked.items()))
            self.frame.at = self.blocks[number].at
            warp = int(np.flatnonzero(mask)[0]) // 32
            raise DivergentBarrierError(
                f"{int(mask.reshape(-1, 32)[warp].sum())} threads of a warp execute it,"
                " and the others that it names never come"
            )
        if self.barriers.anyone():
            self.frame.at = self.blocks[self.barriers.resume() - 1].at
            raise DivergentBarrierError(self.barriers.describe(self.frame))
        return False


def _bits(lanes: Array) -> Array:
    """For each warp its lanes as the bits of a number."""
    return np.packbits(lanes.reshape(-1, 32), axis=1, bitorder="little").view(np.uint32)[:, 0]


__all__ = ["Limits", "Memory", "launch"]
