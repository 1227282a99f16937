"""How tunefarm uses gRPC: channel options, versions in the metadata, errors in the trailers."""

import importlib.metadata
import json
from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc

from tunefarm_proto import errors
from tunefarm_proto.v1 import common_pb2 as pb

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 0
PROTOCOL_HEADER = "tunefarm-protocol"
LEASE_ID_HEADER = "tunefarm-lease-id"
LEASE_TOKEN_HEADER = "tunefarm-lease-token"  # noqa: S105 (a header's name)
ERROR_TRAILER = "tunefarm-error-bin"
CHUNK_BYTES = 1 << 20
MESSAGE_BYTES = 64 << 20
TRACKER_MESSAGE_BYTES = 4 << 20  # what a tracker takes; it may answer more

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

# A hung or cut-off peer is noticed in under 2 s. BDP probing stays on.
Options: TypeAlias = list[tuple[str, int | str]]

CLIENT_OPTIONS: Options = [
    ("grpc.keepalive_time_ms", 500),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_http_proxy", 0),
]
# Beside a kernel that takes every processor, a live peer may need seconds to answer. That a device
# is lost is told by the tracker, whose own pings are not so patient; that a client is lost, by the
# lease that it no longer renews.
PATIENT: Options = [("grpc.keepalive_timeout_ms", 4000), ("grpc.http2.ping_timeout_ms", 4000)]
# What only asks is asked again on a new connection where the one it went over broke.
_ASKED_AGAIN = {
    "tunefarm.v1.HelloService": ("Hello",),
    "tunefarm.v1.AccountService": ("ListTokens", "ListAudit", "GetIdentity"),
    "tunefarm.v1.TrackerService": (
        "RenewLease", "ListUsers", "ListDevices", "ListQueue", "ListLeases", "ListPastLeases",
        "ListEvents", "ListResults", "ListTunings",
    ),
    "tunefarm.v1.DeviceService": ("FindMissingDigests",),
}  # fmt: skip
_AGAIN = {
    "name": [{"service": s, "method": m} for s, methods in _ASKED_AGAIN.items() for m in methods],
    "retryPolicy": {
        "maxAttempts": 3,
        "initialBackoff": "0.1s",
        "maxBackoff": "0.4s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    },
}
USER_OPTIONS: Options = [
    *(pair for pair in CLIENT_OPTIONS if "timeout" not in pair[0]),
    *PATIENT,
    ("grpc.service_config", json.dumps({"methodConfig": [_AGAIN]})),
]
SERVER_OPTIONS: Options = [
    ("grpc.so_reuseport", 0),  # or two servers bind one port in silence
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 400),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.server.max_pending_requests", 20000),
    ("grpc.server.max_pending_requests_hard_limit", 30000),
]
TRACKER_OPTIONS: Options = [("grpc.max_receive_message_length", TRACKER_MESSAGE_BYTES)]

_STATUS: dict[int, grpc.StatusCode] = {
    pb.ERROR_CODE_PROTOCOL_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    pb.ERROR_CODE_INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    pb.ERROR_CODE_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    pb.ERROR_CODE_PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    pb.ERROR_CODE_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    pb.ERROR_CODE_UNKNOWN_KEY: grpc.StatusCode.NOT_FOUND,
    pb.ERROR_CODE_REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    pb.ERROR_CODE_REQUEST_CANCELLED: grpc.StatusCode.CANCELLED,
    pb.ERROR_CODE_QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    pb.ERROR_CODE_UNKNOWN_DEVICE: grpc.StatusCode.NOT_FOUND,
    pb.ERROR_CODE_LEASE_LOST: grpc.StatusCode.FAILED_PRECONDITION,
    pb.ERROR_CODE_LEASE_REFUSED: grpc.StatusCode.PERMISSION_DENIED,
    pb.ERROR_CODE_UPLOAD_CORRUPT: grpc.StatusCode.DATA_LOSS,
    pb.ERROR_CODE_UNKNOWN_DIGEST: grpc.StatusCode.NOT_FOUND,
    pb.ERROR_CODE_OUT_OF_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def software_version() -> str:
    """Version of the installed distribution, "unknown" where it is not installed."""
    try:
        return importlib.metadata.version("tunefarm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def this_peer(component: str) -> pb.Peer:
    """Who we are, for a hello."""
    return pb.Peer(
        protocol_major=PROTOCOL_MAJOR,
        protocol_minor=PROTOCOL_MINOR,
        component=component,
        software_version=software_version(),
    )


def call_metadata(lease_id: str = "", token: str = "") -> Metadata:
    """Metadata of every call; with a lease where the call is to a device."""
    own: Metadata = ((PROTOCOL_HEADER, f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"),)
    return (*own, (LEASE_ID_HEADER, lease_id), (LEASE_TOKEN_HEADER, token)) if lease_id else own


def check_protocol(version: str, peer: str) -> None:
    """Refuse a peer of another major version, in one line.

    Raises: ProtocolMismatchError.
    """
    if version.split(".", 1)[0] == str(PROTOCOL_MAJOR):
        return
    spoken = f"protocol {version}" if version else "no tunefarm protocol"
    raise errors.ProtocolMismatchError(
        f"{peer} speaks {spoken}, this side protocol {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}",
        "install tunefarm of the same major version on both sides",
    )


def check_hello(peer: pb.Peer, where: str) -> None:
    """Refuse a server of another major version. Raises: ProtocolMismatchError."""
    check_protocol(
        f"{peer.protocol_major}.{peer.protocol_minor}", f"the {peer.component} at {where}"
    )


def metadata_text(metadata: Iterable[tuple[str, str | bytes]] | None, name: str) -> str:
    """The value of one text header, "" where it is absent."""
    for key, value in metadata or ():
        if key == name:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: errors.TunefarmError) -> None:
    """End a call with `error`: a status for any gRPC peer, the error itself in the trailers."""
    await context.abort(
        _STATUS.get(error.code, grpc.StatusCode.UNKNOWN),
        str(error),
        ((ERROR_TRAILER, error.to_proto().SerializeToString()),),
    )


def error_of_call(
    error: grpc.RpcError, unreachable: errors.ConnectionFailedError
) -> errors.TunefarmError:
    """What a failed call means: the error in its trailers, or `unreachable` for a transport fault.

    UNIMPLEMENTED means that something else listens there, and becomes ProtocolMismatchError.
    """
    trailers = (
        error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else ()
    )
    for key, value in trailers or ():
        if key == ERROR_TRAILER and isinstance(value, bytes):
            return errors.from_proto(pb.Error.FromString(value))
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    details = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else str(error)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, None):
        return unreachable
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return errors.ProtocolMismatchError(
            f"{unreachable.message}: what answers there does not speak this protocol",
            "check the address and the versions on both sides",
        )
    if code == grpc.StatusCode.CANCELLED:
        return unreachable
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in str(details):
        return errors.InvalidRequestError(
            "the message is larger than the peer takes", "send less at once"
        )
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.OverloadedError("the peer takes no more calls", "try again later")
    return errors.InternalError(f"the peer failed: {code.name if code else ''} {details}")
