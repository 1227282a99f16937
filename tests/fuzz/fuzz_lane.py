"""A device's second port: lanes into a session, by the right key, a wrong one or a part of it."""

import asyncio
import contextlib
import random
import struct

import grpc
from fuzz_messages import Messages
from google.protobuf.descriptor import MethodDescriptor
from tunefarm_proto.v1 import device_pb2 as dpb

PATIENCE_S = 0.1
LENGTHS = (0, 1, 17, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)
Metadata = tuple[tuple[str, str], ...]


class LaneInput:
    """One session, a lane into it, and what is sent there."""

    def __init__(self, draw: random.Random, messages: Messages, method: MethodDescriptor) -> None:
        self.draw, self.messages, self.method = draw, messages, method

    async def send(self, channel: grpc.aio.Channel, path: str, metadata: Metadata) -> str:
        """Do it. Returns what kind it was."""
        call = channel.stream_stream(path)(metadata=metadata)
        try:
            async with asyncio.timeout(10):
                asked = dpb.SessionRequest(id=1, open_lane=dpb.OpenLane())
                await call.write(asked.SerializeToString())
                lane = dpb.SessionResponse.FromString(await call.read()).lane
        except TimeoutError:
            return "lane: hangs"
        except grpc.aio.AioRpcError as error:
            return f"lane: {error.code().name}"
        else:
            with contextlib.suppress(OSError, TimeoutError):
                return await self._speak(lane)
            return "lane: cut"
        finally:
            if self.draw.random() < 0.5:
                call.cancel()
            else:  # the session ends by what came on its lane, or by its client's end
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.done_writing()

    async def _speak(self, lane: dpb.Lane) -> str:
        draw = self.draw
        key, kind = lane.key, draw.choice(("right", "right", "right", "wrong", "short"))
        if kind != "right":
            key = draw.randbytes(len(key)) if kind == "wrong" else key[: draw.randrange(len(key))]
        reader, writer = await asyncio.open_connection("127.0.0.1", lane.port)
        try:
            writer.write(key + b"".join(self._frame() for _ in range(draw.randrange(6))))
            await asyncio.wait_for(writer.drain(), 1)
            if draw.random() < 0.5:
                writer.write_eof()
            async with asyncio.timeout(PATIENCE_S * draw.random()):
                while await reader.read(1 << 16):
                    pass
        finally:
            writer.transport.abort()
        return f"lane: {kind} key"

    def _frame(self) -> bytes:
        draw = self.draw
        if draw.random() < 0.1:
            return draw.randbytes(draw.choice((1, 3, 4, 5, 100, 70_000)))
        data = self.messages.of(self.method)
        size = len(data) if draw.random() < 0.85 else draw.choice(LENGTHS)
        return struct.pack("<I", size) + data
