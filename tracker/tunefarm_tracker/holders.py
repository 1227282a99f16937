"""Streams of clients that request, hold and release devices: one request each, or many together."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from tunefarm_proto.errors import InvalidRequestError, PermissionDeniedError, TunefarmError
from tunefarm_proto.identity import Identity, Role, current_identity
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_tracker import convert
from tunefarm_tracker.core import inputs
from tunefarm_tracker.core.effects import Ended, Granted, Message, Queued, Renewed
from tunefarm_tracker.hub import Hub, Mailbox
from tunefarm_tracker.tokens import Tokens

MAX_REQUESTS = 4096  # open in one stream


class Holders:
    """Turns clients' messages into inputs, and effects into answers."""

    def __init__(self, hub: Hub, tokens: Tokens) -> None:
        self._hub = hub
        self._tokens = tokens

    async def one(
        self, requests: AsyncIterator[tpb.RequestDeviceRequest]
    ) -> AsyncIterator[tpb.RequestDeviceResponse]:
        """A stream of one request."""
        with self._hub.mailbox() as box, reading(box, self._read_one(requests, box)):
            while (message := await box.next()) is not None:
                answer = self._answer(message)
                if answer is not None:
                    yield answer
                if isinstance(message, Ended):
                    return

    async def _read_one(
        self, requests: AsyncIterator[tpb.RequestDeviceRequest], box: Mailbox
    ) -> None:
        request_id = ""
        caller = current_identity()
        try:
            async for request in requests:
                _check_order(request, bool(request_id))
                event = _input_of(request, box.number, request_id, caller)
                if isinstance(event, inputs.RequestOpened):
                    request_id = event.wish.request_id
                self._hub.feed(event)
        finally:
            self._hub.feed(inputs.HolderDisconnected(box.number, request_id))

    async def many(
        self, requests: AsyncIterator[tpb.RequestDevicesRequest]
    ) -> AsyncIterator[tpb.RequestDevicesResponse]:
        """A stream of many requests. Answers that wait go together in one message."""
        batch = Batch(self._hub)
        try:
            with reading(batch, self._read_many(requests, batch)):
                while (told := await batch.take()) is not None:
                    response = tpb.RequestDevicesResponse()
                    for request_id, message in told:
                        answer = self._answer(message)
                        if answer is not None:
                            response.answers.add(request_id=request_id, answer=answer)
                    yield response
        finally:
            batch.leave()

    async def _read_many(
        self, requests: AsyncIterator[tpb.RequestDevicesRequest], batch: "Batch"
    ) -> None:
        caller = current_identity()
        async for request in requests:
            self._hub.feed_all([e for step in request.steps for e in _inputs(step, batch, caller)])

    def _answer(self, message: Message) -> tpb.RequestDeviceResponse | None:
        match message:
            case Granted():
                grant = convert.granted_message(message, self._tokens.of)
                return tpb.RequestDeviceResponse(granted=grant)
            case Renewed(_, lease):
                deadline = convert.timestamp(lease.deadline)
                return tpb.RequestDeviceResponse(renewed=tpb.Renewal(deadline=deadline))
            case Ended(_, failure):
                error = convert.error_of(failure).to_proto() if failure else None
                return tpb.RequestDeviceResponse(ended=tpb.RequestEnded(error=error))
            case Queued(_, place):
                return tpb.RequestDeviceResponse(queued=convert.place_message(place))
            case _:
                return None


class Seat:
    """One request of a stream of many: what it is told goes into the stream's batch."""

    def __init__(self, batch: "Batch", request_id: str) -> None:
        self._batch = batch
        self._request_id = request_id

    def put(self, message: Message) -> None:
        """The request is told something."""
        self._batch.put(self._request_id, message)

    def close(self, error: TunefarmError | None = None) -> None:
        """The tracker stops."""
        self._batch.close(error)


class Batch:
    """What the requests of one stream are to be told.

    Of several messages of a kind to one request only the last counts, so a peer that does not read
    cannot make it grow.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._numbers: dict[str, int] = {}
        self._told: dict[tuple[str, type[Message]], Message] = {}
        self._changed = asyncio.Event()
        self._closed = False
        self._error: TunefarmError | None = None

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._numbers

    def open(self, request_id: str) -> int:
        """A request of this stream: the number that it is told by."""
        if len(self._numbers) >= MAX_REQUESTS:
            raise InvalidRequestError(
                f"a stream holds {MAX_REQUESTS} requests at most", "open another stream"
            )
        self._numbers[request_id] = self._hub.attach(Seat(self, request_id))
        return self._numbers[request_id]

    def number(self, request_id: str) -> int:
        """The number of a request that this stream has opened, 0 of any other."""
        return self._numbers.get(request_id, 0)

    def request_ids(self) -> list[str]:
        """Those that are open."""
        return list(self._numbers)

    def put(self, request_id: str, message: Message) -> None:
        """Something that a request is to be told."""
        key = (request_id, type(message))
        if key in self._told and not isinstance(message, Ended):
            del self._told[key]
        self._told.setdefault(key, message)
        self._changed.set()
        if isinstance(message, Ended) and request_id in self._numbers:
            self._hub.detach(self._numbers.pop(request_id))

    def close(self, error: TunefarmError | None = None) -> None:
        """Let the reader end, with an error if there is one."""
        self._closed, self._error = True, error
        self._changed.set()

    async def take(self) -> list[tuple[str, Message]] | None:
        """All that is to be told; None at the end."""
        while not self._told:
            if self._error is not None:
                raise self._error
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        told = [(request_id, message) for (request_id, _), message in self._told.items()]
        self._told.clear()
        return told

    def leave(self) -> None:
        """The stream has ended: its requests are without their client."""
        numbers = list(self._numbers.items())
        self._numbers.clear()
        for _, number in numbers:
            self._hub.detach(number)
        self._hub.feed_all([inputs.HolderDisconnected(number, name) for name, number in numbers])


def _check_order(request: tpb.RequestDeviceRequest, opened: bool) -> None:
    kind = request.WhichOneof("message")
    if kind is None or (kind == "open") == opened:
        raise InvalidRequestError(
            "the first message of a request opens it, and no later one does",
            "send `open`, then `heartbeat` and `release`",
        )


def _inputs(step: tpb.RequestStep, batch: Batch, caller: Identity) -> Iterator[inputs.Input]:
    """The inputs that one step of a stream of many makes. Raises: InvalidRequestError."""
    name, request, kind = step.request_id, step.step, step.step.WhichOneof("message")
    if not name and kind == "heartbeat":
        for each in batch.request_ids():
            yield _input_of(request, batch.number(each), each, caller)
        return
    if kind == "open":
        if request.open.request_id != name:
            raise InvalidRequestError(
                f"the step names request {name[:200]!r} and opens another", "give both the same id"
            )
        _check_order(request, name in batch)
        yield _input_of(request, batch.open(name), name, caller)
    elif name in batch or kind is None:  # else it has ended, and the client is about to hear so
        yield _input_of(request, batch.number(name), name, caller)


def _input_of(
    request: tpb.RequestDeviceRequest, number: int, request_id: str, caller: Identity
) -> inputs.Input:
    """What one message means. Raises: InvalidRequestError, PermissionDeniedError."""
    match request.WhichOneof("message"):
        case "open":
            wish = convert.wish_of(request.open, caller.name)
            if wish.maintenance and not caller.role.includes(Role.OPERATOR):
                raise PermissionDeniedError(
                    f"{caller.name} may not request a device for maintenance",
                    "that needs the role operator",
                )
            return inputs.RequestOpened(number, wish, request.open.attempt)
        case "heartbeat":
            beat = request.heartbeat
            ttl = convert.seconds(beat.ttl) if beat.HasField("ttl") else None
            return inputs.Heartbeat(number, request_id, ttl)
        case "release":
            return convert.release_of(request.release, number, request_id)
        case _:
            raise InvalidRequestError(
                "a message of a request says nothing", "send `open`, `heartbeat` or `release`"
            )


@contextmanager
def reading(box: Mailbox | Batch, reader: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Read a stream's requests beside writing its answers; the end of one is the other's."""

    def ended(task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, TunefarmError):
            box.close(error)
        else:
            box.close(InvalidRequestError(f"the stream broke: {error}"))

    task = asyncio.create_task(reader)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
