"""This machine's own processor: shared libraries, called in the runner itself.

Under qemu-user the same code is the emulated board; `facts.py` labels it.
"""

import contextlib
import ctypes
import mmap
import os
from collections.abc import Callable

from tunefarm_device import backend
from tunefarm_device.backend import RunnerError
from tunefarm_device.cores import Cores

HUGE_SHARE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)


class Array(backend.Array):
    """Anonymous memory. Page-aligned, and populated: untouched pages would all be one page."""

    def __init__(self, size: int) -> None:
        try:
            self.memory = mmap.mmap(-1, max(size, 1), flags=HUGE_SHARE)
        except (OSError, OverflowError, ValueError) as error:
            raise RunnerError("memory", f"{size} bytes: {error}") from None
        self._view: ctypes.c_char | None = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(self._view)

    def read(self, start: int, end: int) -> bytes:
        return self.memory[start:end]

    def write(self, start: int, data: bytes | bytearray) -> None:
        self.memory[start : start + len(data)] = data

    def close(self) -> None:
        self._view = None
        self.memory.close()


class Kernel(backend.Kernel):
    """Timed by the library's own loop where it has one."""

    def __init__(
        self, library: ctypes.CDLL, name: str, arrays: list[Array], cores: Cores | None = None
    ) -> None:
        self._cores = cores
        self._function = library[name]
        self._function.restype = ctypes.c_int32
        self._function.argtypes = [ctypes.c_void_p]
        self._pointers = (ctypes.c_void_p * max(len(arrays), 1))(*[a.address for a in arrays])
        self._arguments = ctypes.addressof(self._pointers)
        self._address = ctypes.cast(self._function, ctypes.c_void_p)
        self._repeat = self._native_repeat(library) or self._python_repeat

    def _native_repeat(self, library: ctypes.CDLL) -> Callable[[int], int] | None:
        try:
            repeat = library["tunefarm_repeat"]
        except AttributeError:
            return None
        repeat.restype = ctypes.c_int32
        repeat.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        return lambda number: int(repeat(self._address, self._arguments, number))

    def _python_repeat(self, number: int) -> int:
        function, arguments = self._function, self._arguments
        for _ in range(number):
            if status := function(arguments):
                return int(status)
        return 0

    def prepare(self) -> None:
        if self._cores is not None:
            self._cores.tell()

    def run(self, number: int) -> int:
        return self._repeat(number)


class Library(backend.Library):
    """A shared library. Its threads may run where it is loaded, and where it is called."""

    def __init__(self, path: str, functions: list[str]) -> None:
        self._cores: Cores | None = None
        try:
            self._library = ctypes.CDLL(path)
            for name in functions:
                self._library[name]
        except (OSError, AttributeError) as error:
            raise RunnerError("library", str(error)) from None
        with contextlib.suppress(ValueError):
            self._cores = Cores(self._library, os.sched_getaffinity(0))

    def kernel(self, name: str, arrays: list[Array]) -> Kernel:
        return Kernel(self._library, name, arrays, self._cores)


class Device(backend.Device):
    """The runner's own memory and processor."""

    def array(self, size: int) -> Array:
        return Array(size)

    def load(self, path: str, functions: list[str]) -> Library:
        return Library(path, functions)


class Backend(backend.Backend):
    """x86-64, aarch64, armv7, riscv64: whatever Python itself runs on."""

    def open(self) -> Device:
        return Device()
