"""Schedules: how a tensor expression is computed, as plain data."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.binding import Gpu
from tunefarm_compiler.dots import GROUP, group_of, operands
from tunefarm_compiler.stages import Stage, plan
from tunefarm_compiler.te import Tensor
from tunefarm_compiler.threads import MOST_THREADS

MAX_TILE_VALUES = 256
MAX_SCRATCH_BYTES = 64 << 20
BUSY = 0.85  # share of the threads' time that blocks of equal size must fill
MAX_AHEAD = 1 << 20
_HINT = "copy one from `tunefarm bench --json` or a tuning record"


@dataclass(frozen=True)
class Pack:
    """Copy what `tensor` holds for the loops inside depth `depth` into contiguous panels."""

    tensor: str
    depth: int


@dataclass(frozen=True)
class Attach:
    """Compute a stage into scratch at depth `depth` of the output's loops, by its own schedule.

    Only what the loops inside need of it is computed there; at depth 0 that is all of it.
    """

    stage: str
    depth: int
    schedule: "Schedule"


@dataclass(frozen=True)
class Prefetch:
    """Ask for what tiles touch of `tensor`, `ahead` indices further along `axis`, before they do.

    It is brought into the first cache, or only into the second one, by `cache`.
    """

    tensor: str
    axis: str
    ahead: int
    cache: int = 1


@dataclass(frozen=True)
class Schedule:
    """`loops` are (axis, block) from the outermost: each cuts its axis into blocks.

    The last block of a spatial axis is its side of the register tile. `vector` is the axis that
    runs along the vectors, of `lanes` elements each: the last spatial one unless it is given; a
    reduce axis gives every lane a part of the sum. What the loops leave of the reduce axes runs
    innermost in the order of `order`, the last `unroll` steps at a time, each of `group` indices: 4
    where one instruction does four. Blocks need not divide extents. Stages that are not attached
    are inlined. The blocks of one loop are dealt out to `threads`: of the outermost over axis
    `parallel`, or of the one that `dealt` finds. For GPUs, `gpu` says who runs which loop.
    """

    loops: tuple[tuple[str, int], ...]
    lanes: int
    unroll: int = 1
    packs: tuple[Pack, ...] = ()
    vector: str = ""
    order: tuple[str, ...] = ()
    stages: tuple[Attach, ...] = ()
    group: int = 1
    threads: int = 1
    parallel: str = ""
    prefetches: tuple[Prefetch, ...] = ()
    gpu: Gpu | None = None

    def to_json(self) -> str:
        """Canonical JSON: equal schedules give equal text."""
        return json.dumps(self._data(), sort_keys=True, separators=(",", ":"))

    def _data(self) -> dict[str, Any]:
        packs = [{"depth": pack.depth, "tensor": pack.tensor} for pack in self.packs]
        data: dict[str, Any] = {"loops": self.loops, "lanes": self.lanes, "unroll": self.unroll}
        data["packs"] = packs
        # Later fields only where they say something, so that older records keep their text.
        if self.vector:
            data["vector"] = self.vector
        if self.order:
            data["order"] = self.order
        if self.group > 1:
            data["group"] = self.group
        if self.threads != 1:
            data["threads"] = self.threads
        if self.parallel:
            data["parallel"] = self.parallel
        if self.prefetches:
            data["prefetches"] = [asdict(one) for one in self.prefetches]
        if self.gpu is not None:
            data["gpu"] = self.gpu.data()
        if self.stages:
            data["stages"] = [
                {"stage": s.stage, "depth": s.depth, "schedule": s.schedule._data()}
                for s in self.stages
            ]
        return data

    @classmethod
    def from_json(cls, text: str) -> "Schedule":
        """Read what `to_json` wrote. Raises: InvalidScheduleError."""
        try:
            return cls._read(json.loads(text))
        except KeyError as error:
            said = f"it has no {error.args[0]}"
        except (TypeError, AttributeError):
            said = "a list, an object or a number is not where it should be"
        except (ValueError, OverflowError, RecursionError) as error:
            said = (str(error) or type(error).__name__).splitlines()[0]
        raise InvalidScheduleError(f"not a schedule: {said}", _HINT)

    @classmethod
    def _read(cls, data: Any) -> "Schedule":
        if not isinstance(data, dict):
            raise ValueError(f"{json.dumps(data)[:40]} is no object")
        if unknown := set(data) - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown field {min(unknown)!r}")
        for loop in data["loops"]:
            if not isinstance(loop, list) or len(loop) != 2:
                raise ValueError(f"loop {json.dumps(loop)[:40]} is none: write [axis, block]")
        return cls(
            loops=tuple(
                (str(axis), _whole(block, f"block of {axis}")) for axis, block in data["loops"]
            ),
            lanes=_whole(data["lanes"], "lanes"),
            unroll=_whole(data.get("unroll", 1), "unroll"),
            packs=tuple(
                Pack(str(p["tensor"]), _whole(p["depth"], "depth")) for p in data.get("packs", [])
            ),
            vector=str(data.get("vector", "")),
            order=tuple(str(axis) for axis in data.get("order", [])),
            stages=tuple(
                Attach(str(s["stage"]), _whole(s["depth"], "depth"), cls._read(s["schedule"]))
                for s in data.get("stages", [])
            ),
            group=_whole(data.get("group", 1), "group"),
            threads=_whole(data.get("threads", 1), "threads"),
            parallel=str(data.get("parallel", "")),
            prefetches=tuple(
                Prefetch(
                    str(p["tensor"]),
                    str(p["axis"]),
                    _whole(p["ahead"], "ahead"),
                    _whole(p["cache"], "cache"),
                )
                for p in data.get("prefetches", [])
            ),
            gpu=Gpu.read(data["gpu"]) if data.get("gpu") is not None else None,
        )

    @property
    def most_threads(self) -> int:
        """The most that its loops, or those of a stage of it, are dealt out to."""
        return max([self.threads, *(one.schedule.threads for one in self.stages)])

    def tile(self, extents: Mapping[str, int]) -> dict[str, int]:
        """Innermost block of every axis: its last in `loops`, else its whole extent."""
        sides = dict(extents)
        for axis, block in self.loops:
            sides[axis] = min(block, sides[axis])
        return sides

    def vector_axis(self, stage: Stage) -> str:
        """The axis along the vectors; "" for a stage without axes."""
        return self.vector or (stage.axes[-1].name if stage.axes else "")

    def reduce_order(self, stage: Stage) -> tuple[str, ...]:
        """The reduce axes as they are nested inside the tile, the outermost first."""
        names = tuple(axis.name for axis in stage.reduce_axes)
        return self.order or names


def _whole(value: Any, what: str) -> int:
    if type(value) is not int:  # neither true nor 4.5, which would be another number
        raise ValueError(f"{what} is {json.dumps(value)[:40]}, which is no whole number")
    return value


def blocks(schedule: Schedule, stage: Stage) -> list[int]:
    """Into how many blocks each loop cuts what the loops around it leave of its axis."""
    left, found = dict(stage.extents), []
    for axis, block in schedule.loops:
        found.append(-(-left[axis] // block))
        left[axis] = min(block, left[axis])
    return found


def dealt(schedule: Schedule, stage: Stage) -> int:
    """Depth of the loop that is dealt out to threads; -1 for none.

    That of axis `parallel`, else the first over an axis of the output whose blocks keep the threads
    busy, or, where none does, the one that comes nearest. Raises: InvalidScheduleError.
    """
    threads, axis = schedule.threads, schedule.parallel
    if threads == 1 and not axis:
        return -1
    if not 2 <= threads <= MOST_THREADS:
        raise InvalidScheduleError(
            f"schedule: {threads} threads", f"give 2 to {MOST_THREADS}, or leave them out"
        )
    spatial = [one.name for one in stage.axes]
    if axis in {one.name for one in stage.reduce_axes}:
        raise InvalidScheduleError(
            f"schedule: {axis} is summed over, so its blocks cannot be dealt out to threads",
            f"deal out {' or '.join(spatial) or 'nothing'}",
        )
    if axis and axis not in spatial:
        raise InvalidScheduleError(
            f"schedule: no axis {axis!r} to deal out", f"the axes are {', '.join(spatial)}"
        )
    depths = [n for n, (name, _) in enumerate(schedule.loops) if name in spatial]
    if axis:
        depths = [n for n in depths if schedule.loops[n][0] == axis][:1]
    if not depths:
        raise InvalidScheduleError(
            f"schedule: there is no loop over {axis or 'an axis of the output'} to deal out",
            f"give {axis or ' or '.join(spatial) or 'it no threads'} a loop",
        )
    counts = blocks(schedule, stage)
    busy = [count / (-(-count // threads) * threads) for count in counts]
    good = [depth for depth in depths if busy[depth] >= BUSY]
    return good[0] if good else max(depths, key=lambda depth: busy[depth])


def check(schedule: Schedule, output: Tensor) -> list[Stage]:
    """The stages that a schedule makes, in their order. Raises: InvalidScheduleError."""
    if schedule.gpu is not None:
        raise InvalidScheduleError("schedule: it is for a GPU, this is none", "leave gpu out")
    stages = staged(schedule, output)
    check_stages(schedule, stages)
    return stages


def staged(schedule: Schedule, output: Tensor) -> list[Stage]:
    """Those stages, unchecked. Raises: InvalidScheduleError."""
    attached = {attach.stage: attach for attach in schedule.stages}
    if len(attached) < len(schedule.stages):
        raise InvalidScheduleError("schedule: a stage is attached twice", "attach each once")
    return plan(output, attached)


def check_stages(schedule: Schedule, stages: list[Stage]) -> None:
    """Whether a schedule suits the stages that it makes. Raises: InvalidScheduleError."""
    attached = {attach.stage: attach for attach in schedule.stages}
    *before, last = stages
    _check_stage(schedule, last)
    shared = dealt(schedule, last)
    for stage in before:
        attach = attached[stage.tensor.name]
        if not 0 <= attach.depth <= len(schedule.loops):
            raise InvalidScheduleError(
                f"schedule: depth {attach.depth} of stage {attach.stage}",
                f"0 to {len(schedule.loops)}",
            )
        for load in stage.loads:
            source = attached.get(load.tensor.name)
            if source is not None and source.depth > attach.depth:
                raise InvalidScheduleError(
                    f"schedule: {stage.tensor.name} is computed outside of {source.stage}",
                    f"attach {source.stage} at depth {attach.depth} or less",
                )
        if attach.schedule.stages:
            raise InvalidScheduleError(
                f"schedule: stage {attach.stage} has stages of its own",
                "attach every stage to the output's loops",
            )
        _check_stage(attach.schedule, stage, partial=attach.depth > 0)
        if dealt(attach.schedule, stage) >= 0 and 0 <= shared < attach.depth:
            raise InvalidScheduleError(
                f"schedule: stage {attach.stage} deals out loops inside of one that is dealt out",
                f"leave its threads out, or attach it at depth {shared} or less",
            )


def _check_stage(schedule: Schedule, stage: Stage, partial: bool = False) -> None:
    extents, blocks = stage.extents, dict[str, int]()
    for axis, block in schedule.loops:
        if axis not in extents:
            raise InvalidScheduleError(
                f"schedule: no axis {axis!r}", f"the axes are {', '.join(extents)}"
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
    reduced = [axis.name for axis in stage.reduce_axes]
    if schedule.order and sorted(schedule.order) != sorted(reduced):
        raise InvalidScheduleError(
            f"schedule: order {', '.join(schedule.order)}",
            f"it names the reduce axes {', '.join(reduced) or '(none)'}, each once",
        )
    _check_vector(schedule, stage)
    _check_group(schedule, stage)
    if not partial:
        _check_tile(schedule, stage)
    for pack in schedule.packs:
        check_pack(pack, schedule, stage)
    names = {stage.tensor.name, *(load.tensor.name for load in stage.loads)}
    for one in schedule.prefetches:
        known = one.tensor in names and one.axis in extents
        if not known or one.cache not in (1, 2) or abs(one.ahead) > MAX_AHEAD:
            raise InvalidScheduleError(
                f"schedule: prefetch of {one.tensor!r} along {one.axis!r} into cache {one.cache}",
                f"name one of {', '.join(sorted(names))}, one of the axes, cache 1 or 2, "
                f"ahead up to {MAX_AHEAD}",
            )


def _check_vector(schedule: Schedule, stage: Stage) -> None:
    vector, order = schedule.vector_axis(stage), schedule.reduce_order(stage)
    if vector and vector not in stage.extents:
        raise InvalidScheduleError(
            f"schedule: no axis {vector!r} to run along the vectors",
            f"the axes are {', '.join(stage.extents)}",
        )
    if vector in order and order[-1] != vector:
        raise InvalidScheduleError(
            f"schedule: {vector} runs along the vectors, but is not the innermost reduce axis",
            "put it last in order",
        )
    outer = [axis for axis, _ in schedule.loops if axis in order]
    held = schedule.gpu is None  # in memory, that is; GPUs keep parts in registers
    if held and outer and stage.reduce and stage.reduce.dtype != stage.tensor.dtype:
        raise InvalidScheduleError(
            f"schedule: {stage.tensor.name} cannot hold parts of a sum of {stage.reduce.dtype}",
            f"give {outer[0]} no loop",
        )


def _check_group(schedule: Schedule, stage: Stage) -> None:
    if schedule.group == 1:
        return
    pair, group = operands(stage.reduce), group_of(stage.reduce)
    if schedule.group != group or pair is None or schedule.lanes < GROUP:
        raise InvalidScheduleError(
            f"schedule: group {schedule.group} of {stage.tensor.name} in {schedule.lanes} lanes",
            "only sums of products of 8-bit numbers, by 4, or of bfloat16, by 2, are grouped, "
            f"in {GROUP} lanes at least",
        )
    vector, inner = schedule.vector_axis(stage), schedule.reduce_order(stage)[-1]
    if vector not in {axis.name for axis in stage.axes}:
        raise InvalidScheduleError(
            f"schedule: groups of {inner} lie along the vectors",
            "give vectors an axis of the output",
        )
    packed = {pack.tensor for pack in schedule.packs}
    for load in stage.loads:
        strides = load.strides()[0]
        if inner not in strides:
            continue
        if load.tensor.name not in packed and (vector in strides or strides[inner] != 1):
            raise InvalidScheduleError(
                f"schedule: groups of {load.tensor.name} do not lie side by side", "pack it"
            )
    cut = [block for axis, block in schedule.loops if axis == inner and block % group]
    if any(inner in dict(test.terms) for test in stage.tests) or any(
        block < stage.extents[inner] for block in cut
    ):
        raise InvalidScheduleError(
            f"schedule: groups of {inner} are cut", f"make its blocks multiples of {group}"
        )


def _check_tile(schedule: Schedule, stage: Stage) -> None:
    tile = schedule.tile(stage.extents)
    vector, values = schedule.vector_axis(stage), 1
    for spatial in stage.axes:
        lanes = schedule.lanes if spatial.name == vector else 1
        values *= -(-tile[spatial.name] // lanes)
    if values > MAX_TILE_VALUES:
        raise InvalidScheduleError(
            f"schedule: the register tile holds {values} vectors, {MAX_TILE_VALUES} is the limit",
            "add loops with smaller blocks",
        )


def check_pack(pack: Pack, schedule: Schedule, stage: Stage) -> None:
    """Whether a pack can stand in a schedule of a stage. Raises: InvalidScheduleError."""
    loads = [load for load in stage.loads if load.tensor.name == pack.tensor]
    spatial = {axis.name for axis in stage.axes}
    axes: set[str] = set()
    if len(loads) == 1 and stage.reduce is not None:
        axes = set(loads[0].strides()[0])
    lone = len(loads) == 1 and all(len(index.terms) <= 1 for index in loads[0].indices)
    batch = {axis for axis, block in schedule.loops[: pack.depth] if block == 1}
    batch |= {axis for axis, extent in stage.extents.items() if extent == 1}
    sides = (axes & spatial) - batch
    if not sides:
        sides = set(sorted(axes & spatial)[-1:])
    if not lone or len(sides) != 1 or axes <= spatial:
        raise InvalidScheduleError(
            f"schedule: {pack.tensor!r} cannot be packed",
            "pack a tensor that is read once, along one spatial axis and reduce axes",
        )
    if not 0 <= pack.depth <= len(schedule.loops):
        raise InvalidScheduleError(
            f"schedule: depth {pack.depth} of pack {pack.tensor}", f"0 to {len(schedule.loops)}"
        )
    (side,) = sides
    width = schedule.tile(stage.extents)[side]
    inside = [block for axis, block in schedule.loops[pack.depth :] if axis == side]
    if any(block % width and block < stage.extents[side] for block in inside):
        raise InvalidScheduleError(
            f"schedule: blocks of {side} in the pack of {pack.tensor} cut its panels of {width}",
            f"make them multiples of {width}",
        )
