"""What a schedule must keep within to be worth building: registers, scratch, size of the code."""

from collections.abc import Iterable, Iterator, Sequence

from tunefarm_compiler.caches import caches
from tunefarm_compiler.length import length
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
    if scratch > MAX_SCRATCH_BYTES or scratch > 2 * caches(facts.spec).last:
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
    held = 0
    for nest in before:
        if said := fault(nest, most):
            return f"{nest.facts.stage.tensor.name}: {said}"
        held += nest.bytes * (last.schedule.threads if nest.limits else 1)
    if held > MAX_SCRATCH_BYTES:
        return "its stages do not fit in scratch"
    return fault(last, most)
