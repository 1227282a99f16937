"""Candidates in flight: the next load while one is timed, and are timed one after another.

Only calls and timings take the turn, so the timing cores wait for nothing else: making runners,
loading, arguments and what comes after the last sample go on beside the next candidate's turn.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from tunefarm_proto import seeded
from tunefarm_proto.bundle import find_function
from tunefarm_proto.errors import (
    ArgumentMismatchError,
    KernelTimeoutError,
    LeaseLostError,
    OutOfMemoryError,
    TunefarmError,
    WrongAnswerError,
)
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_device.conditions import available_memory
from tunefarm_device.session import DeviceSession, time_limit
from tunefarm_device.workbench import Workbench

CANDIDATE_S = 60.0
AHEAD = 3
KEPT_BYTES, MOST_KEPT = 64 << 20, 1 << 30  # of contents made from seeds: at least, and at most
KEPT_SHARE = 16  # part of the memory that is free


def kept_bytes() -> int:
    """How much of what seeds make is kept here: to make 64 MiB takes seconds of a processor."""
    return min(max(available_memory() // KEPT_SHARE, KEPT_BYTES), MOST_KEPT)


class Contents:
    """What seeds make, kept for the candidates that follow: the last ones, `room` bytes of them."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: OrderedDict[tuple[int, str, int], bytes] = OrderedDict()
        self._making = asyncio.Lock()

    async def of(self, seed: int, dtype: str, size: int) -> bytes:
        """`size` bytes of that dtype."""
        key = (seed, dtype, size)
        async with self._making:
            if key not in self._kept:
                made = await asyncio.to_thread(seeded.seeded_bytes, *key)
                self._kept[key] = made
                while sum(map(len, self._kept.values())) > self.room:
                    self._kept.popitem(last=False)
                return made
            self._kept.move_to_end(key)
            return self._kept[key]


class Stream:
    """What the candidates of one stream share."""

    def __init__(self, bench: Workbench, check: Callable[[], None]) -> None:
        self.bench = bench
        self.check = check
        self.contents = Contents(kept_bytes())
        self.began = time.monotonic()
        # With one processor for all, or one GPU, what loads would disturb what is timed.
        self.alone = bench.alone or bench.facts.cpu_count == 1

    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began


class Candidate:
    """One candidate in a runner of its own. Its time limit counts its own work, no waiting.

    It is timed after `before`, the one that came before it.
    """

    def __init__(
        self, stream: Stream, request: dpb.MeasureRequest, before: "Candidate | None"
    ) -> None:
        self._id = request.id  # first of all: it raises where the message cannot be read
        self._stream = stream
        self._request = request
        self._before = before
        self._session = DeviceSession(stream.bench, stream.check)
        self._limit = self._left = CANDIDATE_S
        self._turn_over = asyncio.Event()
        self._gone = asyncio.Event()
        self._answer = dpb.MeasureResponse(id=self._id)
        self._work = asyncio.create_task(self._all())

    async def result(self) -> dpb.MeasureResponse:
        """What became of it. Raises only what is no fault of the candidate."""
        return await asyncio.shield(self._work)

    async def close(self) -> None:
        """End its runner. Doing it twice is fine."""
        self._work.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._work
        await self._end()

    async def _all(self) -> dpb.MeasureResponse:
        answer = self._answer
        try:
            function, module, arrays = await self._loaded()
            if self._before is not None:
                await self._before._turn_over.wait()
                self._before = None
            async with self._session.turn:
                answer.use.turn_began_s = self._stream.now()
                try:
                    digest = await self._run(function, module, arrays)
                finally:
                    answer.use.turn_ended_s = self._stream.now()
                    answer.use.busy_s = self._session.busy_s
            self._turn_over.set()
            if self._request.repeatable and digest:
                outputs = self._outputs(function, arrays)
                await self._check_last(digest, outputs)
                await self._tell(digest, outputs)
        except LeaseLostError:
            raise
        except TunefarmError as error:
            answer.ClearField("timing")
            answer.ClearField("outputs")
            answer.error.CopyFrom(error.to_proto())
        finally:
            self._before = None
            self._turn_over.set()
        return answer

    async def _loaded(self) -> tuple[bpb.FunctionSignature, int, list[int]]:
        """Load, once more when nobody else is left where there was no room beside them."""
        try:
            return await self._load()
        except OutOfMemoryError:
            if self._before is None:
                raise
            await self._session.close()
            await self._before._gone.wait()
            self._session = DeviceSession(self._stream.bench, self._stream.check)
            self._left = self._limit
            return await self._load()

    async def _load(self) -> tuple[bpb.FunctionSignature, int, list[int]]:
        """The function, its module and the arguments, filled."""
        request, start = self._request, time.monotonic()
        if request.HasField("timeout"):
            self._limit = self._left = time_limit(request.timeout)
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self._stream.alone:
                    await stack.enter_async_context(self._session.turn)
                    start = time.monotonic()
                await stack.enter_async_context(asyncio.timeout(self._limit))
                module = await self._session.load(request.bundle_digest)
                manifest = self._session.module(module).manifest
                signature = find_function(manifest, request.function)
                arrays = await self._arguments(signature)
        except TimeoutError as error:
            if isinstance(error, TunefarmError):
                raise
            raise KernelTimeoutError(
                f"loading took longer than the {self._limit:g} s it was allowed to"
            ) from None
        self._answer.use.load_s = time.monotonic() - start
        self._left -= self._answer.use.load_s
        return signature, module, arrays

    async def _arguments(self, signature: bpb.FunctionSignature) -> list[int]:
        """Arrays with what they are to hold."""
        request, session = self._request, self._session
        if request.arguments and len(request.arguments) != len(signature.arguments):
            raise ArgumentMismatchError(
                f"{signature.name} takes {len(signature.arguments)} arguments, "
                f"got {len(request.arguments)}"
            )
        arrays = [await session.allocate(a.dtype, list(a.shape)) for a in signature.arguments]
        for index, argument in enumerate(request.arguments):
            held = session.array(arrays[index])
            if argument.WhichOneof("source") == "blob_digest":
                blobs = self._stream.bench.blobs
                data = await asyncio.to_thread(blobs.read, argument.blob_digest)
                if len(data) != held.size:
                    raise ArgumentMismatchError(
                        f"argument {index} takes {held.size} bytes and its blob has {len(data)}"
                    )
            elif argument.WhichOneof("source") == "seeded":
                await self._seed(arrays[index], argument.seeded.seed)
                continue
            else:
                continue
            await session.write(arrays[index], 0, data)
        return arrays

    async def _seed(self, array: int, seed: int) -> None:
        """Fill an array; piece by piece where it is too large to be kept."""
        session = self._session
        held = session.array(array)
        if held.size <= self._stream.contents.room:
            contents = await self._stream.contents.of(seed, held.dtype, held.size)
            await session.write(array, 0, contents)
            return
        pieces, offset = seeded.seeded_chunks(seed, held.dtype, held.size), 0
        while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
            await session.write(array, offset, piece)
            offset += len(piece)

    @staticmethod
    def _outputs(function: bpb.FunctionSignature, arrays: list[int]) -> list[int]:
        pairs = zip(function.arguments, arrays, strict=True)
        return [array for argument, array in pairs if argument.output]

    async def _run(self, function: bpb.FunctionSignature, module: int, arrays: list[int]) -> str:
        """Call it and time it. Returns the digest of its outputs, where they were asked for."""
        session, request, answer = self._session, self._request, self._answer
        left, digest = max(self._left, 0.001), ""
        options, outputs = request.options, self._outputs(function, arrays)
        name = function.name
        if request.return_outputs and request.repeatable:
            # All of it by one request: the device waits for nobody in its turn.
            timing, digest = await session.time_digested(
                module, name, arrays, options, outputs=outputs, limit_s=left
            )
        else:
            if request.return_outputs:
                took, digest = await session.call_digested(module, name, arrays, outputs, left)
                left = max(left - took, 0.001)
                await self._tell(digest, outputs)
            timing = await session.time_in_turn(module, name, arrays, options, left)
        answer.timing.CopyFrom(timing)
        return digest

    async def _tell(self, digest: str, outputs: list[int]) -> None:
        """The outputs, that have that digest now, where they are not known."""
        self._answer.outputs_digest = digest
        if digest not in self._request.known_outputs:
            for array in outputs:
                data = b"".join([p async for p in self._session.read(array)])
                self._answer.outputs.append(data)

    async def _check_last(self, digest: str, outputs: list[int]) -> None:
        """Raises: WrongAnswerError where the last call did not answer as the first."""
        if await self._session.digest(outputs) != digest:
            raise WrongAnswerError(
                "its outputs after the last call are not those after the first",
                "it adds to what it finds, or changes its inputs",
            )

    async def _end(self) -> None:
        await self._session.close()
        self._gone.set()


async def measure(
    bench: Workbench, requests: AsyncIterator[dpb.MeasureRequest], check: Callable[[], None]
) -> AsyncIterator[dpb.MeasureResponse]:
    """Results in the order of the requests, three candidates loading ahead.

    `check` raises where the lease has ended.
    """
    stream = Stream(bench, check)
    waiting: asyncio.Queue[Candidate | None] = asyncio.Queue(AHEAD)
    open_: set[Candidate] = set()
    closing: set[asyncio.Task[None]] = set()

    async def feed() -> None:
        last: Candidate | None = None
        try:
            async for request in requests:
                last = Candidate(stream, request, last)
                open_.add(last)
                await waiting.put(last)
        finally:
            await waiting.put(None)

    async def end(candidate: Candidate) -> None:
        await candidate.close()
        open_.discard(candidate)

    feeder = asyncio.create_task(feed())
    try:
        while (candidate := await waiting.get()) is not None:
            answer = await candidate.result()
            task = asyncio.create_task(end(candidate))  # the next one need not wait for it
            closing.add(task)
            task.add_done_callback(closing.discard)
            yield answer
        await feeder
    finally:
        feeder.cancel()
        while not waiting.empty():  # or the feeder could not put its end
            waiting.get_nowait()
        await asyncio.wait({feeder})
        if not feeder.cancelled():
            feeder.exception()  # seen, or asyncio would tell of it in the log
        for candidate in list(open_):
            await candidate.close()
