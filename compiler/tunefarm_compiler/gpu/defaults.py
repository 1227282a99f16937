"""A schedule for any expression on a GPU that is good without a search: from its accesses alone."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

from tunefarm_compiler.additions import copied, parts
from tunefarm_compiler.binding import MOST_THREADS, WARP, Gpu
from tunefarm_compiler.defaults import Shape, kept
from tunefarm_compiler.emit import SIZES
from tunefarm_compiler.gpu import contracts
from tunefarm_compiler.gpu.divide import power
from tunefarm_compiler.schedule import Attach, Schedule
from tunefarm_compiler.stages import Stage, plan
from tunefarm_compiler.suit import suited
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Axis, Load, Tensor

WIDE = 16  # bytes of the widest access
THREADS = 256
SQUARE = 32  # side of what is turned in shared memory, in elements of four bytes
UNROLL = 16  # rounds of a loop over single elements that are written out
LONG = 64  # steps of a sum that threads should share where there are few outputs
BUSY = 1 << 15  # threads that keep a GPU busy
BLOCKS = 512  # blocks of threads that do
LONG_ROW = 1 << 13  # steps of a sum from which on parts of it are worth a launch
ROW_BYTES = 64 << 10  # of rows that are worth keeping in shared memory

# A loop with who runs it.
Bound = tuple[str, int, str]


def default(output: Tensor, spec: TargetSpec) -> Schedule:
    """The schedule of an expression. What is not inlined is computed for each block of rows."""
    if contract := contracts.default(output, spec):
        return Schedule((), 1, gpu=Gpu(contract=contract))
    return loops(output, spec)


def loops(output: Tensor, spec: TargetSpec) -> Schedule:
    """That of its loops, without a contract."""
    output = suited(output, spec)
    stages = kept(output)
    *before, last = plan(output, stages)
    if not before:
        return _in_parts(output, last, spec) or nest(last, spec)
    rows = [_shared_axes(stage, last) for stage in before]
    if Shape(last, spec).contraction or 0 in rows:
        # Each stage in a launch of its own.
        own = tuple(Attach(one.tensor.name, 0, nest(one, spec)) for one in before)
        return replace(nest(last, spec), stages=own)
    return _by_rows(output, spec, min(rows))


def _shared_axes(stage: Stage, last: Stage) -> int:
    """How many of the first axes of two stages are the same."""
    pairs = zip(stage.axes, last.axes, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def nest(stage: Stage, spec: TargetSpec) -> Schedule:
    """The schedule of one stage in a launch of its own."""
    if not stage.axes:
        return _sums(stage) if stage.reduce else made((), 1)
    shape = Shape(stage, spec)
    if stage.reduce is not None and shape.across():
        return _sums(stage)
    if shape.contraction:
        return _tiles(stage, shape)
    if stage.reduce is not None:
        return _columns(stage, shape)
    if turned := _turned(stage):
        return _by_squares(stage, *turned)
    return _stream(stage)


def _in_parts(output: Tensor, stage: Stage, spec: TargetSpec) -> Schedule | None:
    """A few long sums in two launches: parts of them by many blocks, then the sums of these."""
    shape = Shape(stage, spec) if stage.axes else None
    if stage.reduce is None or (shape and shape.contraction):
        return None
    across = shape is None or shape.across()
    along = stage.reduce_axes[-1] if across else stage.axes[-1]
    blocks = math.prod(axis.extent for axis in stage.axes)
    if not across:
        blocks = -(-blocks // (width(stage, along) * THREADS // WARP))
    length = max(axis.extent for axis in stage.reduce_axes)
    count = min(BLOCKS // blocks, length // (LONG_ROW if across else LONG_ROW // WARP))
    if count < 2:
        return None
    # Parts of equal length need no conditions.
    count = next((n for n in range(count, count // 2, -1) if not length % (n * WIDE)), count)
    name = parts(output, count)
    one, last = plan(output, [name])
    return replace(nest(last, spec), stages=(Attach(name, 0, nest(one, spec)),))


def made(loops: Iterable[Bound], lanes: int, unroll: int = 1, vector: str = "") -> Schedule:
    """A schedule of bound loops."""
    kept_ = [*loops]
    binds = tuple(bind for _, _, bind in kept_)
    return Schedule(
        tuple((axis, block) for axis, block, _ in kept_),
        lanes,
        unroll,
        vector=vector,
        gpu=Gpu(binds),
    )


def width(stage: Stage, axis: Axis) -> int:
    """Elements of the widest access along an axis: those read along it lie side by side there."""
    read = [(load.dtype, load.strides()[0]) for load in stage.loads]
    along = [(dtype, steps) for dtype, steps in read if axis.name in steps]
    if axis in stage.axes:
        steps = stage.tensor[stage.axes].strides()[0]
        along.append((stage.tensor.dtype, steps))
    if any(steps[axis.name] != 1 for _, steps in along):
        return 1
    wide = WIDE // max((SIZES[dtype] for dtype, _ in along), default=4)
    if any(axis.name in dict(test.terms) for test in stage.tests):
        return 1
    others = [step for _, steps in along for name, step in steps.items() if name != axis.name]
    if not any(others):
        return wide  # what is left over is done apart
    return math.gcd(wide, axis.extent, *others)


def _spread(axes: list[Axis], threads: int) -> dict[str, int]:
    """So many threads over axes, the last ones first."""
    found = {}
    for axis in reversed(axes):
        found[axis.name] = min(threads, power(axis.extent))
        threads //= found[axis.name]
    return found


def _stream(stage: Stage) -> Schedule:
    """An access of each thread."""
    *outer, last = stage.axes
    lanes = width(stage, last)
    across = min(THREADS, power(-(-last.extent // lanes)))
    spread = _spread(outer, THREADS // across)
    loops = [(axis.name, spread[axis.name], "block") for axis in outer]
    loops += [(last.name, across * lanes, "block")]
    loops += [(axis.name, 1, "thread") for axis in outer if spread[axis.name] > 1]
    return made([*loops, (last.name, lanes, "thread")], lanes)


def _turned(stage: Stage) -> tuple[Load, Axis] | None:
    """What is read side by side along another axis than what is written, and that axis."""
    *outer, last = stage.axes
    if stage.tests:
        return None
    for load in stage.loads:
        steps = load.strides()[0]
        for axis in outer:
            if steps.get(axis.name) == 1 and steps.get(last.name, 0) > 1 and axis.extent > 1:
                return load, axis
    return None


def _by_squares(stage: Stage, load: Load, along: Axis) -> Schedule:
    """Squares through shared memory, read along their rows and written along their columns."""
    last = stage.axes[-1]
    square = SQUARE if SIZES[load.dtype] > 2 else 2 * SQUARE
    columns = min(square, power(last.extent))
    rows = min(square * square // columns, power(along.extent))
    threads = min(THREADS, columns * rows)
    size = {along.name: rows, last.name: columns}
    loops = [(axis.name, size.get(axis.name, 1), "block") for axis in stage.axes]
    depth = len(loops)
    loops += [(along.name, max(1, threads // columns), ""), (along.name, 1, "thread")]
    schedule = made([*loops, (last.name, 1, "thread")], 1, UNROLL)
    # The copy: its last dimension runs along what is read side by side.
    copy = copied(load.tensor)
    *before, inner = copy.shape
    other = next(n for n, index in enumerate(load.indices[:-1]) if last.name in dict(index.terms))
    tall = min(max(1, threads // rows), power(before[other]))
    across, side = f"d{other}", f"d{len(before)}"
    own = [(side, rows, "")] if inner > rows else []
    own += [(across, tall, ""), (across, 1, "thread"), (side, 1, "thread")]
    filled = made(own, 1, UNROLL)
    filled = replace(filled, gpu=filled.gpu and replace(filled.gpu, pad=1))
    return replace(schedule, stages=(Attach(copy.name, depth, filled),))


def _team(length: int, lanes: int, rows: int) -> int:
    """Threads that share a sum of that length: a few accesses each, more where sums are few."""
    few = rows * power(-(-length // (4 * lanes))) < BUSY
    wanted = power(-(-length // (lanes * (1 if few else 4))))
    return min(max(wanted, min(WARP, power(-(-length // lanes)))), MOST_THREADS)


def _side(team: int, rows: int) -> int:
    """Rows of a block: no more than leave enough blocks."""
    side = max(1, THREADS // team)
    while side > 1 and rows < side * BLOCKS:
        side //= 2
    return side


def _sums(stage: Stage) -> Schedule:
    """Rows summed by teams of threads."""
    inner = stage.reduce_axes[-1]
    lanes = width(stage, inner)
    rows = math.prod(axis.extent for axis in stage.axes)
    team = _team(inner.extent, lanes, rows)
    loops = [(axis.name, 1, "block") for axis in stage.axes]
    if stage.axes:
        last = stage.axes[-1]
        side = min(_side(team, rows), power(last.extent))
        loops[-1] = (last.name, side, "block")
        loops += [(last.name, 1, "thread")] if side > 1 else []
    loops += [(inner.name, team * lanes, ""), (inner.name, lanes, "thread")]
    return made(loops, lanes, 4 * lanes, inner.name)


def _columns(stage: Stage, shape: Shape) -> Schedule:
    """Sums along what is not contiguous, one or more of each thread."""
    *outer, last = stage.axes
    lanes = width(stage, last)
    first = stage.reduce_axes[0]
    outputs = math.prod(axis.extent for axis in stage.axes) // lanes
    unroll = math.prod(axis.extent for axis in stage.reduce_axes)
    unroll = unroll if unroll <= 9 else 4
    team = 1
    while team < WARP and team * LONG // 4 < first.extent and outputs * team < BUSY:
        team *= 2
    across = min(THREADS // team, power(-(-last.extent // lanes)))
    spread = _spread(outer, THREADS // team // across)
    tile = {shape.window.name: 2} if shape.window and team == 1 and unroll <= 9 else {}
    loops = [(axis.name, spread[axis.name] * tile.get(axis.name, 1), "block") for axis in outer]
    loops += [(last.name, across * lanes, "block")]
    if team > 1:
        loops += [(first.name, team, ""), (first.name, 1, "thread")]
    loops += [(axis.name, tile.get(axis.name, 1), "thread") for axis in outer]
    return made([*loops, (last.name, lanes, "thread")], lanes, unroll)


def _tiles(stage: Stage, shape: Shape) -> Schedule:
    """Any contraction by plain loops: a square of a few rows and one vector of each thread."""
    last, row = stage.axes[-1], shape.rows[-1]
    lanes = 4
    across = min(16, power(-(-last.extent // lanes)))
    down = min(THREADS // across, power(-(-row.extent // 4)))
    size = {row.name: 4 * down, last.name: across * lanes}
    loops = [(axis.name, size.get(axis.name, 1), "block") for axis in stage.axes]
    loops += [(row.name, 4, "thread"), (last.name, lanes, "thread")]
    return made(loops, lanes, 2 if len(stage.reduce_axes) == 1 else 1)


def _by_rows(output: Tensor, spec: TargetSpec, depth: int) -> Schedule:
    """Blocks of rows, of which whole stages are kept in shared memory."""
    names = kept(output)
    *before, last = plan(output, names)
    rows, inner = last.axes[:depth], last.axes[depth:]
    length = math.prod(axis.extent for axis in inner) or 1
    lanes = width(last, last.axes[-1]) if inner else 1
    count = math.prod(axis.extent for axis in rows)
    team = _team(length, lanes, count)
    side = min(_side(team, count), power(rows[-1].extent))
    room = min(ROW_BYTES, spec.shared_bytes // 2) // (side * length)  # bytes of each element
    names = _in_shared(output, before, rows[-1], tuple(axis.extent for axis in inner), room)
    *before, last = plan(output, names)
    binds = [(axis.name, 1, "block") for axis in rows[:-1]] + [(rows[-1].name, side, "block")]
    schedule = _of_rows(last, depth, side, team, binds)
    stages = tuple(
        Attach(stage.tensor.name, depth, _of_rows(stage, depth, side, team, [])) for stage in before
    )
    return replace(schedule, stages=stages)


def _in_shared(
    output: Tensor, before: list[Stage], row: Axis, inner: tuple[int, ...], room: int
) -> list[str]:
    """Sums of rows; then rows that are read more than once, and what is computed for many: as
    many as there are bytes of room for.
    """
    names = [one.tensor.name for one in before if one.reduce is not None]
    read = [load for one in plan(output, names) for load in one.loads]
    tensors = [load.tensor for load in {load.tensor.name: load for load in read}.values()]
    own = {load.tensor.name for load in read if row.name in load.strides()[0]}
    rows = [
        (tensor, copied(tensor).name)
        for tensor in tensors
        if tensor.compute is None
        and tensor.name in own
        and sum(load.tensor.name == tensor.name for load in read) > 1
        and tensor.shape[-len(inner) :] == inner
    ]
    rows += [(one.tensor, one.tensor.name) for one in before if one.reduce is None]
    for tensor, name in rows:
        if SIZES[tensor.dtype] <= room:
            room -= SIZES[tensor.dtype]
            names.append(name)
    return names


def _of_rows(stage: Stage, depth: int, side: int, team: int, binds: list[Bound]) -> Schedule:
    """A stage of some rows by a block's threads, a team for each row."""
    row = stage.axes[depth - 1].name
    loops = binds + ([(row, 1, "thread")] if side > 1 else [])
    if stage.reduce is not None:
        along = stage.reduce_axes[-1]
    elif len(stage.axes) > depth:
        along = stage.axes[-1]
    else:
        return made(loops, 1)
    lanes = width(stage, along)
    loops += [(along.name, team * lanes, ""), (along.name, lanes, "thread")]
    return made(loops, lanes, 4 * lanes if stage.reduce else 4, along.name)
