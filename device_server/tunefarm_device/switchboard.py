"""One port for several devices: each call goes to the device that its lease opens."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from tunefarm_proto import rpc
from tunefarm_proto.errors import LeaseRefusedError
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc

from tunefarm_device.lease import LeaseGate
from tunefarm_device.service import DeviceService

Context = grpc.aio.ServicerContext[Any, Any]


class Switchboard(dpb_grpc.DeviceServiceServicer):
    """Passes calls on to the services of devices, which check lease and token themselves."""

    def __init__(self, devices: Sequence[tuple[LeaseGate, DeviceService]]) -> None:
        self._devices = devices

    def _serving(self, lease_id: str) -> DeviceService | None:
        return next((one for gate, one in self._devices if gate.lease_id == lease_id), None)

    async def _of(self, context: Context) -> Any:
        """Raises: LeaseRefusedError where no device serves the lease, now or within 2 s."""
        lease_id = rpc.metadata_text(context.invocation_metadata(), rpc.LEASE_ID_HEADER)
        if not lease_id:
            return self._devices[0][1]  # any will refuse it
        service = self._serving(lease_id)
        if service is None:
            await self._arrival(lease_id)
            service = self._serving(lease_id)
        if service is None:
            raise LeaseRefusedError(
                f"lease {lease_id} opens no device of this server", "request the device again"
            )
        return service

    async def _arrival(self, lease_id: str) -> None:
        arrivals = [asyncio.ensure_future(gate.arrival(lease_id)) for gate, _ in self._devices]
        try:
            await asyncio.wait(arrivals, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in arrivals:
                one.cancel()

    async def FindMissingDigests(  # noqa: N802 (the generated name)
        self, request: dpb.FindMissingDigestsRequest, context: Context
    ) -> dpb.FindMissingDigestsResponse:
        """See `DeviceService`."""
        answer: dpb.FindMissingDigestsResponse
        answer = await (await self._of(context)).FindMissingDigests(request, context)
        return answer

    async def UploadBlob(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> dpb.UploadBlobResponse:
        """See `DeviceService`."""
        answer: dpb.UploadBlobResponse
        answer = await (await self._of(context)).UploadBlob(request_iterator, context)
        return answer

    async def Session(  # noqa: N802
        self, request_iterator: AsyncIterator[dpb.SessionRequest], context: Context
    ) -> AsyncIterator[dpb.SessionResponse]:
        """See `DeviceService`."""
        service = await self._of(context)
        async with aclosing(service.Session(request_iterator, context)) as answers:
            async for answer in answers:
                yield answer

    async def Measure(  # noqa: N802
        self, request_iterator: AsyncIterator[dpb.MeasureRequest], context: Context
    ) -> AsyncIterator[dpb.MeasureResponse]:
        """See `DeviceService`."""
        service = await self._of(context)
        async with aclosing(service.Measure(request_iterator, context)) as answers:
            async for answer in answers:
                yield answer
