"""A GPU schedule in numbers for a cost model, of the same meaning for all workloads and GPUs.

They say what bounds the speed of its kernel: how full a multiprocessor is, how much of each
transaction with memory is used, what moves for each operation from memory, shared memory and into
registers, how long the sums of a thread are. Sizes are logarithms.
"""

import math
from collections.abc import Sequence

from tunefarm_compiler.binding import WARP
from tunefarm_compiler.features import log2
from tunefarm_compiler.gpu.forms import Form
from tunefarm_compiler.gpu.geometry import card
from tunefarm_compiler.gpu.nests import NestRules
from tunefarm_compiler.reuse import StageFacts, Touch
from tunefarm_compiler.targets import TargetSpec

SECTOR = 32  # bytes that memory gives at a time
REGISTERS = 24  # of a thread, beside its tile
NAMES = (
    "shared memory of the target",
    "threads of a multiprocessor",
    "operations",
    "operations for each byte",
    "type's size",
    "stages",
    "stages inside blocks",
    "launches",
    "shared memory of a block",
    "shared memory of a thread",
    "threads of a block",
    "blocks",
    "blocks at once",
    "occupancy",
    "waves",
    "registers",
    "values of a thread",
    "lanes",
    "bytes of an access",
    "loads for each product",
    "sums shared by threads",
    "sums shared by warps",
    "steps of a thread's sum",
    "across",
    "unroll",
    "code",
    "rounds of a block",
    "use of what is read",
    "use of what is written",
    "worst use of an access",
    "bytes for each operation",
    "threads along the vectors",
    "edges of blocks",
    "edges of tiles",
    "tests",
    "padding",
    "contraction",
    "tensor cores",
    "block's rows",
    "block's columns",
    "block's depth",
    "warps",
    "stages in flight",
    "parts of the sum",
    "bytes of a copy",
    "reads of shared memory for each product",
    "side by side",
    "blocks that fit by registers",
    "layout",
)  # fmt: skip
CONTRACTED = NAMES.index("contraction")


def of_forms(
    rules: Sequence[NestRules], forms: Sequence[Form], shared: int, spec: TargetSpec
) -> list[float]:
    """Those of `NAMES` of loops; what they say of contractions is 0."""
    most = max(rules, key=lambda one: one.facts.points * (1 if one is rules[-1] else 0.99))
    heavy, form = most.facts, forms[rules.index(most)]
    outer = heavy if not most.inside else rules[-1].facts
    blocks = (form if not most.inside else forms[-1]).blocks(outer)
    threads = max(
        one.threads(rule.facts)
        for one, rule in zip(forms, rules, strict=True)
        if rule.inside == most.inside
    )
    inside = sum(rule.inside for rule in rules)
    return [
        *_machine(heavy, len(rules), inside, len(rules) - inside),
        *_filling(registers(form, heavy), threads, blocks, shared, spec),
        *_thread(form, heavy, most),
        *_traffic(form, heavy, most, blocks),
        *[0.0] * (len(NAMES) - CONTRACTED),
    ]


def _machine(facts: StageFacts, stages: int, inside: int, launches: int) -> list[float]:
    spec = facts.spec
    moved = sum(t.bytes(facts.extents) for t in (*facts.touches, facts.output))
    return [
        log2(spec.shared_bytes),
        log2(card(spec.cpu).threads),
        log2(facts.points),
        log2(facts.points / max(1, moved)),
        float(facts.total_size),
        float(stages),
        float(inside),
        float(launches),
    ]


def registers(form: Form, facts: StageFacts) -> int:
    """Registers of a thread, as far as the tile tells."""
    words = max(1, facts.total_size // 4)
    operands = sum(
        math.prod(form.cuts[axis].tile for axis in facts.spatial if axis in touch.strides)
        for touch in facts.terms
    )
    return REGISTERS + words * (form.values(facts) + min(operands, 64))


def _filling(used: int, threads: int, blocks: int, shared: int, spec: TargetSpec) -> list[float]:
    machine = card(spec.cpu)
    threads = -(-threads // WARP) * WARP
    once = machine.blocks_at_once(threads, min(used, 255), shared)
    return [
        log2(1 + shared),
        log2((1 + shared) / threads),
        log2(threads),
        log2(blocks),
        float(once),
        once * threads / machine.threads,
        log2(blocks / max(1, once)),
        float(used),
    ]


def _thread(form: Form, facts: StageFacts, rules: NestRules) -> list[float]:
    values = form.values(facts)
    loads = sum(
        math.prod(form.cuts[axis].tile for axis in facts.spatial if axis in touch.strides)
        for touch in facts.terms
    )
    team = math.prod(form.cuts[axis].threads for axis in facts.summed)
    steps = math.prod(rules.extents[axis] for axis in facts.summed)
    rounds = math.prod(
        -(-form.cuts[axis].limit(rules.extents[axis]) // form.cuts[axis].step)
        for axis in facts.spatial
    )
    size = max((t.size for t in (*facts.terms, facts.output)), default=4)
    return [
        log2(values),
        log2(form.lanes),
        float(form.lanes * size),
        loads / max(1, values),
        log2(team),
        float(team > WARP),
        log2(steps / team),
        float(form.vector in facts.summed),
        log2(form.unroll),
        log2(form.unroll * values),
        log2(rounds),
    ]


def _use(touch: Touch, form: Form, facts: StageFacts) -> float:
    """The share of the sectors that a warp touches in one access which it uses."""
    vector = form.vector
    own = form.lanes if touch.strides.get(vector, 0) == 1 else 1
    fast = [vector] if form.cuts.get(vector) else []
    fast += [axis for axis in facts.spatial[::-1] if axis != vector]
    left, useful, spanned = WARP, own * touch.size, own * touch.size
    for axis in fast:
        cut = form.cuts[axis]
        count = min(left, cut.threads)
        left //= max(1, count)
        apart = touch.strides.get(axis, 0) * cut.tile * touch.size
        if count > 1 and apart:
            useful *= count
            spanned = max(apart, SECTOR if apart >= SECTOR else spanned) * count
        if left <= 1:
            break
    sectors = max(1.0, min(spanned / SECTOR, WARP * max(1, own * touch.size / SECTOR)))
    return min(1.0, useful / (sectors * SECTOR))


def _traffic(form: Form, facts: StageFacts, rules: NestRules, blocks: int) -> list[float]:
    reads = [_use(touch, form, facts) for touch in facts.terms]
    writes = _use(facts.output, form, facts)
    whole = {axis: form.cuts[axis].limit(rules.extents[axis]) for axis in facts.spatial}
    whole |= {axis: rules.extents[axis] for axis in facts.summed}
    moved = sum(touch.bytes(whole) for touch in (*facts.touches, facts.output)) * blocks
    even = tiles = 1.0
    for axis in facts.spatial:
        extent, cut = rules.extents[axis], form.cuts[axis]
        limit = cut.limit(extent)
        even *= extent / (-(-extent // limit) * limit)
        tiles *= limit / (-(-limit // cut.step) * cut.step)
    vector = form.cuts.get(form.vector)
    return [
        sum(reads) / max(1, len(reads)),
        writes,
        min([*reads, writes]),
        log2(moved / max(1, facts.points)),
        log2(vector.threads) if vector else 0.0,
        even,
        tiles,
        float(bool(facts.stage.tests)),
        float(form.pad),
    ]
