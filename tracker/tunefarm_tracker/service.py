"""The tracker's service: turns messages into inputs, and effects into messages. No rule is here."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import grpc
from tunefarm_proto.errors import (
    InternalError,
    InvalidRequestError,
    LeaseRefusedError,
    PermissionDeniedError,
    TunefarmError,
)
from tunefarm_proto.identity import Role, current_identity
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

from tunefarm_tracker import convert
from tunefarm_tracker.accounts import Accounts
from tunefarm_tracker.core import inputs
from tunefarm_tracker.core.effects import (
    CancelAnswered,
    DesiredLease,
    DeviceAnswered,
    Ended,
    Message,
    Renewed,
    StreamReplaced,
)
from tunefarm_tracker.holders import Holders, reading
from tunefarm_tracker.hub import Hub, Mailbox
from tunefarm_tracker.outputs import Outputs, may_read
from tunefarm_tracker.store import EventQuery, PastQuery, ResultQuery, ResultRecord
from tunefarm_tracker.tokens import Tokens
from tunefarm_tracker.tunings import Tunings

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
DEFAULT_LIMIT = 100
MOST_ANCHORS = 8
MAX_LIMIT = 100_000
EVENT_PAGE = 500


class TrackerService(tpb_grpc.TrackerServiceServicer):
    """Answers devices, clients and the dashboard."""

    def __init__(self, hub: Hub, tokens: Tokens, accounts: Accounts) -> None:
        self._hub = hub
        self._tokens = tokens
        self._accounts = accounts
        self._holders = Holders(hub, tokens)
        self._state = hub.scheduler.state
        self._tunings = Tunings(hub.clock)
        self._outputs = Outputs()

    async def Synchronize(  # noqa: N802
        self, requests: AsyncIterator[tpb.SynchronizeRequest], context: Context
    ) -> AsyncIterator[tpb.SynchronizeResponse]:
        """A device's stream."""
        with self._hub.mailbox() as box, reading(box, self._read_reports(requests, box)):
            while (message := await box.next()) is not None:
                if isinstance(message, StreamReplaced):
                    raise convert.error_of(message.failure)
                if isinstance(message, DesiredLease):
                    yield self._desired(message)

    async def _read_reports(
        self, requests: AsyncIterator[tpb.SynchronizeRequest], box: Mailbox
    ) -> None:
        device_id = ""
        try:
            async for request in requests:
                report = convert.report_of(request)
                if device_id not in ("", report.device_id):
                    raise InvalidRequestError(
                        f"device {device_id} now calls itself {report.device_id}",
                        "open a stream for each device",
                    )
                device_id = report.device_id
                if request.HasField("output"):
                    self._outputs.keep(device_id, request.output)
                self._hub.feed(inputs.DeviceReported(box.number, report))
                for reading in request.anchors[:MOST_ANCHORS]:
                    await self._keep(convert.anchor_result(request, reading))
        finally:
            self._hub.feed(inputs.DeviceDisconnected(box.number, device_id))

    def _desired(self, message: DesiredLease) -> tpb.SynchronizeResponse:
        lease = message.lease
        return tpb.SynchronizeResponse(
            lease=convert.lease_message(lease) if lease else None,
            token_sha256=self._tokens.digest(lease.id) if lease else "",
            heartbeat_interval=convert.duration(message.heartbeat),
            ended_lease_id=message.ended,
        )

    async def RequestDevice(  # noqa: N802
        self, requests: AsyncIterator[tpb.RequestDeviceRequest], context: Context
    ) -> AsyncIterator[tpb.RequestDeviceResponse]:
        """A client's stream of one request."""
        async for answer in self._holders.one(requests):
            yield answer

    async def RequestDevices(  # noqa: N802
        self, requests: AsyncIterator[tpb.RequestDevicesRequest], context: Context
    ) -> AsyncIterator[tpb.RequestDevicesResponse]:
        """A client's stream of many requests."""
        async for answer in self._holders.many(requests):
            yield answer

    def _check_token(self, lease_id: str, token: str) -> None:
        if not self._tokens.opens(token, lease_id):
            raise LeaseRefusedError(
                "the token does not open this lease", "use the one that came with the grant"
            )

    async def RenewLease(  # noqa: N802
        self, request: tpb.RenewLeaseRequest, context: Context
    ) -> tpb.RenewLeaseResponse:
        """Move a lease's deadline."""
        self._check_token(request.lease_id, request.token)
        with self._hub.mailbox() as box:
            ttl = convert.seconds(request.ttl) if request.HasField("ttl") else None
            self._hub.feed(inputs.LeaseRenewed(box.number, request.lease_id, ttl))
            answer = await box.take()
        if isinstance(answer, Renewed):
            return tpb.RenewLeaseResponse(lease=convert.lease_message(answer.lease))
        if isinstance(answer, Ended) and answer.failure is not None:
            raise convert.error_of(answer.failure)
        raise InternalError(f"a renewal cannot be answered by {type(answer).__name__}")

    async def ReleaseLease(  # noqa: N802
        self, request: tpb.ReleaseLeaseRequest, context: Context
    ) -> tpb.ReleaseLeaseResponse:
        """End a lease."""
        self._check_token(request.lease_id, request.token)
        with self._hub.mailbox() as box:
            self._hub.feed(inputs.LeaseReleased(box.number, request.lease_id))
            await box.take()
        return tpb.ReleaseLeaseResponse()

    async def CancelRequest(  # noqa: N802
        self, request: tpb.CancelRequestRequest, context: Context
    ) -> tpb.CancelRequestResponse:
        """End a waiting request; a user its own only."""
        with self._audited_if_foreign("cancel", request.request_id), self._hub.mailbox() as box:
            self._hub.feed(inputs.RequestCancelled(box.number, request.request_id))
            answer = await box.take()
        done = isinstance(answer, CancelAnswered) and answer.cancelled
        return tpb.CancelRequestResponse(cancelled=done)

    async def ChangePriority(  # noqa: N802
        self, request: tpb.ChangePriorityRequest, context: Context
    ) -> tpb.ChangePriorityResponse:
        """Move a waiting request; a user its own only."""
        name, priority = request.request_id, request.priority
        told = f"priority {priority}"
        with self._audited_if_foreign("move", name, told), self._hub.mailbox() as box:
            self._hub.feed(inputs.PriorityChanged(box.number, name, priority))
            answer = await box.take()
        done = isinstance(answer, CancelAnswered) and answer.cancelled
        return tpb.ChangePriorityResponse(changed=done)

    def _audited_if_foreign(
        self, what: str, request_id: str, detail: str = ""
    ) -> contextlib.AbstractContextManager[list[str]]:
        """Log what an operator does with another user's request.

        Raises: PermissionDeniedError where the caller is none.
        """
        caller, found = current_identity(), self._state.requests.get(request_id)
        foreign = found is not None and found.wish.user != caller.name
        if foreign and not caller.role.includes(Role.OPERATOR):
            raise PermissionDeniedError(
                f"{caller.name} may not {what} a request of somebody else",
                "that needs the role operator",
            )
        subject = f"{request_id} of {found.wish.user}" if found is not None else request_id
        if foreign:
            return self._audited(what, subject, detail)
        return contextlib.nullcontext([])

    async def RevokeLease(  # noqa: N802
        self, request: tpb.RevokeLeaseRequest, context: Context
    ) -> tpb.RevokeLeaseResponse:
        """End somebody's lease."""
        reason = convert.text(request.reason, "reason", needed=False)
        by = current_identity().name
        with self._audited("revoke", request.lease_id, reason) as failed:
            with self._hub.mailbox() as box:
                self._hub.feed(inputs.LeaseRevoked(box.number, request.lease_id, by, reason))
                answer = await box.take()
            done = isinstance(answer, CancelAnswered) and answer.cancelled
            if not done:
                failed.append("no such lease is live")
        return tpb.RevokeLeaseResponse(revoked=done)

    async def ManageDevice(  # noqa: N802
        self, request: tpb.ManageDeviceRequest, context: Context
    ) -> tpb.ManageDeviceResponse:
        """Drain, enable, quarantine, retire or forget a device."""
        action = convert.action_of(request.action)
        reason = convert.text(request.reason, "reason", needed=False)
        by, device = current_identity().name, request.device_id
        with self._audited(action.value, device, reason), self._hub.mailbox() as box:
            self._hub.feed(inputs.DeviceManaged(box.number, device, action, by, reason))
            return tpb.ManageDeviceResponse(device=self._device_in(await box.take()))

    async def RecordHealthCheck(  # noqa: N802
        self, request: tpb.RecordHealthCheckRequest, context: Context
    ) -> tpb.RecordHealthCheckResponse:
        """Take the outcome of a health check."""
        detail = convert.text(request.detail, "detail")
        with self._hub.mailbox() as box:
            self._hub.feed(
                inputs.HealthChecked(
                    box.number, request.device_id, request.passed, detail, request.severe
                )
            )
            return tpb.RecordHealthCheckResponse(device=self._device_in(await box.take()))

    @contextlib.contextmanager
    def _audited(self, action: str, subject: str, detail: str) -> Iterator[list[str]]:
        """Write what an operator does into the audit log, with why it failed.

        Yields the reasons for that, none at first. A caller that leaves before the answer is logged
        as having done it: it may be so.
        """
        failed: list[str] = []
        try:
            yield failed
        except TunefarmError as error:
            failed.append(error.message)
            raise
        finally:
            name, why = subject[: convert.MAX_NAME], "; ".join(failed)
            self._accounts.audit(current_identity(), action, name, detail, why)

    def _device_in(self, answer: Message) -> tpb.Device:
        if isinstance(answer, DeviceAnswered) and answer.device is not None:
            return convert.device_message(self._state, answer.device)
        if isinstance(answer, DeviceAnswered) and answer.failure is not None:
            raise convert.error_of(answer.failure)
        raise InternalError(f"a device cannot be answered by {type(answer).__name__}")

    async def SetQuota(  # noqa: N802
        self, request: tpb.SetQuotaRequest, context: Context
    ) -> tpb.SetQuotaResponse:
        """Limit a user, or lift a limit."""
        quota = convert.quota_of(request)
        with self._audited("quota", request.user, str(quota)), self._hub.mailbox() as box:
            self._hub.feed(inputs.QuotaSet(box.number, quota))
            await box.take()
        return tpb.SetQuotaResponse()

    async def ListUsers(  # noqa: N802
        self, request: tpb.ListUsersRequest, context: Context
    ) -> tpb.ListUsersResponse:
        """Everybody who holds, waits, has used devices lately or has a quota."""
        now = self._hub.clock()
        users = [convert.user_message(self._state, name, now) for name in self._state.users()]
        return tpb.ListUsersResponse(users=users)

    async def ListDevices(  # noqa: N802
        self, request: tpb.ListDevicesRequest, context: Context
    ) -> tpb.ListDevicesResponse:
        """Every device known."""
        known = self._state.devices
        asked = (known[one] for one in set(request.ids) if one in known)
        devices = asked if request.ids else known.values()
        found = [d for d in devices if request.key in ("", d.key)]
        found.sort(key=lambda device: (device.key, device.id))
        messages = [convert.device_message(self._state, device) for device in found]
        return tpb.ListDevicesResponse(devices=messages)

    async def ListQueue(  # noqa: N802
        self, request: tpb.ListQueueRequest, context: Context
    ) -> tpb.ListQueueResponse:
        """Every waiting request."""
        now = self._hub.clock()
        found = [one for one in self._state.queue(now) if request.key in ("", *one.wish.keys)]
        waiting = [convert.queued_message(self._state, one, now) for one in found]
        return tpb.ListQueueResponse(requests=waiting)

    async def ListLeases(  # noqa: N802
        self, request: tpb.ListLeasesRequest, context: Context
    ) -> tpb.ListLeasesResponse:
        """Every live lease."""
        found = sorted(self._state.leases.values(), key=lambda lease: (lease.granted_at, lease.id))
        return tpb.ListLeasesResponse(leases=[convert.lease_message(lease) for lease in found])

    async def ListPastLeases(  # noqa: N802
        self, request: tpb.ListPastLeasesRequest, context: Context
    ) -> tpb.ListPastLeasesResponse:
        """Leases that have ended. What they printed is for their holders and for operators."""
        query = PastQuery(
            device_id=request.device_id,
            holder=request.holder,
            request_id=request.request_id,
            since=convert.moment(request.since),
            until=convert.moment(request.until),
            limit=min(request.limit or DEFAULT_LIMIT, MAX_LIMIT),
        )
        found = await asyncio.wrap_future(self._hub.store.past_leases(query))
        leases = [convert.past_lease_message(one) for one in found]
        caller = current_identity()
        for past in leases:
            if may_read(caller, past.lease.holder):
                past.output = self._outputs.of(past.lease.device_id, past.lease.id)
        return tpb.ListPastLeasesResponse(leases=leases)

    async def ListEvents(  # noqa: N802
        self, request: tpb.ListEventsRequest, context: Context
    ) -> tpb.ListEventsResponse:
        """What happened to one thing."""
        if not request.subject:
            raise InvalidRequestError("events of what?", "name a device, request, lease or result")
        query = EventQuery(
            kind=convert.event_kind_of(request.kind),
            subject=request.subject,
            before=min(request.before, 2**62),
            limit=min(request.limit or DEFAULT_LIMIT, MAX_LIMIT),
        )
        found = await asyncio.wrap_future(self._hub.store.events_of(query))
        return tpb.ListEventsResponse(events=[convert.event_message(one) for one in found])

    async def WatchEvents(  # noqa: N802
        self, request: tpb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[tpb.WatchEventsResponse]:
        """Events from a cursor on. A slow watcher is served from the store: nothing piles up."""
        log = self._hub.events
        cursor = min(request.after, log.cursor) or log.cursor
        yield tpb.WatchEventsResponse(cursor=cursor)
        while True:
            await log.beyond(cursor)
            events = log.after(cursor)
            if events is None:
                page = self._hub.store.events_after(cursor, EVENT_PAGE)
                events = await asyncio.wrap_future(page)
            for event in events:
                yield convert.event_message(event)
                cursor = event.cursor

    async def RecordResult(  # noqa: N802
        self, request: tpb.RecordResultRequest, context: Context
    ) -> tpb.RecordResultResponse:
        """Keep a result."""
        result = request.result
        if not result.id or not result.workload:
            raise InvalidRequestError("the result has no id or no workload", "give it both")
        result.user = current_identity().name or result.user
        return tpb.RecordResultResponse(added=await self._keep(result))

    async def _keep(self, result: tpb.Result) -> bool:
        """Keep a result, unless one with its id is kept already."""
        if not result.HasField("recorded_at"):
            result.recorded_at.CopyFrom(convert.timestamp(self._hub.clock()))
        record = ResultRecord(
            id=result.id,
            workload=result.workload,
            device_id=result.device_id,
            device_key=result.device_key,
            user=result.user,
            body=result.SerializeToString(),
            recorded_at=convert.moment(result.recorded_at),
        )
        added = await asyncio.wrap_future(self._hub.store.add_result(record))
        if added:
            detail = f"{result.workload} on {result.device_id}"
            self._hub.feed(inputs.ResultRecorded(result.id, detail))
        return added

    async def ListResults(  # noqa: N802
        self, request: tpb.ListResultsRequest, context: Context
    ) -> tpb.ListResultsResponse:
        """Results, newest first."""
        query = ResultQuery(
            workload=request.workload,
            device_id=request.device_id,
            device_key=request.device_key,
            user=request.user,
            limit=min(request.limit or DEFAULT_LIMIT, MAX_LIMIT),
            since=convert.moment(request.since),
            until=convert.moment(request.until),
            before_id=request.before_id,
            id=request.id,
        )
        bodies = await asyncio.wrap_future(self._hub.store.results(query))
        return tpb.ListResultsResponse(results=[tpb.Result.FromString(one) for one in bodies])

    async def ReportTuning(  # noqa: N802
        self, request: tpb.ReportTuningRequest, context: Context
    ) -> tpb.ReportTuningResponse:
        """Keep what a tuning run is at."""
        await self._tunings.report(request.run, current_identity().name)
        return tpb.ReportTuningResponse()

    async def ListTunings(  # noqa: N802
        self, request: tpb.ListTuningsRequest, context: Context
    ) -> tpb.ListTuningsResponse:
        """What tuning runs are at."""
        return tpb.ListTuningsResponse(runs=self._tunings.runs(request.id))

    async def WatchTunings(  # noqa: N802
        self, request: tpb.WatchTuningsRequest, context: Context
    ) -> AsyncIterator[tpb.WatchTuningsResponse]:
        """Tuning runs as they change."""
        async for run in self._tunings.watch(request.id):
            yield tpb.WatchTuningsResponse(run=run)
