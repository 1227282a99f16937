"""What a schedule must keep within to be worth building: registers, scratch, size of the code."""

import math
from collections.abc import Iterable, Iterator, Sequence

from tunefarm_compiler.caches import caches
from tunefarm_compiler.length import length
from tunefarm_compiler.lower import LINE, SPARE
from tunefarm_compiler.reuse import Nest, StageFacts
from tunefarm_compiler.schedule import MAX_SCRATCH_BYTES, Schedule

MAX_CODE = 660  # lines, of 20 us each to compile; neighbours of the default may have its number
MAX_COPY_SHARE = 0.25  # copied elements for each product
SPARE_REGISTERS = 0
STREAM_VALUES = 64
LONG = "its code is too large"


def fault(nest: Nest, most: int) -> str:
    """Why a nest is not worth building; "" where it may be. `most`: lines of its code."""
    facts = nest.facts
    if facts.summed and nest.registers > facts.spec.vector_registers + SPARE_REGISTERS:
        return "its tile and operands do not fit in the vector registers"
    if not facts.summed and nest.rows * nest.vectors * nest.width > STREAM_VALUES:
        return "its tile is larger than a stream needs"
    scratch, copied = 0, 0
    for size, times, _ in nest.pack_bytes():
        scratch += size  # each thread has its own
        copied += size * times
    if scratch > 2 * caches(facts.spec).last:
        return "its packs do not fit in the last cache"
    if copied > MAX_COPY_SHARE * 4 * facts.points:
        return "it copies more than the copies serve"
    if length(nest, most) > most:
        return LONG
    return ""


def nests(schedule: Schedule, facts: Sequence[StageFacts]) -> Iterator[Nest]:
    """The stages by a schedule, the output's last."""
    attached = {attach.stage: attach for attach in schedule.stages}
    for one in facts[:-1]:
        attach = attached[one.stage.tensor.name]
        # Only what the loops outside of it leave is computed at a time.
        left = Schedule(schedule.loops[: attach.depth], 1).tile(facts[-1].extents)
        inside = {a: left[a] for a in one.extents if attach.depth and a in left}
        yield Nest(one, attach.schedule, inside)
    yield Nest(facts[-1], schedule, {})


def faults(found: Iterable[Nest], most: int) -> str:
    """The first fault of the stages, the last of which is the output's."""
    *before, last = found
    for nest in before:
        if said := fault(nest, most):
            return f"{nest.facts.stage.tensor.name}: {said}"
    return fault(last, most) or _scratch(before, last)


def _scratch(before: Sequence[Nest], last: Nest) -> str:
    """Whether packs and stages are too large together, as `lower.py` counts them."""
    sizes, threads = list[int](), last.schedule.threads
    for nest in (*before, last):
        inside = threads if nest is last or nest.limits else nest.schedule.threads
        packs = zip(nest.schedule.packs, nest.pack_bytes(), strict=False)
        sizes += [(size + SPARE) * (inside if pack.depth else 1) for pack, (size, _, _) in packs]
    for nest in before:
        held = math.prod(nest.levels[0][2][axis] for axis in nest.facts.spatial)
        sizes.append(held * nest.facts.output.size * (threads if nest.limits else 1))
    most = MAX_SCRATCH_BYTES - LINE * len(sizes)
    return "its packs and stages take more scratch than there is" if sum(sizes) > most else ""
