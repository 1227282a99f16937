"""TrackerService: converts between messages and the hub."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tunefarm_proto.errors import InvalidRequestError, LeaseLostError
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

from tunefarm_tracker import convert
from tunefarm_tracker.core.model import (
    DeviceDisconnected,
    DeviceReported,
    Ended,
    Granted,
    Heartbeat,
    HolderLost,
    Lease,
    Queued,
    Released,
    Renewed,
)
from tunefarm_tracker.hub import Hub, Notice

_Context = grpc.aio.ServicerContext[Any, Any]
RESULTS = 100
MAX_RESULTS = 10_000


class TrackerService(tpb_grpc.TrackerServiceServicer):
    """Handlers only convert; the scheduler decides."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def Synchronize(  # noqa: N802 (the generated name)
        self, request_iterator: AsyncIterator[tpb.SynchronizeRequest], context: _Context
    ) -> AsyncIterator[tpb.SynchronizeResponse]:
        """A device's stream: its word in, the desired state out."""
        first = await anext(request_iterator, None)
        if first is None or not first.device_id or not first.key:
            raise InvalidRequestError("a device's first message names its device_id and key")
        wake = asyncio.Event()
        self._hub.devices[first.device_id] = wake
        self._report(first)
        wake.set()
        reader = asyncio.create_task(self._read_reports(first, request_iterator, wake))
        try:
            while True:
                await wake.wait()
                wake.clear()
                if self._hub.devices.get(first.device_id) is not wake:
                    raise InvalidRequestError(
                        f"another device server came as {first.device_id}",
                        "give each its own --state",
                    )
                if reader.done():
                    return
                yield self._desired(first.device_id)
        finally:
            reader.cancel()
            if self._hub.devices.get(first.device_id) is wake:
                del self._hub.devices[first.device_id]
                self._hub.dispatch(DeviceDisconnected(first.device_id, first.instance_id))

    async def _read_reports(
        self,
        first: tpb.SynchronizeRequest,
        reports: AsyncIterator[tpb.SynchronizeRequest],
        wake: asyncio.Event,
    ) -> None:
        try:
            async for report in reports:
                if self._hub.devices.get(first.device_id) is not wake:
                    break
                if report.device_id == first.device_id:
                    self._report(report)
                wake.set()  # each report is answered
        finally:
            wake.set()

    def _report(self, said: tpb.SynchronizeRequest) -> None:
        facts = said.facts.SerializeToString(deterministic=True) if said.HasField("facts") else None
        self._hub.dispatch(
            DeviceReported(
                id=said.device_id,
                key=said.key,
                instance=said.instance_id,
                addresses=tuple(said.addresses),
                lease=said.lease_id,
                fence=said.fence,
                facts=facts,
                conditions=said.conditions.SerializeToString(),
            )
        )

    def _desired(self, device_id: str) -> tpb.SynchronizeResponse:
        state = self._hub.scheduler.state
        answer = tpb.SynchronizeResponse()
        answer.heartbeat_interval.FromNanoseconds(round(self._hub.config.heartbeat * 1e9))
        lease = state.leases.get(state.devices[device_id].lease)
        if lease is not None:
            answer.lease.CopyFrom(convert.lease(lease))
            answer.token_sha256 = self._hub.token_sha256(lease.id)
        return answer

    async def RequestDevice(  # noqa: N802
        self, request_iterator: AsyncIterator[tpb.RequestDeviceRequest], context: _Context
    ) -> AsyncIterator[tpb.RequestDeviceResponse]:
        """A client's stream: asks, waits, holds, releases."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("open"):
            raise InvalidRequestError("the first message opens a request")
        wish = first.open
        if not wish.request_id or not wish.key:
            raise InvalidRequestError("a request names its request_id and the key that it wants")
        inbox: asyncio.Queue[Notice] = asyncio.Queue()
        self._hub.clients[wish.request_id] = inbox
        self._hub.dispatch(convert.opened(wish))
        reader = asyncio.create_task(self._read_client(wish.request_id, request_iterator, inbox))
        over = False
        try:
            while not over:
                notice = await inbox.get()
                over = isinstance(notice, Ended)
                if (answer := self._answer(notice)) is not None:
                    yield answer
        finally:
            reader.cancel()
            if self._hub.clients.get(wish.request_id) is inbox:
                del self._hub.clients[wish.request_id]
                if not over:
                    self._hub.dispatch(HolderLost(wish.request_id))

    async def _read_client(
        self,
        request_id: str,
        messages: AsyncIterator[tpb.RequestDeviceRequest],
        inbox: "asyncio.Queue[Notice]",
    ) -> None:
        async for message in messages:
            if self._hub.clients.get(request_id) is not inbox:
                return
            kind = message.WhichOneof("message")
            if kind == "heartbeat":
                self._hub.dispatch(Heartbeat(request_id))
            elif kind == "release":
                self._hub.dispatch(Released(request_id))

    def _answer(self, notice: Notice) -> tpb.RequestDeviceResponse | None:
        match notice:
            case Queued():
                return tpb.RequestDeviceResponse(queued=convert.position(notice))
            case Granted():
                state = self._hub.scheduler.state
                lease = state.leases.get(notice.lease)
                if lease is None:  # it ended while this was on its way; the end follows
                    return None
                device = state.devices[lease.device]
                grant = tpb.Grant(
                    lease=convert.lease(lease),
                    token=self._hub.token(lease.id),
                    addresses=device.addresses,
                    facts=convert.device(device, None).facts,
                )
                return tpb.RequestDeviceResponse(granted=grant)
            case Renewed():
                moved = tpb.Renewal(deadline=convert.timestamp(notice.deadline))
                return tpb.RequestDeviceResponse(renewed=moved)
            case Ended():
                ended = tpb.RequestEnded(error=convert.error(notice.end))
                return tpb.RequestDeviceResponse(ended=ended)

    def _held(self, lease_id: str, token: str) -> Lease:
        lease = self._hub.scheduler.state.leases.get(lease_id)
        if lease is None or not hmac.compare_digest(token, self._hub.token(lease_id)):
            raise LeaseLostError(
                f"no live lease {lease_id!r} opens with that token", "request the device again"
            )
        return lease

    async def RenewLease(  # noqa: N802
        self, request: tpb.RenewLeaseRequest, context: _Context
    ) -> tpb.RenewLeaseResponse:
        """Move a deadline; a lost lease is refused."""
        lease = self._held(request.lease_id, request.token)
        self._hub.dispatch(Heartbeat(lease.request))
        return tpb.RenewLeaseResponse(lease=convert.lease(lease))

    async def ReleaseLease(  # noqa: N802
        self, request: tpb.ReleaseLeaseRequest, context: _Context
    ) -> tpb.ReleaseLeaseResponse:
        """End a lease; one that has ended already stays so."""
        if request.lease_id in self._hub.scheduler.state.leases:
            lease = self._held(request.lease_id, request.token)
            self._hub.dispatch(Released(lease.request))
        return tpb.ReleaseLeaseResponse()

    async def CancelRequest(  # noqa: N802
        self, request: tpb.CancelRequestRequest, context: _Context
    ) -> tpb.CancelRequestResponse:
        """End a waiting request."""
        waiting = request.request_id in self._hub.scheduler.state.requests
        if waiting:
            self._hub.dispatch(Released(request.request_id))
        return tpb.CancelRequestResponse(cancelled=waiting)

    async def ListDevices(  # noqa: N802
        self, request: tpb.ListDevicesRequest, context: _Context
    ) -> tpb.ListDevicesResponse:
        """Devices by key and id."""
        state = self._hub.scheduler.state
        known = sorted(state.devices.values(), key=lambda d: (d.key, d.id))
        return tpb.ListDevicesResponse(
            devices=[
                convert.device(device, state.leases.get(device.lease))
                for device in known
                if request.key in ("", device.key)
            ]
        )

    async def ListQueue(  # noqa: N802
        self, request: tpb.ListQueueRequest, context: _Context
    ) -> tpb.ListQueueResponse:
        """Waiting requests in order."""
        scheduler = self._hub.scheduler
        return tpb.ListQueueResponse(
            requests=[
                convert.queued(waiting, scheduler.position(waiting.id))
                for waiting in scheduler.queue(request.key)
            ]
        )

    async def ListLeases(  # noqa: N802
        self, request: tpb.ListLeasesRequest, context: _Context
    ) -> tpb.ListLeasesResponse:
        """Live leases, oldest first."""
        leases = sorted(self._hub.scheduler.state.leases.values(), key=lambda l: l.granted_at)
        return tpb.ListLeasesResponse(leases=[convert.lease(lease) for lease in leases])

    async def WatchEvents(  # noqa: N802
        self, request: tpb.WatchEventsRequest, context: _Context
    ) -> AsyncIterator[tpb.WatchEventsResponse]:
        """Events after a cursor, then as they happen."""
        past, queue = self._hub.watch(request.after)
        try:
            yield tpb.WatchEventsResponse(cursor=request.after or max(self._hub.cursor, 1))
            for event in past:
                yield convert.event(event)
            while True:
                yield convert.event(await queue.get())
                if queue.full():
                    raise InvalidRequestError("the watcher does not keep up", "resume by cursor")
        finally:
            self._hub.unwatch(queue)

    async def RecordResult(  # noqa: N802
        self, request: tpb.RecordResultRequest, context: _Context
    ) -> tpb.RecordResultResponse:
        """Keep a result once."""
        result = request.result
        if not result.id or not result.workload:
            raise InvalidRequestError("a result names its id and its workload")
        if not result.HasField("recorded_at"):
            result.recorded_at.GetCurrentTime()
        fields = {
            name: getattr(result, name)
            for name in ("id", "workload", "device_id", "device_key", "user")
        }
        added = await self._hub.record(fields, result.SerializeToString())
        return tpb.RecordResultResponse(added=added)

    async def ListResults(  # noqa: N802
        self, request: tpb.ListResultsRequest, context: _Context
    ) -> tpb.ListResultsResponse:
        """Results, newest first."""
        names = ("workload", "device_id", "device_key", "user")
        where = {name: getattr(request, name) for name in names if getattr(request, name)}
        found = self._hub.results(where, min(request.limit or RESULTS, MAX_RESULTS))
        return tpb.ListResultsResponse(results=[tpb.Result.FromString(data) for data in found])
