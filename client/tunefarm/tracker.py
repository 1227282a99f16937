"""What the tracker knows: devices, queue, leases, results."""

from collections.abc import Iterator
from typing import Any, Self

from tunefarm_proto import rpc
from tunefarm_proto.errors import TrackerUnreachableError
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

from tunefarm.channel import connect, named_errors, tracker_address

CALL_TIMEOUT_S = 10.0
RESULT_PAGE = 500


def tracker_unreachable(address: str) -> TrackerUnreachableError:
    """The error for a tracker that does not answer."""
    return TrackerUnreachableError(
        f"no tracker answers at {address}",
        "start one with `tunefarm tracker`, or name the right one by --tracker or TUNEFARM_TRACKER",
    )


def wanted(request: tpb.DeviceRequest) -> str:
    """What a request is for, in one line: its key, or the keys and conditions of its needs."""
    if request.key:
        return request.key
    return " + ".join(
        " or ".join(need.keys)
        + (f" [{'; '.join(f'{k} {v}' for k, v in need.where.items())}]" if need.where else "")
        for need in request.needs
    )


class Tracker:
    """A connection to a tracker. A context manager; all methods raise TrackerUnreachableError.

    Answers are the messages of `tunefarm.v1`. `credentials`: else as the environment says. Where
    the tracker wants a token, all raise UnauthenticatedError and PermissionDeniedError.
    """

    def __init__(self, address: str | None = None, credentials: Credentials | None = None) -> None:
        self.address = tracker_address(address)
        self.credentials = credentials or Credentials.from_environment()
        self._unreachable = tracker_unreachable(self.address)
        self.channel = connect(
            self.address, self._unreachable, credentials=self.credentials, to_tracker=True
        )
        self.stub = tpb_grpc.TrackerServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()

    def devices(self, key: str = "") -> list[tpb.Device]:
        """Every device known, or those of one key, ordered by key and id."""
        with named_errors(self._unreachable):
            answer = self.stub.ListDevices(
                tpb.ListDevicesRequest(key=key),
                timeout=CALL_TIMEOUT_S,
                metadata=rpc.call_metadata(),
            )
        return list(answer.devices)

    def queue(self, key: str = "") -> list[tpb.QueuedRequest]:
        """Waiting requests in the order in which they would be served."""
        with named_errors(self._unreachable):
            answer = self.stub.ListQueue(
                tpb.ListQueueRequest(key=key), timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return list(answer.requests)

    def leases(self) -> list[pb.Lease]:
        """Live leases, oldest first."""
        with named_errors(self._unreachable):
            answer = self.stub.ListLeases(
                tpb.ListLeasesRequest(), timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return list(answer.leases)

    def cancel(self, request_id: str) -> bool:
        """End a waiting request. False where it was over already."""
        with named_errors(self._unreachable):
            answer = self.stub.CancelRequest(
                tpb.CancelRequestRequest(request_id=request_id),
                timeout=CALL_TIMEOUT_S,
                metadata=rpc.call_metadata(),
            )
        return answer.cancelled

    def record(self, result: tpb.Result) -> bool:
        """Keep a result. False where one with its id is kept already."""
        with named_errors(self._unreachable):
            answer = self.stub.RecordResult(
                tpb.RecordResultRequest(result=result),
                timeout=CALL_TIMEOUT_S,
                metadata=rpc.call_metadata(),
            )
        return answer.added

    def results(
        self,
        workload: str = "",
        device_id: str = "",
        device_key: str = "",
        limit: int = 100,
        *,
        user: str = "",
        since: float | None = None,
        until: float | None = None,
        before_id: str = "",
    ) -> list[tpb.Result]:
        """Results, newest first; empty fields ask for all.

        `since` and `until` are seconds since 1970; `before_id` goes on after the last of a page.
        """
        request = tpb.ListResultsRequest(
            workload=workload,
            device_id=device_id,
            device_key=device_key,
            limit=limit,
            user=user,
            before_id=before_id,
        )
        if since is not None:
            request.since.FromNanoseconds(round(since * 1e9))
        if until is not None:
            request.until.FromNanoseconds(round(until * 1e9))
        with named_errors(self._unreachable):
            answer = self.stub.ListResults(
                request, timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return list(answer.results)

    def iterate_results(self, **query: Any) -> Iterator[tpb.Result]:
        """All results that `results` would find, a page at a time, newest first."""
        last = ""
        while page := self.results(**query, limit=RESULT_PAGE, before_id=last):
            yield from page
            last = page[-1].id

    def manage(
        self, device_id: str, action: tpb.DeviceAction.ValueType, reason: str = ""
    ) -> tpb.Device:
        """Drain, enable, quarantine, retire or forget a device. Raises: UnknownDeviceError."""
        request = tpb.ManageDeviceRequest(device_id=device_id, action=action, reason=reason)
        with named_errors(self._unreachable):
            answer = self.stub.ManageDevice(
                request, timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return answer.device

    def record_health_check(
        self, device_id: str, passed: bool, detail: str, severe: bool = False
    ) -> tpb.Device:
        """Tell how a health check went; a severe failure quarantines at once.

        Raises: UnknownDeviceError.
        """
        request = tpb.RecordHealthCheckRequest(
            device_id=device_id, passed=passed, detail=detail, severe=severe
        )
        with named_errors(self._unreachable):
            answer = self.stub.RecordHealthCheck(
                request, timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return answer.device

    def revoke(self, lease_id: str, reason: str = "") -> bool:
        """End somebody's lease. False where it had ended already."""
        request = tpb.RevokeLeaseRequest(lease_id=lease_id, reason=reason)
        with named_errors(self._unreachable):
            answer = self.stub.RevokeLease(
                request, timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return answer.revoked

    def set_quota(
        self, user: str, max_devices: int | None = None, max_requests: int | None = None
    ) -> None:
        """Limit what a user may have at a time; None does not limit."""
        request = tpb.SetQuotaRequest(user=user, max_devices=max_devices, max_requests=max_requests)
        with named_errors(self._unreachable):
            self.stub.SetQuota(request, timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata())

    def users(self) -> list[tpb.User]:
        """Who holds, waits, has used devices lately or has a quota, ordered by name."""
        with named_errors(self._unreachable):
            answer = self.stub.ListUsers(
                tpb.ListUsersRequest(), timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return list(answer.users)

    def watch(self, after: int = 0) -> Iterator[tpb.WatchEventsResponse]:
        """Events after a cursor, then as they happen; ends when the tracker goes away."""
        with named_errors(self._unreachable):
            yield from self.stub.WatchEvents(
                tpb.WatchEventsRequest(after=after), metadata=rpc.call_metadata()
            )

    def report_tuning(self, run: tpb.TuningRun) -> None:
        """State what a tuning run is at, all of it: it replaces what was told before."""
        with named_errors(self._unreachable):
            self.stub.ReportTuning(
                tpb.ReportTuningRequest(run=run),
                timeout=CALL_TIMEOUT_S,
                metadata=rpc.call_metadata(),
            )

    def tunings(self, run_id: str = "") -> list[tpb.TuningRun]:
        """What tuning runs are at, latest started first; of one id, or all that are kept."""
        with named_errors(self._unreachable):
            answer = self.stub.ListTunings(
                tpb.ListTuningsRequest(id=run_id),
                timeout=CALL_TIMEOUT_S,
                metadata=rpc.call_metadata(),
            )
        return list(answer.runs)

    def watch_tunings(self, run_id: str = "") -> Iterator[tpb.TuningRun]:
        """Each tuning run as it is, then each that changed; ends when the tracker goes away."""
        with named_errors(self._unreachable):
            request = tpb.WatchTuningsRequest(id=run_id)
            for answer in self.stub.WatchTunings(request, metadata=rpc.call_metadata()):
                yield answer.run
