"""DeviceService: converts between messages and the parts that do the work."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc

from tunefarm_device.cache import BlobCache
from tunefarm_device.gate import Gate
from tunefarm_device.measure import measure
from tunefarm_device.runners import RunnerPool
from tunefarm_device.session import Session

_Context = grpc.aio.ServicerContext[Any, Any]


class DeviceService(dpb_grpc.DeviceServiceServicer):
    """Every call passes the gate; when its lease ends, the call is ended with LeaseLostError."""

    def __init__(
        self, gate: Gate, cache: BlobCache, runners: RunnerPool, facts: pb.DeviceFacts
    ) -> None:
        self._gate, self._cache, self._runners, self._facts = gate, cache, runners, facts

    async def FindMissingDigests(  # noqa: N802 (the generated name)
        self, request: dpb.FindMissingDigestsRequest, context: _Context
    ) -> dpb.FindMissingDigestsResponse:
        """Which blobs the cache lacks."""
        await self._gate.enter(context.invocation_metadata())
        missing = [
            dpb.MissingBlob(digest=digest, held_bytes=self._cache.held_bytes(digest))
            for digest in request.digests
            if not self._cache.has(digest)
        ]
        return dpb.FindMissingDigestsResponse(missing=missing)

    async def UploadBlob(  # noqa: N802
        self, request_iterator: AsyncIterator[dpb.UploadBlobRequest], context: _Context
    ) -> dpb.UploadBlobResponse:
        """Take one blob into the cache."""
        await self._gate.enter(context.invocation_metadata())
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("header"):
            raise InvalidRequestError("an upload begins with its header")
        header = first.header
        if self._cache.has(header.digest):
            return dpb.UploadBlobResponse(already_held=True)
        upload = self._cache.begin(header.digest, header.size_bytes, header.offset)
        try:
            async for piece in request_iterator:
                await asyncio.to_thread(upload.add, piece.chunk)
            await asyncio.to_thread(upload.finish)
        finally:
            upload.suspend()
        return dpb.UploadBlobResponse(received_bytes=upload.received)

    async def Session(  # noqa: N802
        self, request_iterator: AsyncIterator[dpb.SessionRequest], context: _Context
    ) -> AsyncIterator[dpb.SessionResponse]:
        """Carry out operations until the client or the lease ends."""
        lease = await self._gate.enter(context.invocation_metadata())
        session = Session(self._runners, self._cache, self._facts)
        try:
            async for request in request_iterator:
                async for answer in session.handle(request):
                    yield answer
        except asyncio.CancelledError:
            self._raise_if_lost(lease)
            raise
        finally:
            await asyncio.shield(session.close())

    async def Measure(  # noqa: N802
        self, request_iterator: AsyncIterator[dpb.MeasureRequest], context: _Context
    ) -> AsyncIterator[dpb.MeasureResponse]:
        """Time candidates until the client or the lease ends."""
        lease = await self._gate.enter(context.invocation_metadata())
        try:
            async for answer in measure(request_iterator, self._runners, self._cache, self._facts):
                yield answer
        except asyncio.CancelledError:
            self._raise_if_lost(lease)
            raise

    def _raise_if_lost(self, lease: pb.Lease) -> None:
        lost = self._gate.lost(lease)
        task = asyncio.current_task()
        if lost is not None and task is not None:
            task.uncancel()
            raise lost
