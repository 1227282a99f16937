"""What listens: survives a request that ends gRPC's own loop, and messages that cannot be read."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tunefarm_proto import rpc, serving
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.security import ServerTls

LOOK_S = 0.2  # how soon a broken server is noticed
AGAIN_S = 0.1  # between two tries to listen on the port of a server that broke

_log = logging.getLogger(__name__)


class _Unreadable:
    """Stands for a message that is none of its type: says so to whoever looks into it."""

    def __getattr__(self, name: str) -> Any:
        raise InvalidRequestError(
            "a message cannot be read as one of its type", "send what the protocol says"
        )


class Forgiving(grpc.aio.ServerInterceptor):
    """Makes a message that cannot be read an InvalidRequestError of the handler, one line long.

    gRPC itself logs a traceback for each, and answers with the words of its own code. To be placed
    after the guard, which tells the error to the caller.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of one call."""
        handler = await continuation(details)
        if handler is None:
            return None
        kind = f"{'stream' if handler.request_streaming else 'unary'}_" + (
            "stream" if handler.response_streaming else "unary"
        )
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            getattr(handler, kind),
            request_deserializer=_forgiving(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _forgiving(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decoded(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _Unreadable()

    return decoded


def one_line(record: logging.LogRecord) -> bool:
    """A filter: gRPC logs metadata that is no text with a traceback and its value, a secret say."""
    if str(record.msg).startswith("Invalid encoding"):
        record.msg, record.args = "a caller's metadata is no text", ()
        record.exc_info = record.exc_text = None
    return True


class Listener:
    """A gRPC server that is replaced where it breaks.

    A request whose path is no UTF-8 ends the loop of grpc.aio's server (grpcio 1.85), and anybody
    can send one. Calls that are under way go on in the broken server until they end; new ones come
    to the next. `fill` adds the services to a server; `receive_bytes` is the largest message that
    it takes.
    """

    def __init__(
        self,
        guard: serving.Guard,
        fill: Callable[[grpc.aio.Server], None],
        receive_bytes: int = rpc.MESSAGE_BYTES,
    ) -> None:
        self._guard = guard
        self._fill = fill
        self._receive_bytes = receive_bytes
        self._server: grpc.aio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: set[grpc.aio.Server] = set()
        logging.getLogger("grpc._cython.cygrpc").addFilter(one_line)

    async def start(
        self, host: str, port: int, *, tls: ServerTls | None, guarded: bool, insecure: bool
    ) -> int:
        """Listen; port 0 takes a free one. Returns the port. Raises: InvalidRequestError."""

        async def listen(port: int) -> int:
            server = serving.new_server(self._guard, Forgiving(), receive_bytes=self._receive_bytes)
            self._fill(server)
            bound = serving.bind(server, host, port, tls=tls, guarded=guarded, insecure=insecure)
            await server.start()
            self._server = server
            return bound

        bound = await listen(port)
        self._spawn(self._watch(lambda: listen(bound)))
        return bound

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, listen_again: Callable[[], Awaitable[int]]) -> None:
        while (server := self._server) is not None:
            try:
                # Without a time limit it would not tell before the last call has ended.
                if not await server.wait_for_termination(LOOK_S):
                    return
                continue
            except Exception as error:
                _log.error("the server broke and is replaced: %s", _line(error))
            self._broken.add(server)
            self._spawn(self._drain(server))
            while self._server is server:
                with contextlib.suppress(InvalidRequestError):  # the port may not be free yet
                    await listen_again()
                    break
                await asyncio.sleep(AGAIN_S)

    async def _drain(self, server: grpc.aio.Server) -> None:
        """Let go of a broken server when its last call has ended."""
        with contextlib.suppress(Exception):  # what broke it, again
            await asyncio.shield(asyncio.ensure_future(server.wait_for_termination()))
        await server.stop(None)
        self._broken.discard(server)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end those under way. Doing it twice is fine."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for server in self._broken:
            await server.stop(None)
        if self._server is not None:
            await self._server.stop(grace_s)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
