"""A TCP proxy between two peers that can cut, stall and delay what passes."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

BYTES = 1 << 16


class Link:
    """One way to a server: a port of our own, and what becomes of the connections made to it."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.cut = False
        self.delay_s = 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self) -> asyncio.Server:
        """Listen."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def abort(self) -> None:
        """Break every connection that there is."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await self._relay(reader, writer)
        writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            return
        await self.flowing.wait()
        there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
        for one in (writer, back):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        both = {writer, back}
        self._writers |= both
        pumps = [asyncio.create_task(self._pump(*way)) for way in ((reader, back), (there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._writers -= both
            back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self.flowing.wait()
                writer.write(data)
                await writer.drain()


class Network:
    """All links, in a thread of their own. A context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> "Network":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(10)

    def link(self, target_port: int) -> Link:
        """A new link to a port of this machine."""

        async def make() -> Link:
            link = Link(target_port)
            self._servers.append(await link.serve())
            return link

        made: Link = self._run(make())
        return made

    def _do(self, work: Callable[[], None]) -> None:
        async def run() -> None:
            work()

        self._run(run())

    def cut(self, link: Link) -> None:
        """Break its connections and refuse new ones."""

        def work() -> None:
            link.cut = True
            link.abort()

        self._do(work)

    def drop(self, link: Link) -> None:
        """Break its connections; new ones pass."""
        self._do(link.abort)

    def stall(self, link: Link) -> None:
        """Let nothing pass; connections stay open."""
        self._do(link.flowing.clear)

    def delay(self, link: Link, seconds: float) -> None:
        """Let everything wait."""
        link.delay_s = seconds

    def heal(self, link: Link) -> None:
        """Let everything pass again."""

        def work() -> None:
            link.cut, link.delay_s = False, 0.0
            link.flowing.set()

        self._do(work)
