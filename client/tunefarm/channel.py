"""Connections to trackers and devices, with a hello before anything else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from tunefarm_proto import rpc, security
from tunefarm_proto.errors import ConnectionFailedError, InvalidRequestError, TunefarmError
from tunefarm_proto.handshake import diagnose
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc

DEFAULT_TRACKER = "127.0.0.1:9190"
TRACKER_VARIABLE = "TUNEFARM_TRACKER"
HELLO_TIMEOUT_S = 5.0


def tracker_address(given: str | None) -> str:
    """The tracker's HOST:PORT: as given, else from TUNEFARM_TRACKER, else the local default.

    Raises: InvalidRequestError where it is no HOST:PORT.
    """
    address = given or os.environ.get(TRACKER_VARIABLE) or DEFAULT_TRACKER
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isdecimal() and 0 < int(port) < 65536):
        raise InvalidRequestError(
            f"{address!r} is not a tracker's address", "write HOST:PORT, as in 127.0.0.1:9190"
        )
    return address


@contextmanager
def named_errors(unreachable: ConnectionFailedError) -> Iterator[None]:
    """Turn a failed call into the error that it means; `unreachable` for a fault of the network."""
    try:
        yield
    except grpc.RpcError as error:
        raise rpc.error_of_call(error, unreachable) from None


def explained(
    unreachable: ConnectionFailedError, address: str, credentials: Credentials
) -> ConnectionFailedError:
    """The same error; where TLS is what went wrong, it says so. Takes up to some seconds."""
    why = diagnose(address, credentials)
    return type(unreachable)(*why) if why is not None else unreachable


def connect(
    address: str,
    unreachable: ConnectionFailedError,
    timeout: float = HELLO_TIMEOUT_S,
    *,
    credentials: Credentials | None = None,
    to_tracker: bool = False,
) -> grpc.Channel:
    """Open a channel and say hello. `timeout` in seconds; credentials: else of the environment.

    The token is shown to trackers only.
    Raises: `unreachable` where nobody answers; ProtocolMismatchError where a stranger does;
    UnauthenticatedError; InvalidRequestError for credentials that make no sense.
    """
    shown = credentials if credentials is not None else Credentials.from_environment()
    opened = security.tracker_channel if to_tracker else security.device_channel
    channel = opened(address, shown)
    try:
        with named_errors(unreachable):
            answer = pb_grpc.HelloServiceStub(channel).Hello(
                pb.HelloRequest(peer=rpc.this_peer("client")),
                timeout=timeout,
                metadata=rpc.call_metadata(),
            )
        rpc.check_hello(answer.peer, address)
    except (TunefarmError, KeyboardInterrupt) as error:
        channel.close()
        if error is unreachable:
            raise explained(unreachable, address, shown) from None
        raise
    return channel
