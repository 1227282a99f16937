"""Many calls: pipelined, in one message, and what they cost on the device."""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tunefarm_proto import errors
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm.array import Array
from tunefarm.timing import format_seconds

if TYPE_CHECKING:
    from tunefarm.module import Function
    from tunefarm.session import Pending, Session

WINDOW = 64  # calls on their way at once
TOGETHER = 16  # calls that go in one piece of network


class PipelinedCall:
    """A call that was sent. `done` once its answer came; then `error` is why it failed, or None."""

    def __init__(self, session: "Session", pending: "Pending") -> None:
        self._session = session
        self._pending = pending

    @property
    def done(self) -> bool:
        """Whether its answer came."""
        return self._pending.done

    @property
    def error(self) -> errors.TunefarmError | None:
        """Why it failed; None where it did not, or is not done."""
        return self._pending.error

    def result(self) -> float:
        """Wait for it. Returns the seconds it took on the device; raises as `Function.__call__`."""
        return self._session.wait(self._pending).returned.elapsed_s


class Pipeline:
    """Calls that do not wait for each other's answers; carried out in order, by `with`.

    At its end all answers have come, and the first error is raised, unless `keep_errors`: then each
    is only kept with its call. `calls` are all that were made.
    """

    def __init__(self, session: "Session", keep_errors: bool = False) -> None:
        session.open_lane()
        self._session = session
        self._keep_errors = keep_errors
        self._on_way: deque[Pending] = deque()
        self._kept = 0
        self.calls: list[PipelinedCall] = []

    def __enter__(self) -> Self:
        return self

    def call(
        self, function: "Function", *arrays: Array, timeout: float | None = None
    ) -> PipelinedCall:
        """Send a call: `pipeline.call(module["add"], a, b, c)`. Waits only for the one 64 before.

        Raises: ArgumentMismatchError for what is no array; DeviceLostError, LeaseLostError.
        """
        request = dpb.SessionRequest(call=function.request(arrays))
        pending = self._session.send(request, timeout)
        self._on_way.append(pending)
        self._kept += 1
        if self._kept >= TOGETHER:
            self._kept = 0
            self._session.flush()
        if len(self._on_way) >= WINDOW:
            self._settle(self._on_way.popleft())
        made = PipelinedCall(self._session, pending)
        self.calls.append(made)
        return made

    def _settle(self, pending: "Pending") -> None:
        try:
            self._session.wait(pending)
        except errors.TunefarmError:
            if pending.error is None:
                raise

    def wait(self) -> None:
        """Until all answers have come."""
        while self._on_way:
            self._settle(self._on_way.popleft())

    def __exit__(self, kind: object, *exc: object) -> None:
        self.wait()
        if kind is None and not self._keep_errors:
            for made in self.calls:
                if made.error is not None:
                    raise made.error


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch: seconds of each call made, in order, and errors by place."""

    elapsed: tuple[float, ...]
    failed: dict[int, errors.TunefarmError]


class Batch:
    """Calls that travel in one message and run back to back on the device.

    For a few microseconds of work each: `batch.call(...)` many times, then `batch.run()`.
    """

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._many = dpb.CallMany()
        self._known: dict[tuple[object, ...], int] = {}
        self._names: list[str] = []
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._order)

    def call(self, function: "Function", *arrays: Array, times: int = 1) -> None:
        """Add a call, or so many of it. Raises: ArgumentMismatchError for what is no array."""
        request = function.request(arrays)
        key = (request.module_id, request.function, *request.array_ids)
        index = self._known.get(key)
        if index is None:
            self._many.calls.append(request)
            index = self._known[key] = len(self._names)
            self._names.append(function.signature.name)
        if times == 1:
            self._order.append(index)
        else:
            self._order += [index] * times

    def run(self, keep_going: bool = False, timeout: float | None = None) -> BatchResult:
        """Carry all of it out; `timeout` in seconds of the device's own clock (60), for all.

        It stops at the first call that fails, and raises its error with its place; with
        `keep_going` errors of the calls are only kept. It may be run again.
        Raises: ArgumentMismatchError before any call is made; KernelCrashedError,
        KernelTimeoutError, which end all of it; KernelFailedError.
        """
        self._many.ClearField("order")
        self._many.order.extend(self._order)
        self._many.keep_going = keep_going
        if not self._order:
            return BatchResult((), {})
        self._session.open_lane()
        answer = self._session.request(dpb.SessionRequest(call_many=self._many), timeout)
        failed = {one.index: errors.from_proto(one.error) for one in answer.many_returned.failed}
        if failed and not keep_going:
            ((index, error),) = failed.items()
            name = self._names[self._order[index]]
            raise type(error)(f"call {index} of the batch, {name}: {error.message}", error.hint)
        return BatchResult(tuple(answer.many_returned.elapsed_s), failed)


@dataclass(frozen=True)
class FunctionProfile:
    """What calls of one function cost on the device, in seconds, and what its system counted."""

    module_id: int
    function: str
    calls: int
    total: float
    min: float
    max: float
    counters: dict[str, float]


@dataclass
class Profile:
    """What the calls within its `with` block cost, by function; timings are not in it."""

    session: "Session"
    functions: list[FunctionProfile] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ask(begin=True)
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is None:
            self.functions = self._ask(begin=False)

    def _ask(self, begin: bool) -> list[FunctionProfile]:
        operation = dpb.SessionRequest(profile=dpb.ProfileCalls(begin=begin))
        return [
            FunctionProfile(
                f.module_id, f.function, f.calls, f.total_s, f.min_s, f.max_s, dict(f.counters)
            )
            for f in self.session.request(operation).profile.functions
        ]

    def __str__(self) -> str:
        lines = [f"{'function':24} {'calls':>8} {'total':>10} {'min':>10} {'max':>10}"]
        for f in self.functions:
            times = " ".join(f"{format_seconds(t):>10}" for t in (f.total, f.min, f.max))
            lines.append(f"{f.function:24} {f.calls:8} {times}")
            lines += [f"    {name}: {value:g}" for name, value in f.counters.items() if value]
        return "\n".join(lines)
