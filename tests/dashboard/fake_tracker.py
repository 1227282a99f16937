"""A tracker that says what the test wants, over real gRPC; and the dashboard, served for real."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI
from google.protobuf.timestamp_pb2 import Timestamp
from tunefarm.cli.processes import free_port
from tunefarm_dashboard.server import create_app
from tunefarm_proto import serving
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import account_pb2 as apb
from tunefarm_proto.v1 import account_pb2_grpc as apb_grpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

T = TypeVar("T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all: gRPC's asyncio side does not like several in one process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def run(work: Coroutine[Any, Any, T]) -> T:
    """Carry it out in the loop's thread."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(30)


def ago(seconds: float) -> Timestamp:
    """A moment in the past; in the future where negative."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) - timedelta(seconds=seconds))
    return stamp


class FakeAccounts(apb_grpc.AccountServiceServicer):
    """Everybody is an operator, as in a farm without tokens."""

    async def GetIdentity(self, request: Any, context: Any) -> apb.GetIdentityResponse:  # noqa: N802
        return apb.GetIdentityResponse(role=apb.ROLE_OPERATOR)

    async def ListTokens(self, request: Any, context: Any) -> apb.ListTokensResponse:  # noqa: N802
        return apb.ListTokensResponse()

    async def ListAudit(self, request: Any, context: Any) -> apb.ListAuditResponse:  # noqa: N802
        return apb.ListAuditResponse()


class FakeTracker(tpb_grpc.TrackerServiceServicer):
    """Holds the lists; tests change them and call `tell`. `acts`: what it was asked to do."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.devices: list[tpb.Device] = []
        self.queue: list[tpb.QueuedRequest] = []
        self.leases: list[pb.Lease] = []
        self.results: list[tpb.Result] = []
        self.events: dict[str, list[tpb.WatchEventsResponse]] = {}
        self.past: list[tpb.PastLease] = []
        self.users: list[tpb.User] = []
        self.tunings: list[tpb.TuningRun] = []
        self.acts: list[Any] = []
        self.asked: list[list[str]] = []
        self.calls = 0
        self._watchers: set[asyncio.Queue[tpb.WatchEventsResponse]] = set()

    def start(self) -> None:
        """Listen."""
        run(self._start())

    async def _start(self) -> None:
        self._server = serving.new_server()
        serving.add_hello(self._server, "tracker")
        tpb_grpc.add_TrackerServiceServicer_to_server(self, self._server)
        apb_grpc.add_AccountServiceServicer_to_server(FakeAccounts(), self._server)
        serving.bind(self._server, "127.0.0.1", self.port)
        await self._server.start()

    def stop(self) -> None:
        """Go away as a killed tracker does."""
        run(self._server.stop(0))

    def tell(self, kind: int, subject: str = "", action: str = "") -> None:
        """Send an event to those who watch."""
        event = tpb.WatchEventsResponse(cursor=1, at=ago(0), kind=kind, subject=subject)
        event.action = action
        _loop().call_soon_threadsafe(lambda: [w.put_nowait(event) for w in self._watchers])

    async def ListDevices(self, request: Any, context: Any) -> tpb.ListDevicesResponse:  # noqa: N802
        self.calls += 1
        self.asked.append(list(request.ids))
        asked = [d for d in self.devices if not request.ids or d.id in request.ids]
        return tpb.ListDevicesResponse(devices=asked)

    async def ListEvents(self, request: Any, context: Any) -> tpb.ListEventsResponse:  # noqa: N802
        return tpb.ListEventsResponse(events=self.events.get(request.subject, []))

    async def ListPastLeases(  # noqa: N802
        self, request: Any, context: Any
    ) -> tpb.ListPastLeasesResponse:
        found = [
            p
            for p in self.past
            if request.device_id in ("", p.lease.device_id)
            and request.request_id in ("", p.lease.request_id)
        ]
        found.sort(key=lambda past: -past.ended_at.seconds)
        return tpb.ListPastLeasesResponse(leases=found[: request.limit])

    async def ListUsers(self, request: Any, context: Any) -> tpb.ListUsersResponse:  # noqa: N802
        return tpb.ListUsersResponse(users=self.users)

    async def CancelRequest(  # noqa: N802
        self, request: Any, context: Any
    ) -> tpb.CancelRequestResponse:
        self.acts.append(request)
        return tpb.CancelRequestResponse(cancelled=True)

    async def ChangePriority(  # noqa: N802
        self, request: Any, context: Any
    ) -> tpb.ChangePriorityResponse:
        self.acts.append(request)
        return tpb.ChangePriorityResponse(changed=True)

    async def RevokeLease(  # noqa: N802
        self, request: Any, context: Any
    ) -> tpb.RevokeLeaseResponse:
        self.acts.append(request)
        return tpb.RevokeLeaseResponse(revoked=True)

    async def ManageDevice(  # noqa: N802
        self, request: Any, context: Any
    ) -> tpb.ManageDeviceResponse:
        self.acts.append(request)
        return tpb.ManageDeviceResponse()

    async def ListQueue(self, request: Any, context: Any) -> tpb.ListQueueResponse:  # noqa: N802
        return tpb.ListQueueResponse(requests=self.queue)

    async def ListLeases(self, request: Any, context: Any) -> tpb.ListLeasesResponse:  # noqa: N802
        return tpb.ListLeasesResponse(leases=self.leases)

    async def ListResults(  # noqa: N802
        self, request: tpb.ListResultsRequest, context: Any
    ) -> tpb.ListResultsResponse:
        found = [
            r
            for r in self.results
            if request.device_id in ("", r.device_id)
            and request.workload in ("", r.workload)
            and request.id in ("", r.id)
        ]
        return tpb.ListResultsResponse(results=found[: request.limit])

    async def ListTunings(  # noqa: N802
        self, request: Any, context: Any
    ) -> tpb.ListTuningsResponse:
        return tpb.ListTuningsResponse(runs=self.tunings)

    async def WatchTunings(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[tpb.WatchTuningsResponse]:
        told: dict[str, bytes] = {}
        while True:  # what tests change is seen soon
            for run in self.tunings:
                if told.get(run.id) != (now := run.SerializeToString(deterministic=True)):
                    told[run.id] = now
                    yield tpb.WatchTuningsResponse(run=run)
            await asyncio.sleep(0.05)

    async def WatchEvents(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[tpb.WatchEventsResponse]:
        queue: asyncio.Queue[tpb.WatchEventsResponse] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield tpb.WatchEventsResponse(cursor=1)
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)


def device(
    name: str,
    key: str,
    state: int = tpb.DEVICE_STATE_IDLE,
    *,
    emulated: bool = False,
    **fields: Any,
) -> tpb.Device:
    """A healthy device."""
    triple = "aarch64-unknown-linux-gnu" if emulated else "x86_64-unknown-linux-gnu"
    cpu = "cortex-a53" if emulated else "znver4"
    facts = pb.DeviceFacts(
        target=pb.Target(
            triple=triple, cpu=cpu, features=["neon"] if emulated else ["avx2", "fma"]
        ),
        cpu_model=cpu,
        cpu_count=4,
        memory_bytes=1 << 30,
        os="Debian GNU/Linux 12 (bookworm)",
        kernel="6.1.0",
        emulated=emulated,
        emulator="qemu-user" if emulated else "",
        isolation=["process-group", "rlimits"],
    )
    given = {"health": tpb.DEVICE_HEALTH_GOOD, "last_seen": ago(1), **fields}
    return tpb.Device(
        id=name, key=key, addresses=["127.0.0.1:4711"], facts=facts, state=state, **given
    )


def lease(of: tpb.Device, holder: str, purpose: str = "") -> pb.Lease:
    """A lease granted two minutes ago."""
    return pb.Lease(
        id=f"lease-{of.id}",
        device_id=of.id,
        device_key=of.key,
        holder=holder,
        purpose=purpose,
        granted_at=ago(125),
        deadline=ago(-9),
    )


def past_lease(of: tpb.Device, holder: str, begun: float, ended: float) -> tpb.PastLease:
    """A lease that began and ended so many seconds ago."""
    held = lease(of, holder, "nightly")
    held.granted_at.CopyFrom(ago(begun))
    return tpb.PastLease(
        lease=held, queued_at=ago(begun + 30), ended_at=ago(ended), outcome="released"
    )


def event(of: tpb.Device, action: str, detail: str, seconds_ago: float) -> tpb.WatchEventsResponse:
    """What happened to a device."""
    return tpb.WatchEventsResponse(
        cursor=1, at=ago(seconds_ago), kind=tpb.EVENT_KIND_DEVICE, subject=of.id, action=action,
        detail=detail,
    )  # fmt: skip


def anchor(of: tpb.Device, median: float, seconds_ago: float) -> Any:
    """A reading of the anchor "compute"."""
    made = result(f"anchor{seconds_ago}", of, "anchor compute", [median], operations=0)
    made.recorded_at.CopyFrom(ago(seconds_ago))
    made.timing.after.temperature_celsius = 51.0
    return made


def result(name: str, of: tpb.Device, workload: str, samples: list[float], **fields: Any) -> Any:
    """A result measured half a minute ago."""
    timing = pb.Timing(samples_s=samples, number=8, emulated=of.facts.emulated)
    given = {"operations": 2 * 512**3, "user": "ada", "recorded_at": ago(30), **fields}
    return tpb.Result(
        id=name,
        workload=workload,
        device_id=of.id,
        device_key=of.key,
        target=of.facts.target,
        timing=timing,
        **given,
    )


_apps: dict[str, FastAPI] = {}


def app_at(url: str) -> FastAPI:
    """The application that is served there; `state.board` is its inside."""
    return _apps[url]


@contextmanager
def serving_dashboard(
    address: str, port: int = 0, credentials: Credentials | None = None
) -> Iterator[str]:
    """The dashboard of a tracker, served in the loop's thread. Yields its URL."""
    port = port or free_port(0)
    app = create_app(address, credentials)
    config = uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    serving_it = asyncio.run_coroutine_threadsafe(server.serve(), _loop())
    limit = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < limit
        time.sleep(0.02)
    url = f"http://127.0.0.1:{port}"
    _apps[url] = app
    try:
        yield url
    finally:
        _loop().call_soon_threadsafe(app.state.board.live.close)
        server.should_exit = True
        serving_it.result(10)
