"""What a schedule must keep within to be worth building: registers, scratch, size of the code."""

from collections.abc import Mapping, Sequence

from tunefarm_compiler.caches import caches
from tunefarm_compiler.length import length
from tunefarm_compiler.reuse import Nest, StageFacts
from tunefarm_compiler.schedule import MAX_SCRATCH_BYTES, Schedule

MAX_CODE = 1400  # lines: 20 us each to compile, and most candidates have half of them
MAX_WINDOW = 5000  # where nothing is shared, edges of a window take no arithmetic but code
MAX_COPY_SHARE = 0.25  # copied elements for each product
SPARE_REGISTERS = 0
STREAM_VALUES = 64


def fault(nest: Nest) -> str:
    """Why a nest is not worth building; "" where it may be."""
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
    most = MAX_CODE if facts.shared else MAX_WINDOW
    if length(nest, most) > most:
        return "its code is too large"
    return ""


def faults(schedule: Schedule, facts: Sequence[StageFacts], limits: Mapping[str, int]) -> str:
    """The first fault of the stages, the last of which is the output's."""
    attached = {attach.stage: attach for attach in schedule.stages}
    for one in facts[:-1]:
        attach = attached[one.stage.tensor.name]
        # Only what the loops outside of it leave is computed at a time.
        inside = {a: limits[a] for a in one.extents if attach.depth and a in limits}
        if said := fault(Nest(one, attach.schedule, inside)):
            return f"{one.stage.tensor.name}: {said}"
    return fault(Nest(facts[-1], schedule, {}))
