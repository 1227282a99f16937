"""Schedules that no space holds: any loops, vectors, packs, orders and places."""

import random

from tunefarm_compiler import Schedule, defaults
from tunefarm_compiler.additions import laid_out
from tunefarm_compiler.lower import Lowering
from tunefarm_compiler.schedule import Attach, Pack
from tunefarm_compiler.stages import inputs, plan
from tunefarm_compiler.suit import suited
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Tensor
from tunefarm_proto.errors import InvalidScheduleError

TRIES = 8


def schedule(rng: random.Random, output: Tensor, spec: TargetSpec) -> list[Schedule]:
    """One that is accepted, if some of them is."""
    for _ in range(TRIES):
        try:
            drawn = _drawn(rng, output, spec)  # may ask for two layouts of one input
            Lowering(output, drawn, spec).run()
        except InvalidScheduleError:
            continue
        return [drawn]
    return []


def _drawn(rng, output, spec):
    suits = suited(output, spec)
    found = defaults.minimal(suits)
    stages = found.names() if found and rng.random() < 0.5 else defaults.kept(suits)
    for tensor in inputs(suits):
        if len(tensor.shape) > 1 and rng.random() < 0.15:
            order = rng.sample(range(len(tensor.shape)), len(tensor.shape))
            stages = [*stages, laid_out(tensor, order).name]
    *before, last = plan(suits, stages)
    main = _nest(rng, last, [tensor.name for tensor in inputs(suits)])
    depths = len(main.loops)
    attached = [
        Attach(stage.tensor.name, rng.randint(0, depths), _nest(rng, stage, [])) for stage in before
    ]
    return Schedule(
        main.loops, main.lanes, main.unroll, main.packs, main.vector, main.order,
        tuple(attached), main.group,
    )  # fmt: skip


def _nest(rng, stage, names):
    """Any loops, vectors and packs for a stage, mostly in tiles that registers can hold."""
    spatial = {axis.name for axis in stage.axes}
    loops = []
    for axis, extent in stage.extents.items():
        blocks = [rng.randint(1, extent) for _ in range(rng.choice((0, 1, 1, 2)))]
        if axis in spatial:  # what is left of it is unrolled
            blocks.append(min(extent, rng.choice((1, 2, 3, 4, 8, 16, 17))))
        loops.append([(axis, block) for block in sorted(blocks, reverse=True)])
    order = [n for n, blocks in enumerate(loops) for _ in blocks]
    rng.shuffle(order)
    left = [iter(blocks) for blocks in loops]
    nested = tuple(next(left[n]) for n in order)
    packs = tuple(Pack(name, rng.randint(0, len(nested))) for name in names if rng.random() < 0.3)
    reduced = [axis.name for axis in stage.reduce_axes]
    rng.shuffle(reduced)
    vector = rng.choice(["", "", *stage.extents])
    return Schedule(
        nested, rng.choice((1, 2, 4, 8, 16)), rng.randint(1, 4), packs, vector, tuple(reduced), (),
        rng.choice((1, 1, 4)),
    )  # fmt: skip
