"""A schedule in numbers for a cost model, of the same meaning for all workloads and targets.

They say what bounds the speed of its loops: how full registers and lanes are, loads for each
multiply-add, what moves into each cache for each operation, how much is copied, how long the code
is. Sizes are logarithms; bytes stand against the caches' sizes, registers against those there are.
"""

import math
from collections.abc import Sequence

from tunefarm_compiler.caches import caches
from tunefarm_compiler.reuse import Nest, StageFacts, traffic
from tunefarm_compiler.schedule import Schedule, blocks, dealt
from tunefarm_compiler.stages import Stage
from tunefarm_compiler.targets import TargetSpec

NAMES = (
    "lanes of the target",
    "registers of the target",
    "first cache",
    "second cache",
    "last cache",
    "operations",
    "operations for each byte",
    "stages",
    "stages: work again",
    "stages: scratch",
    "summed axes",
    "shared axes",
    "across",
    "efficiency of lanes",
    "lanes used",
    "totals",
    "totals: registers",
    "registers in use",
    "registers left",
    "rows",
    "vectors",
    "loads for each product",
    "vector loads for each product",
    "unroll",
    "steps of the innermost loop",
    "steps of all inner loops",
    "products between stores",
    "innermost stride",
    "loads along vectors, strided",
    "loads along vectors, straight",
    "unpacked stride along the sum",
    "code",
    "copies of the tile",
    "edges",
    "into first",
    "into second",
    "into last",
    "tile working set",
    "inner loops' working set in first",
    "inner loops' working set in second",
    "outer loops' working set in second",
    "packs",
    "packed for each product",
    "packed turned",
    "pack in first",
    "pack in second",
    "output passes",
    "loops",
    "summed loops outside",
    "depth of the vector axis",
    "rounds of the innermost tile loop",
    "rounds of the next tile loop",
    "innermost tile loop along vectors",
    "operands that the innermost tile loop keeps",
    "order of sums",
    "window reads again",
    "threads",
    "threads that are busy",
    "even rows",
    "prefetches",
    "grouped",
    "type's size",
)


def log2(value: float) -> float:
    """Logarithm of what may be 0."""
    return math.log2(max(value, 1e-9))


def features(schedule: Schedule, facts: Sequence[StageFacts], spec: TargetSpec) -> list[float]:
    """Those of `NAMES`, for a schedule that has no fault. `facts` are of its stages."""
    *before, last = facts
    attached = {attach.stage: attach for attach in schedule.stages}
    heavy = max(facts, key=lambda one: one.points * (1 if one is last else 0.99))
    own, outside = schedule, dict[str, int]()
    if heavy is not last:
        attach = attached[heavy.stage.tensor.name]
        own = attach.schedule
        whole = last.extents
        cut = Schedule(schedule.loops[: attach.depth], 1).tile(whole)
        outside = {a: cut[a] for a in heavy.extents if attach.depth and a in cut}
    nest = Nest(heavy, own, outside)
    scratch, again = 0.0, 0.0
    whole_nest = Nest(last, schedule, {})
    for one in before:
        attach = attached[one.stage.tensor.name]
        cut = whole_nest.levels[attach.depth][2]
        part = {axis: min(cut.get(axis, e), e) for axis, e in one.extents.items()}
        size = math.prod(part[axis] for axis in one.spatial)
        scratch += size * one.total_size
        again += whole_nest.calls(attach.depth) * math.prod(part.values()) / max(1, heavy.points)
    return [*_target(spec), *_work(facts, heavy, again, scratch), *_tile(nest), *_memory(nest),
            *_loops(nest, schedule, last.stage)]  # fmt: skip


def _target(spec: TargetSpec) -> list[float]:
    sizes = caches(spec).levels
    return [log2(spec.lanes), log2(spec.vector_registers), *(log2(size) for size in sizes)]


def _work(
    facts: Sequence[StageFacts], heavy: StageFacts, again: float, scratch: float
) -> list[float]:
    moved = sum(t.bytes(heavy.extents) for t in (*heavy.touches, heavy.output))
    return [
        log2(heavy.points),
        log2(heavy.points / max(1, moved)),
        float(len(facts)),
        again,
        log2(1 + scratch),
        float(len(heavy.summed)),
        float(len(heavy.shared)),
    ]


def _tile(nest: Nest) -> list[float]:
    facts, spec = nest.facts, nest.facts.spec
    registers = spec.vector_registers
    values = nest.rows * nest.vectors
    loads = sum(nest.operand_vectors) / max(1, values)
    moving = [
        count
        for touch, count in zip(facts.terms, nest.operand_vectors, strict=True)
        if nest.vector in touch.strides
    ]
    order = nest.schedule.reduce_order(facts.stage)
    inner = nest.tile[order[-1]] if order else 1
    unroll = nest.schedule.unroll
    steps = math.prod(nest.tile[axis] for axis in order)
    packed = nest.packed
    strided = [
        t for t in facts.terms
        if t.strides.get(nest.vector, 0) > 1 and t.name not in packed
    ]  # fmt: skip
    straight = [
        t
        for t in facts.terms
        if t.strides.get(nest.vector, 0) == 1 or (t.name in packed and nest.vector in t.strides)
    ]
    along = [
        t.strides.get(order[-1], 0) * t.size for t in facts.terms if order and t.name not in packed
    ]
    return [
        float(nest.across),
        nest.efficiency,
        log2(nest.schedule.lanes / spec.lanes),
        log2(nest.accumulators),
        nest.accumulators / registers,
        nest.registers / registers,
        float(registers - nest.registers),
        log2(nest.rows),
        float(nest.vectors),
        loads,
        sum(moving) / max(1, values),
        log2(unroll),
        log2(inner / unroll),
        log2(steps),
        log2(steps * values),
        log2(max(along, default=1) + 1),
        float(len(strided)),
        float(len(straight)),
        log2(1 + max((s for s in along), default=0)),
        log2(nest.code),
        log2(nest.copies),
        float(bool(facts.stage.tests)) * math.prod(
            1 / max(1, nest.tile.get(axis, 1)) for axis in
            {axis for test in facts.stage.tests for axis, _ in test.terms if axis in facts.spatial}
        ),
    ]  # fmt: skip


def _memory(nest: Nest) -> list[float]:
    facts = nest.facts
    sizes = caches(facts.spec).levels
    points = max(1, facts.points)
    # Half of a cache: the rest is for what else passes through it.
    moved = [sum(traffic(nest, size // 2).values()) for size in sizes]
    held = [sum(row) for row in nest.sizes]
    loops = len(nest.schedule.loops)
    inner, around = held[max(0, loops - 1)], held[max(0, loops - 2)]
    copied = nest.pack_bytes()
    total = sum(size * times for size, times, _ in copied)
    largest = max((size for size, _, _ in copied), default=0)
    return [
        *(log2(one / points) for one in moved),
        log2(held[loops] / sizes[0]),
        log2(inner / sizes[0]),
        log2(inner / sizes[1]),
        log2(around / sizes[1]),
        float(len(copied)),
        log2(1e-6 + total / points),
        log2(1e-6 + sum(size * times for size, times, turned in copied if turned) / points),
        log2((1 + largest) / sizes[0]),
        log2((1 + largest) / sizes[1]),
    ]


def _busy(schedule: Schedule, stage: Stage) -> float:
    """Share of the threads' time that the blocks dealt out fill."""
    depth = dealt(schedule, stage)
    if depth < 0:
        return 1.0 / schedule.threads
    count = blocks(schedule, stage)[depth]
    return count / (-(-count // schedule.threads) * schedule.threads)


def _loops(nest: Nest, schedule: Schedule, last_stage: Stage) -> list[float]:
    facts, own = nest.facts, nest.schedule
    summed = [
        (a, rounds) for a, rounds, _ in nest.levels[1 : len(own.loops) + 1] if a in facts.summed
    ]
    tiles = [(a, r) for a, r, _ in nest.levels[1 : len(own.loops) + 1]]
    place = [n for n, (axis, _) in enumerate(own.loops) if axis == nest.vector]
    last, rounds = tiles[-1] if tiles else ("", 1)
    kept = sum(last not in touch.strides for touch in facts.terms)
    order = own.reduce_order(facts.stage)
    natural = sum(a != b for a, b in zip(order, facts.summed, strict=True))
    window = [
        1.0 for touch in facts.terms for terms, _ in touch.dimensions
        if len(terms) > 1 and any(a == (order[-1] if order else "") for a, _ in terms)
        and any(nest.tile.get(a, 1) > 1 for a, _ in terms if a in facts.spatial)
    ]  # fmt: skip
    even = math.prod(
        extent / (-(-extent // nest.tile[axis]) * nest.tile[axis])
        for axis, extent in nest.levels[0][2].items()
        if axis in facts.spatial and axis != nest.vector
    )
    return [
        log2(math.prod(rounds for _, rounds in summed)),
        float(len(own.loops)),
        float(len(summed)),
        float(len(own.loops) - place[-1]) if place else 0.0,
        log2(rounds),
        log2(tiles[-2][1]) if len(tiles) > 1 else 0.0,
        float(last == nest.vector),
        float(kept),
        float(natural),
        sum(window),
        log2(schedule.most_threads),
        _busy(schedule, last_stage),
        even,
        float(len(own.prefetches)),
        float(own.group),
        float(facts.total_size),
    ]
