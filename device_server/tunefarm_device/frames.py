"""The server's end of a runner's socket: frames out, frames in, nothing that no runner sends."""

import asyncio
import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from tunefarm_device import answers
from tunefarm_device import runner as runner_code

READ_BYTES = 1 << 18
SOON_S = 60e-6  # so long this loop waits at once for the answer of a call: to sleep takes as long

Frame = tuple[dict[str, Any], bytes]


class FrameConnection:
    """Frames of a runner, one awaited at a time. Needs a running loop.

    A kernel can write to this socket: what is no frame, or comes unasked, ends the connection.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._sizes: tuple[int, int] | None = None
        self._asked: Mapping[str, Any] = {}  # its first frame comes unasked
        self._answer: asyncio.Future[Frame] = self._loop.create_future()
        self._room: asyncio.Future[None] | None = None
        self._last: Mapping[str, Any] = {}
        self._text = b""
        self._over: Exception | None = None
        self._loop.add_reader(connection, self._read)

    def _read(self) -> bool:
        """Take what is there. Returns whether there was anything."""
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._end(error)
            return True
        if not data:
            self._end(EOFError())
            return True
        try:
            if self._answer.done():
                raise ValueError("nothing was asked")
            self._buffer += data
            frame = self._whole()
            if frame is not None and self._buffer:
                raise ValueError("it is more than one")
        except ValueError as error:
            self._end(error)
            return True
        if frame is not None:
            self._answer.set_result(frame)
        return True

    def _whole(self) -> Frame | None:
        """The frame, where all of it is there. Raises: ValueError."""
        start = runner_code.PREFIX.size
        if self._sizes is None:
            if len(self._buffer) < start:
                return None
            self._sizes = runner_code.PREFIX.unpack_from(self._buffer)
            if self._sizes[0] > answers.most_header(self._asked):
                raise ValueError("it is too long")
            if self._sizes[1] > answers.most_payload(self._asked):
                raise ValueError("its payload is too long")
        middle = start + self._sizes[0]
        end = middle + self._sizes[1]
        if len(self._buffer) < end:
            return None
        header = answers.parse(bytes(memoryview(self._buffer)[start:middle]))
        payload = bytes(memoryview(self._buffer)[middle:end]) if end > middle else b""
        del self._buffer[:end]
        self._sizes = None
        answers.check(self._asked, header, payload)
        return header, payload

    def _end(self, why: Exception) -> None:
        if self._over is not None:
            return
        self._over = why
        self._buffer.clear()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._made_room()
        if not self._answer.done():
            self._answer.set_exception(why)
            self._answer.exception()  # seen, or asyncio would tell of it in the log

    def _made_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def try_exchange(self, header: Mapping[str, Any], number: int) -> Frame | None:
        """Send a frame without a payload, with `number` as its "id". Returns the answer where it
        comes within 60 us, without a pause.

        Otherwise `exchange(None)` waits for it. Raises: OSError, EOFError, ValueError.
        """
        if header != self._last:  # most calls are like the one before
            self._last = header
            self._text = json.dumps(dict(header))[:-1].encode()
        text = b"%s%s%d}" % (self._text, runner_code.NUMBER, number)
        data = runner_code.PREFIX.pack(len(text), 0) + text
        self._ask({**header, "id": number})
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(data):
            self._end(EOFError())  # it has not read the one before
            raise EOFError
        limit = time.perf_counter() + SOON_S
        while not self._answer.done():
            if not self._read() and time.perf_counter() > limit:
                return None
        return self._answer.result()

    async def exchange(self, header: Mapping[str, Any] | None, payload: bytes = b"") -> Frame:
        """Send a frame and await its answer; with None, the answer to what was sent, or to nothing.

        Raises: OSError, EOFError, ValueError for what no runner sends.
        """
        if header is not None:
            self._ask(header)
            left = memoryview(runner_code.encode(dict(header), len(payload)) + payload)
            while left:
                try:
                    left = left[self._socket.send(left) :]
                except (BlockingIOError, InterruptedError):
                    await self._writable()
                    if self._over is not None:
                        break
        return await self._answer

    async def _writable(self) -> None:
        """Until the socket takes more, or is closed."""
        room = self._room = self._loop.create_future()
        self._loop.add_writer(self._socket, self._made_room)
        try:
            await room
        finally:
            if self._over is None:
                self._loop.remove_writer(self._socket)

    def _ask(self, header: Mapping[str, Any]) -> None:
        if self._over is not None:
            raise self._over
        self._asked = header
        self._answer = self._loop.create_future()

    def close(self) -> None:
        """Let go of the socket. Doing it twice is fine."""
        self._end(EOFError())
