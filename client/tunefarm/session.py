"""One session on a device: operations that are carried out one after another."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import grpc
from tunefarm_proto import errors, rpc
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc

from tunefarm.lane import Lane, Link, StreamLink

WINDOW = 16  # pieces of an array on their way at once
REASON_S = 3.0  # a lane that broke waits so long for the stream to tell why


class Pending:
    """A request on its way; `answer` and `error` when it is `done`."""

    def __init__(self, identity: int) -> None:
        self.id = identity
        self.done = False
        self.answer: dpb.SessionResponse | None = None
        self.error: errors.TunefarmError | None = None

    def result(self) -> dpb.SessionResponse:
        """The answer, once it is done. Raises: the error."""
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise errors.InternalError("a request was left without an answer")
        return self.answer


class Session:
    """Operations of one session. Not opened before the first of them.

    `address` is the device's; `lost` tells why the lease ended, where it did. Safe to share among
    threads: operations are carried out one after another.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        metadata: rpc.Metadata,
        lost: Callable[[], errors.TunefarmError | None],
        unreachable: errors.ConnectionFailedError,
        *,
        address: str = "",
        credentials: Credentials | None = None,
    ) -> None:
        self._lost = lost
        self._unreachable = unreachable
        self._address, self._credentials = address, credentials
        self._lock = threading.RLock()
        self._next_id = 1
        self._closed = False
        self._pending: deque[Pending] = deque()
        self._stream = StreamLink()
        self._link: Link = self._stream
        self._lane_tried = not address
        call = dpb_grpc.DeviceServiceStub(channel).Session(self._stream.requests, metadata=metadata)
        self._call, self._stream.answers = call, call
        self._over = threading.Event()

    def close(self) -> None:
        """End the session; the device forgets its arrays, modules and files."""
        self._closed = True
        self._stream.close()
        self._call.cancel()
        if self._link is not self._stream:
            self._link.close()

    def _end_of_stream(self) -> None:
        """Called by gRPC: whoever waits at the lane is not to wait for ever."""
        self._over.set()
        if self._link is not self._stream:
            self._link.close()

    def send(self, request: dpb.SessionRequest, timeout: float | None = None) -> Pending:
        """Let a request go; `wait` for it later. `timeout` in seconds of the device's own clock."""
        if timeout is not None:
            if timeout <= 0:
                raise errors.InvalidRequestError(
                    f"timeout={timeout} is not a time", "give seconds above 0"
                )
            request.timeout.FromNanoseconds(round(timeout * 1e9))
        with self._lock:
            if self._closed:
                raise self._lost() or errors.LeaseLostError(
                    "the device was released", "request it again"
                )
            request.id = self._next_id
            self._next_id += 1
            pending = Pending(request.id)
            try:
                self._link.send(request)
            except OSError:
                raise self._broken() from None
            self._pending.append(pending)
        return pending

    def flush(self) -> None:
        """Let go what `send` kept back. Raises: DeviceLostError, LeaseLostError."""
        with self._lock:
            try:
                self._link.flush()
            except OSError:
                self._fail(self._broken())

    def wait(self, pending: Pending) -> dpb.SessionResponse:
        """The answer to a request. Raises: the error that the device answers; DeviceLostError,
        LeaseLostError.
        """
        with self._lock:
            while not pending.done:
                self._take()
        return pending.result()

    def _take(self) -> dpb.SessionResponse:
        """One more answer, given to the request that it is for."""
        head = self._pending[0]
        try:
            answer = self._link.receive()
            if answer.id != head.id:
                raise errors.InternalError(f"the device answered {answer.id}, not {head.id}")
        except StopIteration:
            self._fail(self._lost() or self._unreachable)
        except grpc.RpcError as error:
            self._fail(self._lost() or rpc.error_of_call(error, self._unreachable))
        except (OSError, ValueError):
            self._fail(self._broken())
        except errors.InternalError as error:
            self._fail(error)
        if answer.WhichOneof("result") == "data" and not answer.data.last:
            return answer
        head.answer = answer
        if answer.HasField("error"):
            head.error = errors.from_proto(answer.error)
        head.done = True
        self._pending.popleft()
        return answer

    def _fail(self, error: errors.TunefarmError) -> NoReturn:
        """Whatever is on its way gets no answer any more."""
        while self._pending:
            pending = self._pending.popleft()
            pending.error, pending.done = error, True
        raise error from None

    def _broken(self) -> errors.TunefarmError:
        """Why the lane broke, as the stream tells."""
        if lost := self._lost():
            return lost
        self._over.wait(REASON_S)
        if self._over.is_set() and self._call.code() != grpc.StatusCode.OK:
            return self._lost() or self._reason()
        return self._lost() or self._unreachable

    def _reason(self) -> errors.TunefarmError:
        try:
            next(self._stream.answers)
        except StopIteration:
            pass
        except grpc.RpcError as error:
            return rpc.error_of_call(error, self._unreachable)
        return self._unreachable

    def open_lane(self) -> None:
        """From now on by a socket of our own, where the device has one that can be reached."""
        with self._lock:
            if self._lane_tried or self._closed:
                return
            self._lane_tried = True
            try:
                lane = self.wait(self.send(dpb.SessionRequest(open_lane=dpb.OpenLane()))).lane
                self._link = Lane(self._address, lane, self._credentials or Credentials())
            except (errors.InvalidRequestError, OSError):
                return  # an older device, or something between us that lets only gRPC through
            if not self._call.add_callback(self._end_of_stream):
                self._end_of_stream()
            if self._closed:
                self._link.close()

    def request(
        self, operation: dpb.SessionRequest, timeout: float | None = None
    ) -> dpb.SessionResponse:
        """Carry out one operation. `timeout` in seconds of the device's own clock.

        Raises: the error that the device answers; DeviceLostError, LeaseLostError.
        """
        with self._lock:
            return self.wait(self.send(operation, timeout))

    def pipelined(self, operations: Iterable[dpb.SessionRequest], window: int = WINDOW) -> None:
        """Carry out operations that answer nothing of use, several on their way at once.

        Raises: the first error, after which no more are sent.
        """
        on_way: deque[Pending] = deque()
        with self._lock:
            try:
                for operation in operations:
                    on_way.append(self.send(operation))
                    self.flush()
                    if len(on_way) > window:
                        self.wait(on_way.popleft())
                while on_way:
                    self.wait(on_way.popleft())
            finally:
                while on_way and self._pending:
                    self._take()
                    while on_way and on_way[0].done:
                        on_way.popleft()

    def pieces(self, operation: dpb.SessionRequest) -> Iterator[bytes]:
        """The pieces of an array, a file or a log. To be read to its end."""
        with self._lock:
            pending = self.send(operation)
            while len(self._pending) > 1 and self._pending[0] is not pending:
                self._take()
            while not pending.done:
                answer = self._take()
                if pending.error is not None:
                    raise pending.error
                yield answer.data.data

    def allocate(self, dtype: str, shape: tuple[int, ...]) -> int:
        """Make an array of zeros; its id."""
        operation = dpb.SessionRequest(allocate=dpb.AllocateArray(dtype=dtype, shape=shape))
        return self.request(operation).allocated.array_id

    def free(self, array_id: int) -> None:
        """Forget an array."""
        self.request(dpb.SessionRequest(free=dpb.FreeArray(array_id=array_id)))

    def write(self, array_id: int, data: memoryview) -> None:
        """Overwrite an array from its start. Pieces are pipelined."""
        self.pipelined(
            dpb.SessionRequest(
                write=dpb.WriteArray(
                    array_id=array_id,
                    offset=offset,
                    data=bytes(data[offset : offset + rpc.CHUNK_BYTES]),
                )
            )
            for offset in range(0, len(data), rpc.CHUNK_BYTES)
        )

    def read(self, array_id: int) -> bytes:
        """The bytes of a whole array."""
        operation = dpb.SessionRequest(read=dpb.ReadArray(array_id=array_id))
        return b"".join(list(self.pieces(operation)))
