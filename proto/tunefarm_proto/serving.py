"""What every server of the farm does alike: hello, version check, access, errors into trailers."""

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from tunefarm_proto import rpc
from tunefarm_proto.errors import (
    InternalError,
    InvalidRequestError,
    OverloadedError,
    TunefarmError,
)
from tunefarm_proto.identity import ANONYMOUS, CURRENT, Identity, Role, current_identity
from tunefarm_proto.security import ServerTls, is_loopback
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc

__all__ = ["Guard", "Identity", "Role", "add_hello", "bind", "current_identity", "new_server"]

_log = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[Any, Any]
MAXIMUM_CALLS = 20_000
SETTLE_S = 1.0
MOST_NAMED = 100
_NAMES = ("device_id", "lease_id", "request_id", "user", "name")


class Authorizer(Protocol):
    """Says who makes a call. Asked once for each call, when it begins; must not block."""

    def __call__(self, method: str, metadata: Any, peer: str, meant: str = "") -> Identity:
        """`method` as in /tunefarm.v1.TrackerService/ListDevices; the audit log is told `peer`, and
        what the call was meant for: the device, say.

        Raises: UnauthenticatedError, PermissionDeniedError.
        """


class HelloService(pb_grpc.HelloServiceServicer):
    """Says who the server is, and its time; `dashboard` is the farm's, where there is one."""

    def __init__(self, component: str, dashboard: str = "") -> None:
        self._peer = rpc.this_peer(component)
        self._dashboard = dashboard
        self._started_at = Timestamp()
        self._started_at.GetCurrentTime()

    async def Hello(  # noqa: N802 (the generated name)
        self, request: pb.HelloRequest, context: _Context
    ) -> pb.HelloResponse:
        """Answer with our own peer; refuse another major version."""
        peer = request.peer
        rpc.check_protocol(f"{peer.protocol_major}.{peer.protocol_minor}", "the caller")
        answer = pb.HelloResponse(
            peer=self._peer, dashboard=self._dashboard, started_at=self._started_at
        )
        answer.at.GetCurrentTime()
        return answer


@dataclass(eq=False)
class _Call:
    """A call under way. `end` is why it is being cut off."""

    identity: Identity
    task: "asyncio.Task[Any] | None"
    end: TunefarmError | None = None
    writing: bool = False  # gRPC has an answer of it, and takes no status before that is sent


class Guard(grpc.aio.ServerInterceptor):
    """Refuses calls of another protocol version, of those who may not make them, and too many.

    Handlers just raise, and ask `current_identity()` who calls. A TunefarmError becomes the call's
    status; anything else is logged and becomes InternalError.
    """

    def __init__(
        self, authorizer: Authorizer | None = None, maximum_calls: int = MAXIMUM_CALLS
    ) -> None:
        self._authorizer = authorizer
        self._maximum = maximum_calls
        self._calls: set[_Call] = set()

    def identities(self) -> set[Identity]:
        """Those who have calls under way."""
        return {call.identity for call in self._calls}

    def cut(self, identity: Identity, why: TunefarmError) -> None:
        """End all calls of an identity that are under way."""
        for call in self._calls:
            if call.identity == identity and call.end is None and call.task is not None:
                call.end = why
                call.task.cancel()

    async def settle(self) -> None:
        """End the calls that are left when their server has stopped, which nobody hears of."""
        tasks = {call.task for call in self._calls if call.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLE_S)
            await asyncio.sleep(0)  # what gRPC has around them ends too

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of one call."""
        handler = await continuation(details)
        if handler is None:
            return None
        wrap = self._wrap_stream if handler.response_streaming else self._wrap_unary
        kind = f"{'stream' if handler.request_streaming else 'unary'}_" + (
            "stream" if handler.response_streaming else "unary"
        )
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            wrap(getattr(handler, kind), details),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @contextmanager
    def _admitted(
        self, details: grpc.HandlerCallDetails, context: _Context, request: Any = None
    ) -> Iterator["_Call"]:
        metadata = details.invocation_metadata
        rpc.check_protocol(rpc.metadata_text(metadata, rpc.PROTOCOL_HEADER), "the caller")
        if len(self._calls) >= self._maximum:
            raise OverloadedError(
                f"the server has {self._maximum} calls under way and takes no more",
                "try again later",
            )
        identity = ANONYMOUS
        if self._authorizer is not None:
            identity = self._authorizer(
                str(details.method), metadata, context.peer(), _meant(request)
            )
        call = _Call(identity, asyncio.current_task())
        self._calls.add(call)
        CURRENT.set(identity)  # each call has a task, and so a context, of its own
        try:
            yield call
        except asyncio.CancelledError:
            if call.end is None or call.task is None or call.writing:
                raise
            call.task.uncancel()
            raise call.end from None
        finally:
            self._calls.discard(call)

    def _wrap_unary(
        self, behaviour: Any, details: grpc.HandlerCallDetails
    ) -> Callable[[Any, _Context], Awaitable[Any]]:
        async def call(request: Any, context: _Context) -> Any:
            try:
                with self._admitted(details, context, request):
                    return await behaviour(request, context)
            except Exception as error:
                await rpc.abort(context, _named(error))

        return call

    def _wrap_stream(
        self, behaviour: Any, details: grpc.HandlerCallDetails
    ) -> Callable[[Any, _Context], Awaitable[None]]:
        async def call(request: Any, context: _Context) -> None:
            try:
                with self._admitted(details, context) as admitted:
                    async with aclosing(behaviour(request, context)) as answers:
                        async for answer in answers:
                            admitted.writing = True
                            await _written(context, answer)
                            admitted.writing = False
            except Exception as error:
                await rpc.abort(context, _named(error))

        return call


def _meant(request: Any) -> str:
    """What a request names: a device, lease, request, user or token; "" where nothing."""
    named = (getattr(request, name, "") for name in _NAMES)
    return next((one[:MOST_NAMED] for one in named if isinstance(one, str) and one), "")


async def _written(context: _Context, answer: Any) -> None:
    """Send an answer. Where it cannot be sent nobody reads, and the call just ends."""
    try:
        await context.write(answer)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _named(error: Exception) -> TunefarmError:
    if isinstance(error, TunefarmError):
        return error
    if isinstance(error, grpc.aio.AbortError):
        raise error
    _log.exception("a call failed")
    return InternalError(f"{type(error).__name__}: {error}".splitlines()[0])


def new_server(
    *interceptors: grpc.aio.ServerInterceptor, options: rpc.Options | None = None
) -> grpc.aio.Server:
    """An asyncio gRPC server with the farm's options and `options`. Needs a running loop."""
    all_ = dict(rpc.SERVER_OPTIONS) | dict(options or [])
    return grpc.aio.server(interceptors=list(interceptors) or [Guard()], options=[*all_.items()])


def add_hello(server: grpc.aio.Server, component: str, dashboard: str = "") -> None:
    """Answer hello as `component`: "tracker" or "device"; a tracker tells the `dashboard`'s URL."""
    pb_grpc.add_HelloServiceServicer_to_server(HelloService(component, dashboard), server)


def check_exposure(host: str, tls: ServerTls | None, *, guarded: bool, insecure: bool) -> None:
    """Refuse to listen where strangers could do anything or read along.

    `guarded`: callers are asked who they are. Raises: InvalidRequestError.
    """
    if is_loopback(host) or insecure or (tls is not None and guarded):
        return
    missing = [] if tls is not None else ["TLS (--tls-cert and --tls-key)"]
    missing += [] if guarded else ["tokens (`tunefarm token create`, or --require-tokens)"]
    raise InvalidRequestError(
        f"listening on {host or 'every address'}, beyond this machine, needs "
        f"{' and '.join(missing)}",
        "or say --insecure where whoever reaches it may run code",
    )


def bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    *,
    tls: ServerTls | None = None,
    guarded: bool = False,
    insecure: bool = False,
) -> int:
    """Listen; port 0 takes a free one. Returns the port.

    Raises: InvalidRequestError where the address cannot be listened on, or must not (see
    `check_exposure`).
    """
    check_exposure(host, tls, guarded=guarded, insecure=insecure)
    where = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
    if _taken(host.strip("[]"), port):
        raise _unfit(where)
    try:
        if tls is not None:
            bound = server.add_secure_port(where, tls.for_server())
        else:
            bound = server.add_insecure_port(where)
    except RuntimeError:
        bound = 0
    if not bound:
        raise _unfit(where)
    return bound


def _unfit(where: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"cannot listen on {where}", "is the port in use? try another with --port"
    )


def _taken(host: str, port: int) -> bool:
    """Whether others listen there: gRPC finds out too, but says so among our log's lines."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        return error.errno == errno.EADDRINUSE  # of all else gRPC knows more
    return False
