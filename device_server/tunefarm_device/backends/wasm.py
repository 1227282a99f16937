"""WebAssembly: wasm32 modules with SIMD, compiled and run by wasmtime in the runner.

A bundle's library is a module that imports nothing and exports its memory, its functions
`(i32 args) -> i32` and, for the timing loop inside it, `tunefarm_repeat` and a table that may grow.
`args` points to 4-byte addresses.

Each module keeps a memory of its own, and an array lies in that of the module which used it last:
one of another module copies it over before its call, outside what is timed. One shared memory would
need position-independent modules, as two others claim the same addresses for their data; it would
hold all arrays of a session in 4 GiB, and let one module's stray writes into the other's constants.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import math
import mmap
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefarm_device import backend
from tunefarm_device.backend import Description, KernelEnded, RunnerError

if TYPE_CHECKING:
    import wasmtime

PAGE = 1 << 16  # of WebAssembly
ALIGNMENT = 1 << 12  # of arrays, as native ones
MOST_BYTES = (1 << 32) - PAGE
FEATURES = (
    "bulk-memory", "multivalue", "mutable-globals", "nontrapping-fptoint", "reference-types",
    "relaxed-simd", "sign-ext", "simd128", "tail-call",
)  # fmt: skip
TRAP = "wasm trap: "
KERNEL = ["i32"]  # arguments; the status is an i32
REPEAT = ["i32", "i32", "i64"]


class Space:
    """What is free in a module's memory, beyond all that the module has placed there itself."""

    def __init__(self, store: "wasmtime.Store", memory: "wasmtime.Memory") -> None:
        self._store = store
        self._memory = memory
        self._free: list[tuple[int, int]] = []  # (start, end), sorted, never adjacent

    def take(self, size: int) -> int:
        """Where `size` bytes are now. Raises: RunnerError("memory", ...)."""
        size = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        for place, (start, end) in enumerate(self._free):
            if end - start >= size:
                self._free[place : place + 1] = [(start + size, end)] if end > start + size else []
                return start
        self._grow(size)
        return self.take(size)

    def _grow(self, size: int) -> None:
        import wasmtime

        pages = -(-size // PAGE)
        try:
            start = self._memory.grow(self._store, pages) * PAGE
        except wasmtime.WasmtimeError:
            raise RunnerError("memory", f"{size} bytes more than the module can hold") from None
        self.give(start, pages * PAGE)

    def give(self, start: int, size: int) -> None:
        """Take it back."""
        size = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        merged: list[tuple[int, int]] = []
        for begin, end in sorted([*self._free, (start, start + size)]):
            if merged and merged[-1][1] == begin:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((begin, end))
        self._free = merged

    def address(self, at: int) -> int:
        """In this process, and until the memory grows."""
        base = ctypes.cast(self._memory.data_ptr(self._store), ctypes.c_void_p).value
        return (base or 0) + at


class Array(backend.Array):
    """In this process's own memory until a module first uses it, then in the last user's."""

    def __init__(self, size: int) -> None:
        if size > MOST_BYTES:
            raise RunnerError("memory", f"{size} bytes, and a module has {MOST_BYTES}")
        self._size = size
        self._space: Space | None = None
        self._at = 0
        try:
            self._own = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise RunnerError("memory", f"{size} bytes: {error}") from None

    def move(self, space: Space) -> int:
        """Bring it there. Returns where it lies. Raises: RunnerError("memory", ...)."""
        if self._space is not space:
            at = space.take(self._size)
            if self._space is not None:
                ctypes.memmove(space.address(at), self._space.address(self._at), self._size)
            else:
                view = ctypes.c_char.from_buffer(self._own)
                ctypes.memmove(space.address(at), ctypes.addressof(view), self._size)
                del view  # or the memory could not be closed
            self.close()
            self._space, self._at = space, at
        return self._at

    def read(self, start: int, end: int) -> bytes:
        if self._space is None:
            return self._own[start:end]
        return ctypes.string_at(self._space.address(self._at + start), end - start)

    def write(self, start: int, data: bytes | bytearray) -> None:
        if self._space is None:
            self._own[start : start + len(data)] = data
        else:
            ctypes.memmove(self._space.address(self._at + start), bytes(data), len(data))

    def close(self) -> None:
        if self._space is not None:
            self._space.give(self._at, self._size)
        self._own.close()


class Call:
    """A function with its arguments, through wasmtime's C interface.

    The public call asks for the function's type each time: 33 us, against 2 us here, which are in
    every sample.
    """

    def __init__(
        self, store: "wasmtime.Store", function: "wasmtime.Func", kinds: list[str], *first: int
    ) -> None:
        from wasmtime import _ffi as ffi

        self._call: Any = ffi.wasmtime_func_call
        self._given: Any = (ffi.wasmtime_val_t * len(kinds))()
        for given, kind in zip(self._given, kinds, strict=True):
            given.kind = ffi.WASMTIME_I32 if kind == "i32" else ffi.WASMTIME_I64
        for given, value in zip(self._given, first, strict=False):
            given.of.i32 = value
        self._result: Any = (ffi.wasmtime_val_t * 1)()
        self._trap: Any = ctypes.POINTER(ffi.wasm_trap_t)()
        self._arguments = (
            store._context(),
            ctypes.byref(function._func),
            self._given,
            len(kinds),
            self._result,
            1,
            ctypes.byref(self._trap),
        )

    def set(self, place: int, value: int) -> None:
        """Give an argument, an i32."""
        self._given[place].of.i32 = value

    def __call__(self, number: int | None = None) -> int:
        """Its status. `number` is its last argument, an i64, where it has one.

        Raises: KernelEnded.
        """
        if number is not None:
            self._given[-1].of.i64 = number
        error = self._call(*self._arguments)
        if error or self._trap:
            raise self._ended(error)
        return int(self._result[0].of.i32)

    def _ended(self, error: Any) -> KernelEnded:
        import wasmtime

        if error:
            return KernelEnded("crash", first_line(wasmtime.WasmtimeError._from_ptr(error)))
        return ended(wasmtime.Trap._from_ptr(self._trap))


class Kernel(backend.Kernel):
    """Timed by the module's own loop where it has one."""

    def __init__(self, library: "Library", name: str, arrays: list[Array]) -> None:
        self._library, self._arrays = library, arrays
        store, function = library.store, library.functions[name]
        index = library.index(name)
        self._call = Call(store, function, KERNEL)
        self._repeat: Call | None = None
        if library.repeat is not None and index is not None:
            self._repeat = Call(store, library.repeat, REPEAT, index)

    def prepare(self) -> None:
        space = self._library.space
        arguments = self._library.arguments([array.move(space) for array in self._arrays])
        self._call.set(0, arguments)
        if self._repeat is not None:
            self._repeat.set(1, arguments)

    def run(self, number: int) -> int:
        if self._repeat is not None:
            return self._repeat(number)
        for _ in range(number):
            if status := self._call():
                return status
        return 0


class Library(backend.Library):
    """An instance of a module."""

    def __init__(self, store: "wasmtime.Store", path: str, functions: list[str]) -> None:
        import wasmtime

        self.store = store
        try:
            module = wasmtime.Module(store.engine, Path(path).read_bytes())
        except wasmtime.WasmtimeError as error:
            raise RunnerError("library", first_line(error)) from None
        if needs := ", ".join(f"{i.module}.{i.name}" for i in module.imports):
            raise RunnerError("library", f"it imports {needs}, and a device gives it nothing")
        try:
            self._exports = wasmtime.Instance(store, module, []).exports(store)
            begin = self._exports.get("_initialize")  # of the C library
            if isinstance(begin, wasmtime.Func):
                begin(store)
        except wasmtime.Trap as trap:  # of its start function, or data that lies outside
            raise ended(trap) from None
        except wasmtime.WasmtimeError as error:
            raise RunnerError("memory", first_line(error)) from None
        memory = self._exports.get("memory")
        if not isinstance(memory, wasmtime.Memory) or memory.type(store).is_64:
            raise RunnerError("library", "it exports no 32-bit memory")
        self.space = Space(store, memory)
        self.functions = {name: self._function(name, KERNEL) for name in functions}
        self.repeat: wasmtime.Func | None = None
        if "tunefarm_repeat" in self._exports:
            self.repeat = self._function("tunefarm_repeat", REPEAT)
        self._indices: dict[str, int | None] = {}
        self._slot, self._slot_bytes = 0, 0

    def _function(self, name: str, kinds: list[str]) -> "wasmtime.Func":
        import wasmtime

        function = self._exports.get(name)
        if not isinstance(function, wasmtime.Func):
            raise RunnerError("library", f"it exports no function {name}")
        kind = function.type(self.store)
        if [str(p) for p in kind.params] != kinds or [str(r) for r in kind.results] != ["i32"]:
            raise RunnerError("library", f"{name} is no function ({', '.join(kinds)}) -> i32")
        return function

    def kernel(self, name: str, arrays: list[Array]) -> Kernel:
        return Kernel(self, name, arrays)

    def index(self, name: str) -> int | None:
        """The function's place in the table: its address, as C knows it. None without a table."""
        import wasmtime

        if name not in self._indices:
            table = self._exports.get("__indirect_function_table")
            place: int | None = None
            if isinstance(table, wasmtime.Table):
                with contextlib.suppress(wasmtime.WasmtimeError):  # it may not grow
                    place = table.grow(self.store, 1, self.functions[name])
            self._indices[name] = place
        return self._indices[name]

    def arguments(self, places: list[int]) -> int:
        """Write the arguments' addresses into the memory. Returns where they are."""
        data = struct.pack(f"<{len(places)}I", *places)
        if self._slot_bytes < max(len(data), 1):
            self._slot, self._slot_bytes = self.space.take(len(data)), max(len(data), ALIGNMENT)
        ctypes.memmove(self.space.address(self._slot), data, len(data))
        return self._slot


def ended(trap: "wasmtime.Trap") -> KernelEnded:
    """What a trap means: the time limit's, or the kernel's own, in wasmtime's words."""
    import wasmtime

    if trap.trap_code == wasmtime.TrapCode.INTERRUPT:
        return KernelEnded("timeout")
    lines = trap.message.splitlines()
    said = [line[line.index(TRAP) :] for line in lines if TRAP in line]  # among backtraces
    return KernelEnded("crash", next(iter(said or lines), "a trap").strip())


def first_line(error: Exception) -> str:
    """What wasmtime says, in one line."""
    return ": ".join(line.strip(" :") for line in str(error).splitlines() if line.strip())


class Watch(threading.Thread):
    """Raises the epoch when time is up. It sleeps through most changes: waking costs a switch."""

    def __init__(self, engine: "wasmtime.Engine") -> None:
        super().__init__(daemon=True)
        self._engine = engine
        self._changed = threading.Condition()
        self._deadline = self._sleeps_until = math.inf

    def set(self, seconds: float) -> None:
        """Time is up in so many seconds; math.inf: never."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            if self._deadline < self._sleeps_until:
                self._changed.notify()

    def run(self) -> None:
        """For ever."""
        with self._changed:
            while True:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    self._deadline = left = math.inf
                    self._engine.increment_epoch()
                self._sleeps_until = self._deadline
                self._changed.wait(min(left, threading.TIMEOUT_MAX))


class Device(backend.Device):
    """One store, which holds all modules of the session."""

    def __init__(self, engine: "wasmtime.Engine") -> None:
        import wasmtime

        self._engine = engine
        self._store = wasmtime.Store(engine)
        self._watch: Watch | None = None

    def array(self, size: int) -> Array:
        return Array(size)

    def load(self, path: str, functions: list[str]) -> Library:
        return Library(self._store, path, functions)

    @contextlib.contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        if self._watch is None:
            self._watch = Watch(self._engine)
            self._watch.start()
        # Code looks at the epoch in every loop and function; only this lets it go on.
        self._store.set_epoch_deadline(1)
        self._watch.set(seconds)
        try:
            yield
        finally:
            self._watch.set(math.inf)


class Backend(backend.Backend):
    """wasm32 by wasmtime."""

    ends_runaways = True

    def lacking(self) -> str:
        if importlib.util.find_spec("wasmtime") is None:
            return "wasmtime is not installed; `pip install wasmtime` installs it"
        return ""

    def describe(self) -> Description:
        name = f"wasmtime {importlib.metadata.version('wasmtime')}"
        return Description("wasm32-unknown-unknown", "generic", FEATURES, name)

    def prepare(self) -> None:
        import wasmtime

        config = wasmtime.Config()
        config.epoch_interruption = True
        config.parallel_compilation = False  # its threads would be lost in the fork
        config.memory_init_cow = False  # its files are larger than a runner may write
        self._engine = wasmtime.Engine(config)

    def open(self) -> Device:
        return Device(self._engine)
