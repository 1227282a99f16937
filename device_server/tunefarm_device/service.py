"""DeviceService: converts requests into calls on sessions and cache, under the lease."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tunefarm_proto import chunks, rpc
from tunefarm_proto.errors import InvalidRequestError, TunefarmError
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc

from tunefarm_device import lease_log
from tunefarm_device.lanes import LaneServer
from tunefarm_device.lease import LeaseGate, Use
from tunefarm_device.measure import measure
from tunefarm_device.pump import Pump, feed
from tunefarm_device.session import DeviceSession
from tunefarm_device.workbench import Workbench

SETTLE_S = 2.0
MOST_DIGESTS = 10_000  # of one question

Context = grpc.aio.ServicerContext[Any, Any]


class DeviceService(dpb_grpc.DeviceServiceServicer):
    """Every call names its lease and token in the metadata."""

    def __init__(self, gate: LeaseGate, bench: Workbench, lanes: LaneServer) -> None:
        self._lanes = lanes
        self._gate = gate
        self._blobs = bench.blobs
        self._bench = bench

    async def _check(self, context: Context) -> None:
        lease_log.WHOSE.set(self._bench.log)  # each call has a task, and so a context, of its own
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
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> dpb.UploadBlobResponse:
        """Take one blob into the cache. The requests come from `chunks.decode`."""
        await self._check(context)
        with self._gate.use() as use, use.cutting():
            first = await anext(request_iterator, None)
            if first is None or isinstance(first, memoryview) or not first.HasField("header"):
                raise InvalidRequestError("an upload starts with its header")
            header = first.header
            received = await self._blobs.receive(
                header.digest, header.size_bytes, header.offset, _chunks(request_iterator)
            )
        return dpb.UploadBlobResponse(received_bytes=received or 0, already_held=received is None)

    async def Session(  # noqa: N802
        self, request_iterator: AsyncIterator[dpb.SessionRequest], context: Context
    ) -> AsyncIterator[dpb.SessionResponse]:
        """Carry out operations until the client or the lease ends."""
        await self._check(context)
        # Written here, not yielded: the end of the lease may cut this task off at any await.
        writer = _Writer(context)
        try:
            await self._session(request_iterator, writer)
        except TunefarmError:
            if writer.stuck:  # gRPC takes no status then, and may crash of it: the call just ends
                raise asyncio.CancelledError from None
            raise
        return
        yield  # makes it a stream to gRPC

    async def _session(
        self, request_iterator: AsyncIterator[dpb.SessionRequest], writer: "_Writer"
    ) -> None:
        with self._gate.use() as use, use.cutting():
            session = DeviceSession(self._bench, use.check)
            pump = Pump(session, use.check, self._lanes.open)
            feeder = asyncio.create_task(feed(pump, request_iterator, writer.write))
            try:
                await pump.run()
            finally:
                feeder.cancel()
                self._lanes.close(pump)
                # gRPC may cancel a call twice; its runner and its folder go all the same.
                closing = asyncio.ensure_future(session.close())
                await writer.settle()
                await asyncio.shield(closing)

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


class _Writer:
    """Answers on a stream. A write that has begun is never cut off: gRPC has it still, and would
    take no status to end the call with.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._writing: asyncio.Future[None] | None = None

    async def write(self, answer: dpb.SessionResponse) -> None:
        """Send one."""
        self._writing = asyncio.ensure_future(self._context.write(answer))
        self._writing.add_done_callback(_seen)
        await asyncio.shield(self._writing)

    @property
    def stuck(self) -> bool:
        """Whether a write is still under way."""
        return self._writing is not None and not self._writing.done()

    async def settle(self) -> None:
        """Wait for the last write, but not long for a client that does not read."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=SETTLE_S)


def _seen(write: "asyncio.Future[None]") -> None:
    """Look at its error, or asyncio would tell of it in the log."""
    if not write.cancelled():
        write.exception()


async def under_lease(use: Use, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests, until the lease ends. Raises: LeaseLostError."""
    end = object()
    while (request := await use.until_end(anext(requests, end))) is not end:
        yield request


async def _chunks(messages: AsyncIterator[Any]) -> AsyncIterator[bytes | memoryview]:
    async for message in messages:
        if isinstance(message, memoryview):
            yield message
        elif message.WhichOneof("message") == "chunk":
            yield message.chunk
        else:
            raise InvalidRequestError("after its header an upload has chunks only")


def add_to_server(service: dpb_grpc.DeviceServiceServicer, server: grpc.aio.Server) -> None:
    """Serve the service, chunks of uploads without protobuf's copies."""
    upload = grpc.stream_unary_rpc_method_handler(
        service.UploadBlob,
        request_deserializer=chunks.decode,
        response_serializer=dpb.UploadBlobResponse.SerializeToString,
    )
    name = dpb.DESCRIPTOR.services_by_name["DeviceService"].full_name
    first = grpc.method_handlers_generic_handler(name, {"UploadBlob": upload})
    server.add_generic_rpc_handlers((first,))
    dpb_grpc.add_DeviceServiceServicer_to_server(service, server)
