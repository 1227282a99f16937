"""A GPU schedule of one stage as the numbers that a search changes: how each axis is dealt out.

`Form.of` reads them from a schedule, `Form.schedule` writes them: loops over blocks first, then
what a block does one after the other, then its threads, of which those along the vectors vary
fastest.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.binding import Gpu
from tunefarm_compiler.gpu.divide import power
from tunefarm_compiler.reuse import StageFacts
from tunefarm_compiler.schedule import Schedule


@dataclass(frozen=True)
class Cut:
    """Of an axis a block of threads does `block` (0: all), `step` at a time, a thread `tile`."""

    block: int
    step: int
    tile: int

    @property
    def threads(self) -> int:
        """Threads along the axis."""
        return -(-self.step // self.tile)

    def limit(self, extent: int) -> int:
        """What a block of threads does of it."""
        return min(self.block or extent, extent)

    def within(self, extent: int) -> "Cut":
        """The same with nothing larger than what holds it; steps are whole tiles."""
        block = min(self.block, extent)
        limit = block or extent
        tile = max(1, min(self.tile, limit))
        step = max(1, min(self.threads, -(-limit // tile))) * tile
        return Cut(max(block, min(step, extent)) if block else 0, step, tile)


@dataclass(frozen=True)
class Form:
    """A stage's schedule: a cut of each axis, and what `Schedule` says of the register tile."""

    cuts: Mapping[str, Cut]
    lanes: int
    vector: str
    unroll: int = 1
    order: tuple[str, ...] = ()
    pad: int = 0

    def threads(self, facts: StageFacts) -> int:
        """Threads of a block."""
        return math.prod(self.counts(facts).values())

    def counts(self, facts: StageFacts) -> dict[str, int]:
        """Threads along each axis: powers of two where threads share sums."""
        teams = any(self.cuts[axis].threads > 1 for axis in facts.summed)
        return {a: power(c.threads) if teams else c.threads for a, c in self.cuts.items()}

    def values(self, facts: StageFacts) -> int:
        """Elements that a thread computes at a time."""
        return math.prod(self.cuts[axis].tile for axis in facts.spatial)

    def blocks(self, facts: StageFacts) -> int:
        """Blocks of the grid."""
        return math.prod(
            -(-facts.extents[a] // self.cuts[a].limit(facts.extents[a])) for a in facts.spatial
        )

    def dealt(self, facts: StageFacts) -> list[str]:
        """The axes as their threads nest: those along the vectors vary fastest."""
        spatial = sorted(facts.spatial, key=lambda axis: axis == self.vector)
        across = self.vector in facts.summed
        return [*spatial, *facts.summed] if across else [*facts.summed, *spatial]

    def threaded(self, facts: StageFacts) -> list[str]:
        """Those of them that have several threads."""
        return [axis for axis in self.dealt(facts) if self.cuts[axis].threads > 1]

    def with_cut(self, axis: str, cut: Cut) -> "Form":
        """With another cut of an axis."""
        return replace(self, cuts={**self.cuts, axis: cut})

    def schedule(self, facts: StageFacts, extents: Mapping[str, int]) -> Schedule:
        """As a schedule of a stage, of whose axes there are `extents` at a time."""
        blocks, serial, inner = list[tuple[str, int, str]](), [], []
        for axis in facts.spatial:
            cut = self.cuts[axis]
            if cut.block:
                blocks.append((axis, cut.block, "block"))
            if cut.step < cut.limit(extents[axis]):
                serial.append((axis, cut.step, ""))
        for axis in self.dealt(facts):
            cut = self.cuts[axis]
            if axis in facts.summed and (cut.threads > 1 or cut.step < extents[axis]):
                inner.append((axis, cut.step, ""))
            if cut.threads > 1:
                inner.append((axis, cut.tile, "thread"))
        loops = [*blocks, *serial, *inner]
        last = facts.spatial[-1] if facts.spatial else ""
        return Schedule(
            tuple((axis, block) for axis, block, _ in loops),
            self.lanes,
            self.unroll,
            vector="" if self.vector == last else self.vector,
            order=() if self.order == facts.summed else self.order,
            gpu=Gpu(tuple(bind for _, _, bind in loops), self.pad),
        )

    @classmethod
    def of(cls, schedule: Schedule, facts: StageFacts, extents: Mapping[str, int]) -> "Form":
        """Of a schedule that has such a form. Raises: InvalidScheduleError for any other."""
        if schedule.gpu is None or len(schedule.gpu.binds) != len(schedule.loops):
            raise InvalidScheduleError("it has no binds")
        found: dict[str, list[tuple[str, int]]] = {axis: [] for axis in extents}
        for (axis, block), bind in zip(schedule.loops, schedule.gpu.binds, strict=True):
            if axis not in found:
                raise InvalidScheduleError(f"schedule: no axis {axis!r}")
            found[axis].append((bind, block))
        cuts = {axis: _cut(axis, loops, extents[axis]) for axis, loops in found.items()}
        vector = schedule.vector_axis(facts.stage)
        order = schedule.reduce_order(facts.stage)
        return cls(cuts, schedule.lanes, vector, schedule.unroll, order, schedule.gpu.pad)


def _cut(axis: str, loops: list[tuple[str, int]], extent: int) -> Cut:
    """Of the loops of one axis: over blocks, by turns, over threads, each once at most."""
    binds = [bind for bind, _ in loops]
    if binds != [bind for bind in ("block", "", "thread") if bind in binds]:
        raise InvalidScheduleError(
            f"schedule: the loops over {axis} are bound as {', '.join(map(repr, binds))}",
            "a search knows one over blocks, one inside of it, and one over threads",
        )
    sizes = dict(loops)
    block = sizes.get("block", 0)
    limit = min(block or extent, extent)
    step = sizes.get("", limit)
    if "thread" in sizes:
        return Cut(block, step, sizes["thread"])
    return Cut(block, step, step)
