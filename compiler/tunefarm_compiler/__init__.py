"""Tensor expressions to bundles.

from tunefarm_compiler import build

build("matmul:m=512,n=512,k=512", "rasp3b").write("matmul.tf")
"""

from collections.abc import Sequence

from tunefarm_proto.bundle import Bundle

from tunefarm_compiler import targets
from tunefarm_compiler.building import Kernel, Schedules, compile_many
from tunefarm_compiler.codegen import lowered
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.spaces import Tuned, default_schedule, space
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload

__all__ = [
    "Kernel", "Schedule", "TargetSpec", "Workload", "build", "compile_many", "default_schedule",
    "lowered", "space", "targets",
]  # fmt: skip


def build(
    workload: str | Workload,
    target: str | TargetSpec | Sequence[str | TargetSpec],
    schedule: Schedules = None,
    tuned: Tuned | None = None,
) -> Bundle:
    """Compile a workload for a target or several, in this process.

    Without a schedule, one for all targets or one by the target's name, it is the best that `tuned`
    knows, a `tunefarm_tuner.database.Database` say, else the target's default one. LLVM may abort
    the process: `pool.BuildPool` does this in processes of its own.
    Raises: UnknownWorkloadError, UnknownTargetError, InvalidScheduleError, BuildFailedError.
    """
    return compile_many([Kernel(workload, schedule)], target, tuned)
