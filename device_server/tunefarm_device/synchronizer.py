"""The device's stream to the tracker: states what is, does what it is told should be."""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator

import grpc
from tunefarm_proto import errors, rpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

from tunefarm_device.facts import read_conditions
from tunefarm_device.gate import Gate

_log = logging.getLogger(__name__)
RECONNECT_S = (0.2, 3.0)
HEARTBEAT_S = 1.0
ORPHAN_S = 60.0  # a lease that nobody uses ends this long after the tracker went away


class Synchronizer:
    """Keeps the stream, for ever. While the tracker is away the lease goes on being served."""

    def __init__(
        self, tracker: str, device_id: str, key: str, addresses: list[str], facts: pb.DeviceFacts
    ) -> None:
        self._tracker = tracker
        self._who = (device_id, key, addresses, uuid.uuid4().hex)
        self._facts = facts
        self._changed = asyncio.Event()
        self._interval = HEARTBEAT_S
        self.gate = Gate(self._changed.set)

    async def run(self) -> None:
        """Connect, and connect again."""
        wait, said = RECONNECT_S[0], ""
        away_since: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._serve_one_stream()
                problem = "the tracker ended the stream"
            except errors.TunefarmError as error:
                problem = str(error)
            away_since = away_since if away_since and loop.time() - started < 2 else loop.time()
            if problem != said:
                _log.warning("%s; trying again until it answers", problem)
                said = problem
            if loop.time() - started > 5:
                wait, said = RECONNECT_S[0], ""
            if loop.time() - away_since > ORPHAN_S and not self.gate.busy:
                await self.gate.state(None, "")
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
            wait = min(2 * wait, RECONNECT_S[1])

    async def _serve_one_stream(self) -> None:
        unreachable = errors.TrackerUnreachableError(
            f"no tracker answers at {self._tracker}", "start it, or name another by --tracker"
        )
        async with grpc.aio.insecure_channel(self._tracker, options=rpc.CLIENT_OPTIONS) as channel:
            try:
                hello = await pb_grpc.HelloServiceStub(channel).Hello(
                    pb.HelloRequest(peer=rpc.this_peer("device")),
                    metadata=rpc.call_metadata(),
                    timeout=10,
                )
                rpc.check_hello(hello.peer, self._tracker)
                stream = tpb_grpc.TrackerServiceStub(channel).Synchronize(
                    self._reports(), metadata=rpc.call_metadata()
                )
                _log.info("synchronizing with %s", self._tracker)
                async for wish in stream:
                    interval = wish.heartbeat_interval.ToTimedelta().total_seconds()
                    if interval and interval != self._interval:
                        self._interval = interval
                        self._changed.set()
                    lease = wish.lease if wish.HasField("lease") else None
                    await self.gate.state(lease, wish.token_sha256)
            except grpc.RpcError as error:
                raise rpc.error_of_call(error, unreachable) from None

    async def _reports(self) -> AsyncIterator[tpb.SynchronizeRequest]:
        device_id, key, addresses, instance = self._who
        facts: pb.DeviceFacts | None = self._facts
        while True:
            self._changed.clear()
            yield tpb.SynchronizeRequest(
                device_id=device_id,
                key=key,
                addresses=addresses,
                facts=facts,
                lease_id=self.gate.lease.id if self.gate.lease else "",
                fence=self.gate.fence,
                conditions=read_conditions(),
                instance_id=instance,
            )
            facts = None
            try:
                async with asyncio.timeout(self._interval):
                    await self._changed.wait()
            except TimeoutError:
                continue
