"""What the processor and the system count for this process, by perf_event_open. Standard library.

Hardware counters are absent in most virtual machines, and where perf_event_paranoid is above 2; so
is all of this under an emulator. What cannot be opened is left out: see `Counters.names`.
Source: perf_event_open(2).
"""

import ctypes
import os
import platform
import struct

SYSCALL = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "armv7l": 364, "armv6l": 364}
HARDWARE, SOFTWARE = 0, 1
EVENTS = {  # name: (type, config)
    "cycles": (HARDWARE, 0),
    "instructions": (HARDWARE, 1),
    "cache_references": (HARDWARE, 2),
    "cache_misses": (HARDWARE, 3),
    "branch_misses": (HARDWARE, 5),
    "page_faults": (SOFTWARE, 2),
}
ATTRIBUTES = struct.Struct("<IIQQQQQ")  # type, size, config, period, sample type, read format, bits
ATTRIBUTES_BYTES = 64  # PERF_ATTR_SIZE_VER0
READ_TIMES = 1 | 2  # total time enabled, total time running
THREADS_TOO = 1 << 1  # those that a kernel starts
USER_MODE = 1 << 5 | 1 << 6  # neither kernel nor hypervisor: all that paranoid 2 lets a user count
BITS = THREADS_TOO | USER_MODE
CLOSE_ON_EXEC = 1 << 3
VALUE = struct.Struct("=QQQ")


class Counters:
    """Counts from now on what this thread, and those that it starts, do in user mode."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        number = SYSCALL.get(platform.machine())
        if number is None:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        for name, (kind, config) in EVENTS.items():
            attributes = ctypes.create_string_buffer(ATTRIBUTES_BYTES)
            ATTRIBUTES.pack_into(
                attributes, 0, kind, ATTRIBUTES_BYTES, config, 0, 0, READ_TIMES, BITS
            )
            file = libc.syscall(
                ctypes.c_long(number), attributes, 0, -1, -1, ctypes.c_ulong(CLOSE_ON_EXEC)
            )
            if file >= 0:
                self._files[name] = file

    @property
    def names(self) -> tuple[str, ...]:
        """What is counted here."""
        return tuple(self._files)

    def read(self) -> dict[str, float]:
        """What was counted so far. A counter that shared its register is scaled up to all the time.

        Without those that a kernel closed.
        """
        found = {}
        for name, file in self._files.items():
            try:
                count, enabled, running = VALUE.unpack(os.read(file, VALUE.size))
            except (OSError, struct.error):
                continue
            if running:
                found[name] = count * enabled / running
        return found


def difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was counted between two readings."""
    return {name: after[name] - value for name, value in before.items() if name in after}
