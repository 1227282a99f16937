"""DeviceService: converts requests into calls on sessions and cache, under the lease."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from tunefarm_proto import rpc
from tunefarm_proto.errors import InvalidRequestError, LeaseLostError, TunefarmError
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc

from tunefarm_device.lease import LeaseGate, Use
from tunefarm_device.measure import measure
from tunefarm_device.session import CALL_S, TIMING_S, DeviceSession, Workbench, time_limit

MOST_DIGESTS = 10_000  # of one question

Context = grpc.aio.ServicerContext[Any, Any]


class DeviceService(dpb_grpc.DeviceServiceServicer):
    """Every call names its lease and token in the metadata."""

    def __init__(self, gate: LeaseGate, bench: Workbench) -> None:
        self._gate = gate
        self._blobs = bench.blobs
        self._bench = bench

    async def _check(self, context: Context) -> None:
        metadata = context.invocation_metadata()
        await self._gate.check(
            rpc.metadata_text(metadata, rpc.LEASE_ID_HEADER),
            rpc.metadata_text(metadata, rpc.LEASE_TOKEN_HEADER),
        )

    async def FindMissingDigests(  # noqa: N802 (the generated name)
        self, request: dpb.FindMissingDigestsRequest, context: Context
    ) -> dpb.FindMissingDigestsResponse:
        """Which digests are missing, and how much of each is here."""
        await self._check(context)
        if len(request.digests) > MOST_DIGESTS:
            raise InvalidRequestError(
                f"{len(request.digests)} digests are asked for at once",
                f"ask for at most {MOST_DIGESTS}",
            )
        answer = dpb.FindMissingDigestsResponse()
        for digest in request.digests:
            held = self._blobs.held_bytes(digest)
            if held is not None:
                answer.missing.add(digest=digest, held_bytes=held)
        return answer

    async def UploadBlob(  # noqa: N802
        self, request_iterator: AsyncIterator[dpb.UploadBlobRequest], context: Context
    ) -> dpb.UploadBlobResponse:
        """Take one blob into the cache."""
        await self._check(context)
        with self._gate.use() as use:
            messages = under_lease(use, request_iterator)
            first = await anext(messages, dpb.UploadBlobRequest())
            if first.WhichOneof("message") != "header":
                raise InvalidRequestError("an upload starts with its header")
            header = first.header
            received = await self._blobs.receive(
                header.digest, header.size_bytes, header.offset, _chunks(messages)
            )
        return dpb.UploadBlobResponse(received_bytes=received or 0, already_held=received is None)

    async def Session(  # noqa: N802
        self, request_iterator: AsyncIterator[dpb.SessionRequest], context: Context
    ) -> AsyncIterator[dpb.SessionResponse]:
        """Carry out operations until the client or the lease ends."""
        await self._check(context)
        with self._gate.use() as use:
            session = DeviceSession(self._bench, use.check)
            try:
                async for request in under_lease(use, request_iterator):
                    async for answer in answers(session, request):
                        use.check()
                        answer.id = request.id
                        yield answer
            finally:
                await session.close()

    async def Measure(  # noqa: N802
        self, request_iterator: AsyncIterator[dpb.MeasureRequest], context: Context
    ) -> AsyncIterator[dpb.MeasureResponse]:
        """Measure candidates until the client or the lease ends."""
        await self._check(context)
        with self._gate.use() as use:
            results = measure(self._bench, under_lease(use, request_iterator), use.check)
            try:
                async for answer in results:
                    use.check()
                    yield answer
            finally:
                await results.aclose()  # type: ignore[attr-defined]


async def under_lease(use: Use, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests, until the lease ends. Raises: LeaseLostError."""
    end = object()
    while (request := await use.until_end(anext(requests, end))) is not end:
        yield request


async def _chunks(messages: AsyncIterator[dpb.UploadBlobRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("message") != "chunk":
            raise InvalidRequestError("after its header an upload has chunks only")
        yield message.chunk


async def answers(
    session: DeviceSession, request: dpb.SessionRequest
) -> AsyncIterator[dpb.SessionResponse]:
    """The answers to one request; an error is an answer."""
    try:
        async for answer in _carry_out(session, request):
            yield answer
    except LeaseLostError:
        raise
    except TunefarmError as error:
        yield dpb.SessionResponse(error=error.to_proto())


async def _carry_out(
    session: DeviceSession, request: dpb.SessionRequest
) -> AsyncIterator[dpb.SessionResponse]:
    kind = request.WhichOneof("operation")
    limit = TIMING_S if kind in ("time", "compare") else CALL_S
    if request.HasField("timeout"):
        limit = time_limit(request.timeout)
    if kind == "read":
        async for piece, last in _marked(session.read(request.read.array_id, limit)):
            yield dpb.SessionResponse(data=dpb.ArrayData(data=piece, last=last))
    elif kind == "write":
        write = request.write
        await session.write(write.array_id, write.offset, write.data, limit)
        yield dpb.SessionResponse(done=dpb.Done())
    elif kind == "call":
        call = request.call
        elapsed = await session.call(call.module_id, call.function, call.array_ids, limit)
        yield dpb.SessionResponse(returned=dpb.CallReturned(elapsed_s=elapsed))
    elif kind == "time":
        call, options = request.time.call, request.time.options
        timing = await session.time(call.module_id, call.function, call.array_ids, options, limit)
        yield dpb.SessionResponse(timing=timing)
    elif kind == "compare":
        compare = request.compare
        calls = [(one.module_id, one.function, one.array_ids) for one in compare.calls]
        timings = await session.compare(calls, compare.options, compare.numbers, limit)
        yield dpb.SessionResponse(comparison=dpb.Comparison(timings=timings))
    elif kind == "allocate":
        identity = await session.allocate(request.allocate.dtype, request.allocate.shape, limit)
        yield dpb.SessionResponse(allocated=dpb.AllocatedArray(array_id=identity))
    elif kind == "free":
        await session.free(request.free.array_id, limit)
        yield dpb.SessionResponse(done=dpb.Done())
    elif kind == "load":
        yield dpb.SessionResponse(loaded=await _load(session, request.load.digest, limit))
    else:
        raise InvalidRequestError("the request names no operation that this device knows")


async def _load(session: DeviceSession, digest: str, limit: float) -> dpb.LoadedModule:
    identity = await session.load(digest, limit)
    module = session.module(identity)
    return dpb.LoadedModule(
        module_id=identity,
        manifest=module.manifest.SerializeToString(),
        target=module.target,
        load_s=module.load_s,
    )


async def _marked(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Each piece, and whether it is the last."""
    before: bytes | None = None
    async for piece in pieces:
        if before is not None:
            yield before, False
        before = piece
    if before is not None:
        yield before, True
