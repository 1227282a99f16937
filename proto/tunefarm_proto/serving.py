"""What every server of the farm does alike: hello, version check, errors into trailers."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from tunefarm_proto import rpc
from tunefarm_proto.errors import InternalError, InvalidRequestError, TunefarmError
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc

_log = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[Any, Any]


class HelloService(pb_grpc.HelloServiceServicer):
    """Says who the server is."""

    def __init__(self, component: str) -> None:
        self._peer = rpc.this_peer(component)

    async def Hello(  # noqa: N802 (the generated name)
        self, request: pb.HelloRequest, context: _Context
    ) -> pb.HelloResponse:
        """Answer with our own peer; refuse another major version."""
        peer = request.peer
        rpc.check_protocol(f"{peer.protocol_major}.{peer.protocol_minor}", "the caller")
        return pb.HelloResponse(peer=self._peer)


class Guard(grpc.aio.ServerInterceptor):
    """Refuses calls of another protocol version; turns a TunefarmError into the call's status.

    Handlers just raise. Anything else that they raise is logged and becomes InternalError.
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
        version = rpc.metadata_text(details.invocation_metadata, rpc.PROTOCOL_HEADER)
        wrap = _wrap_stream if handler.response_streaming else _wrap_unary
        kind = f"{'stream' if handler.request_streaming else 'unary'}_" + (
            "stream" if handler.response_streaming else "unary"
        )
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            wrap(getattr(handler, kind), version),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _wrap_unary(behaviour: Any, version: str) -> Callable[[Any, _Context], Awaitable[Any]]:
    async def call(request: Any, context: _Context) -> Any:
        try:
            rpc.check_protocol(version, "the caller")
            return await behaviour(request, context)
        except Exception as error:
            await rpc.abort(context, _named(error))

    return call


def _wrap_stream(behaviour: Any, version: str) -> Callable[[Any, _Context], AsyncIterator[Any]]:
    async def call(request: Any, context: _Context) -> AsyncIterator[Any]:
        try:
            rpc.check_protocol(version, "the caller")
            async for answer in behaviour(request, context):
                yield answer
        except Exception as error:
            await rpc.abort(context, _named(error))

    return call


def _named(error: Exception) -> TunefarmError:
    if isinstance(error, TunefarmError):
        return error
    if isinstance(error, grpc.aio.AbortError):
        raise error
    _log.exception("a call failed")
    return InternalError(f"{type(error).__name__}: {error}".splitlines()[0])


def new_server() -> grpc.aio.Server:
    """An asyncio gRPC server with the farm's options and guard. Needs a running loop."""
    return grpc.aio.server(interceptors=[Guard()], options=rpc.SERVER_OPTIONS)


def add_hello(server: grpc.aio.Server, component: str) -> None:
    """Answer hello as `component`: "tracker" or "device"."""
    pb_grpc.add_HelloServiceServicer_to_server(HelloService(component), server)


def bind(server: grpc.aio.Server, host: str, port: int) -> int:
    """Listen; port 0 takes a free one. Returns the port.

    Raises: InvalidRequestError where the address cannot be listened on.
    """
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        bound = 0
    if not bound:
        raise InvalidRequestError(
            f"cannot listen on {host}:{port}", "is the port in use? try another with --port"
        )
    return bound
