"""Tensor expressions to bundles.

from tunefarm_compiler import build

build("matmul:m=512,n=512,k=512", "rasp3b").write("matmul.tf")
"""

from tunefarm_proto.bundle import Bundle

from tunefarm_compiler import targets
from tunefarm_compiler import workload as workloads
from tunefarm_compiler.codegen import build_with, lowered
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.spaces import default_schedule, space
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload

__all__ = ["Schedule", "TargetSpec", "Workload", "build", "default_schedule", "lowered", "space"]


def build(
    workload: str | Workload, target: str | TargetSpec, schedule: Schedule | None = None
) -> Bundle:
    """Compile a workload for a target, in this process; the default schedule unless one is given.

    Raises: UnknownWorkloadError, UnknownTargetError, InvalidScheduleError, BuildFailedError.
    """
    parsed = workloads.parse(workload) if isinstance(workload, str) else workload
    spec = targets.resolve(target) if isinstance(target, str) else target
    return build_with(parsed, spec, schedule or default_schedule(parsed, spec))
