"""Whether a schedule can run on a GPU: what is wrong with it, in one line."""

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.binding import BINDS, MOST_THREADS
from tunefarm_compiler.schedule import Schedule, check_stages, staged
from tunefarm_compiler.stages import Stage
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Tensor
from tunefarm_compiler.winograd import filters


def check(schedule: Schedule, output: Tensor, spec: TargetSpec) -> list[Stage]:
    """The stages of a schedule for a GPU. Raises: InvalidScheduleError."""
    if any(attach.stage == filters(output) for attach in schedule.stages):
        raise InvalidScheduleError(
            f"schedule: {filters(output)} is not for GPUs", "leave Winograd's stages out"
        )
    stages = staged(schedule, output)
    check_planned(schedule, stages)
    return stages


def check_planned(schedule: Schedule, stages: list[Stage]) -> None:
    """Whether a schedule suits the stages that it makes. Raises: InvalidScheduleError."""
    attached = {attach.stage: attach for attach in schedule.stages}
    *before, last = stages
    _check_nest(schedule, last, alone=True)
    for stage in before:
        attach = attached[stage.tensor.name]
        _check_nest(attach.schedule, stage, alone=attach.depth == 0)
    check_stages(schedule, stages)
    reduced = {axis.name for axis in last.reduce_axes}
    binds = schedule.gpu.binds if schedule.gpu else ()
    inner = [
        depth
        for depth, ((axis, _), bind) in enumerate(zip(schedule.loops, binds, strict=True))
        if bind == "thread" or axis in reduced
    ]
    deepest = inner[0] if inner else len(schedule.loops)
    for attach in schedule.stages:
        if attach.depth > deepest:
            raise InvalidScheduleError(
                f"schedule: stage {attach.stage} at depth {attach.depth} lies inside a thread",
                f"all threads of a block compute it: attach it at depth {deepest} or less",
            )


def _check_nest(schedule: Schedule, stage: Stage, alone: bool) -> None:
    name, gpu = stage.tensor.name, schedule.gpu
    if gpu is None:
        raise InvalidScheduleError(
            f"schedule: {name} says nothing of blocks and threads",
            "a GPU's schedules have binds for their loops, in gpu",
        )
    if len(gpu.binds) != len(schedule.loops):
        raise InvalidScheduleError(
            f"schedule: {len(gpu.binds)} binds for the {len(schedule.loops)} loops of {name}",
            'give one for each: "block", "thread" or ""',
        )
    if unknown := sorted(set(gpu.binds) - set(BINDS)):
        raise InvalidScheduleError(
            f"schedule: no bind {unknown[0]!r}", 'they are "block", "thread" and ""'
        )
    if schedule.packs or schedule.prefetches or schedule.threads != 1 or schedule.group != 1:
        raise InvalidScheduleError(
            f"schedule: packs, prefetches, threads and group of {name} are for processors",
            "leave them out; X.shared as a stage copies X into shared memory",
        )
    reduced = {axis.name for axis in stage.reduce_axes}
    blocks = [n for n, bind in enumerate(gpu.binds) if bind == "block"]
    if blocks and not alone:
        raise InvalidScheduleError(
            f"schedule: stage {name} lies inside a block and has loops over blocks",
            'bind them to "thread", or attach it at depth 0',
        )
    if blocks != [*range(len(blocks))]:
        raise InvalidScheduleError(
            f"schedule: a loop of {name} over blocks lies inside of another one",
            "put those over blocks first",
        )
    for axis, bind in zip([axis for axis, _ in schedule.loops], gpu.binds, strict=True):
        if axis in reduced and bind == "block":
            raise InvalidScheduleError(
                f"schedule: {axis} is summed over, which blocks cannot share",
                'bind it to "thread"',
            )


def check_threads(total: int) -> None:
    """Whether a block can have so many. Raises: InvalidScheduleError."""
    if total > MOST_THREADS:
        raise InvalidScheduleError(
            f"schedule: {total} threads in a block, {MOST_THREADS} is the limit",
            "give threads larger blocks, or the loops around them smaller ones",
        )


def check_shared(size: int, spec: TargetSpec) -> None:
    """Whether a block can have so much shared memory. Raises: InvalidScheduleError."""
    if size > spec.shared_bytes:
        raise InvalidScheduleError(
            f"schedule: a block needs {size} bytes of shared memory, {spec.cpu} has "
            f"{spec.shared_bytes}",
            "attach stages at a greater depth, or at depth 0",
        )
