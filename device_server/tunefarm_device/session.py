"""One session: modules and arrays by id, checked calls, a runner that may die and be replaced."""

import array
import asyncio
import logging
import math
import tempfile
from collections.abc import AsyncIterator, Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from tunefarm_proto.bundle import ITEM_BYTES, Bundle, choose_library, find_function
from tunefarm_proto.errors import (
    ArgumentMismatchError,
    BundleInvalidError,
    InternalError,
    InvalidRequestError,
    KernelCrashedError,
    KernelFailedError,
    KernelTimeoutError,
    OutOfMemoryError,
    TunefarmError,
    UnknownHandleError,
)
from tunefarm_proto.rpc import CHUNK_BYTES
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_device.arrays import Array, check_arguments
from tunefarm_device.backend import RunnerError
from tunefarm_device.files import SessionFolder
from tunefarm_device.options import TIMING_S, check_number, timing_frame
from tunefarm_device.plans import plans
from tunefarm_device.processes import OUTPUT_BYTES, Runner
from tunefarm_device.timing import compared, timed
from tunefarm_device.topology import Turn
from tunefarm_device.workbench import Workbench

CALL_S = 60.0
LONGEST_S = 7 * 86400.0  # of a time limit
MOST_AXES = 64
MOST_COMPARED = 16
MOST_EACH = 100
MOST_READY = 10_000  # checked calls that are kept
WATCH_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Module:
    """A loaded bundle."""

    manifest: bpb.BundleManifest
    target: pb.Target
    load_s: float


class DeviceSession:
    """Modules, arrays, calls and files of one client. Used by one task at a time; close it in the
    end.

    `check` raises where nothing more may be started: the lease has ended.
    """

    def __init__(self, bench: Workbench, check: Callable[[], None] = lambda: None) -> None:
        self._bench = bench
        self._check = check
        self._runner: Runner | None = None
        self._modules: dict[int, Module] = {}
        self._arrays: dict[int, Array] = {}
        self._lost: dict[int, str] = {}
        self._ready: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._called: set[tuple[int, str]] = set()  # functions that came back
        self._said = b""
        self._folder: SessionFolder | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._overfull = False
        self._next_id = 1
        self.busy_s = 0.0  # its runner's at calls and timings
        bench.output.open(self, self.output)

    async def close(self) -> None:
        """Kill its runner and delete its files. Doing it twice is fine."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._runner is not None:
            await self._runner.close()
        self._bench.output.close(self)
        if self._folder is not None:
            await asyncio.to_thread(self._folder.close)

    @property
    def files(self) -> SessionFolder:
        """Its own folder, made when it is first asked for. Using it blocks."""
        if self._folder is None:
            self._check()
            self._folder = SessionFolder(self._bench.scratch)
        return self._folder

    def output(self) -> bytes:
        """The last of what its runners printed."""
        now = self._runner.output() if self._runner is not None else b""
        return (self._said + now)[-OUTPUT_BYTES:]

    def device_log(self) -> str:
        """What the device logged under this lease, a line each."""
        return self._bench.log.text()

    async def load(self, digest: str, limit_s: float = CALL_S) -> int:
        """Load a bundle from the cache. Returns the module's id.

        Raises: UnknownDigestError, BundleInvalidError, TargetMismatchError, KernelCrashedError.
        """
        manifest, entry, library = await asyncio.to_thread(self._unpack, digest)
        with tempfile.NamedTemporaryFile(dir=self._bench.scratch, suffix=".so") as file:
            file.write(library)
            file.flush()
            identity = self._new_id()
            names = [function.name for function in manifest.functions]
            frame = {"do": "load", "module": identity, "path": file.name, "functions": names}
            if launched := plans(manifest, entry):
                frame["plans"] = {name: plan.data() for name, plan in launched.items()}
            answer, _ = await self._run(frame, limit_s=limit_s, doing="loading the library")
        self._modules[identity] = Module(manifest, entry.target, float(answer["load_s"]))
        _log.info("module %d is bundle %s", identity, digest)
        return identity

    def _unpack(self, digest: str) -> tuple[bpb.BundleManifest, bpb.BundleLibrary, bytes]:
        bundle = Bundle(self._bench.blobs.read(digest))
        entry = choose_library(bundle.manifest, self._bench.facts.target)
        return bundle.manifest, entry, bundle.library(entry)

    def module(self, identity: int) -> Module:
        """Raises: UnknownHandleError."""
        self._check_handle(self._modules, identity, "module")
        return self._modules[identity]

    def array(self, identity: int) -> Array:
        """Raises: UnknownHandleError."""
        self._check_handle(self._arrays, identity, "array")
        return self._arrays[identity]

    def _check_handle(self, table: Container[int], identity: int, kind: str) -> None:
        if identity in table:
            return
        if identity in self._lost:
            again = "load it again" if kind == "module" else "make it again"
            raise UnknownHandleError(f"{kind} {identity} was lost {self._lost[identity]}", again)
        raise UnknownHandleError(f"this session has no {kind} {identity}")

    async def allocate(self, dtype: str, shape: Sequence[int], limit_s: float = CALL_S) -> int:
        """Make an array of zeros. Returns its id.

        Raises: ArgumentMismatchError, OutOfMemoryError.
        """
        if dtype not in ITEM_BYTES:
            raise ArgumentMismatchError(
                f"unknown dtype {dtype!r}", f"known are {', '.join(ITEM_BYTES)}"
            )
        if len(shape) > MOST_AXES:  # the product of very many is a day's work
            raise ArgumentMismatchError(
                f"an array of {len(shape)} axes is asked for", f"at most {MOST_AXES} are there"
            )
        made = Array(dtype, tuple(shape), math.prod(shape) * ITEM_BYTES[dtype])
        if made.size > (free := self._bench.memory()):
            raise OutOfMemoryError(
                f"{made} takes {made.size} bytes and the device has {free} free",
                "free arrays, or use smaller ones",
            )
        identity = self._new_id()
        frame = {"do": "allocate", "array": identity, "size": made.size}
        await self._run(frame, limit_s=limit_s)
        self._arrays[identity] = made
        return identity

    async def free(self, identity: int, limit_s: float = CALL_S) -> None:
        """Forget an array. Raises: UnknownHandleError."""
        self.array(identity)
        del self._arrays[identity]
        self._ready.clear()
        await self._run({"do": "free", "array": identity}, limit_s=limit_s)

    async def write(self, identity: int, offset: int, data: bytes, limit_s: float = CALL_S) -> None:
        """Copy into an array. Raises: UnknownHandleError, ArgumentMismatchError."""
        held = self.array(identity)
        if offset + len(data) > held.size:
            raise ArgumentMismatchError(
                f"{len(data)} bytes at {offset} do not fit into {held} of {held.size} bytes"
            )
        for start in range(0, len(data), CHUNK_BYTES):
            frame = {"do": "write", "array": identity, "offset": offset + start}
            await self._run(frame, data[start : start + CHUNK_BYTES], limit_s=limit_s)

    async def read(self, identity: int, limit_s: float = CALL_S) -> AsyncIterator[bytes]:
        """The pieces of an array, at most 1 MiB each and at least one."""
        size = self.array(identity).size
        for start in range(0, max(size, 1), CHUNK_BYTES):
            end = min(start + CHUNK_BYTES, size)
            frame = {"do": "read", "array": identity, "start": start, "end": end}
            yield (await self._run(frame, limit_s=limit_s))[1]

    async def call(
        self, module: int, function: str, arrays: Sequence[int], limit_s: float = CALL_S
    ) -> float:
        """Call once. Returns seconds; raises what `_run` raises and ArgumentMismatchError."""
        frame = self._call_frame("call", module, function, arrays)
        async with self._bench.timing:
            answer, _ = await self._run(frame, limit_s=limit_s, doing="the kernel", soon=True)
        self._called.add((module, function))
        return float(answer["elapsed_s"])

    async def call_digested(
        self,
        module: int,
        function: str,
        arrays: Sequence[int],
        outputs: Sequence[int],
        limit_s: float = CALL_S,
    ) -> tuple[float, str]:
        """Call once, by one who holds the turn. Returns seconds, and the sha256 of arrays then."""
        frame = self._call_frame("call", module, function, arrays) | self._outputs(outputs)
        answer = await self._ask(frame, limit_s)
        return float(answer["elapsed_s"]), str(answer["digest"])

    async def digest(self, outputs: Sequence[int], limit_s: float = CALL_S) -> str:
        """sha256 of arrays, one after another, in hex."""
        answer, _ = await self._run({"do": "digest", **self._outputs(outputs)}, limit_s=limit_s)
        return str(answer["digest"])

    def _outputs(self, arrays: Sequence[int]) -> dict[str, Any]:
        return {"outputs": [[one, self.array(one).size] for one in arrays]}

    @property
    def turn(self) -> Turn:
        """Held while kernels run, by whoever calls `call_digested`, `time_digested` and
        `time_in_turn`."""
        return self._bench.timing

    async def call_many(
        self,
        calls: Sequence[dict[str, Any]],
        order: Sequence[int],
        keep_going: bool,
        limit_s: float = CALL_S,
    ) -> tuple[list[float], list[tuple[int, TunefarmError]]]:
        """Calls, of `call_frame`, back to back. Returns seconds of each, and those that failed.

        Raises what `_run` raises: a crash or the time limit ends all of it.
        """
        frame = {
            "do": "many",
            "calls": calls,
            "count": len(order),
            "keep_going": keep_going,
            "cpu": self._bench.timing_cpu,
        }
        packed = array.array("I", order).tobytes()
        async with self._bench.timing:
            answer, data = await self._run(frame, packed, limit_s=limit_s, doing="the batch")
        self._called.update((call["module"], call["function"]) for call in calls)
        elapsed = array.array("d", data).tolist()
        failed = [
            (int(index), named(RunnerError(str(kind), str(text))))
            for index, kind, text in answer["failed_calls"]
        ]
        return elapsed, failed

    async def profile(self, begin: bool, limit_s: float = CALL_S) -> list[Any]:
        """Begin a profile, or end it and tell: see `runner.Profile.told`."""
        answer, _ = await self._run({"do": "profile", "begin": begin}, limit_s=limit_s)
        return list(answer["functions"])

    async def time(
        self,
        module: int,
        function: str,
        arrays: Sequence[int],
        options: pb.TimingOptions,
        limit_s: float | None = None,
    ) -> pb.Timing:
        """Time a function: see `runner.Runner.time`. Waiting for other timings takes no time.

        Without a limit it is 600 s, and that of a call for the first one: an endless kernel does
        not hold the turn for so long.
        """
        async with self._bench.timing:
            if limit_s is None:
                await self._first_call(module, function, arrays)
            return await self.time_in_turn(
                module, function, arrays, options, TIMING_S if limit_s is None else limit_s
            )

    async def _first_call(self, module: int, function: str, arrays: Sequence[int]) -> None:
        """A call, by one who holds the turn, where the function was not timed or called before."""
        if (module, function) not in self._called:
            await self._ask(self._call_frame("call", module, function, arrays), CALL_S)
            self._called.add((module, function))

    async def time_in_turn(
        self,
        module: int,
        function: str,
        arrays: Sequence[int],
        options: pb.TimingOptions,
        limit_s: float = TIMING_S,
    ) -> pb.Timing:
        """As `time`, by one who holds the turn."""
        frame = self._call_frame("time", module, function, arrays) | timing_frame(options)
        conditions = self._bench.conditions.read
        timing = await timed(self._ask, conditions, frame, options, limit_s)
        timing.emulated = self._bench.facts.emulated
        return timing

    async def time_digested(
        self,
        module: int,
        function: str,
        arrays: Sequence[int],
        options: pb.TimingOptions,
        *,
        outputs: Sequence[int],
        limit_s: float = TIMING_S,
    ) -> tuple[pb.Timing, str]:
        """As `time_in_turn`; with the sha256 of arrays after the first call."""
        frame = self._call_frame("time", module, function, arrays) | timing_frame(options)
        conditions = self._bench.conditions.read
        digest = ""

        async def ask(asked: dict[str, Any], left_s: float) -> dict[str, Any]:
            nonlocal digest
            answer = await self._ask(asked, left_s)
            digest = digest or str(answer["digest"])
            return answer

        frame |= self._outputs(outputs)
        timing = await timed(ask, conditions, frame, options, limit_s)
        timing.emulated = self._bench.facts.emulated
        return timing, digest

    async def compare(
        self,
        calls: Sequence[tuple[int, str, Sequence[int]]],
        options: pb.TimingOptions,
        numbers: Sequence[int],
        each: int = 1,
        limit_s: float | None = None,
    ) -> list[pb.Timing]:
        """Time functions in turns: see `timing.compared`. A call is module, function, arrays.

        Without a limit it is as with `time`.
        """
        if not 2 <= len(calls) <= MOST_COMPARED or len(numbers) not in (0, len(calls)):
            raise InvalidRequestError(
                f"cannot compare {len(calls)} functions with {len(numbers)} numbers",
                f"give 2 to {MOST_COMPARED} functions, and a number for each or for none",
            )
        if options.precision or options.abandon_above_s or not 1 <= each <= MOST_EACH:
            raise InvalidRequestError(
                "a comparison takes no precision, abandons none, and takes no "
                f"{each} samples of each in a round",
                f"ask for rounds, and 1 to {MOST_EACH} samples of each in them",
            )
        frames = [
            self._call_frame("time", *call) | timing_frame(options) | {"known": bool(numbers)}
            for call in calls
        ]
        for frame, number in zip(frames, numbers, strict=False):
            frame["number"] = check_number(number)
        async with self._bench.timing:
            if limit_s is None:
                for call in calls:
                    await self._first_call(*call)
            conditions = self._bench.conditions.read
            whole_s = TIMING_S if limit_s is None else limit_s
            timings = await compared(self._ask, conditions, frames, each, whole_s)
        for timing in timings:
            timing.emulated = self._bench.facts.emulated
        return timings

    async def _ask(self, frame: dict[str, Any], left_s: float) -> dict[str, Any]:
        answer, _ = await self._run(frame, limit_s=left_s, doing="the kernel")
        self.busy_s += float(answer.get("busy_s", 0.0))
        return answer

    def call_frame(self, module: int, function: str, arrays: Sequence[int]) -> dict[str, Any]:
        """A call, checked. Raises: UnknownHandleError, UnknownFunctionError, ArgumentMismatchError.

        Not to be changed: it is kept, for the next call of the kind.
        """
        key = (module, function, *arrays)
        frame = self._ready.get(key)
        if frame is None:
            signature = find_function(self.module(module).manifest, function)
            check_arguments(signature, [self.array(identity) for identity in arrays])
            frame = {"module": module, "function": function, "arrays": list(arrays)}
            if len(self._ready) >= MOST_READY:
                self._ready.clear()
            self._ready[key] = frame
        return frame

    def _call_frame(
        self, kind: str, module: int, function: str, arrays: Sequence[int]
    ) -> dict[str, Any]:
        frame = self.call_frame(module, function, arrays)
        return {"do": kind, **frame, "cpu": self._bench.timing_cpu}

    async def _watch_folder(self) -> None:
        """End a kernel that fills the disk: nothing else bounds how many files it makes."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self._runner is not None and await asyncio.to_thread(self.files.overfull):
                self._overfull = True
                self._runner.kill()

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    async def _run(
        self,
        frame: dict[str, Any],
        payload: bytes = b"",
        *,
        limit_s: float,
        doing: str = "a copy",
        soon: bool = False,
    ) -> tuple[dict[str, Any], bytes]:
        """One frame through the runner, which is started where there is none.

        Raises: KernelCrashedError, KernelTimeoutError, KernelFailedError, OutOfMemoryError,
        BundleInvalidError.
        """
        self._check()
        if self._runner is None:
            self._overfull = False
            self._runner = await self._bench.host.spawn(self.files.path)
            if self._watcher is None:
                self._watcher = asyncio.create_task(self._watch_folder())
        try:
            return await self._runner.request(
                frame, payload, limit_s=limit_s, doing=doing, soon=soon
            )
        except RunnerError as error:
            raise named(error) from None
        except (KernelCrashedError, KernelTimeoutError) as error:
            how = "when the kernel crashed"
            if isinstance(error, KernelTimeoutError):
                how = "when the kernel was ended at its time limit"
            self._lost |= dict.fromkeys([*self._modules, *self._arrays], how)
            self._modules.clear()
            self._arrays.clear()
            self._ready.clear()
            self._said = self.output()
            self._runner = None
            if self._overfull:
                error = KernelCrashedError(
                    "the kernel was ended: it filled the session's folder", "write less"
                )
            _log.warning("a runner is gone: %s", error)
            raise error from None


def named(error: RunnerError) -> TunefarmError:
    """A runner's failure by its name."""
    text = str(error).splitlines()[0] if str(error) else ""
    if error.kind == "status":
        return KernelFailedError(
            f"the kernel returned status {text}, 0 is success", "look the status up in its source"
        )
    if error.kind == "memory":
        return OutOfMemoryError(f"the device could not get the memory: {text}")
    if error.kind == "library":
        hint = "give it each function of the manifest, and nothing undefined"
        if "CUDA_ERROR_" in text:  # a driver says itself what it wants
            hint = ""
        return BundleInvalidError(f"the library in the bundle cannot be loaded: {text}", hint)
    return InternalError(f"{error.kind}: {text}")


def time_limit(given: Duration) -> float:
    """A time limit in seconds. Raises: InvalidRequestError for one that is none."""
    limit = given.seconds + given.nanos * 1e-9
    if not 0 < limit <= LONGEST_S:
        raise InvalidRequestError(
            f"a time limit of {limit:g} s is none", f"give more than 0 and at most {LONGEST_S:g} s"
        )
    return limit
