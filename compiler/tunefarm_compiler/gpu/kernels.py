"""What is made of a function for a GPU, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass

from tunefarm_proto.v1 import bundle_pb2 as bpb


@dataclass(frozen=True)
class GpuLaunch:
    """One launch: `arguments` are the kernel's parameters, all pointers, by their places.

    First those of the function's arguments, then those of its scratch.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[int, ...]
    shared_bytes: int = 0


@dataclass(frozen=True)
class GpuCode:
    """LLVM text of a function's kernels, without the module's head, and how they run.

    Globals bear the kernel's name, since all functions of a library are one module. `loops` are
    what `te.show` prints.
    """

    llvm_text: str
    launches: tuple[GpuLaunch, ...]
    scratch_bytes: tuple[int, ...] = ()
    loops: tuple[str, ...] = ()

    def plan(self, resources: Mapping[str, bpb.KernelResources]) -> bpb.LaunchPlan:
        """As a bundle has it, with what the assembler said of each kernel."""
        return bpb.LaunchPlan(
            launches=[
                bpb.Launch(
                    kernel=one.kernel,
                    grid=one.grid,
                    block=one.block,
                    shared_bytes=one.shared_bytes,
                    arguments=one.arguments,
                    resources=resources.get(one.kernel),
                )
                for one in self.launches
            ],
            scratch_bytes=self.scratch_bytes,
        )
