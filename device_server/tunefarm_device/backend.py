"""The interface behind which a kind of device stands. Standard library alone.

A backend is one file of `backends/`, named as it is asked for: a class `Backend`, and what that
opens. Two processes use it. The device server asks whether it works here and what it is; the
runners, forked from a zygote that has called `prepare`, open it and have it hold arrays, load
libraries and run kernels. Timing is no backend's business: see `runner.py`.
`docs/backends.md` shows how one is written.
"""

import contextlib
import importlib
import importlib.util
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunefarm_device.launches import Plan

FOLDER = Path(__file__).with_name("backends")


class RunnerError(Exception):
    """A failure that harms nothing, with its kind: "status", "memory", "library"."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class KernelEnded(Exception):  # noqa: N818 (it is the device's doing, no error of ours)
    """The device ended a kernel: "crash" with the device's words, or "timeout".

    What it leaves cannot be trusted, so the session starts anew, as after a crash of its process.
    """

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(text)
        self.kind = kind


class UnknownBackendError(Exception):
    """There is no such backend. Its text says which there are."""


@dataclass(frozen=True)
class Description:
    """What code a device runs: as in a bundle's target, and `name`, as in "wasmtime 27".

    The rest is for what is no program on this machine's processor: memory and clock of its own,
    what emulates it, more facts by name, and the bytes that its anchor "memory" moves in a call.
    """

    triple: str
    cpu: str
    features: tuple[str, ...]
    name: str
    memory_bytes: int = 0
    max_frequency_hz: int = 0
    emulator: str = ""
    moved_bytes: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)


POWER_CAP = "software power cap"  # what many a GPU's kernels reach whenever they run


@dataclass(frozen=True)
class Reading:
    """How a device with sensors of its own is now; None where it does not tell.

    `throttled` says why its clocks were held down since the last reading.
    """

    frequency_hz: int | None = None
    memory_frequency_hz: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    memory_free_bytes: int | None = None
    throttled: tuple[str, ...] = ()


class Sensor(ABC):
    """Reads a device from the device server's process. Never from a runner's."""

    @abstractmethod
    def read(self) -> Reading:
        """As it is now; what cannot be read is left out."""


class Array(ABC):
    """Memory of the device, zeros at first."""

    @abstractmethod
    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`, which lie inside."""

    @abstractmethod
    def write(self, start: int, data: bytes | bytearray) -> None:
        """Put bytes there; they fit."""

    @abstractmethod
    def close(self) -> None:
        """Give the memory back."""


class Kernel(ABC):
    """A function with its arguments. It is kept and called again, others in between."""

    # Whether `sample` reads a clock of the device's own: then it is nothing to the samples whether
    # this process had its processor.
    own_clock = False

    def prepare(self) -> None:  # noqa: B027 (most have nothing to prepare)
        """Be ready for `run`, which is what is timed. Others may have used the arrays since.

        Raises: RunnerError("memory", ...).
        """

    @abstractmethod
    def run(self, number: int) -> int:
        """Call it `number` times, up to the first status that is not 0. Returns the last status.

        This is what is timed, so the loop belongs as near to the kernel as can be.
        Raises: KernelEnded.
        """

    def sample(self, number: int) -> float:
        """Call it `number` times; seconds for all of them. See `own_clock`."""
        start = time.perf_counter_ns()
        status = self.run(number)
        end = time.perf_counter_ns()
        if status:
            raise RunnerError("status", str(status))
        return (end - start) * 1e-9


class Library(ABC):
    """What a bundle holds for this device, loaded."""

    @abstractmethod
    def kernel(self, name: str, arrays: list[Any]) -> Kernel:
        """Bind a function to arrays of this device. Raises: RunnerError("memory", ...).

        Kernels are kept and used again, in turns with those of other libraries on the same arrays,
        until one of their arrays is closed; `Kernel.prepare` is called before each turn.
        """


class Device(ABC):
    """A backend at work in one runner, for one session."""

    @abstractmethod
    def array(self, size: int) -> Array:
        """Zeros, `size` bytes of them. Raises: RunnerError("memory", ...)."""

    @abstractmethod
    def load(self, path: str, functions: list[str]) -> Library:
        """Load the file there, ready to run. Raises: RunnerError("library", ...), KernelEnded.

        One of `functions` that it does not have is an error of the library.
        """

    def load_plans(self, path: str, plans: Mapping[str, Plan]) -> Library:
        """As `load`, for a library whose functions are launches: see `launches.py`."""
        raise RunnerError("library", "it is for a GPU")

    def begin(self) -> None:  # noqa: B027 (most have nothing to begin)
        """After the sandbox has shut the runner in: what makes threads."""

    def anchor(self, name: str) -> Kernel | None:
        """The anchor of that name on this device. None: the processor's own will do."""
        return None

    def flush(self) -> bool:
        """Empty the caches. False: they are the processor's, which the runner empties."""
        return False

    def limited(self, seconds: float) -> AbstractContextManager[None]:
        """What runs inside is ended after `seconds` by KernelEnded("timeout").

        Only where `Backend.ends_runaways`; elsewhere the server kills the runner.
        """
        return contextlib.nullcontext()


class Backend(ABC):
    """A kind of device."""

    # Whether `Device.limited` ends what runs too long.
    ends_runaways = False
    # Whether it is no part of this processor: loads and copies of one session would disturb what
    # another times, and a runner is tried at the server's start.
    alone = False
    # Whether a driver begins in each runner, which the sandbox allows a little more for that.
    driver = False
    # Whether a unit is one device server's alone on its host.
    exclusive = True
    # Which of `units()` this one is, set before anything but `units` is called; "": no matter.
    unit = ""

    def units(self) -> list[str]:
        """The names of its units, where it has several of which each is a device of its own."""
        return []

    def lacking(self) -> str:
        """In one line why it does not work here and what would help; "" where it works."""
        return ""

    def describe(self) -> Description | None:
        """What it runs; None for this machine's own processor."""
        return None

    def sensor(self) -> Sensor | None:
        """What reads its clocks, for the device server. None: those of this processor count."""
        return None

    def devices(self) -> Sequence[str]:
        """Device nodes that a runner opens, reads, writes and controls inside the sandbox."""
        return ()

    def readable(self) -> Sequence[str]:
        """What else a runner reads inside the sandbox."""
        return ()

    def prepare(self) -> None:  # noqa: B027 (most have nothing to prepare)
        """Import what is slow to import. Once, in the zygote; it must start no thread."""

    @abstractmethod
    def open(self) -> Device:
        """In a runner, before the sandbox shuts it in; it must start no thread (see `begin`)."""


def known() -> list[str]:
    """The names of all backends there are."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def find(name: str) -> Backend:
    """A backend by its name, or by the path of its file, as in "./mine.py".

    Raises: UnknownBackendError, and what the file itself raises.
    """
    if name in known():
        module = importlib.import_module(f"tunefarm_device.backends.{name}")
    elif name.endswith(".py") and Path(name).is_file():
        spec = importlib.util.spec_from_file_location(f"tunefarm_backend_{Path(name).stem}", name)
        assert spec is not None and spec.loader is not None  # noqa: S101 (for the type checker)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    else:
        raise UnknownBackendError(f"known are {', '.join(known())}, or the path of a file")
    backend = getattr(module, "Backend", None)
    if not (isinstance(backend, type) and issubclass(backend, Backend)):
        raise UnknownBackendError(f"{module.__file__} has no class Backend of the interface")
    return backend()
