"""Arrays, libraries and kernels of a GPU, over any driver. Standard library alone."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunefarm_device import backend
from tunefarm_device.backend import RunnerError
from tunefarm_device.cuda import anchors
from tunefarm_device.cuda.driver import Driver, DriverError, named
from tunefarm_device.launches import Plan

CHUNK_BYTES = 1 << 20
GRAPH_CALLS = 64  # calls in a graph, at most: to launch them one by one takes microseconds each
GRAPH_LAUNCHES = 4096  # launches in a graph, at most
FEW_LAUNCHES = 8  # are put one by one while the stream is busy before the first event
FLUSHED = 2  # times the largest cache


@contextlib.contextmanager
def naming(what: str = "") -> Iterator[None]:
    """The driver's errors by the runner's names."""
    try:
        yield
    except DriverError as error:
        raise named(error, what) from None


class Staging:
    """Two pinned buffers in turns: one is filled while the GPU copies from the other."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._buffers = [driver.staging(CHUNK_BYTES) for _ in range(2)]
        self._free = [driver.event() for _ in range(2)]
        self._next = 0

    def write(self, address: int, data: bytes | bytearray) -> None:
        """Put bytes there; they are there for whatever comes after it on the stream."""
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            piece = view[start : start + CHUNK_BYTES]
            host, buffer, event = self._turn()
            self._driver.wait(event)
            buffer[: len(piece)] = piece
            self._driver.copy_in(address + start, host, len(piece))
            self._driver.record(event)

    def read(self, address: int, size: int) -> bytes:
        """The bytes there."""
        pieces: list[bytes] = []
        pending: tuple[memoryview, Any, int] | None = None
        for start in range(0, size, CHUNK_BYTES):
            length = min(CHUNK_BYTES, size - start)
            host, buffer, event = self._turn()
            self._driver.wait(event)
            self._driver.copy_out(host, address + start, length)
            self._driver.record(event)
            if pending is not None:
                pieces.append(self._taken(*pending))
            pending = buffer, event, length
        if pending is not None:
            pieces.append(self._taken(*pending))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _turn(self) -> tuple[int, memoryview, Any]:
        self._next ^= 1
        return *self._buffers[self._next], self._free[self._next]

    def _taken(self, buffer: memoryview, event: Any, length: int) -> bytes:
        self._driver.wait(event)
        return bytes(buffer[:length])


class Array(backend.Array):
    """Device memory."""

    def __init__(self, device: "Device", size: int) -> None:
        self._device = device
        with naming(f"{size} bytes"):
            self.address = device.driver.allocate(max(size, 1))
            device.driver.fill(self.address, max(size, 1))

    def read(self, start: int, end: int) -> bytes:
        with naming():
            return self._device.staging.read(self.address + start, end - start)

    def write(self, start: int, data: bytes | bytearray) -> None:
        with naming():
            self._device.staging.write(self.address + start, data)

    def close(self) -> None:
        with naming():
            self._device.driver.free(self.address)


class Graphs:
    """Graphs of several calls, by their number; the last two, which is what a sample takes."""

    def __init__(self, driver: Driver, call: Callable[[], None]) -> None:
        self._driver = driver
        self._call = call
        self._kept: dict[int, Any] = {}

    def of(self, number: int) -> Any:
        """The graph of so many calls."""
        if number not in self._kept:
            if len(self._kept) >= 2:
                self._driver.drop_graph(self._kept.pop(next(iter(self._kept))))
            self._kept[number] = self._driver.captured(lambda: self._calls(number))
        else:
            self._kept[number] = self._kept.pop(number)  # the last to go
        return self._kept[number]

    def _calls(self, number: int) -> None:
        for _ in range(number):
            self._call()

    def __del__(self) -> None:
        for graph in self._kept.values():
            with contextlib.suppress(DriverError):
                self._driver.drop_graph(graph)


class Clock:
    """Tells how long work takes on the stream, without the time that it takes to put it there."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._start, self._end = driver.event(), driver.event()

    def time_s(self, work: Callable[[], None]) -> float:
        """Do it, wait for its end, and tell its seconds."""
        self._driver.busy()
        self._driver.record(self._start)
        work()
        self._driver.record(self._end)
        self._driver.wait(self._end)
        return self._driver.elapsed_s(self._start, self._end)


class Kernel(backend.Kernel):
    """Work on the stream, timed by events around all its calls.

    Several calls, and one of many launches, are graphs of at most 64 calls. Before the first event
    the stream is kept busy: everything waits in line when it comes by, and no launch is in the
    time.
    """

    own_clock = True

    def __init__(self, driver: Driver, clock: Clock, launches: list[Callable[[], None]]) -> None:
        self._driver = driver
        self._clock = clock
        self._launches = launches
        self._graphs = Graphs(driver, self._call)
        self._most = max(1, min(GRAPH_CALLS, GRAPH_LAUNCHES // max(len(launches), 1)))

    def _call(self) -> None:
        for launch in self._launches:
            launch()

    def run(self, number: int) -> int:
        self.sample(number)
        return 0

    def sample(self, number: int) -> float:
        with naming():
            return self._sample(number)

    def _sample(self, number: int) -> float:
        whole, rest = divmod(number, self._most)
        if self._most == 1:
            whole, rest = 0, number
        graph = self._graphs.of(self._most) if whole else None
        many = rest > 1 or len(self._launches) > FEW_LAUNCHES
        odd = self._graphs.of(rest) if many and 0 < rest < self._most else None

        def work() -> None:
            for _ in range(whole):
                self._driver.run_graph(graph)
            if odd is not None:
                self._driver.run_graph(odd)
            else:
                for _ in range(rest):
                    self._call()

        return self._clock.time_s(work)


class Library(backend.Library):
    """A module, its kernels and their scratch memory, which its functions share."""

    def __init__(self, driver: Driver, clock: Clock, path: str, plans: Mapping[str, Plan]) -> None:
        self._driver = driver
        self._clock = clock
        self._plans = plans
        self._functions: dict[str, Any] = {}
        with naming():
            self._module = driver.load(Path(path).read_bytes())
        for plan in plans.values():
            for launch in plan.launches:
                self._check(launch.kernel, len(launch.arguments), launch.shared_bytes)
        sizes: dict[int, int] = {}
        for plan in plans.values():
            for place, size in enumerate(plan.scratch_bytes):
                sizes[place] = max(size, sizes.get(place, 0))
        with naming("scratch memory"):
            self._scratch = [driver.allocate(size) for _, size in sorted(sizes.items())]

    def _check(self, kernel: str, arguments: int, shared: int) -> None:
        if kernel not in self._functions:
            with naming(f"kernel {kernel}"):
                self._functions[kernel] = self._driver.function(self._module, kernel)
        most = self._driver.traits.shared_bytes
        if shared > most:
            raise RunnerError(
                "library", f"{kernel} takes {shared} bytes of shared memory of {most}"
            )
        with naming(f"kernel {kernel}"):
            takes = self._driver.parameters(self._functions[kernel])
        if takes not in (None, arguments):
            said = f"kernel {kernel} takes {takes} parameters, its launch gives {arguments}"
            raise RunnerError("library", said)

    def kernel(self, name: str, arrays: list[Array]) -> Kernel:
        plan = self._plans[name]
        scratch = self._scratch[: len(plan.scratch_bytes)]
        places = [*(array.address for array in arrays), *scratch]
        launches = []
        for launch in plan.launches:
            addresses = [places[place] for place in launch.arguments]
            with naming(f"kernel {launch.kernel}"):
                function = self._functions[launch.kernel]
                launches.append(self._driver.bound(function, launch, addresses))
        return Kernel(self._driver, self._clock, launches)


class Device(backend.Device):
    """A GPU in one session's hands."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._flushed = 0

    def begin(self) -> None:
        self.driver.begin()
        self.staging = Staging(self.driver)
        self.clock = Clock(self.driver)

    def array(self, size: int) -> Array:
        return Array(self, size)

    def load(self, path: str, functions: list[str]) -> Library:
        raise RunnerError("library", "it says nothing of how its functions are launched")

    def load_plans(self, path: str, plans: Mapping[str, Plan]) -> Library:
        return Library(self.driver, self.clock, path, plans)

    def flush(self) -> bool:
        """Write twice the largest cache, in the stream: the kernel comes right after it."""
        size = max(FLUSHED * self.driver.traits.cache_bytes, 1)
        with naming("what empties the caches"):
            if not self._flushed:
                self._flushed = self.driver.allocate(size)
            self.driver.fill(self._flushed, size)
        return True

    def anchor(self, name: str) -> backend.Kernel | None:
        with naming(f"anchor {name}"):
            return Kernel(self.driver, self.clock, anchors.launches(self.driver, name))
