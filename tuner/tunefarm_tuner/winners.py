"""The winners of a run: told to the tracker as results, and named in what is said of the run."""

import contextlib
import threading
import time
import uuid
import warnings
from collections import Counter

from tunefarm import Device, Tracker
from tunefarm.request import current_user
from tunefarm_proto import errors
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_tuner.finals import Finalist
from tunefarm_tuner.ledger import Line
from tunefarm_tuner.result import TaskResult

TELL_S = 5.0  # to wait for the tracker, when all else is done


class Winners:
    """What the finals of each task gave."""

    def __init__(self, tracker: str | None) -> None:
        self._tracker = tracker
        self._found: dict[Line, list[Finalist]] = {}
        self._untold: set[Line] = set()
        self._telling: list[threading.Thread] = []

    def add(self, line: Line, found: list[Finalist], device: Device) -> None:
        """A task's finals are over: the winner is a result of the farm's as any other."""
        self._found[line] = found
        timed = [one for one in found if one.timing is not None]
        if timed:
            result = as_result(line, min(timed, key=_median), device)
            self._untold.add(line)
            self._telling.append(
                threading.Thread(target=self._tell, args=[line, result], daemon=True)
            )
            self._telling[-1].start()

    def _tell(self, line: Line, result: tpb.Result) -> None:
        with contextlib.suppress(errors.TunefarmError), Tracker(self._tracker) as tracker:
            tracker.record(result)
            self._untold.discard(line)

    def warn_of_untold(self) -> None:
        """Say which of them the tracker did not take, after not too long a wait."""
        limit = time.monotonic() + TELL_S
        for thread in self._telling:
            thread.join(max(limit - time.monotonic(), 0))
        if self._untold:
            names = ", ".join(sorted(one.task.workload for one in self._untold))
            warnings.warn(
                f"the tracker did not take the results of {names}: they are in the records alone",
                RuntimeWarning,
                stacklevel=4,  # whoever called tune
            )

    def name(self, line: Line, told: tpb.TuningTask) -> None:
        """Put a task's winner in the place of the best of screening, whose time was a lucky one."""
        timed = self._times(line)
        if timed:
            told.best_schedule, told.best_s = min(timed.items(), key=lambda item: item[1])
            told.default_s = timed.get(line.task.space.default() or "", 0.0)

    def summed(self, line: Line) -> TaskResult:
        """What a task came to: by its finalists, or by screening where there are none."""
        nothing = float("nan")
        timed = self._times(line)
        best, best_s = None, nothing
        if timed:
            best, best_s = min(timed.items(), key=lambda item: item[1])
        elif line.best is not None:
            best, best_s = line.best.schedule, line.best.median_s
        default = line.task.space.default()
        screened = {one.schedule: one.median_s for one in line.records.values() if one.samples_s}
        return TaskResult(
            workload=line.task.workload,
            device_key=line.task.key,
            target=line.task.target,
            operations=line.task.operations,
            weight=line.task.weight,
            trials=line.trials,
            failed=line.failed,
            duplicates=line.twins,
            best=best,
            best_s=best_s,
            default_s=timed.get(default or "", screened.get(default or "", nothing)),
            screened_s=line.best.median_s if line.best is not None else nothing,
            points=line.points,
            errors=dict(Counter(one.error for one in line.records.values() if one.error)),
        )

    def _times(self, line: Line) -> dict[str, float]:
        found = self._found.get(line, [])
        return {one.candidate: _median(one) for one in found if one.timing is not None}


def as_result(line: Line, winner: Finalist, device: Device) -> tpb.Result:
    """A winner as the tracker keeps it."""
    result = tpb.Result(
        id=uuid.uuid4().hex,
        workload=line.task.workload,
        device_id=device.id,
        device_key=device.key,
        target=device.target,
        lease_id=device.lease.id,
        user=current_user(),
        bundle_digest=winner.bundle_digest,
        schedule=winner.candidate,
        timing=winner.timing,
        correct=True,
        operations=line.task.operations,
    )
    result.recorded_at.GetCurrentTime()
    return result


def _median(one: Finalist) -> float:
    samples = sorted(one.timing.samples_s) if one.timing is not None else []
    middle = len(samples) // 2
    return (samples[middle] + samples[-1 - middle]) / 2 if samples else float("inf")
