"""A place at a device: requests it, feeds it, hands back what it answers, requests another one."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from tunefarm import Bundle, Device
from tunefarm_proto import errors
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_tuner.finals import Final, Finalist, remeasure
from tunefarm_tuner.ledger import Trial

AGAIN_S = 0.5  # between two requests, where there is no device
# What no second try mends.
HOPELESS = (errors.AccessError, errors.InvalidRequestError, errors.ProtocolMismatchError)
# No device was had: time may mend it.
REFUSED = (errors.RequestError,)
# Faults that are no candidate's: it is tried again, elsewhere where there is an elsewhere.
INFRASTRUCTURE = (
    errors.ConnectionFailedError,
    errors.LeaseError,
    errors.InternalError,
    errors.OverloadedError,
    errors.UnknownDigestError,
    errors.UploadCorruptError,
)
MOST_WINDOW, LEAST_WINDOW = 8, 2
AHEAD_S = 0.2  # of work that a device has before it


@dataclass(frozen=True)
class Job:
    """A trial on its way to a device."""

    trial: Trial
    bundle: Bundle
    request: dpb.MeasureRequest


@dataclass(frozen=True)
class Joined:
    """A seat has a device."""

    seat: "Seat"
    device: Device


@dataclass(frozen=True)
class Answered:
    """A device answered. `right` says whether the answer agrees with the reference."""

    seat: "Seat"
    device: Device
    job: Job
    answer: dpb.MeasureResponse
    right: bool
    at: float


@dataclass(frozen=True)
class Finished:
    """A re-measurement is done."""

    seat: "Seat"
    device: Device
    final: Final
    found: list[Finalist]


@dataclass(frozen=True)
class Left:
    """A seat's device is gone, or its request failed: what it had goes back."""

    seat: "Seat"
    error: errors.TunefarmError | None
    had: bool


Work: TypeAlias = Job | Final | None
Event: TypeAlias = Joined | Answered | Finished | Left | Exception


class Seat:
    """One device at a time, in a thread of its own. `post` is told what happens.

    It has at most `most` trials at once: with 1, nothing is loaded while another is timed.
    `flying` and `final` are what it was sent and has not answered; they and `device` are used by
    the pipeline alone.
    """

    def __init__(
        self,
        key: str,
        request: Callable[[], Device],
        post: Callable[[Event], None],
        most: int = MOST_WINDOW,
    ) -> None:
        self.key = key
        self.device: Device | None = None
        self.flying: deque[Job] = deque()
        self.final: Final | None = None
        self.turn_s = 0.0
        self.unreachable = False  # its last request found no tracker
        self._most = most
        self._request = request
        self._post = post
        self._jobs: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._device: Device | None = None
        self.start()

    def start(self) -> None:
        """Request a device; again, where an earlier request was given up."""
        name = f"tunefarm-seat-{self.key}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def window(self) -> int:
        """How many trials it should have: a slow device few, so that others get them."""
        if not self.turn_s:
            return min(LEAST_WINDOW, self._most)
        return min(max(LEAST_WINDOW, 2 + round(AHEAD_S / self.turn_s)), self._most)

    def send(self, work: Job | Final) -> None:
        """Have it done."""
        if isinstance(work, Final):
            self.final = work
        else:
            self.flying.append(work)
        self._jobs.put(work)

    def took(self, seconds: float) -> None:
        """A turn of a trial took so long on the device."""
        self.turn_s = seconds if not self.turn_s else 0.7 * self.turn_s + 0.3 * seconds

    def stop(self) -> None:
        """Give the device back, soon. Does not wait."""
        self._stopping.set()
        self._jobs.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait until it is given back; cut it off where it takes longer."""
        self._thread.join(timeout_s)
        if self._thread.is_alive() and (device := self._device) is not None:
            device.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            had = False
            error: errors.TunefarmError | None = None
            try:
                with self._request() as device:
                    had, self._device = True, device
                    self._jobs = queue.SimpleQueue()
                    self._post(Joined(self, device))
                    self._serve(device, self._jobs)
            except errors.TunefarmError as lost:
                error = lost
            except Exception as fault:  # of a reference of somebody's, say: the run's to raise
                self._post(fault)
                return
            finally:
                self._device = None
            self.unreachable = isinstance(error, errors.TrackerUnreachableError)
            self._post(Left(self, error, had))
            if isinstance(error, HOPELESS + REFUSED) and not had:
                return
            self._stopping.wait(AGAIN_S if error is not None else 0.0)

    def _serve(self, device: Device, jobs: "queue.SimpleQueue[Work]") -> None:
        work = self._next(jobs)
        while work is not None:
            if isinstance(work, Final):
                self._post(Finished(self, device, work, remeasure(device, work)))
                work = self._next(jobs)
            else:
                work = self._stream(device, jobs, work)

    def _next(self, jobs: "queue.SimpleQueue[Work]") -> Work:
        return None if self._stopping.is_set() else jobs.get()

    def _stream(self, device: Device, jobs: "queue.SimpleQueue[Work]", first: Job) -> Work:
        """Measure what comes until it is something else, which is returned."""
        sent: dict[int, Job] = {}
        after: list[Work] = []
        broken: list[errors.TunefarmError] = []

        def requests() -> Iterator[dpb.MeasureRequest]:
            # On a thread of gRPC's, which would swallow what is raised here.
            work: Work = first
            while isinstance(work, Job):
                try:
                    device.upload(work.bundle.data, work.bundle.digest)
                except errors.TunefarmError as error:
                    broken.append(error)
                    return
                work.request.id = len(sent) + 1
                sent[work.request.id] = work
                yield work.request
                work = self._next(jobs)
            after.append(work)

        try:
            for answer in device.measure(requests()):
                job = sent[answer.id]
                task = job.trial.line.task
                right = not answer.HasField("error") and task.right(
                    answer.outputs_digest, list(answer.outputs)
                )
                self._post(Answered(self, device, job, answer, right, now()))
        finally:
            if not after:  # the stream broke, and the thread above still waits
                jobs.put(None)
        if broken:
            raise broken[0]
        return after[0] if after else None


def is_infrastructure(error: errors.TunefarmError) -> bool:
    """Whether an error says nothing of the candidate."""
    return isinstance(error, INFRASTRUCTURE)


def now() -> float:
    """Seconds of a clock that only goes forward."""
    return time.monotonic()
