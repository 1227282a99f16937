"""Candidates in flight: the next load while one is timed, and are timed one after another."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from tunefarm_proto.bundle import find_function
from tunefarm_proto.errors import (
    ArgumentMismatchError,
    KernelTimeoutError,
    LeaseLostError,
    TunefarmError,
)
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_device.session import DeviceSession, Workbench, time_limit

CANDIDATE_S = 60.0
AHEAD = 2


class Candidate:
    """One candidate in a runner of its own. Its time limit counts its own work, no waiting."""

    def __init__(
        self, bench: Workbench, request: dpb.MeasureRequest, check: Callable[[], None]
    ) -> None:
        self._bench = bench
        self._id = request.id  # first of all: it raises where the message cannot be read
        self._request = request
        self._session = DeviceSession(bench, check)
        self._limit = self._left = CANDIDATE_S
        self._loading: asyncio.Task[tuple[int, list[int]]] = asyncio.create_task(self._load())

    async def _load(self) -> tuple[int, list[int]]:
        """The module and the arguments, filled."""
        request, session = self._request, self._session
        start = time.monotonic()
        if request.HasField("timeout"):
            self._limit = self._left = time_limit(request.timeout)
        try:
            async with asyncio.timeout(self._limit):
                module = await session.load(request.bundle_digest)
                signature = find_function(session.module(module).manifest, request.function)
                if request.arguments and len(request.arguments) != len(signature.arguments):
                    raise ArgumentMismatchError(
                        f"{signature.name} takes {len(signature.arguments)} arguments, "
                        f"got {len(request.arguments)}"
                    )
                arrays = [
                    await session.allocate(a.dtype, list(a.shape)) for a in signature.arguments
                ]
                for index, argument in enumerate(request.arguments):
                    if argument.WhichOneof("source") == "blob_digest":
                        await self._fill(index, arrays[index], argument.blob_digest)
        except TimeoutError as error:
            if isinstance(error, TunefarmError):
                raise
            raise KernelTimeoutError(
                f"loading took longer than the {self._limit:g} s it was allowed to"
            ) from None
        self._left -= time.monotonic() - start
        return module, arrays

    async def _fill(self, index: int, array: int, digest: str) -> None:
        data = await asyncio.to_thread(self._bench.blobs.read, digest)
        size = self._session.array(array).size
        if len(data) != size:
            raise ArgumentMismatchError(
                f"argument {index} takes {size} bytes and its blob has {len(data)}"
            )
        await self._session.write(array, 0, data)

    async def result(self) -> dpb.MeasureResponse:
        """What became of it. Raises only what is no fault of the candidate."""
        answer = dpb.MeasureResponse(id=self._id)
        try:
            module, arrays = await self._loading
            await self._run(answer, module, arrays)
        except LeaseLostError:
            raise
        except TunefarmError as error:
            answer.ClearField("timing")
            answer.ClearField("outputs")
            answer.error.CopyFrom(error.to_proto())
        return answer

    async def _run(self, answer: dpb.MeasureResponse, module: int, arrays: list[int]) -> None:
        session, request = self._session, self._request
        left = max(self._left, 0.001)
        if request.return_outputs:
            left -= await session.call(module, request.function, arrays, left)
            signature = find_function(session.module(module).manifest, request.function)
            for argument, array in zip(signature.arguments, arrays, strict=True):
                if argument.output:
                    answer.outputs.append(b"".join([p async for p in session.read(array)]))
        timing = await session.time(
            module, request.function, arrays, request.options, max(left, 0.001)
        )
        answer.timing.CopyFrom(timing)

    async def close(self) -> None:
        """End its runner."""
        self._loading.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._loading
        await self._session.close()


async def measure(
    bench: Workbench, requests: AsyncIterator[dpb.MeasureRequest], check: Callable[[], None]
) -> AsyncIterator[dpb.MeasureResponse]:
    """Results in the order of the requests, two candidates loading ahead.

    `check` raises where the lease has ended.
    """
    waiting: asyncio.Queue[Candidate | None] = asyncio.Queue(AHEAD - 1)
    open_: set[Candidate] = set()

    async def feed() -> None:
        try:
            async for request in requests:
                candidate = Candidate(bench, request, check)
                open_.add(candidate)
                await waiting.put(candidate)
        finally:
            await waiting.put(None)

    feeder = asyncio.create_task(feed())
    try:
        while (candidate := await waiting.get()) is not None:
            answer = await candidate.result()
            await candidate.close()
            open_.discard(candidate)
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
