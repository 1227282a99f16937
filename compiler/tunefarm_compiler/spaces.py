"""Default schedules, and the grid that the tuner searches."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler import defaults
from tunefarm_compiler.parallel import on_threads
from tunefarm_compiler.schedule import Schedule, check
from tunefarm_compiler.stages import plan
from tunefarm_compiler.suit import suited
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload


def default_schedule(workload: Workload, spec: TargetSpec, threads: int = 1) -> Schedule:
    """A schedule that is good enough without any search, its loops dealt out to so many threads."""
    return on_threads(defaults.default(workload.output, spec), workload, spec, threads)


def space(workload: Workload, spec: TargetSpec) -> list[Schedule]:
    """Every schedule of the grid that can be applied and does not spill, in a fixed order."""
    output = suited(workload.output, spec)
    first = defaults.default(output, spec)
    usable = {}
    for schedule in _candidates(workload, spec, first):
        try:
            check(schedule, output)
        except InvalidScheduleError:
            continue
        usable[schedule.to_json()] = schedule
    return list(usable.values())


def _candidates(workload: Workload, spec: TargetSpec, first: Schedule) -> Iterator[Schedule]:
    output = suited(workload.output, spec)
    yield first
    last = plan(output, defaults.kept(output))[-1]
    shape = defaults.Shape(last, spec)
    if first.vector or not shape.contraction:
        yield from _streams(first, shape)
        return
    along, other = shape.along[0][0].tensor.name, shape.broadcast[0][0].tensor.name
    blocks = (128, 256, 512, 1024) if len(last.reduce_axes) == 1 else (0,)
    tiles = itertools.product((1, 2, 4, 6, 7, 8, 10, 12, 14), (1, 2, 3, 4))
    for (rows, vectors), block, unroll in itertools.product(tiles, blocks, (1, 2, 4)):
        if not shape.fits(rows, vectors):
            continue
        for packs, outer in (([], 0), ([along], 0), ([other, along], 0), ([along], 16 * rows)):
            made = shape.contract(rows, vectors, block, unroll, packs, outer)
            yield replace(made, stages=first.stages)


def _streams(first: Schedule, shape: defaults.Shape) -> Iterator[Schedule]:
    """Other numbers of vectors, rows and steps at a time."""
    if shape.window is not None and not first.vector:
        for columns, vectors in itertools.product((1, 2, 4, 7, 8, 14), (1, 2, 4)):
            yield shape.slide(columns, vectors)
        return
    if not first.loops:
        return
    *outer, (axis, _) = first.loops
    for lanes in (width for width in (1, 2, 4, 8, 16) if width <= shape.spec.lanes):
        for many, unroll in itertools.product((1, 2, 4, 8, 16), (1, 2, 4)):
            block = many if first.vector else many * lanes
            yield replace(first, loops=(*outer, (axis, block)), lanes=lanes, unroll=unroll)
