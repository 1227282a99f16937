"""Any schedule that a GPU can run, drawn at random: what tests try, and a search may begin with."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.additions import copied, parts
from tunefarm_compiler.binding import Gpu
from tunefarm_compiler.defaults import kept
from tunefarm_compiler.gpu.checks import check
from tunefarm_compiler.gpu.defaults import Bound, width
from tunefarm_compiler.schedule import Attach, Schedule
from tunefarm_compiler.stages import Stage, inputs, plan
from tunefarm_compiler.suit import suited
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Tensor

Pick = Callable[[Sequence[int]], int]
TILE = 64  # numbers that a thread's tile holds at most
TRIES = 100


def draw(output: Tensor, spec: TargetSpec, pick: Pick) -> Schedule:
    """A schedule of an expression; `pick` chooses one of several numbers.

    It may still need more shared memory than there is: that shows when it is lowered. Raises:
    InvalidScheduleError, where no try in a hundred makes sense.
    """
    output = suited(output, spec)
    for _ in range(TRIES):
        try:
            made = _drawn(output, pick)
            check(made, output, spec)
        except InvalidScheduleError as error:
            found = error
        else:
            return made
    raise found


def _drawn(output: Tensor, pick: Pick) -> Schedule:
    needed = kept(output)
    inner = [one.tensor for one in plan(output, needed) if one.tensor.name in needed]
    last_sums = plan(output, needed)[-1].reduce is not None
    # What is no sum may as well be computed where it is read.
    sums = [one.tensor.name for one in plan(output, needed)[:-1] if one.reduce is not None]
    names = [t.name for t in inner if t.name in sums or pick((0, 1))]
    names += [copied(t).name for t in inputs(output) if not pick((0, 1, 2, 3))]
    if last_sums and not pick((0, 1, 2, 3)):
        names.append(parts(output, pick((2, 3, 8))))
    *before, last = plan(output, names)
    schedule = nest(last, pick, alone=True)
    binds = schedule.gpu.binds if schedule.gpu else ()
    # Rows that are read whole are kept outside of the blocks that they are cut into.
    depth = pick(range(binds.count("block") + 1))
    stages = tuple(
        Attach(stage.tensor.name, depth, nest(stage, pick, alone=depth == 0)) for stage in before
    )
    return replace(schedule, stages=stages)


def nest(stage: Stage, pick: Pick, alone: bool) -> Schedule:
    """Loops of one stage, in a launch of its own or by the threads of a block."""
    axes = list(stage.axes)
    along = axes[-1].name if axes else ""
    if stage.reduce_axes and (not axes or not pick((0, 1))):
        along = stage.reduce_axes[-1].name
    every = {axis.name: axis for axis in (*axes, *stage.reduce_axes)}
    lanes = pick((1, 1, width(stage, every[along]), 2)) if along else 1
    blocks, serial, threads = list[Bound](), list[Bound](), list[Bound]()
    left, room = 1 << pick((5, 6, 7, 8, 9)), TILE
    for axis in axes[::-1]:
        tile = pick((1, 1, 2)) * (lanes if axis.name == along else 1)
        tile = tile if tile <= room else 1
        room //= tile
        count = min(left, 1 << pick((0, 1, 3, 5, 8)))
        left //= count
        rounds = pick((1, 1, 2, 3))
        blocks.append((axis.name, tile * count * rounds, "block"))
        serial.append((axis.name, tile * count, ""))
        threads.append((axis.name, tile, "thread"))
    for axis in stage.reduce_axes:
        count = min(left, 1 << pick((0, 0, 2, 5, 7)))
        left //= count
        rest = lanes * pick((1, 2)) if axis.name == along else pick((1, 2, 5))
        if count > 1 or pick((0, 1)):
            serial.append((axis.name, rest * count, ""))
            threads.append((axis.name, rest, "thread" if count > 1 else ""))
    loops = [*(_shuffled(blocks, pick) if alone else []), *_shuffled(serial, pick)]
    loops += _shuffled(threads, pick)
    return Schedule(
        tuple((axis, block) for axis, block, _ in loops),
        lanes,
        min(64, lanes * pick((1, 2, 4))),
        vector=along,
        gpu=Gpu(tuple(bind for _, _, bind in loops), pick((0, 0, 1))),
    )


def _shuffled(loops: list[Bound], pick: Pick) -> list[Bound]:
    left, found = list(loops), list[Bound]()
    while left:
        found.append(left.pop(pick(range(len(left)))))
    return found
