"""Kernels for GPUs: from the same expressions, stages and functions as those for processors.

A function is one kernel, or several launched one after the other: a stage attached at depth 0 fills
memory of its own before what reads it. `loops.py` lowers any expression.
"""

from tunefarm_compiler.gpu.kernels import GpuCode
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Tensor

__all__ = ["GpuCode", "compile_function"]


def compile_function(name: str, output: Tensor, schedule: Schedule, spec: TargetSpec) -> GpuCode:
    """LLVM text of its kernels, and how they are launched. Raises: InvalidScheduleError."""
    from tunefarm_compiler.gpu import loops

    return loops.compile_loops(name, output, schedule, spec)
