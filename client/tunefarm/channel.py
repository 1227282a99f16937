"""Connections to trackers and devices, with a hello before anything else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from tunefarm_proto import rpc
from tunefarm_proto.errors import ConnectionFailedError, InvalidRequestError, TunefarmError
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


def connect(
    address: str, unreachable: ConnectionFailedError, timeout: float = HELLO_TIMEOUT_S
) -> grpc.Channel:
    """Open a channel and say hello. `timeout` in seconds.

    Raises: `unreachable` where nobody answers; ProtocolMismatchError where a stranger does.
    """
    channel = grpc.insecure_channel(address, options=rpc.CLIENT_OPTIONS)
    try:
        with named_errors(unreachable):
            answer = pb_grpc.HelloServiceStub(channel).Hello(
                pb.HelloRequest(peer=rpc.this_peer("client")),
                timeout=timeout,
                metadata=rpc.call_metadata(),
            )
        rpc.check_hello(answer.peer, address)
    except (TunefarmError, KeyboardInterrupt):
        channel.close()
        raise
    return channel
