"""A simulated device and a client's end of a request, for tests: real streams, no kernels."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
from tunefarm_proto import errors, rpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

UNREACHABLE = errors.TrackerUnreachableError("the tracker does not answer")


@dataclass
class SimulatedDevice:
    """Opens Synchronize and obeys: takes the lease it is told, drops it when told none.

    `told` holds every answer; `obey=False` leaves the lease running, as a device does which is
    still cleaning. `error` is what ended the stream.
    """

    stub: "tpb_grpc.TrackerServiceAsyncStub"
    device_id: str
    key: str
    instance_id: str = "first"
    obey: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    lease_id: str = ""
    fence: int = 0
    told: list[tpb.SynchronizeResponse] = field(default_factory=list)
    error: errors.TunefarmError | None = None
    _outgoing: "asyncio.Queue[tpb.SynchronizeRequest | None]" = field(default_factory=asyncio.Queue)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _task: "asyncio.Task[None] | None" = None

    async def __aenter__(self) -> Self:
        """Connect and wait for the first answer."""
        self._task = asyncio.create_task(self._run())
        await self.until(lambda: bool(self.told))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut the stream."""
        await self.cut()

    async def cut(self) -> None:
        """Break the stream without a word."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def report(self) -> None:
        """State what is."""
        self._outgoing.put_nowait(
            tpb.SynchronizeRequest(
                device_id=self.device_id,
                key=self.key,
                addresses=[f"{self.device_id}.test:1"],
                facts=pb.DeviceFacts(os="simulated"),
                lease_id=self.lease_id,
                fence=self.fence,
                instance_id=self.instance_id,
                labels=self.labels,
            )
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of the device, or its stream has ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.error is not None or holds())

    async def _reports(self) -> AsyncIterator[tpb.SynchronizeRequest]:
        while (request := await self._outgoing.get()) is not None:
            yield request

    async def _run(self) -> None:
        self.report()
        try:
            stream = self.stub.Synchronize(self._reports(), metadata=rpc.call_metadata())
            async for answer in stream:
                self._take(answer)
                async with self._changed:
                    self.told.append(answer)
                    self._changed.notify_all()
            problem: errors.TunefarmError = UNREACHABLE
        except grpc.RpcError as error:
            problem = rpc.error_of_call(error, UNREACHABLE)
        async with self._changed:
            self.error = problem
            self._changed.notify_all()

    def _take(self, answer: tpb.SynchronizeResponse) -> None:
        wanted = answer.lease.id if answer.HasField("lease") else ""
        news = wanted != self.lease_id or answer.ended_lease_id
        if news and (self.obey or wanted):
            self.lease_id, self.fence = wanted, max(self.fence, answer.lease.fence)
            self.report()


class SimulatedClient:
    """A client's end of RequestDevice: `say` one message, `hear` the next of a kind."""

    def __init__(self, stub: "tpb_grpc.TrackerServiceAsyncStub", wish: tpb.DeviceRequest) -> None:
        self._stream = stub.RequestDevice(metadata=rpc.call_metadata())
        self._wish = wish
        self.heard: list[tpb.RequestDeviceResponse] = []

    async def __aenter__(self) -> Self:
        """Open the request."""
        await self._stream.write(tpb.RequestDeviceRequest(open=self._wish))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Break the stream without a word."""
        self._stream.cancel()

    async def heartbeat(self) -> None:
        """Say that the holder lives."""
        await self._stream.write(tpb.RequestDeviceRequest(heartbeat=tpb.Heartbeat()))

    async def release(self) -> None:
        """End the request or lease, and hear that it is over."""
        await self._stream.write(tpb.RequestDeviceRequest(release=tpb.Release()))
        await self._hear("ended")

    async def queued(self) -> tpb.QueuePosition:
        """The next word on where the request stands."""
        return (await self._hear("queued")).queued

    async def granted(self) -> tpb.Grant:
        """The grant."""
        return (await self._hear("granted")).granted

    async def renewed(self) -> tpb.Renewal:
        """The answer to a heartbeat."""
        return (await self._hear("renewed")).renewed

    async def ended(self) -> errors.TunefarmError | None:
        """How it ended: the error, or None after a release."""
        answer = (await self._hear("ended")).ended
        return errors.from_proto(answer.error) if answer.HasField("error") else None

    async def _hear(self, kind: str) -> tpb.RequestDeviceResponse:
        """The next message of a kind; raises what came instead."""
        try:
            while True:
                answer = await self._stream.read()
                if not isinstance(answer, tpb.RequestDeviceResponse):
                    raise AssertionError(f"the stream ended before anything was {kind}")
                self.heard.append(answer)
                if answer.WhichOneof("message") == kind:
                    return answer
                if answer.HasField("ended"):
                    raise errors.from_proto(answer.ended.error)
        except grpc.RpcError as error:
            raise rpc.error_of_call(error, UNREACHABLE) from None
