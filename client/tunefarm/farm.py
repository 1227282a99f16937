"""The tracker as asyncio programs use it: what it knows, as it changes, and what may be done."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from tunefarm_proto import rpc, security
from tunefarm_proto.errors import TrackerUnreachableError
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import account_pb2 as apb
from tunefarm_proto.v1 import account_pb2_grpc as apb_grpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

from tunefarm.awaited import uptime
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
        self._accounts: apb_grpc.AccountServiceAsyncStub = apb_grpc.AccountServiceStub(
            self._channel
        )
        hello: pb_grpc.HelloServiceAsyncStub = pb_grpc.HelloServiceStub(self._channel)
        try:
            with self._named_errors():
                answer = await hello.Hello(
                    pb.HelloRequest(peer=rpc.this_peer("client")),
                    timeout=HELLO_TIMEOUT_S,
                    metadata=rpc.call_metadata(),
                )
            rpc.check_hello(answer.peer, self.address)
            self._started = time.monotonic() - uptime(answer)
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

    @property
    def uptime_s(self) -> float:
        """Seconds since the tracker was started; infinite where it does not tell."""
        return time.monotonic() - self._started

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        with named_errors(self._unreachable):
            yield

    async def _call(self, method: Any, request: Any) -> Any:
        with self._named_errors():
            return await method(request, timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata())

    # What the tracker knows.

    async def devices(self, key: str = "", ids: Sequence[str] = ()) -> list[tpb.Device]:
        """Every device known, or those of one key or of these ids, ordered by key and id."""
        request = tpb.ListDevicesRequest(key=key, ids=ids)
        return list((await self._call(self._stub.ListDevices, request)).devices)

    async def queue(self, key: str = "") -> list[tpb.QueuedRequest]:
        """Waiting requests in the order in which they would be served."""
        answer = await self._call(self._stub.ListQueue, tpb.ListQueueRequest(key=key))
        return list(answer.requests)

    async def leases(self) -> list[pb.Lease]:
        """Live leases, oldest first."""
        return list((await self._call(self._stub.ListLeases, tpb.ListLeasesRequest())).leases)

    async def past_leases(
        self,
        *,
        device_id: str = "",
        holder: str = "",
        request_id: str = "",
        since: float = 0.0,
        until: float = 0.0,
        limit: int = 100,
    ) -> list[tpb.PastLease]:
        """Leases that have ended, last ended first; empty fields ask for all.

        They ended at `since` or later and were granted before `until`, seconds since 1970.
        """
        request = tpb.ListPastLeasesRequest(
            device_id=device_id, holder=holder, request_id=request_id, limit=limit
        )
        if since:
            request.since.FromNanoseconds(round(since * 1e9))
        if until:
            request.until.FromNanoseconds(round(until * 1e9))
        return list((await self._call(self._stub.ListPastLeases, request)).leases)

    async def events(
        self,
        subject: str,
        kind: tpb.EventKind.ValueType = tpb.EVENT_KIND_DEVICE,
        limit: int = 100,
    ) -> list[tpb.WatchEventsResponse]:
        """What happened to one device, request, lease or result, newest first."""
        request = tpb.ListEventsRequest(subject=subject, kind=kind, limit=limit)
        return list((await self._call(self._stub.ListEvents, request)).events)

    async def results(
        self,
        workload: str = "",
        device_id: str = "",
        device_key: str = "",
        limit: int = 100,
        *,
        result_id: str = "",
        since: float = 0.0,
        until: float = 0.0,
    ) -> list[tpb.Result]:
        """Results, newest first; empty fields ask for all. Times are seconds since 1970."""
        request = tpb.ListResultsRequest(
            workload=workload, device_id=device_id, device_key=device_key, limit=limit, id=result_id
        )
        if since:
            request.since.FromNanoseconds(round(since * 1e9))
        if until:
            request.until.FromNanoseconds(round(until * 1e9))
        return list((await self._call(self._stub.ListResults, request)).results)

    async def tunings(self, run_id: str = "") -> list[tpb.TuningRun]:
        """What tuning runs are at, latest started first; of one id, or all that are kept."""
        request = tpb.ListTuningsRequest(id=run_id)
        return list((await self._call(self._stub.ListTunings, request)).runs)

    async def watch_tunings(self) -> AsyncIterator[tpb.TuningRun]:
        """Each tuning run as it is, then each that changed; ends when the tracker ends it."""
        call = self._stub.WatchTunings(tpb.WatchTuningsRequest(), metadata=rpc.call_metadata())
        try:
            with self._named_errors():
                async for answer in call:
                    yield answer.run
        finally:
            call.cancel()

    async def users(self) -> list[tpb.User]:
        """Who holds, waits, has used devices lately or has a quota, ordered by name."""
        return list((await self._call(self._stub.ListUsers, tpb.ListUsersRequest())).users)

    async def identity(self) -> apb.GetIdentityResponse:
        """Who we are to the tracker. Raises: UnauthenticatedError."""
        answer: apb.GetIdentityResponse = await self._call(
            self._accounts.GetIdentity, apb.GetIdentityRequest()
        )
        return answer

    # For operators.

    async def tokens(self) -> list[apb.Token]:
        """Every token, newest first, those revoked included. Raises: PermissionDeniedError."""
        return list((await self._call(self._accounts.ListTokens, apb.ListTokensRequest())).tokens)

    async def create_token(self, name: str, role: apb.Role.ValueType) -> tuple[apb.Token, str]:
        """Make a token; gives it and its secret, which nobody can give again.

        Raises: PermissionDeniedError, InvalidRequestError.
        """
        request = apb.CreateTokenRequest(name=name, role=role)
        answer = await self._call(self._accounts.CreateToken, request)
        return answer.token, answer.secret

    async def revoke_token(self, token_id: str) -> list[apb.Token]:
        """End a token. Raises: PermissionDeniedError, InvalidRequestError."""
        request = apb.RevokeTokenRequest(id=token_id)
        return list((await self._call(self._accounts.RevokeToken, request)).tokens)

    async def audit(self, limit: int = 100, after: int = 0) -> list[apb.AuditEntry]:
        """The newest entries of the audit log, or those after a cursor; oldest first.

        Raises: PermissionDeniedError.
        """
        request = apb.ListAuditRequest(limit=limit, after=after, newest=not after)
        return list((await self._call(self._accounts.ListAudit, request)).entries)

    async def manage(
        self, device_id: str, action: tpb.DeviceAction.ValueType, reason: str = ""
    ) -> tpb.Device:
        """Drain, enable, quarantine, retire or forget a device.

        Raises: PermissionDeniedError, UnknownDeviceError.
        """
        request = tpb.ManageDeviceRequest(device_id=device_id, action=action, reason=reason)
        device: tpb.Device = (await self._call(self._stub.ManageDevice, request)).device
        return device

    async def revoke_lease(self, lease_id: str, reason: str = "") -> bool:
        """End somebody's lease. False where it had ended. Raises: PermissionDeniedError."""
        request = tpb.RevokeLeaseRequest(lease_id=lease_id, reason=reason)
        return bool((await self._call(self._stub.RevokeLease, request)).revoked)

    # For users, of their own requests; for operators, of all.

    async def cancel(self, request_id: str) -> bool:
        """End a waiting request. False where it was over. Raises: PermissionDeniedError."""
        request = tpb.CancelRequestRequest(request_id=request_id)
        return bool((await self._call(self._stub.CancelRequest, request)).cancelled)

    async def change_priority(self, request_id: str, priority: int) -> bool:
        """Move a waiting request. False where it does not wait. Raises: PermissionDeniedError."""
        request = tpb.ChangePriorityRequest(request_id=request_id, priority=priority)
        return bool((await self._call(self._stub.ChangePriority, request)).changed)

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
