"""The tracker as asyncio programs read it: devices, queue, leases, results, events."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tunefarm_proto import rpc, security
from tunefarm_proto.errors import TrackerUnreachableError
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

from tunefarm.channel import HELLO_TIMEOUT_S, explained, named_errors, tracker_address
from tunefarm.tracker import CALL_TIMEOUT_S, tracker_unreachable


class AsyncFarm:
    """A connection to a tracker in the running loop: `async with AsyncFarm(address) as farm`.

    Entering says hello. Everything here raises TrackerUnreachableError where the tracker does not
    answer, and ProtocolMismatchError where a stranger does. Answers are messages of `tunefarm.v1`.
    `credentials`: else as the environment says.
    """

    def __init__(self, address: str | None = None, credentials: Credentials | None = None) -> None:
        self.address = tracker_address(address)
        self.credentials = credentials or Credentials.from_environment()
        self._unreachable = tracker_unreachable(self.address)

    async def __aenter__(self) -> Self:
        self._channel = security.aio_tracker_channel(self.address, self.credentials)
        self._stub: tpb_grpc.TrackerServiceAsyncStub = tpb_grpc.TrackerServiceStub(self._channel)
        hello: pb_grpc.HelloServiceAsyncStub = pb_grpc.HelloServiceStub(self._channel)
        try:
            with self._named_errors():
                answer = await hello.Hello(
                    pb.HelloRequest(peer=rpc.this_peer("client")),
                    timeout=HELLO_TIMEOUT_S,
                    metadata=rpc.call_metadata(),
                )
            rpc.check_hello(answer.peer, self.address)
        except TrackerUnreachableError as error:
            await self._channel.close()
            raise await asyncio.to_thread(
                explained, error, self.address, self.credentials
            ) from None
        except BaseException:
            await self._channel.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        with named_errors(self._unreachable):
            yield

    async def devices(self, key: str = "") -> list[tpb.Device]:
        """Every device known, or those of one key, ordered by key and id."""
        with self._named_errors():
            answer = await self._stub.ListDevices(
                tpb.ListDevicesRequest(key=key),
                timeout=CALL_TIMEOUT_S,
                metadata=rpc.call_metadata(),
            )
        return list(answer.devices)

    async def queue(self, key: str = "") -> list[tpb.QueuedRequest]:
        """Waiting requests in the order in which they would be served."""
        with self._named_errors():
            answer = await self._stub.ListQueue(
                tpb.ListQueueRequest(key=key), timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return list(answer.requests)

    async def leases(self) -> list[pb.Lease]:
        """Live leases, oldest first."""
        with self._named_errors():
            answer = await self._stub.ListLeases(
                tpb.ListLeasesRequest(), timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return list(answer.leases)

    async def results(
        self, workload: str = "", device_id: str = "", device_key: str = "", limit: int = 100
    ) -> list[tpb.Result]:
        """Results, newest first; empty fields ask for all."""
        request = tpb.ListResultsRequest(
            workload=workload, device_id=device_id, device_key=device_key, limit=limit
        )
        with self._named_errors():
            answer = await self._stub.ListResults(
                request, timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return list(answer.results)

    async def watch(self, after: int = 0) -> AsyncIterator[tpb.WatchEventsResponse]:
        """Events after a cursor, then as they happen; ends when the tracker ends the stream."""
        call = self._stub.WatchEvents(
            tpb.WatchEventsRequest(after=after), metadata=rpc.call_metadata()
        )
        try:
            with self._named_errors():
                async for event in call:
                    yield event
        finally:
            call.cancel()
