"""A machine that runs PTX on the CPU, to prove kernels right where there is no GPU.

    memory = ptx.Memory()
    a, b = memory.put(numpy_array), memory.allocate(4096)
    module = ptx.Module(text)
    kernel = module.kernels["add"]
    done = ptx.launch(kernel, (16,), (256,), 0, [a, b, 1024], memory, statistics=True)
    print(done.report())
    answer = memory.get(b, np.float32, 1024)

Threads run in lockstep, many blocks at once, as numpy arrays of one value per thread (`frame.py`);
where they part, those at the lowest place of the code go first (`machine.py`, `flow.py`). It needs
numpy and nothing else; the device server itself never imports it.

It is faithful to the PTX ISA: integers wrap, shifts are clamped, floats are rounded once as the
instruction says, `.ftz` flushes, a misaligned access is an error. What the ISA leaves open is the
best value: approximate functions are correctly rounded, sums of `mma` are rounded once. The bits of
a NaN are not specified. ptxas may still fuse a `mul` and an `add` that name no rounding.

It is stricter than a GPU (`errors.py`): it refuses reads of shared memory that nothing was written
to, races between threads in shared memory and between blocks in global memory, asynchronous copies
that are used before they are waited for, barriers and warp instructions that only some threads
reach, values that the ISA leaves undefined, and anything that it does not know. Fresh global memory
is all ones, a NaN. Threads of one warp are put in order by `bar.warp.sync` alone. Not seen: races
between threads of one block in global memory; races of warps that a barrier of part of the block
(`bar.sync a, b`) leaves out; and any race between blocks, where the kernel has fences or atomic
operations on global memory.

Not there: `.func` and `call`, textures and surfaces, `cp.async.bulk` and `mbarrier`, `wgmma` but of
halves in shared memory, `tcgen05`, clusters, clocks, carry chains (`add.cc`), 4-bit and 1-bit
`mma`.
"""

from .errors import (
    DivergentBarrierError,
    EndlessLoopError,
    ExecutionError,
    GlobalRaceError,
    IllegalAddressError,
    LaunchRefusedError,
    MisalignedAddressError,
    PtxError,
    PtxSyntaxError,
    SharedRaceError,
    TrapError,
    UndefinedResultError,
    UninitialisedReadError,
    UnsupportedError,
)
from .machine import Limits, launch
from .memory import Memory
from .module import Kernel, Module
from .statistics import Access, Statistics

__all__ = [
    "Access",
    "DivergentBarrierError",
    "EndlessLoopError",
    "ExecutionError",
    "GlobalRaceError",
    "IllegalAddressError",
    "Kernel",
    "LaunchRefusedError",
    "Limits",
    "Memory",
    "MisalignedAddressError",
    "Module",
    "PtxError",
    "PtxSyntaxError",
    "SharedRaceError",
    "Statistics",
    "TrapError",
    "UndefinedResultError",
    "UninitialisedReadError",
    "UnsupportedError",
    "launch",
]
