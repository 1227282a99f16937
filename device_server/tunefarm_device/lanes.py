"""Sockets beside gRPC, for sessions whose calls are to take little time.

A message on a gRPC stream wakes six threads on its way there and back; one here wakes this loop
and the client. A lane is opened over the session's stream, which has shown lease and token, and
ends with it; who connects must know the key that was told there.
"""

import asyncio
import os
import secrets
import struct

from google.protobuf.message import DecodeError
from tunefarm_proto.errors import DeviceLostError, InvalidRequestError
from tunefarm_proto.handshake import server_context
from tunefarm_proto.rpc import MESSAGE_BYTES
from tunefarm_proto.security import ServerTls
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_device.pump import Pump

LENGTH = struct.Struct("<I")
KEY_BYTES = 32
KNOCK_S = 5.0  # for the key to arrive
MOST_KNOCKING = 64
READ_BYTES = 1 << 18
KEPT_BYTES = 400  # some twenty answers to calls
WELCOME = b"\x01"


class LaneServer:
    """Listens for the lanes of all sessions of a device."""

    def __init__(self) -> None:
        self.port = 0
        self.knocking = 0
        self._server: asyncio.Server | None = None
        self._waiting: dict[bytes, Pump] = {}
        self._connections: set[_Lane] = set()

    async def start(self, host: str, tls: ServerTls | None) -> None:
        """Listen on a free port. Raises: OSError."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Lane(self),
            host.strip("[]") or None,
            0,
            ssl=server_context(tls) if tls is not None else None,
        )
        self.port = int(self._server.sockets[0].getsockname()[1])

    def open(self, pump: Pump) -> dpb.Lane:
        """A lane into a session. Raises: InvalidRequestError where there are none."""
        if not self.port:
            raise InvalidRequestError("this device opens no lanes", "stay with the stream")
        self.close(pump)
        key = secrets.token_bytes(KEY_BYTES)
        self._waiting[key] = pump
        return dpb.Lane(port=self.port, key=key)

    def admit(self, key: bytes, lane: "_Lane") -> Pump | None:
        """The session that a key opens, once."""
        pump = self._waiting.pop(key, None)
        if pump is not None:
            self._connections.add(lane)
        return pump

    def forget(self, lane: "_Lane") -> None:
        """A lane is gone."""
        self._connections.discard(lane)

    def close(self, pump: Pump) -> None:
        """End what leads into a session."""
        for key in [key for key, to in self._waiting.items() if to is pump]:
            del self._waiting[key]
        for lane in [lane for lane in self._connections if lane.pump is pump]:
            lane.close()

    async def stop(self) -> None:
        """End all. Doing it twice is fine."""
        self.port = 0
        self._waiting.clear()
        for lane in list(self._connections):
            lane.close()
        if self._server is not None:
            self._server.close()


class _Lane(asyncio.Protocol):
    """One connection: a key, then requests."""

    def __init__(self, server: LaneServer) -> None:
        self.pump: Pump | None = None
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._kept = bytearray()
        self._drained: asyncio.Future[None] | None = None
        self._knock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (for the type checker)
        self._transport = transport
        if self._server.knocking >= MOST_KNOCKING:
            transport.abort()
            return
        self._server.knocking += 1
        self._knock = asyncio.get_running_loop().call_later(KNOCK_S, self.close)

    def _known(self) -> None:
        if self._knock is not None:
            self._knock.cancel()
            self._knock = None
            self._server.knocking -= 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self.pump is None:
            if len(self._buffer) < KEY_BYTES:
                return
            self._known()
            self.pump = self._server.admit(bytes(self._buffer[:KEY_BYTES]), self)
            if self.pump is None or self._transport is None:
                self.close()
                return
            del self._buffer[:KEY_BYTES]
            self._transport.write(WELCOME)
            if self._transport.get_extra_info("sslcontext") is None:
                self.pump.look = self._look
        self._take(self.pump)

    def _take(self, pump: Pump) -> None:
        """Requests that are whole, as many as the pump takes."""
        start, buffer = 0, self._buffer
        while len(buffer) - start >= LENGTH.size and not pump.full:
            (size,) = LENGTH.unpack_from(buffer, start)
            if size > MESSAGE_BYTES:
                pump.end(InvalidRequestError("the message is too large", "send less at once"))
                return
            end = start + LENGTH.size + size
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                data = bytes(view[start + LENGTH.size : end])
            try:
                request = dpb.SessionRequest.FromString(data)
            except DecodeError:
                pump.end(InvalidRequestError("a message cannot be read as one of its type"))
                return
            pump.put(request, self._reply, size)
            start = end
        if start:
            del buffer[:start]
        if pump.full and self._transport is not None:
            self._transport.pause_reading()
            pump.when_room(self._go_on)

    def _look(self) -> None:
        """Take in what has come, without the loop."""
        if self._transport is None or self._transport.is_closing():
            return
        try:
            data = os.read(self._transport.get_extra_info("socket").fileno(), READ_BYTES)
        except OSError:
            return  # nothing yet; or it is broken, as the loop will see
        if data:
            self.data_received(data)

    def _go_on(self) -> None:
        if self._transport is not None and self.pump is not None:
            self._transport.resume_reading()
            self._take(self.pump)

    async def _reply(self, answer: dpb.SessionResponse) -> None:
        data = answer.SerializeToString()
        if not self._kept:  # sent when this loop turns: when a call takes long, say
            asyncio.get_running_loop().call_soon(self._send)
        self._kept += LENGTH.pack(len(data)) + data
        if len(self._kept) >= KEPT_BYTES or self.pump is None or self.pump.idle:
            self._send()
        if self._drained is not None:
            await self._drained

    def _send(self) -> None:
        """Answers to calls that follow each other go together: to send takes as long as a call."""
        if self._kept and self._transport is not None:
            kept, self._kept = self._kept, bytearray()
            self._transport.write(kept)

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def connection_lost(self, error: Exception | None) -> None:
        self._known()
        self._transport = None
        self._server.forget(self)
        self.resume_writing()
        if self.pump is not None:
            self.pump.end(DeviceLostError("the session's lane broke", "request the device again"))

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()
