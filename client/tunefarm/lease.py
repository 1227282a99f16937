"""The client's end of a lease: asks, waits, keeps it alive, notices its end."""

import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import grpc
from tunefarm_proto import errors, rpc
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.tracker import Tracker, tracker_unreachable

HEARTBEAT_S = 1.0
RECONNECT_S = 0.5
TRACKER_GRACE_S = 5.0


# Messages to send; None where the stream broke.
Outgoing: TypeAlias = "queue.SimpleQueue[tpb.RequestDeviceRequest | None]"


class LeaseHolder:
    """One request and the lease that answers it.

    A thread keeps the stream to the tracker. If that breaks, the thread comes back with the same
    request id, which is the same request or lease, so a restart of the tracker loses nothing.
    """

    def __init__(
        self,
        tracker: Tracker,
        wish: tpb.DeviceRequest,
        on_wait: Callable[[tpb.QueuePosition], None] | None = None,
    ) -> None:
        self._tracker = tracker
        self._wish = wish
        self._on_wait = on_wait
        self._outgoing: Outgoing = queue.SimpleQueue()
        self._stream: grpc.Call | None = None
        self._changed = threading.Condition()
        self._released: tpb.RequestDeviceRequest | None = None
        self._on_lost: list[Callable[[], None]] = []
        self.grant: tpb.Grant | None = None
        self.error: errors.TunefarmError | None = None
        self._over = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tunefarm-lease", daemon=True)
        self._thread.start()

    @property
    def credentials(self) -> Credentials:
        """What the connection to the tracker was opened with."""
        return self._tracker.credentials

    def wait(self) -> tpb.Grant:
        """Block until granted. Raises: UnknownKeyError, RequestTimeoutError and their like."""
        limit = self._wish.wait_timeout.ToTimedelta().total_seconds()
        # The tracker ends a request in time; this is for a tracker that has gone away.
        give_up = time.monotonic() + limit + TRACKER_GRACE_S if limit else float("inf")
        with self._changed:
            # Short waits, so that Ctrl-C gets through.
            while self.grant is None and not self._over:
                self._changed.wait(0.5)
                if time.monotonic() > give_up:
                    raise tracker_unreachable(self._tracker.address)
            if self.grant is None:
                raise self.error or errors.RequestCancelledError("the request was cancelled")
            return self.grant

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call back, on the holder's thread, when the lease ends without our release."""
        self._on_lost.append(callback)

    def extend(self, ttl: float) -> None:
        """Let the lease live so long without a heartbeat from now on, in seconds."""
        beat = tpb.Heartbeat()
        beat.ttl.FromNanoseconds(round(ttl * 1e9))
        self._wish.ttl.CopyFrom(beat.ttl)
        self._outgoing.put(tpb.RequestDeviceRequest(heartbeat=beat))

    def release(self, device_fault: str = "", device_id: str = "") -> None:
        """End the request or lease; returns when the tracker has confirmed it, or after 2 s.

        `device_fault` says why the device was of no use, and counts against its health.
        """
        if self._released is None:
            release = tpb.Release(device_fault=device_fault, device_id=device_id)
            self._released = tpb.RequestDeviceRequest(release=release)
            self._outgoing.put(self._released)
            self._thread.join(2.0)
            self._over = True  # also where the tracker did not confirm it: nobody waits any more
            self._wake.set()
            if self._stream is not None:
                self._stream.cancel()

    def _messages(self, outgoing: Outgoing) -> Iterator[tpb.RequestDeviceRequest]:
        yield tpb.RequestDeviceRequest(open=self._wish)
        while True:
            try:
                message = outgoing.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                yield tpb.RequestDeviceRequest(heartbeat=tpb.Heartbeat())
                continue
            if message is None:  # the stream broke
                return
            yield message

    def _run(self) -> None:
        attempts = itertools.count()
        while not self._over:
            outgoing: Outgoing = queue.SimpleQueue()
            self._outgoing = outgoing
            self._wish.attempt = next(attempts)
            if self._released is not None:
                outgoing.put(self._released)
            try:
                stream = self._tracker.stub.RequestDevice(
                    self._messages(outgoing), metadata=rpc.call_metadata()
                )
                self._stream = stream
                for answer in stream:
                    self._take(answer)
            except grpc.RpcError as error:
                unreachable = tracker_unreachable(self._tracker.address)
                named = rpc.error_of_call(error, unreachable)
                busy = isinstance(named, errors.OverloadedError) and self.grant is not None
                if named is not unreachable and not busy:
                    self._end(named)
            except ValueError:  # our user closed the connection, and waits for nothing
                return
            outgoing.put(None)
            if self._released is not None:
                self._end(None)
            if not self._over:
                self._wake.wait(RECONNECT_S * (0.5 + random.random()))  # noqa: S311 (jitter)

    def _take(self, answer: tpb.RequestDeviceResponse) -> None:
        kind = answer.WhichOneof("message")
        if kind == "queued" and self._on_wait is not None:
            self._on_wait(answer.queued)
        elif kind == "granted":
            with self._changed:
                self.grant = answer.granted
                self._changed.notify_all()
        elif kind == "ended":
            error = answer.ended.error if answer.ended.HasField("error") else None
            self._end(errors.from_proto(error) if error is not None else None)

    def _end(self, error: errors.TunefarmError | None) -> None:
        with self._changed:
            if self._over:
                return
            self._over = True
            self.error = error
            self._changed.notify_all()
        if self._released is None:
            for callback in self._on_lost:
                callback()
