"""A driver whose GPU is this processor: it runs PTX, by `tunefarm_device.ptx`. Needs numpy.

It behaves as the real one where that can be told from outside: what a kernel does wrong shows at
the next wait, and from then on every call fails with it.
"""

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

from tunefarm_device.cuda.driver import OUT_OF_MEMORY, Driver, DriverError, Traits
from tunefarm_device.cuda.facts import shared_bytes
from tunefarm_device.launches import Launch

MEMORY_BYTES = 1 << 30
MULTIPROCESSORS, CACHE_BYTES = 2, 1 << 20
ENDLESS = 1 << 62  # the server ends a runner whose kernel takes too long
ILLEGAL_ADDRESS = "CUDA_ERROR_ILLEGAL_ADDRESS"
LAUNCH_FAILED = "CUDA_ERROR_LAUNCH_FAILED"
# What the machine's errors are to a driver, by the names of their classes.
ENDED = {
    "IllegalAddressError": ILLEGAL_ADDRESS,
    "MisalignedAddressError": "CUDA_ERROR_MISALIGNED_ADDRESS",
}
REFUSED = {
    "PtxSyntaxError": "CUDA_ERROR_INVALID_PTX",
    "UnsupportedError": "CUDA_ERROR_INVALID_PTX",
    "LaunchRefusedError": "CUDA_ERROR_INVALID_VALUE",
}

Work = Callable[[], None]


def ptx() -> tuple[Any, Any, Any]:
    """The PTX machine's modules. numpy's threads would be lost in a fork, so it gets none."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from tunefarm_device.ptx import machine, memory, module

    return machine, memory, module


def gpu(major: int, minor: int) -> dict[str, Any]:
    """As `probe.py` tells of real ones."""
    return {
        "name": "null GPU", "uuid": "", "pci": "", "major": major, "minor": minor,
        "multiprocessors": MULTIPROCESSORS, "cache_bytes": CACHE_BYTES,
        "shared_bytes": shared_bytes(major, minor), "memory_bytes": MEMORY_BYTES, "clock_khz": 0,
        "memory_clock_khz": 0, "memory_bus_bits": 0, "integrated": 1, "ecc": 0,
    }  # fmt: skip


class Event:
    """When the stream came by."""

    at = 0.0


class FakeDriver(Driver):
    """One GPU of that compute capability, with a memory of its own of `memory_bytes`."""

    def __init__(
        self, capability: tuple[int, int] = (8, 0), memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self.traits = Traits(MULTIPROCESSORS, CACHE_BYTES, shared_bytes(*capability))
        self._memory_bytes = memory_bytes
        self._failed: DriverError | None = None
        self._capturing: list[Work] | None = None
        self._hosts: list[Any] = []

    def begin(self) -> None:
        machine, memory, self._module = ptx()
        self._machine = machine
        self._memory = memory.Memory(self._memory_bytes)
        self._limits = machine.Limits(
            instructions=ENDLESS, seconds=ENDLESS, shared_bytes=self.traits.shared_bytes
        )

    def _put(self, work: Work) -> None:
        """On the stream: done at once, or kept for the graph that is being captured."""
        self._check()
        if self._capturing is not None:
            self._capturing.append(work)
        else:
            self._do(work)

    def _do(self, work: Work) -> None:
        if self._failed is not None:
            return  # the stream is dead
        try:
            work()
        except Exception as error:
            self._failed = self._error(error)
            if type(error).__name__ in REFUSED:
                failed, self._failed = self._failed, None
                raise failed from None

    def _error(self, error: Exception) -> DriverError:
        kind = type(error).__name__
        name = REFUSED.get(kind) or ENDED.get(kind, LAUNCH_FAILED)
        return DriverError(name, str(error).partition("\n")[0])

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def allocate(self, size: int) -> int:
        self._check()
        try:
            return int(self._memory.allocate(size))
        except MemoryError as error:
            raise DriverError(OUT_OF_MEMORY, str(error)) from None

    def free(self, address: int) -> None:
        self._check()
        self._memory.free(address)

    def staging(self, size: int) -> tuple[int, memoryview]:
        host = (ctypes.c_ubyte * size)()
        self._hosts.append(host)
        return ctypes.addressof(host), memoryview(host).cast("B")

    def fill(self, address: int, size: int) -> None:
        self._put(lambda: self._memory.fill(address, 0, size))

    def copy_in(self, address: int, host: int, size: int) -> None:
        self._put(lambda: self._memory.write(address, ctypes.string_at(host, size)))

    def copy_out(self, host: int, address: int, size: int) -> None:
        def work() -> None:
            ctypes.memmove(host, self._memory.read(address, size), size)

        self._put(work)

    def copy(self, to: int, address: int, size: int) -> None:
        self._put(lambda: self._memory.write(to, self._memory.read(address, size)))

    def load(self, image: bytes) -> Any:
        self._check()
        if image.startswith(b"\x7fELF"):
            raise DriverError("CUDA_ERROR_NO_BINARY_FOR_GPU", "it runs PTX alone")
        try:
            return self._module.Module(image)
        except Exception as error:
            raise DriverError("CUDA_ERROR_INVALID_PTX", str(error).partition("\n")[0]) from None

    def function(self, module: Any, name: str) -> Any:
        self._check()
        if name not in module.kernels:
            raise DriverError("CUDA_ERROR_NOT_FOUND", "named symbol not found")
        return module.kernels[name]

    def parameters(self, function: Any) -> int | None:
        return len(function.parameters)

    def bound(self, function: Any, launch: Launch, addresses: list[int]) -> Work:
        def run() -> None:
            self._machine.launch(
                function, launch.grid, launch.block, launch.shared_bytes, addresses,
                self._memory, limits=self._limits,
            )  # fmt: skip

        return lambda: self._put(run)

    def busy(self) -> None:
        self._check()

    def captured(self, work: Work) -> list[Work]:
        self._check()
        graph: list[Work] = []
        self._capturing = graph
        try:
            work()
        finally:
            self._capturing = None
        return graph

    def run_graph(self, graph: Any) -> None:
        self._check()
        for work in graph:
            self._do(work)

    def drop_graph(self, graph: Any) -> None:
        graph.clear()

    def event(self) -> Event:
        self._check()
        return Event()

    def record(self, event: Any) -> None:
        def now() -> None:
            event.at = time.perf_counter()

        self._put(now)

    def wait(self, event: Any) -> None:
        self._check()

    def elapsed_s(self, start: Any, end: Any) -> float:
        self._check()
        return float(end.at - start.at)
