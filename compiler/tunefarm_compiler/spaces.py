"""Default schedules, and the grid that the tuner searches."""

import itertools

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.schedule import Pack, Schedule, check
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload

L1_FLOATS = 8192
STREAM_VECTORS = 4


def _fits(rows: int, vectors: int, spec: TargetSpec) -> bool:
    """Whether accumulators, a row of operands and one broadcast stay in registers."""
    return rows * vectors + vectors + 1 <= spec.vector_registers


def _matmul(  # noqa: PLR0917
    rows: int, vectors: int, block: int, unroll: int, packs: str, spec: TargetSpec
) -> Schedule:
    columns = vectors * spec.lanes
    loops = (("k", block), ("j", columns), ("i", rows))
    return Schedule(
        loops, spec.lanes, unroll, tuple(Pack(name, 1 + (name == "B")) for name in packs)
    )


def default_schedule(workload: Workload, spec: TargetSpec) -> Schedule:
    """A schedule that is good enough without any search.

    For matmul: the squarest register tile that fits, B packed panel by panel, panels that stay in
    the L1 cache. For elementwise: a few vectors at a time.
    """
    if workload.name != "matmul":
        lanes = max(spec.lanes, 1)
        return Schedule((("i", lanes * STREAM_VECTORS),), lanes)
    sizes = dict(workload.sizes)
    tiles = [
        (rows, vectors)
        for rows, vectors in itertools.product(range(1, 17), range(1, 5))
        if _fits(rows, vectors, spec) and (vectors - 1) * spec.lanes < sizes["n"]
    ]
    # Loads for each multiply-add, the fewer the better; larger tiles on a tie.
    rows, vectors = min(tiles, key=lambda t: ((t[0] + t[1]) / (t[0] * t[1]), -t[0] * t[1]))
    block = max(64, min(sizes["k"], 2 * L1_FLOATS // (vectors * spec.lanes)))
    # Devices that end what runs too long look at their clock in every round of a wasm loop.
    unroll = 2 if spec.arch == "wasm32" else 1
    return _matmul(rows, vectors, block, unroll, "B", spec)


def space(workload: Workload, spec: TargetSpec) -> list[Schedule]:
    """Every schedule of the grid that can be applied and does not spill, in a fixed order."""
    if workload.name != "matmul":
        lanes = [width for width in (1, 2, 4, 8, 16) if width <= spec.lanes]
        blocks = itertools.product(lanes, (1, 2, 4, 8, 16))
        found = [Schedule((("i", lane * vectors),), lane) for lane, vectors in blocks]
    else:
        found = [
            _matmul(rows, vectors, block, unroll, packs, spec)
            for rows, vectors in itertools.product((1, 2, 4, 6, 8, 10, 12, 14), (1, 2, 3, 4))
            if _fits(rows, vectors, spec)
            for block in (128, 256, 512)
            for unroll in (1, 2, 4)
            for packs in ("", "B", "AB")
        ]
    usable = {}
    for schedule in found:
        try:
            check(schedule, workload.output)
        except InvalidScheduleError:
            continue
        usable[schedule.to_json()] = schedule
    return list(usable.values())
