"""What is no gRPC: raw bytes on a port, from nothing at all to frames that are nearly right."""

import asyncio
import contextlib
import random
import socket
import struct

from fuzz_messages import flipped

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
PATIENCE_S = 0.05


class Recording:
    """What a real client sends: the frames of its first calls."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.data = b""
        self.port = 0

    async def __aenter__(self) -> "Recording":
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)

        async def up() -> None:
            while data := await reader.read(1 << 16):
                self.data += data
                back.write(data)
            back.close()

        async def down() -> None:
            while data := await there.read(1 << 16):
                writer.write(data)
            writer.close()

        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(up(), down())

    def frames(self) -> list[bytes]:
        """The frames after the preface."""
        found, rest = [], self.data.removeprefix(PREFACE)
        while len(rest) >= 9:
            size = 9 + int.from_bytes(rest[:3], "big")
            found.append(rest[:size])
            rest = rest[size:]
        return found


class RawInput:
    """One connection to a port."""

    def __init__(self, draw: random.Random, port: int, frames: list[bytes]) -> None:
        self.draw, self.port, self.frames = draw, port, frames

    async def send(self) -> str:
        """Do it. Returns what kind it was."""
        kinds = {
            "garbage": 3, "half-open": 1, "slow": 1, "preface and garbage": 3, "frames": 10,
            "tls": 1, "http/1": 1, "reset": 1, "frame of any kind": 4,
        }  # fmt: skip
        kind = self.draw.choices(list(kinds), list(kinds.values()))[0]
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return "refused"
        with contextlib.suppress(OSError, TimeoutError):
            await self._speak(kind, reader, writer)
        if kind == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        return f"raw: {kind}"

    async def _speak(
        self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        draw = self.draw
        if kind == "half-open":
            await asyncio.sleep(draw.uniform(0, 0.3))
            return
        if kind == "slow":
            for byte in (PREFACE if draw.random() < 0.7 else draw.randbytes(8))[:8]:
                writer.write(bytes([byte]))
                await asyncio.sleep(draw.uniform(0.005, 0.05))
            return
        writer.write(self._bytes(kind))
        await asyncio.wait_for(writer.drain(), 1)
        if draw.random() < 0.3:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            while await reader.read(1 << 16):
                pass

    def _bytes(self, kind: str) -> bytes:
        draw = self.draw
        garbage = draw.randbytes(draw.choice((1, 8, 100, 5000, 70_000)))
        if kind == "preface and garbage":
            return PREFACE + (SETTINGS if draw.random() < 0.5 else b"") + garbage
        if kind == "frames":
            return PREFACE + b"".join(self._mutated())
        if kind == "frame of any kind":
            return PREFACE + SETTINGS + b"".join(self._frame() for _ in range(draw.randrange(1, 9)))
        if kind == "tls":
            return b"\x16\x03\x01" + garbage
        if kind == "http/1":
            return b"GET /tunefarm HTTP/1.1\r\nHost: x\r\n" + garbage[:200] + b"\r\n\r\n"
        return garbage

    def _frame(self) -> bytes:
        draw = self.draw
        payload = draw.randbytes(draw.choice((0, 4, 5, 8, 40, 400)))
        size = len(payload) if draw.random() < 0.9 else draw.randrange(1 << 24)
        stream = draw.choice((0, 1, 1, 2, 3, 5, (1 << 31) - 1))
        header = size.to_bytes(3, "big") + bytes([draw.randrange(12), draw.choice((0, 1, 4, 5, 8))])
        return header + stream.to_bytes(4, "big") + payload

    def _mutated(self) -> list[bytes]:
        draw, frames = self.draw, list(self.frames)
        for _ in range(draw.randrange(1, 5)):
            at = draw.randrange(len(frames)) if frames else 0
            kind = draw.randrange(6)
            if not frames:
                break
            if kind == 0:
                del frames[at]
            elif kind == 1:
                frames.insert(at, draw.choice(frames))
            elif kind == 2:
                frames[at] = frames[at][: draw.randrange(len(frames[at]) + 1)]
            elif kind == 3:
                draw.shuffle(frames)
            else:
                frames[at] = flipped(draw, frames[at])
        return frames
