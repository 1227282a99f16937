"""What tuning runs last told of themselves. In memory: a living run tells it again each second."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from tunefarm_proto.errors import InvalidRequestError, PermissionDeniedError
from tunefarm_proto.v1 import tracker_pb2 as tpb

KEPT = 100  # runs
MOST_BYTES = 1 << 20  # of a run
MOST_PARTS = 1000  # tasks, or devices
MOST_POINTS = 500  # of a task
LOST_S = 60.0


class Tunings:
    """The last runs by their ids. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._runs: OrderedDict[str, tpb.TuningRun] = OrderedDict()
        self._numbers: dict[str, int] = {}  # of the change that a run is at
        self._changes = 0
        self._changed = asyncio.Condition()

    async def report(self, run: tpb.TuningRun, user: str) -> None:
        """Keep what a run is at; `user` is who says so, "" where nobody asks.

        Raises: InvalidRequestError, PermissionDeniedError for a run of somebody else.
        """
        known = self._runs.get(run.id)
        if not run.id or run.state == tpb.TUNING_STATE_UNSPECIFIED:
            raise InvalidRequestError("the tuning run has no id or no state", "give it both")
        if (
            run.ByteSize() > MOST_BYTES
            or max(len(run.tasks), len(run.devices)) > MOST_PARTS
            or any(len(task.points) > MOST_POINTS for task in run.tasks)
        ):
            raise InvalidRequestError(
                f"what tuning run {run.id[:40]!r} tells is too long",
                f"at most {MOST_BYTES} bytes, {MOST_PARTS} tasks and devices, "
                f"{MOST_POINTS} points of a task",
            )
        run.user = user or run.user
        if known is not None and known.user != run.user:
            raise PermissionDeniedError(
                f"tuning run {run.id} is one of {known.user}", "report runs of your own"
            )
        run.updated_at.FromNanoseconds(round(self._clock() * 1e9))
        self._runs[run.id] = run
        self._runs.move_to_end(run.id)
        while len(self._runs) > KEPT:
            self._numbers.pop(self._runs.popitem(last=False)[0], None)
        await self._tell(run.id)

    async def _tell(self, run_id: str) -> None:
        async with self._changed:
            self._changes += 1
            self._numbers[run_id] = self._changes
            self._changed.notify_all()

    def runs(self, run_id: str = "") -> list[tpb.TuningRun]:
        """As they are now, latest started first; of one id, or all."""
        late = self._clock() - LOST_S
        for run in self._runs.values():
            running = run.state == tpb.TUNING_STATE_RUNNING
            if running and run.updated_at.ToNanoseconds() < late * 1e9:
                run.state = tpb.TUNING_STATE_LOST
                self._changes += 1
                self._numbers[run.id] = self._changes
        found = [run for run in self._runs.values() if run_id in ("", run.id)]
        return sorted(found, key=lambda run: run.started_at.ToNanoseconds(), reverse=True)

    async def watch(self, run_id: str = "") -> AsyncIterator[tpb.TuningRun]:
        """Each run as it is, then each that changed. States in between may be passed over."""
        seen = 0
        while True:
            runs = self.runs(run_id)
            new = [run for run in reversed(runs) if self._numbers[run.id] > seen]
            seen = self._changes  # before the first is sent: more may change meanwhile
            for run in new:
                yield run
            try:
                async with asyncio.timeout(LOST_S / 4), self._changed:
                    while self._changes == seen:
                        await self._changed.wait()
            except TimeoutError:
                continue  # one may be lost by now
