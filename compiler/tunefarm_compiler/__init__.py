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
from tunefarm_compiler.spaces import default_schedule, space
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
) -> Bundle:
    """Compile a workload for a target or several, in this process.

    The default schedule of each target is taken unless one is given: one for all, or one by the
    target's name. LLVM may abort the process: `pool.BuildPool` does this in processes of its own.
    Raises: UnknownWorkloadError, UnknownTargetError, InvalidScheduleError, BuildFailedError.
    """
    return compile_many([Kernel(workload, schedule)], target)
