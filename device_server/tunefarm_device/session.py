"""One session: carries out operations in a runner, and survives that runner."""

import math
from collections.abc import AsyncIterator
from typing import Any

from tunefarm_proto import errors, rpc
from tunefarm_proto.bundle import ITEM_BYTES, find_function
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_device.cache import BlobCache
from tunefarm_device.facts import read_conditions
from tunefarm_device.runners import Runner, RunnerPool

CALL_TIMEOUT_S = 60.0
TIME_TIMEOUT_S = 600.0
REPEAT = 10
MIN_REPEAT_S = 0.02
MAX_ARRAY_BYTES = 1 << 46


class Array:
    """An array in a runner."""

    def __init__(self, runner: Runner, number: int, dtype: str, shape: tuple[int, ...]) -> None:
        self.runner, self.number, self.dtype, self.shape = runner, number, dtype, shape

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class Module:
    """A library loaded in a runner."""

    def __init__(self, runner: Runner, number: int, manifest: bpb.BundleManifest) -> None:
        self.runner, self.number, self.manifest = runner, number, manifest


class Session:
    """Modules and arrays by id. Those of a runner that died are known to be lost."""

    def __init__(self, runners: RunnerPool, cache: BlobCache, facts: pb.DeviceFacts) -> None:
        self._runners, self._cache, self._facts = runners, cache, facts
        self._runner: Runner | None = None
        self._next = 1
        self._arrays: dict[int, Array] = {}
        self._modules: dict[int, Module] = {}

    async def close(self) -> None:
        """End the runner."""
        if self._runner is not None:
            await self._runner.kill()

    async def handle(self, request: dpb.SessionRequest) -> AsyncIterator[dpb.SessionResponse]:
        """Carry out one request. Errors are answers."""
        try:
            async for answer in self._dispatch(request):
                answer.id = request.id
                yield answer
        except errors.TunefarmError as error:
            yield dpb.SessionResponse(id=request.id, error=error.to_proto())

    async def _dispatch(self, request: dpb.SessionRequest) -> AsyncIterator[dpb.SessionResponse]:
        limit = request.timeout.ToTimedelta().total_seconds() or None
        match request.WhichOneof("operation"):
            case "load":
                yield dpb.SessionResponse(loaded=await self.load(request.load.digest, limit))
            case "allocate":
                number = await self.allocate(request.allocate.dtype, tuple(request.allocate.shape))
                yield dpb.SessionResponse(allocated=dpb.AllocatedArray(array_id=number))
            case "free":
                await self._free(request.free.array_id)
                yield dpb.SessionResponse(done=dpb.Done())
            case "write":
                await self.write(request.write.array_id, request.write.offset, request.write.data)
                yield dpb.SessionResponse(done=dpb.Done())
            case "read":
                async for data in self.read(request.read.array_id):
                    yield dpb.SessionResponse(data=data)
            case "call":
                elapsed = await self.call(request.call, limit or CALL_TIMEOUT_S)
                yield dpb.SessionResponse(returned=dpb.CallReturned(elapsed_s=elapsed))
            case "time":
                timing = await self.time(
                    request.time.call, request.time.options, limit or TIME_TIMEOUT_S
                )
                yield dpb.SessionResponse(timing=timing)
            case _:
                raise errors.InvalidRequestError("the request names no operation known here")

    async def _alive(self) -> Runner:
        if self._runner is None or self._runner.ended.done():
            self._runner = await self._runners.spawn()
        return self._runner

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    async def load(self, digest: str, limit: float | None) -> dpb.LoadedModule:
        """Load a bundle from the cache."""
        manifest, target, path = self._cache.library(digest, self._facts.target)
        runner = await self._alive()
        answer, _ = await runner.request("load", path=str(path), timeout=limit or CALL_TIMEOUT_S)
        number = self._number()
        self._modules[number] = Module(runner, answer["module"], manifest)
        return dpb.LoadedModule(
            module_id=number,
            manifest=manifest.SerializeToString(deterministic=True),
            target=target,
            load_s=answer["load_s"],
        )

    async def allocate(self, dtype: str, shape: tuple[int, ...]) -> int:
        """Make an array of zeros."""
        if dtype not in ITEM_BYTES:
            raise errors.ArgumentMismatchError(
                f"unknown dtype {dtype!r}", f"known are {', '.join(ITEM_BYTES)}"
            )
        runner = await self._alive()
        made = Array(runner, 0, dtype, shape)
        if made.size > min(self._facts.memory_bytes or MAX_ARRAY_BYTES, MAX_ARRAY_BYTES):
            raise errors.OutOfMemoryError(
                f"an array of {made.size} bytes; the device has {self._facts.memory_bytes}",
                "make a smaller one",
            )
        answer, _ = await runner.request("allocate", size=made.size)
        made.number = answer["array"]
        number = self._number()
        self._arrays[number] = made
        return number

    def _array(self, number: int) -> Array:
        return _held(self._arrays, number, "array")

    async def _free(self, number: int) -> None:
        array = self._array(number)
        await array.runner.request("free", array=array.number)
        del self._arrays[number]

    async def write(self, number: int, offset: int, data: bytes) -> None:
        """Copy into an array."""
        array = self._array(number)
        if offset + len(data) > array.size:
            raise errors.ArgumentMismatchError(
                f"{len(data)} bytes at {offset} do not fit an array of {array.size} bytes"
            )
        if data:
            await array.runner.request("write", data, array=array.number, offset=offset)

    async def read(self, number: int) -> AsyncIterator[dpb.ArrayData]:
        """Copy out of an array, in pieces."""
        array = self._array(number)
        for offset in range(0, max(array.size, 1), rpc.CHUNK_BYTES):
            size = min(rpc.CHUNK_BYTES, array.size - offset)
            _, data = await array.runner.request(
                "read", array=array.number, offset=offset, size=size
            )
            yield dpb.ArrayData(data=data, last=offset + size >= array.size)

    def _resolve(self, call: dpb.CallFunction) -> tuple[Runner, dict[str, Any]]:
        module = _held(self._modules, call.module_id, "module")
        signature = find_function(module.manifest, call.function)
        arrays = [self._array(number) for number in call.array_ids]
        check_arguments(signature, [(array.dtype, array.shape) for array in arrays])
        return module.runner, {
            "module": module.number,
            "function": call.function,
            "arrays": [array.number for array in arrays],
        }

    async def call(self, call: dpb.CallFunction, limit: float) -> float:
        """Call once; seconds it took."""
        runner, fields = self._resolve(call)
        answer, _ = await runner.request("call", timeout=limit, **fields)
        return float(answer["elapsed_s"])

    async def time(
        self, call: dpb.CallFunction, options: pb.TimingOptions, limit: float
    ) -> pb.Timing:
        """Time a function, with the conditions around it."""
        runner, fields = self._resolve(call)
        least = MIN_REPEAT_S
        if options.HasField("min_repeat"):
            least = max(options.min_repeat.ToTimedelta().total_seconds(), 1e-6)
        before = read_conditions()
        answer, _ = await runner.request(
            "time",
            timeout=limit,
            number=options.number,
            repeat=options.repeat or REPEAT,
            min_repeat_s=least,
            **fields,
        )
        return pb.Timing(
            samples_s=answer["samples_s"],
            number=answer["number"],
            first_call_s=answer["first_call_s"],
            warmup_calls=answer["warmup_calls"],
            before=before,
            after=read_conditions(),
            emulated=self._facts.emulated,
            cache="hot",
        )


def _held(things: dict[int, Any], number: int, kind: str) -> Any:
    thing = things.get(number)
    if thing is None:
        raise errors.UnknownHandleError(f"this session has no {kind} {number}", "make it first")
    if thing.runner.ended.done():
        raise errors.UnknownHandleError(
            f"{kind} {number} was lost when the kernel's process ended",
            "load the module and make the arrays again",
        )
    return thing


def _text(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def check_arguments(
    signature: bpb.FunctionSignature, given: list[tuple[str, tuple[int, ...]]]
) -> None:
    """Compare arguments with the manifest. Raises: ArgumentMismatchError."""
    wanted = [(a.name, a.dtype, tuple(a.shape)) for a in signature.arguments]
    form = ", ".join(f"{name}: {_text(dtype, shape)}" for name, dtype, shape in wanted)
    if len(given) != len(wanted):
        raise errors.ArgumentMismatchError(
            f"{signature.name} takes {len(wanted)} arguments, {len(given)} were given",
            f"it takes {form}",
        )
    for place, ((name, *want), got) in enumerate(zip(wanted, given, strict=True)):
        if tuple(want) != got:
            raise errors.ArgumentMismatchError(
                f"{signature.name}: argument {place} ({name}) is {_text(*got)}, "
                f"not {_text(want[0], want[1])}",
                f"it takes {form}",
            )
