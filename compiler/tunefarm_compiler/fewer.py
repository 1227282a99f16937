"""Default schedules by Winograd's filtering: where it was measured to be faster than the sum."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from tunefarm_compiler.caches import caches
from tunefarm_compiler.defaults import FULL, Shape, minimal, nest
from tunefarm_compiler.schedule import MAX_SCRATCH_BYTES, Attach, Schedule
from tunefarm_compiler.stages import Stage, plan
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Axis, Tensor
from tunefarm_compiler.winograd import OUTPUTS, Windows, picked

ADDERS = "znver"  # processors that add while they multiply
TERMS_HELD, ROWS = 32, 4  # registers for the weights and terms of a window; its rows in a tile
# Squares of outputs from which on their transformed weights pay, in all and in a row; channels.
TILES, TILES_IN_ROW, FEW_CHANNELS = 20, 3, 16


def by_fewer_products(output: Tensor, spec: TargetSpec, threads: int = 1) -> Schedule | None:
    """The schedule by Winograd's filtering, where it was measured to be faster, and has room."""
    found = minimal(output) if spec.arch == "x86_64" else None
    if found is None:
        return None
    stages = plan(output, found.names())
    return (_squares if found.channels else _pairs)(found, stages, spec, threads)


def _pairs(found: Windows, stages: list[Stage], spec: TargetSpec, _: int) -> Schedule | None:
    """By pairs of outputs in a row."""
    if not spec.cpu.startswith(ADDERS) or spec.vector_registers < TERMS_HELD:
        return None
    weights, last = stages
    made = Shape(last, spec).apart({found.rows.axis.name: ROWS})
    if _bytes(weights.axes) > caches(spec).first // 4:  # all rows for some channels: these stay
        made = replace(made, loops=(made.loops[0], made.loops[-1], *made.loops[1:-1]))
    own = Shape(weights, spec).apart()
    return replace(made, stages=(Attach(weights.tensor.name, 0, own),))


def _squares(
    found: Windows, stages: list[Stage], spec: TargetSpec, threads: int
) -> Schedule | None:
    """By squares of outputs: a row of them at a time, or all of them."""
    names, (*before, last) = found.names(), stages
    weights = next(stage for stage in before if stage.tensor.name == names[0])
    vector = next(axis for axis in last.axes if axis.name == found.vectors())
    told = {axis.name for axis in weights.axes} | set(filter(picked, (a.name for a in last.axes)))
    tiles = math.prod(axis.extent for axis in last.axes if axis.name not in told)
    in_row = found.columns.axis.extent // OUTPUTS
    if tiles < TILES or in_row < TILES_IN_ROW or not _filled(vector, spec):
        return None
    if math.prod(axis.extent for axis in found.channels) < spec.lanes:
        return None
    # A row of tiles at a time, unless all weights would come from beyond the last cache for each.
    sums = next(stage for stage in before if stage.reduce is not None)
    rows = [*itertools.takewhile(lambda axis: not picked(axis.name), sums.axes)]
    held = _bytes(weights.axes)
    small = held <= caches(spec).last // 4 and math.prod(axis.extent for axis in rows) > 1
    single = [axis.name for axis in rows] if small else []
    attached, scratch = [], 0
    for stage in before:
        whole = stage.tensor.name not in names[1:3]  # weights and copies
        cut = [] if whole else single
        axes = tuple(Axis(a.name, 1 if a.name in cut else a.extent) for a in stage.axes)
        scratch += _bytes(axes) * (threads if cut else 1)
        shape = Shape(replace(stage, axes=axes), spec)
        apart = any(picked(axis.name) for axis in stage.axes) and stage.reduce is None
        own = shape.apart() if apart else nest(shape.stage, spec)
        attached.append(Attach(stage.tensor.name, 0 if whole else len(single), own))
    if scratch > MAX_SCRATCH_BYTES // 2:  # packs have the other half
        return None
    made = Shape(last, spec, vector).apart()
    outer = [loop for name in single for loop in made.loops if loop[0] == name]
    loops = (*outer, *(loop for loop in made.loops if loop not in outer))
    return replace(made, loops=loops, stages=tuple(attached))


def _bytes(axes: Sequence[Axis]) -> int:
    return 4 * math.prod(axis.extent for axis in axes)


def _filled(axis: Axis, spec: TargetSpec) -> bool:
    """Whether vectors along an axis are not too few lanes, and mostly full."""
    lanes = spec.lanes * -(-axis.extent // spec.lanes)
    return axis.extent >= FEW_CHANNELS and axis.extent >= FULL * lanes
