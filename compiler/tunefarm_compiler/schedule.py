"""Schedules: how a tensor expression is computed, as plain data."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.te import Compute

MAX_TILE_VALUES = 256
MAX_SCRATCH_BYTES = 16 << 20


@dataclass(frozen=True)
class Pack:
    """Copy what `tensor` holds for the loops inside depth `depth` into contiguous panels."""

    tensor: str
    depth: int


@dataclass(frozen=True)
class Schedule:
    """`loops` are (axis, block) from the outermost: each cuts its axis into blocks.

    The last block of a spatial axis is its side of the register tile; the last spatial axis runs
    along the vectors, of `lanes` elements each. What the loops leave of the reduce
    axes runs innermost, `unroll` steps at a time. Blocks need not divide extents.
    """

    loops: tuple[tuple[str, int], ...]
    lanes: int
    unroll: int = 1
    packs: tuple[Pack, ...] = ()

    def to_json(self) -> str:
        """Canonical JSON: equal schedules give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Schedule":
        """Read what `to_json` wrote. Raises: InvalidScheduleError."""
        hint = "copy one from `tunefarm bench --json` or a tuning record"
        try:
            data: Any = json.loads(text)
            unknown = set(data) - {field.name for field in fields(cls)}
            if unknown:
                raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
            return cls(
                loops=tuple((str(axis), int(block)) for axis, block in data["loops"]),
                lanes=int(data["lanes"]),
                unroll=int(data.get("unroll", 1)),
                packs=tuple(Pack(str(p["tensor"]), int(p["depth"])) for p in data.get("packs", [])),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidScheduleError(f"not a schedule: {error!r}".splitlines()[0], hint) from None

    def tile(self, compute: Compute) -> dict[str, int]:
        """Innermost block of every axis: its last in `loops`, else its whole extent."""
        sides = dict(compute.extents)
        for axis, block in self.loops:
            sides[axis] = min(block, sides[axis])
        return sides


def check(schedule: Schedule, compute: Compute) -> None:
    """Refuse a schedule that cannot be applied. Raises: InvalidScheduleError, in one line."""
    blocks: dict[str, int] = {}
    for axis, block in schedule.loops:
        if axis not in compute.extents:
            raise InvalidScheduleError(
                f"schedule: no axis {axis!r}", f"the axes are {', '.join(compute.extents)}"
            )
        if block < 1 or block > blocks.get(axis, block):
            raise InvalidScheduleError(
                f"schedule: block {block} of axis {axis} is not between 1 and the block around it",
                "give each axis blocks from large to small",
            )
        blocks[axis] = block
    if schedule.lanes not in (1, 2, 4, 8, 16, 32, 64) or not 1 <= schedule.unroll <= 64:
        raise InvalidScheduleError(
            f"schedule: lanes={schedule.lanes}, unroll={schedule.unroll}",
            "lanes is a power of two up to 64, unroll 1 to 64",
        )
    tile = schedule.tile(compute)
    values = 1
    for spatial in compute.axes:
        lanes = schedule.lanes if spatial is compute.axes[-1] else 1
        values *= -(-tile[spatial.name] // lanes)
    if values > MAX_TILE_VALUES:
        raise InvalidScheduleError(
            f"schedule: the register tile holds {values} vectors, {MAX_TILE_VALUES} is the limit",
            "add loops with smaller blocks",
        )
    for pack in schedule.packs:
        _check_pack(pack, schedule, compute)


def _check_pack(pack: Pack, schedule: Schedule, compute: Compute) -> None:
    loads = [load for load in compute.loads() if load.tensor.name == pack.tensor]
    spatial = {axis.name for axis in compute.axes}
    packable = len(loads) == 1 and bool(compute.reduce_axes)
    if packable:
        axes = set(loads[0].strides()[0])
        packable = len(axes & spatial) == 1 and len(axes - spatial) == 1
    if not packable:
        raise InvalidScheduleError(
            f"schedule: {pack.tensor!r} cannot be packed",
            "pack a tensor that is read once, along one spatial and one reduce axis",
        )
    if not 0 <= pack.depth <= len(schedule.loops):
        raise InvalidScheduleError(
            f"schedule: depth {pack.depth} of pack {pack.tensor}", f"0 to {len(schedule.loops)}"
        )
    side = next(axis for axis in loads[0].strides()[0] if axis in spatial)
    width = schedule.tile(compute)[side]
    inside = [block for axis, block in schedule.loops[pack.depth :] if axis == side]
    if any(block % width and block < compute.extents[side] for block in inside):
        raise InvalidScheduleError(
            f"schedule: blocks of {side} in the pack of {pack.tensor} cut its panels of {width}",
            f"make them multiples of {width}",
        )
    if 4 * pack_elements(pack, schedule, compute) > MAX_SCRATCH_BYTES:
        raise InvalidScheduleError(
            f"schedule: pack {pack.tensor} needs over {MAX_SCRATCH_BYTES >> 20} MiB",
            "pack at a greater depth",
        )


def pack_elements(pack: Pack, schedule: Schedule, compute: Compute) -> int:
    """Elements of scratch that a pack needs: whole panels of the register tile's side."""
    load = next(load for load in compute.loads() if load.tensor.name == pack.tensor)
    around = dict(compute.extents)
    for axis, block in schedule.loops[: pack.depth]:
        around[axis] = min(block, around[axis])
    tile = schedule.tile(compute)
    total = 1
    for axis in load.strides()[0]:
        side = 1 if axis in {a.name for a in compute.reduce_axes} else tile[axis]
        total *= -(-around[axis] // side) * side
    return total
