"""The device's stream to its tracker: states what is, is told what should be."""

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from tunefarm_proto import rpc, security
from tunefarm_proto.errors import TrackerUnreachableError, TunefarmError
from tunefarm_proto.handshake import diagnose
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

from tunefarm_device.conditions import ConditionsReader
from tunefarm_device.lease import LeaseGate

HEARTBEAT_S = 5.0
LEAST_HEARTBEAT_S = 0.05
CONNECT_S = 5.0
FIRST_BACKOFF_S = 0.2
MOST_BACKOFF_S = 5.0
AWAY_S = 60.0  # beyond the lease's own time to live

_log = logging.getLogger(__name__)


class TrackerLink:
    """Keeps the stream, and keeps the gate as the tracker says.

    `clean` kills whatever a lease left, and returns when it is gone: the last of what it printed.
    """

    def __init__(
        self,
        tracker: str,
        presence: tpb.SynchronizeRequest,
        gate: LeaseGate,
        conditions: ConditionsReader,
        clean: Callable[[], Awaitable[str]],
        *,
        credentials: Credentials | None = None,
    ) -> None:
        self._credentials = credentials or Credentials()
        self._tracker = tracker
        self._presence = presence  # device id, key, addresses, facts, labels
        self._presence.instance_id = secrets.token_hex(8)
        self._gate = gate
        self._conditions = conditions
        self._clean = clean
        self._heartbeat_s = HEARTBEAT_S
        self._changed = asyncio.Event()  # a report is due, or heartbeats are quicker now
        self._due = False
        self._reported_facts = False
        self._heard = time.monotonic()
        self._wanted = Latest()
        self._lock = asyncio.Lock()  # one change of the lease at a time
        self._anchors: list[tpb.AnchorReading] = []
        self._anchors_due = False
        self._output = tpb.RunnerOutput()  # of the last lease that printed anything
        self._output_due = False
        self._cleaning = ""  # the lease that has ended while it is being cleaned up

    async def run(self) -> None:
        """Keep the stream until cancelled."""
        applier = asyncio.create_task(self._apply_all())
        try:
            await self._keep_stream()
        finally:
            applier.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await applier

    def tell(self, anchors: list[tpb.AnchorReading]) -> None:
        """Have the next report carry these readings, and the first one of each later stream."""
        self._anchors, self._anchors_due = anchors, True

    async def _keep_stream(self) -> None:
        backoff = FIRST_BACKOFF_S
        while True:
            heard = self._heard
            try:
                await self._stream()
            except (TunefarmError, grpc.RpcError) as error:
                if backoff == FIRST_BACKOFF_S:
                    _log.warning("%s; trying again", await self._named(error))
            if self._heard != heard:
                backoff = FIRST_BACKOFF_S
            await self._end_if_forgotten()
            await asyncio.sleep(backoff * (0.5 + random.random()))  # noqa: S311 (jitter)
            backoff = min(backoff * 2, MOST_BACKOFF_S)

    async def _named(self, error: Exception) -> TunefarmError:
        away = TrackerUnreachableError(f"the tracker at {self._tracker} does not answer")
        if isinstance(error, TunefarmError):
            return error
        named = rpc.error_of_call(error, away) if isinstance(error, grpc.RpcError) else away
        if named is not away:
            return named
        why = await asyncio.to_thread(diagnose, self._tracker, self._credentials)
        return TrackerUnreachableError(*why) if why is not None else away

    async def _stream(self) -> None:
        async with security.aio_tracker_channel(self._tracker, self._credentials) as channel:
            metadata = rpc.call_metadata()
            hello = await pb_grpc.HelloServiceStub(channel).Hello(
                pb.HelloRequest(peer=rpc.this_peer("device")), metadata=metadata, timeout=CONNECT_S
            )
            rpc.check_hello(hello.peer, self._tracker)
            self._reported_facts, self._anchors_due, self._output_due = False, True, True
            call = tpb_grpc.TrackerServiceStub(channel).Synchronize(
                self._reports(), metadata=metadata
            )
            known = False
            try:
                async for response in call:
                    if not known:
                        known = True
                        _log.info("known to the tracker at %s", self._tracker)
                    self._heard = time.monotonic()
                    self._wanted.put(response)
            finally:
                call.cancel()

    async def _reports(self) -> AsyncIterator[tpb.SynchronizeRequest]:
        while True:
            self._due = False
            yield self._report()
            sent = time.monotonic()
            while not self._due and (left := sent + self._heartbeat_s - time.monotonic()) > 0:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), left)

    def _report(self) -> tpb.SynchronizeRequest:
        report = tpb.SynchronizeRequest()
        report.CopyFrom(self._presence)
        if self._reported_facts:
            report.ClearField("facts")
            report.ClearField("labels")
        self._reported_facts = True
        if self._anchors_due:
            report.anchors.extend(self._anchors)
            self._anchors_due = False
        if self._output_due and self._output.text:
            report.output.CopyFrom(self._output)
        self._output_due = False
        report.lease_id = self._gate.lease_id or self._cleaning
        report.fence = self._gate.fence
        report.conditions.CopyFrom(self._conditions.read())
        return report

    async def _apply_all(self) -> None:
        while True:
            response = await self._wanted.get()
            try:
                async with self._lock:
                    await self._apply(response)
            except Exception:
                _log.exception("the tracker's answer could not be carried out")

    async def _apply(self, wanted: tpb.SynchronizeResponse) -> None:
        if wanted.HasField("heartbeat_interval"):
            told = max(wanted.heartbeat_interval.ToNanoseconds() * 1e-9, LEAST_HEARTBEAT_S)
            if told < self._heartbeat_s:
                self._changed.set()
            self._heartbeat_s = told
        lease = wanted.lease if wanted.HasField("lease") else None
        if lease is not None and not self._gate.accepts(lease):
            _log.warning("lease %s has fence %d, lower than seen", lease.id, lease.fence)
            lease = None
        if self._gate.lease_id and (lease is None or lease.id != self._gate.lease_id):
            await self._end()
        elif wanted.ended_lease_id:  # heard of, if at all, by its end alone
            self._due = True
            self._changed.set()
        if lease is not None:
            # The tracker knows what it has told: the next heartbeat says that it came to be.
            await self._gate.serve(lease, wanted.token_sha256)

    async def _end(self) -> None:
        self._cleaning = self._gate.lease_id
        self._gate.shut()
        try:
            said = await asyncio.shield(asyncio.ensure_future(self._clean()))
            if said:
                self._output = tpb.RunnerOutput(lease_id=self._cleaning, text=said)
                self._output_due = True
        finally:
            self._cleaning = ""
            self._due = True
            self._changed.set()

    async def _end_if_forgotten(self) -> None:
        async with self._lock:
            lease = self._gate.lease
            if lease is None or self._gate.in_use:
                return
            limit = lease.ttl.ToNanoseconds() * 1e-9 + AWAY_S
            if time.monotonic() - self._heard > limit:
                _log.warning("the tracker is away for %g s: lease %s ends", limit, lease.id)
                await self._end()


class Latest:
    """Holds the last value put; older ones that nobody took do not matter."""

    def __init__(self) -> None:
        self._value: tpb.SynchronizeResponse | None = None
        self._there = asyncio.Event()

    def put(self, value: tpb.SynchronizeResponse) -> None:
        """Replace what is held."""
        self._value = value
        self._there.set()

    async def get(self) -> tpb.SynchronizeResponse:
        """Wait for a value and take it."""
        await self._there.wait()
        self._there.clear()
        assert self._value is not None  # noqa: S101 (for the type checker)
        return self._value


def local_address(tracker: str) -> str:
    """Our address on the interface that reaches the tracker."""
    host, _, port = tracker.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        family, kind, proto, _, where = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.connect(where)  # sends nothing
            return str(probe.getsockname()[0])
    return socket.gethostname()
