"""Tensor expressions to bundles.

from tunefarm_compiler import build

build("matmul:m=512,n=512,k=512", "rasp3b").write("matmul.tf")
"""

from collections.abc import Sequence

from tunefarm_proto.bundle import Bundle

from tunefarm_compiler import targets, te
from tunefarm_compiler.building import Asked, Kernel, Schedules, compile_many
from tunefarm_compiler.codegen import lowered
from tunefarm_compiler.operators.base import Field, Operator, operator
from tunefarm_compiler.registry import use_operators
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.spaces import default_schedule, space
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload

__all__ = [
    "Field", "Kernel", "Operator", "Schedule", "TargetSpec", "Workload", "build", "compile_many",
    "default_schedule", "lowered", "operator", "space", "targets", "te", "use_operators",
]  # fmt: skip


def build(
    workload: str | Workload | te.Tensor,
    target: str | TargetSpec | Sequence[str | TargetSpec],
    schedule: Schedules = None,
    tuned: Asked = True,
    *,
    name: str = "",
) -> Bundle:
    """Compile a workload, or an expression, for a target or several, in this process.

    `name` is the kernel's symbol: the operator's, or that of the tensor, unless it is given.

    Without a schedule, one for all targets or one by the target's name, it is the best that is
    known, else the target's default one. `tuned` says who knows it: this user's database (what
    `tunefarm best` shows), another `database.Database`, or nobody (False). LLVM may abort the
    process: `pool.BuildPool` does this in processes of its own.
    Raises: UnknownWorkloadError, OperatorInvalidError, UnknownTargetError, InvalidScheduleError,
    BuildFailedError, InvalidRequestError (for a database that is none, say).
    """
    return compile_many([Kernel(workload, schedule, name)], target, tuned)
