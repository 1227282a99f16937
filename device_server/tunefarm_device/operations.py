"""What a session's requests mean: messages into calls on the session, results into answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from tunefarm_proto.errors import (
    ArgumentMismatchError,
    InvalidRequestError,
    LeaseLostError,
    TunefarmError,
)
from tunefarm_proto.rpc import CHUNK_BYTES
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_device.session import CALL_S, DeviceSession, time_limit

MOST_CALLS = 10_000
MOST_ORDER = 500_000

Answer = dpb.SessionResponse
Operation = Callable[[DeviceSession, dpb.SessionRequest, float], Awaitable[Answer]]
Pieces = Callable[[DeviceSession, dpb.SessionRequest, float], AsyncIterator[bytes]]


async def answers(
    session: DeviceSession, request: dpb.SessionRequest, open_lane: Callable[[], dpb.Lane]
) -> AsyncIterator[Answer]:
    """The answers to one request; an error is an answer. Raises: LeaseLostError."""
    try:
        kind = request.WhichOneof("operation") or ""
        limit = time_limit(request.timeout) if request.HasField("timeout") else CALL_S
        if kind in _OPERATIONS:
            yield await _OPERATIONS[kind](session, request, limit)
        elif kind in _PIECES:
            async for piece, last in _marked(_PIECES[kind](session, request, limit)):
                yield Answer(data=dpb.ArrayData(data=piece, last=last))
        elif kind == "open_lane":
            yield Answer(lane=open_lane())
        else:
            raise InvalidRequestError("the request names no operation that this device knows")
    except LeaseLostError:
        raise
    except TunefarmError as error:
        yield Answer(error=error.to_proto())


async def _marked(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Each piece, and whether it is the last."""
    before: bytes | None = None
    async for piece in pieces:
        if before is not None:
            yield before, False
        before = piece
    if before is not None:
        yield before, True


async def _load(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    identity = await session.load(request.load.digest, limit)
    module = session.module(identity)
    loaded = dpb.LoadedModule(
        module_id=identity,
        manifest=module.manifest.SerializeToString(),
        target=module.target,
        load_s=module.load_s,
    )
    return Answer(loaded=loaded)


async def _allocate(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    identity = await session.allocate(request.allocate.dtype, request.allocate.shape, limit)
    return Answer(allocated=dpb.AllocatedArray(array_id=identity))


async def _free(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    await session.free(request.free.array_id, limit)
    return Answer(done=dpb.Done())


async def _write(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    write = request.write
    await session.write(write.array_id, write.offset, write.data, limit)
    return Answer(done=dpb.Done())


async def _call(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    call = request.call
    elapsed = await session.call(call.module_id, call.function, call.array_ids, limit)
    return Answer(returned=dpb.CallReturned(elapsed_s=elapsed))


async def _time(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    call, options = request.time.call, request.time.options
    given = limit if request.HasField("timeout") else None
    timing = await session.time(call.module_id, call.function, call.array_ids, options, given)
    return Answer(timing=timing)


async def _compare(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    compare = request.compare
    given = limit if request.HasField("timeout") else None
    calls = [(one.module_id, one.function, one.array_ids) for one in compare.calls]
    timings = await session.compare(
        calls, compare.options, compare.numbers, compare.samples or 1, given
    )
    return Answer(comparison=dpb.Comparison(timings=timings))


async def _call_many(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    many = request.call_many
    order = many.order or range(len(many.calls))
    if len(many.calls) > MOST_CALLS or len(order) > MOST_ORDER:
        raise InvalidRequestError(
            f"a batch of {len(many.calls)} different calls, {len(order)} in all, is too large",
            f"at most {MOST_CALLS} and {MOST_ORDER}",
        )
    if order and max(order) >= len(many.calls):
        raise InvalidRequestError(
            f"the batch's order names call {max(order)} of {len(many.calls)}", "count from 0"
        )
    calls = []
    for index, call in enumerate(many.calls):
        try:
            calls.append(session.call_frame(call.module_id, call.function, call.array_ids))
        except ArgumentMismatchError as error:
            raise ArgumentMismatchError(f"call {index}: {error.message}", error.hint) from None
    elapsed, failed = await session.call_many(calls, order, many.keep_going, limit)
    answer = dpb.ManyReturned(elapsed_s=elapsed)
    for index, why in failed:
        answer.failed.add(index=index, error=why.to_proto())
    return Answer(many_returned=answer)


async def _profile(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    answer = dpb.Profile()
    for module, function, calls, total, least, most, counters in await session.profile(
        request.profile.begin, limit
    ):
        answer.functions.add(
            module_id=module, function=function, calls=calls, total_s=total, min_s=least,
            max_s=most, counters=counters,
        )  # fmt: skip
    return Answer(profile=answer)


async def _write_file(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    write = request.write_file
    await asyncio.to_thread(session.files.write, write.name, write.offset, write.data)
    return Answer(done=dpb.Done())


async def _list_files(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    listed = await asyncio.to_thread(session.files.listing)
    files = [dpb.FileEntry(name=name, size_bytes=size) for name, size in listed]
    return Answer(files=dpb.FileList(files=files))


async def _remove_file(session: DeviceSession, request: dpb.SessionRequest, limit: float) -> Answer:
    await asyncio.to_thread(session.files.remove, request.remove_file.name)
    return Answer(done=dpb.Done())


def _read(
    session: DeviceSession, request: dpb.SessionRequest, limit: float
) -> AsyncIterator[bytes]:
    return session.read(request.read.array_id, limit)


async def _read_file(
    session: DeviceSession, request: dpb.SessionRequest, limit: float
) -> AsyncIterator[bytes]:
    pieces = session.files.read(request.read_file.name)
    try:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
    finally:
        with contextlib.suppress(ValueError):  # where this was cut off, a thread still reads
            pieces.close()


async def _read_log(
    session: DeviceSession, request: dpb.SessionRequest, limit: float
) -> AsyncIterator[bytes]:
    source = request.log.source
    if source == dpb.ReadLog.SOURCE_RUNNER:
        data = session.output()
    elif source == dpb.ReadLog.SOURCE_DEVICE:
        data = session.device_log().encode(errors="replace")
    else:
        raise InvalidRequestError(f"there is no log {source}", "the runner's or the device's")
    for piece in _cut(data):
        yield piece


def _cut(data: bytes) -> Iterable[bytes]:
    return (data[at : at + CHUNK_BYTES] for at in range(0, max(len(data), 1), CHUNK_BYTES))


_OPERATIONS: dict[str, Operation] = {
    "load": _load,
    "allocate": _allocate,
    "free": _free,
    "write": _write,
    "call": _call,
    "time": _time,
    "compare": _compare,
    "call_many": _call_many,
    "profile": _profile,
    "write_file": _write_file,
    "list_files": _list_files,
    "remove_file": _remove_file,
}
_PIECES: dict[str, Pieces] = {"read": _read, "read_file": _read_file, "log": _read_log}
