"""The bearer token in the metadata of every call of a channel."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import grpc

HEADER = "authorization"
_SCHEME = "bearer"


def token_of(header: str) -> str:
    """The token in an `authorization` header, "" where there is none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == _SCHEME else ""


class _Details(NamedTuple):
    """The details of a call; gRPC reads these by name, and gives no way to make them."""

    method: Any
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Bearer:
    """Adds the token to each call, whatever its kind."""

    def __init__(self, token: str) -> None:
        self._added = (HEADER, f"Bearer {token}")

    def _carry(self, go_on: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        known: Iterable[tuple[str, Any]] = details.metadata or ()
        return go_on(
            _Details(
                details.method,
                details.timeout,
                self._metadata((*known, self._added)),
                details.credentials,
                details.wait_for_ready,
                getattr(details, "compression", None),
            ),
            request,
        )

    def _metadata(self, entries: tuple[tuple[str, Any], ...]) -> Any:
        return entries


class SyncBearer(
    _Bearer,
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """For channels with threads."""

    intercept_unary_unary: Any = _Bearer._carry
    intercept_unary_stream: Any = _Bearer._carry
    intercept_stream_unary: Any = _Bearer._carry
    intercept_stream_stream: Any = _Bearer._carry


class _AioBearer(_Bearer):
    def _metadata(self, entries: tuple[tuple[str, Any], ...]) -> Any:
        return grpc.aio.Metadata(*entries)

    async def _carry_on(self, go_on: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        return await self._carry(go_on, details, request)


class _UnaryUnary(_AioBearer, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary: Any = _AioBearer._carry_on


class _UnaryStream(_AioBearer, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream: Any = _AioBearer._carry_on


class _StreamUnary(_AioBearer, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary: Any = _AioBearer._carry_on


class _StreamStream(_AioBearer, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream: Any = _AioBearer._carry_on


def aio_bearers(token: str) -> list[grpc.aio.ClientInterceptor]:
    """For asyncio channels, where one interceptor serves one kind of call only."""
    return [kind(token) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]
