"""One session on a device: a stream of operations, answered in their order."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator

import grpc
from tunefarm_proto import errors, rpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc

WINDOW = 16  # pieces of an array on their way at once


class Session:
    """Operations of one session. Not opened before the first of them.

    `lost` tells why the lease ended, where it did. Safe to share among threads: operations are
    carried out one after another.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        metadata: rpc.Metadata,
        lost: Callable[[], errors.TunefarmError | None],
        unreachable: errors.ConnectionFailedError,
    ) -> None:
        self._outgoing: queue.SimpleQueue[dpb.SessionRequest | None] = queue.SimpleQueue()
        self._lost = lost
        self._unreachable = unreachable
        self._lock = threading.Lock()
        self._next_id = 1
        self._closed = False
        outgoing: Iterator[dpb.SessionRequest] = iter(self._outgoing.get, None)
        self._answers = dpb_grpc.DeviceServiceStub(channel).Session(outgoing, metadata=metadata)

    def close(self) -> None:
        """End the session; the device forgets its arrays and modules."""
        self._closed = True
        self._outgoing.put(None)
        self._answers.cancel()

    def _send(self, request: dpb.SessionRequest, timeout: float | None) -> int:
        if self._closed:
            raise self._lost() or errors.LeaseLostError(
                "the device was released", "request it again"
            )
        request.id = self._next_id
        self._next_id += 1
        if timeout is not None:
            if timeout <= 0:
                raise errors.InvalidRequestError(
                    f"timeout={timeout} is not a time", "give seconds above 0"
                )
            request.timeout.FromNanoseconds(round(timeout * 1e9))
        self._outgoing.put(request)
        return request.id

    def _receive(self, expected: int) -> dpb.SessionResponse:
        try:
            answer = next(self._answers)
        except StopIteration:
            raise self._lost() or self._unreachable from None
        except grpc.RpcError as error:
            raise self._lost() or rpc.error_of_call(error, self._unreachable) from None
        if answer.id != expected:
            raise errors.InternalError(f"the device answered {answer.id}, not {expected}")
        return answer

    def request(
        self, operation: dpb.SessionRequest, timeout: float | None = None
    ) -> dpb.SessionResponse:
        """Carry out one operation. `timeout` in seconds of the device's own clock.

        Raises: the error that the device answers; DeviceLostError, LeaseLostError.
        """
        with self._lock:
            answer = self._receive(self._send(operation, timeout))
        if answer.HasField("error"):
            raise errors.from_proto(answer.error)
        return answer

    def allocate(self, dtype: str, shape: tuple[int, ...]) -> int:
        """Make an array of zeros; its id."""
        operation = dpb.SessionRequest(allocate=dpb.AllocateArray(dtype=dtype, shape=shape))
        return self.request(operation).allocated.array_id

    def free(self, array_id: int) -> None:
        """Forget an array."""
        self.request(dpb.SessionRequest(free=dpb.FreeArray(array_id=array_id)))

    def write(self, array_id: int, data: memoryview) -> None:
        """Overwrite an array from its start. Pieces are pipelined."""
        failed: pb.Error | None = None
        pending: deque[int] = deque()
        with self._lock:
            for offset in range(0, len(data), rpc.CHUNK_BYTES):
                piece = bytes(data[offset : offset + rpc.CHUNK_BYTES])
                write = dpb.WriteArray(array_id=array_id, offset=offset, data=piece)
                pending.append(self._send(dpb.SessionRequest(write=write), None))
                if len(pending) > WINDOW:
                    failed = self._error_of(pending.popleft()) or failed
            while pending:
                failed = self._error_of(pending.popleft()) or failed
        if failed is not None:
            raise errors.from_proto(failed)

    def _error_of(self, request_id: int) -> pb.Error | None:
        answer = self._receive(request_id)
        return answer.error if answer.HasField("error") else None

    def read(self, array_id: int) -> bytes:
        """The bytes of a whole array."""
        pieces: list[bytes] = []
        with self._lock:
            request_id = self._send(dpb.SessionRequest(read=dpb.ReadArray(array_id=array_id)), None)
            while True:
                answer = self._receive(request_id)
                if answer.HasField("error"):
                    raise errors.from_proto(answer.error)
                pieces.append(answer.data.data)
                if answer.data.last:
                    return b"".join(pieces)
