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
    if _bytes([weights]) > caches(spec).first // 4:  # all rows for some channels: these stay
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
    inner = [stage for stage in before if stage.tensor.name in names[1:3]]
    first = [stage for stage in before if stage not in inner]  # weights and copies
    sums = next(stage for stage in inner if stage.reduce is not None)
    rows = [a.name for a in itertools.takewhile(lambda a: not picked(a.name), sums.axes)]
    room = MAX_SCRATCH_BYTES // 2 - _bytes(first)  # packs have the other half
    fitting = [rows[:n] for n in range(len(rows) + 1) if _room(inner, rows[:n], threads) <= room]
    # A row of squares at a time, unless all weights would come from beyond the last cache for each.
    near = _bytes([weights]) <= caches(spec).last // 4 and _bytes(inner, rows) < _bytes(inner)
    if not fitting:
        return None
    single = fitting[-1] if near else fitting[0]
    attached = []
    for stage in before:
        cut = single if stage in inner else []
        axes = tuple(Axis(a.name, 1 if a.name in cut else a.extent) for a in stage.axes)
        shape = Shape(replace(stage, axes=axes), spec)
        apart = stage.reduce is None and any(picked(axis.name) for axis in axes)
        own = shape.apart() if apart else nest(shape.stage, spec)
        attached.append(Attach(stage.tensor.name, len(cut), own))
    made = Shape(last, spec, vector).apart()
    outer = [loop for name in single for loop in made.loops if loop[0] == name]
    loops = (*outer, *(loop for loop in made.loops if loop not in outer))
    return replace(made, loops=loops, stages=tuple(attached))


def _bytes(stages: Sequence[Stage], single: Sequence[str] = ()) -> int:
    """Of what stages hold, of those axes one index at a time."""
    kept = [[axis.extent for axis in stage.axes if axis.name not in single] for stage in stages]
    return 4 * sum(math.prod(extents) for extents in kept)


def _room(stages: Sequence[Stage], single: Sequence[str], threads: int) -> int:
    """What they take of scratch: inside of loops each thread has its own."""
    return _bytes(stages, single) * (threads if single else 1)


def _filled(axis: Axis, spec: TargetSpec) -> bool:
    """Whether vectors along an axis are not too few lanes, and mostly full."""
    lanes = spec.lanes * -(-axis.extent // spec.lanes)
    return axis.extent >= FEW_CHANNELS and axis.extent >= FULL * lanes
