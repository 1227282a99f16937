"""What a run is at: for the tracker, which shows it to all, and for a progress line."""

import contextlib
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from tunefarm import Tracker
from tunefarm_proto import errors
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_tuner.ledger import Ledger, Line

if TYPE_CHECKING:
    from tunefarm_tuner.pipeline import Pipeline

REPORT_S = 1.0
RATE_S = 20.0  # over which trials a second are told
MOST_POINTS = 500


class Progress:
    """Counts a run's trials, and tells of it."""

    def __init__(self, run_id: str, user: str, strategy: str) -> None:
        self._first = tpb.TuningRun(
            id=run_id, user=user, strategy=strategy, state=tpb.TUNING_STATE_RUNNING
        )
        self._first.started_at.GetCurrentTime()
        self._times: list[tuple[float, int]] = []

    def rate(self, trials: int) -> float:
        """Trials a second, over the last 20 s."""
        moment = time.monotonic()
        self._times.append((moment, trials))
        self._times = [one for one in self._times if moment - one[0] <= RATE_S]
        began, before = self._times[0]
        return (trials - before) / (moment - began) if moment > began else 0.0

    def run(self, pipeline: "Pipeline") -> tpb.TuningRun:
        """All of it as it is now."""
        run = tpb.TuningRun()
        run.CopyFrom(self._first)
        mix: Counter[str] = Counter()
        for line in pipeline.ledger.lines:
            run.tasks.append(_task(line, pipeline.ledger.missing(line)))
            mix.update(record.error for record in line.records.values() if record.error)
        run.trials_wanted = wanted_of(pipeline.ledger)
        run.trials = sum(task.trials for task in run.tasks)
        run.errors.update(mix)
        run.trials_per_s = self.rate(run.trials)
        if run.trials_per_s:
            left = max(run.trials_wanted - run.trials, 0) / run.trials_per_s
            run.time_left.FromNanoseconds(round(min(left, 1e8) * 1e9))
        held = {seat.device.id for seat in pipeline.seats if seat.device is not None}
        for account in pipeline.accounts.values():
            run.devices.add(
                id=account.id,
                key=account.key,
                held=account.id in held,
                trials=account.trials,
                busy_s=account.busy_s,
                held_s=account.held_s,
            )
        return run


def wanted_of(ledger: Ledger) -> int:
    """Trials of the whole run: tasks of one pot have it together."""
    keys = {line.task.key for line in ledger.lines if line.task.key in ledger.pots}
    spent = sum(line.spent for line in ledger.lines)
    left = sum(
        max((ledger.missing(one) for one in ledger.lines if one.task.key == key), default=0)
        for key in keys
    )
    return spent + left + sum(line.missing for line in ledger.lines if line.task.key not in keys)


def _task(line: Line, missing: int) -> tpb.TuningTask:
    task, best = line.task, line.best
    told = tpb.TuningTask(
        workload=task.workload,
        weight=task.weight,
        operations=task.operations,
        trials_wanted=line.spent + missing,
        trials=line.trials,
        failed=line.failed,
        duplicates=line.twins,
        best_s=best.median_s if best is not None else 0.0,
        best_schedule=best.schedule if best is not None else "",
        emulated=best.emulated if best is not None else False,
    )
    told.target.triple, told.target.cpu = task.spec.triple, task.spec.cpu
    for trial, seconds, at in line.points[-MOST_POINTS:]:
        told.points.add(trial=trial, best_s=seconds, at_s=at)
    return told


class Reporter:
    """Tells the tracker, on a thread of its own: a tracker that is away holds nothing up."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._latest: tpb.TuningRun | None = None
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._tell, name="tunefarm-report", daemon=True)
        self._thread.start()

    def put(self, run: tpb.TuningRun) -> None:
        """This is how it is now; what was not told yet is forgotten."""
        with self._changed:
            self._latest = run
            self._changed.notify()

    def close(self, run: tpb.TuningRun | None) -> None:
        """Tell the last of it, but do not wait long."""
        with self._changed:
            self._latest, self._over = run or self._latest, True
            self._changed.notify()
        self._thread.join(2.0)

    def _tell(self) -> None:
        tracker: Tracker | None = None
        while True:
            with self._changed:
                while self._latest is None and not self._over:
                    self._changed.wait()
                run, self._latest, over = self._latest, None, self._over
            if run is not None:
                try:
                    tracker = tracker or Tracker(self._address)
                    tracker.report_tuning(run)
                except errors.TunefarmError:
                    if tracker is not None:
                        with contextlib.suppress(Exception):
                            tracker.close()
                    tracker = None
            if over:
                return
            time.sleep(REPORT_S)
