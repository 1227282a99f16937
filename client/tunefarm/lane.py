"""How a session's requests travel: its gRPC stream, or a socket beside it that takes less time."""

import contextlib
import os
import queue
import socket
import struct
import time
from collections.abc import Iterator
from typing import Protocol

from google.protobuf.message import DecodeError
from tunefarm_proto.handshake import client_context
from tunefarm_proto.rpc import MESSAGE_BYTES
from tunefarm_proto.security import Credentials, host_of
from tunefarm_proto.v1 import device_pb2 as dpb

LENGTH = struct.Struct("<I")
CONNECT_S = 2.0
SILENT_MS = 10_000  # bytes that nobody acknowledges for so long: the other side is gone
READ_BYTES = 1 << 18
LOOK_S = 300e-6  # so long an answer is looked for before sleeping, which takes 25 to 50 us itself


class Link(Protocol):
    """Requests out, answers in. Used by one thread at a time but for `close`."""

    def send(self, request: dpb.SessionRequest) -> None:
        """Let it go, soon."""

    def flush(self) -> None:
        """Let go what was sent and kept back. Raises: OSError."""

    def receive(self) -> dpb.SessionResponse:
        """Wait for an answer. Raises: StopIteration, grpc.RpcError, OSError."""

    def close(self) -> None:
        """End it, from any thread."""


class StreamLink:
    """The gRPC stream."""

    def __init__(self) -> None:
        self._outgoing: queue.SimpleQueue[dpb.SessionRequest | None] = queue.SimpleQueue()
        self.requests: Iterator[dpb.SessionRequest] = iter(self._outgoing.get, None)
        self.answers: Iterator[dpb.SessionResponse] = iter(())

    def send(self, request: dpb.SessionRequest) -> None:
        """Let it go."""
        self._outgoing.put(request)

    def flush(self) -> None:
        """Nothing is kept back."""

    def receive(self) -> dpb.SessionResponse:
        """Wait for an answer. Raises: StopIteration, grpc.RpcError."""
        return next(self.answers)

    def close(self) -> None:
        """No more requests come."""
        self._outgoing.put(None)


class Lane:
    """A socket to the device, read and written by the thread that waits: no other is woken."""

    def __init__(self, address: str, lane: dpb.Lane, credentials: Credentials) -> None:
        """Connect. Raises: OSError."""
        host = host_of(address)
        self._socket = socket.create_connection((host, lane.port), CONNECT_S)
        try:
            if credentials.ca is not None:
                context = client_context(credentials)
                self._socket = context.wrap_socket(self._socket, server_hostname=host)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with contextlib.suppress(OSError, AttributeError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)
            self._socket.sendall(lane.key)
            if self._socket.recv(1) != b"\x01":
                raise OSError("the device does not know the lane")
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise
        self._kept = bytearray()
        self._read = bytearray()
        self._may_look = credentials.ca is None and processors() > 1
        self._brisk = False

    def send(self, request: dpb.SessionRequest) -> None:
        """Keep it until `flush`, or until there is much."""
        data = request.SerializeToString()
        self._kept += LENGTH.pack(len(data))
        self._kept += data
        if len(self._kept) >= READ_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what was kept. Raises: OSError."""
        if self._kept:
            kept, self._kept = self._kept, bytearray()
            self._socket.sendall(kept)

    def receive(self) -> dpb.SessionResponse:
        """Wait for an answer. Raises: OSError."""
        self.flush()
        read = self._read
        while len(read) < LENGTH.size or len(read) < LENGTH.size + (size := _length(read)):
            data = self._more()
            if not data:
                raise ConnectionError("the device closed the lane")
            read += data
        end = LENGTH.size + size
        try:
            with memoryview(read) as view:
                answer = dpb.SessionResponse.FromString(bytes(view[LENGTH.size : end]))
        except DecodeError:
            raise ConnectionError("an answer cannot be read") from None
        del read[:end]
        return answer

    def _more(self) -> bytes:
        """Wait for bytes: where the last ones came soon, at first without sleeping."""
        start = time.perf_counter()
        while self._brisk and self._may_look:
            try:
                return self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._brisk = time.perf_counter() - start < LOOK_S
        data = self._socket.recv(READ_BYTES)
        self._brisk = time.perf_counter() - start < LOOK_S
        return data

    def close(self) -> None:
        """End it; a thread that waits is woken."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _length(read: bytearray) -> int:
    (size,) = LENGTH.unpack_from(read)
    if size > MESSAGE_BYTES:
        raise ConnectionError("an answer is too large")
    return int(size)
