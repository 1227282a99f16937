"""What listens; and messages and metadata that cannot be read."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tunefarm_proto import rpc, serving
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.security import ServerTls


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
    """A filter: gRPC logs what is no text with a traceback and its value, a secret say.

    And it logs each call that is cut off when the server stops, which is no error.
    """
    found = record.exc_info[1] if record.exc_info else None
    if isinstance(found, asyncio.CancelledError):
        return False
    if str(record.msg).startswith("Invalid encoding"):
        record.msg, record.args = "a caller's metadata is no text", ()
    elif isinstance(found, UnicodeDecodeError):
        record.msg, record.args = "a call's path is no text", ()
    else:
        return True
    record.exc_info = record.exc_text = None
    return True


class Listener:
    """A gRPC server whose services `fill` adds.

    `options` are added to the farm's, as the largest message that it takes.
    """

    def __init__(
        self,
        guard: serving.Guard,
        fill: Callable[[grpc.aio.Server], None],
        options: rpc.Options,
    ) -> None:
        logging.getLogger("grpc._cython.cygrpc").addFilter(one_line)
        self._guard = guard
        self._server = serving.new_server(guard, Forgiving(), options=options)
        fill(self._server)

    async def start(
        self, host: str, port: int, *, tls: ServerTls | None, guarded: bool, insecure: bool
    ) -> int:
        """Listen; port 0 takes a free one. Returns the port. Raises: InvalidRequestError."""
        bound = serving.bind(self._server, host, port, tls=tls, guarded=guarded, insecure=insecure)
        await self._server.start()
        return bound

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end those under way. Doing it twice is fine."""
        await self._server.stop(grace_s)
        await self._guard.settle()
