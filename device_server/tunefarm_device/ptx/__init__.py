"""A machine that runs PTX on the CPU."""

from .errors import (
    DivergentBarrierError,
    EndlessLoopError,
    ExecutionError,
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
