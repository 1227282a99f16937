"""The driver of one GPU, as the backends need it: one context, one stream. Standard library alone.

`bindings.py` is the real one, `fake.py` runs PTX on this processor. Addresses are of device memory
but where they are called `host`. What is said to be asynchronous is done in its turn on the stream,
and what goes wrong in it is raised by whatever waits for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunefarm_device.backend import KernelEnded, RunnerError
from tunefarm_device.launches import Launch

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
# After these the context goes on as before: what was asked for was not begun.
_REFUSALS = frozenset((
    OUT_OF_MEMORY,
    "CUDA_ERROR_INVALID_VALUE",
    "CUDA_ERROR_INVALID_IMAGE",
    "CUDA_ERROR_INVALID_PTX",
    "CUDA_ERROR_INVALID_SOURCE",
    "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    "CUDA_ERROR_JIT_COMPILER_NOT_FOUND",
    "CUDA_ERROR_JIT_COMPILATION_DISABLED",
    "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND",
    "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED",
    "CUDA_ERROR_NOT_FOUND",
    "CUDA_ERROR_NOT_SUPPORTED",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
))  # fmt: skip


class DriverError(Exception):
    """The driver refused, or says what a kernel did: `name` as in "CUDA_ERROR_ILLEGAL_ADDRESS"."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(f"{name}: {text}" if text else name)
        self.name = name


def named(error: DriverError, what: str = "") -> RunnerError | KernelEnded:
    """A driver's error as a runner tells it; all but refusals leave nothing that can be used."""
    text = f"{what}: {error}" if what else str(error)
    if error.name == OUT_OF_MEMORY:
        return RunnerError("memory", text)
    if error.name in _REFUSALS:
        return RunnerError("library", text)
    return KernelEnded("crash", text)


@dataclass(frozen=True)
class Traits:
    """What a GPU is, as far as running kernels needs it."""

    multiprocessors: int
    cache_bytes: int  # its largest cache, L2
    shared_bytes: int  # of a block, at most


class Driver(ABC):
    """Every call raises DriverError. Functions, modules, graphs and events are the driver's own."""

    traits: Traits

    @abstractmethod
    def begin(self) -> None:
        """Make the context: before it, nothing else. It may start threads."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """The address of `size` bytes, at least 1, of any content."""

    @abstractmethod
    def free(self, address: int) -> None:
        """Give an allocation back, when the stream is done with it."""

    @abstractmethod
    def staging(self, size: int) -> tuple[int, memoryview]:
        """Memory of the host that the GPU can reach by itself: its address, and its bytes."""

    @abstractmethod
    def fill(self, address: int, size: int) -> None:
        """Zeros. Asynchronous, as are the copies."""

    @abstractmethod
    def copy_in(self, address: int, host: int, size: int) -> None:
        """From `staging` memory to the device."""

    @abstractmethod
    def copy_out(self, host: int, address: int, size: int) -> None:
        """From the device to `staging` memory."""

    @abstractmethod
    def copy(self, to: int, address: int, size: int) -> None:
        """Within the device."""

    @abstractmethod
    def load(self, image: bytes) -> Any:
        """A module of PTX text or a cubin. The error has the words of the driver's compiler."""

    @abstractmethod
    def function(self, module: Any, name: str) -> Any:
        """A kernel of a module."""

    @abstractmethod
    def parameters(self, function: Any) -> int | None:
        """How many parameters a kernel has; None where the driver does not tell."""

    @abstractmethod
    def bound(self, function: Any, launch: Launch, addresses: list[int]) -> Callable[[], None]:
        """What launches it, with these as its parameters. Asynchronous, and to be called often."""

    @abstractmethod
    def busy(self) -> None:
        """Keep the stream busy for some 50 us, so that what follows is all there when it ends.

        Asynchronous.
        """

    @abstractmethod
    def captured(self, work: Callable[[], None]) -> Any:
        """The graph of what `work` puts on the stream, which is not run now."""

    @abstractmethod
    def run_graph(self, graph: Any) -> None:
        """Once. Asynchronous."""

    @abstractmethod
    def drop_graph(self, graph: Any) -> None:
        """Forget it."""

    @abstractmethod
    def event(self) -> Any:
        """A mark for the stream."""

    @abstractmethod
    def record(self, event: Any) -> None:
        """Take the time when the stream comes by. Asynchronous."""

    @abstractmethod
    def wait(self, event: Any) -> None:
        """Until the stream has come by. At once where it was never recorded."""

    @abstractmethod
    def elapsed_s(self, start: Any, end: Any) -> float:
        """Seconds between two events that the stream has come by."""
