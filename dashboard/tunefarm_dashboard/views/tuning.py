"""Tuning runs: how far they are, how the best came down, what failed, what each device did."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.views.result import usable
from tunefarm_dashboard.views.rows import iso, moment_of, target_text

DRAWN = 8  # tasks in the picture
STATES = ("unspecified", "running", "finished", "interrupted", "failed", "lost")


@dataclass(frozen=True)
class RunRow:
    """A tuning run. `time_left_s` None where nothing is known; `share` is of its trials, 0 to 1.

    `workloads` names the first two.
    """

    id: str
    workloads: str
    user: str
    state: str
    detail: str
    strategy: str
    started_at: str
    updated_at: str
    trials: int
    trials_wanted: int
    failed: int
    share: float
    trials_per_s: float
    time_left_s: float | None
    tasks: int
    devices: int


@dataclass(frozen=True)
class TaskRow:
    """A task of a run: one workload on one target. Seconds of one call; None: none yet.

    `final`: `best_s` and `gain` are of the winner, timed in turns with the default schedule;
    else `best_s` is of screening, and `gain` says how many times as fast as the first trial it is.
    `trials_wanted` is None where tasks share their trials: who gets them is not known before.
    """

    workload: str
    target: str
    emulated: bool
    weight: float
    trials: int
    trials_wanted: int | None
    failed: int
    duplicates: int
    best_s: float | None
    gflops: float | None
    gain: float | None
    final: bool
    best_schedule: str


@dataclass(frozen=True)
class DeviceRow:
    """What a device did for a run. `share`: of the time it was held it was busy, 0 to 1."""

    id: str
    key: str
    held: bool
    trials: int
    busy_s: float
    held_s: float
    share: float | None


@dataclass(frozen=True)
class ErrorRow:
    """Trials that failed with one error. `share` is of the trials done, 0 to 1."""

    error: str
    trials: int
    share: float


def run_row(run: tpb.TuningRun) -> RunRow:
    """One line of the table of runs."""
    known = run.HasField("time_left") and run.state == tpb.TUNING_STATE_RUNNING
    names = [*dict.fromkeys(task.workload for task in run.tasks)]
    return RunRow(
        id=run.id,
        workloads="; ".join([*names[:2], f"{len(names) - 2} more"] if names[2:] else names),
        user=run.user,
        state=STATES[run.state] if 0 <= run.state < len(STATES) else f"unknown ({run.state})",
        detail=run.detail,
        strategy=run.strategy,
        started_at=iso(moment_of(run, "started_at")),
        updated_at=iso(moment_of(run, "updated_at")),
        trials=run.trials,
        trials_wanted=run.trials_wanted,
        failed=sum(run.errors.values()),
        share=min(run.trials / run.trials_wanted, 1.0) if run.trials_wanted else 0.0,
        trials_per_s=run.trials_per_s if math.isfinite(run.trials_per_s) else 0.0,
        time_left_s=run.time_left.seconds + run.time_left.nanos / 1e9 if known else None,
        tasks=len(run.tasks),
        devices=len(run.devices),
    )


def task_rows(run: tpb.TuningRun) -> list[TaskRow]:
    """The tasks of a run, in its order."""
    rows = []
    shared = sum(task.trials_wanted for task in run.tasks) > run.trials_wanted
    for task in run.tasks:
        best = task.best_s if usable(task.best_s) else None
        final = usable(task.default_s)
        first = next((one.best_s for one in task.points if usable(one.best_s)), None)
        base = task.default_s if final else first
        rows.append(
            TaskRow(
                workload=task.workload,
                target=target_text(task.target),
                emulated=task.emulated,
                weight=task.weight if math.isfinite(task.weight) else 0.0,
                trials=task.trials,
                trials_wanted=None if shared else task.trials_wanted,
                failed=task.failed,
                duplicates=task.duplicates,
                best_s=best,
                gflops=task.operations / best / 1e9 if best and task.operations else None,
                gain=base / best if best and base else None,
                final=final,
                best_schedule=task.best_schedule,
            )
        )
    return rows


def device_rows(run: tpb.TuningRun) -> list[DeviceRow]:
    """The devices of a run."""
    return [
        DeviceRow(
            id=one.id,
            key=one.key,
            held=one.held,
            trials=one.trials,
            busy_s=one.busy_s if usable(one.busy_s) else 0.0,
            held_s=one.held_s if usable(one.held_s) else 0.0,
            share=min(one.busy_s / one.held_s, 1.0)
            if usable(one.busy_s) and usable(one.held_s)
            else None,
        )
        for one in run.devices
    ]


def error_rows(run: tpb.TuningRun) -> list[ErrorRow]:
    """What trials failed of, the commonest first."""
    ranked = sorted(run.errors.items(), key=lambda one: (-one[1], one[0]))
    return [ErrorRow(name, count, count / max(run.trials, count)) for name, count in ranked]


def best_plot(run: tpb.TuningRun) -> dict[str, Any]:
    """The best so far of each task over the seconds of the run, for charts.js.

    GFLOPS where all its tasks say their operations; else how many times as fast as the first best.
    """
    tasks: Sequence[tpb.TuningTask] = [one for one in run.tasks if one.points][:DRAWN]
    rated = all(one.operations for one in tasks)
    curves: list[tuple[str, dict[float, float]]] = []
    for task in tasks:
        points = [p for p in task.points if usable(p.best_s) and 0 <= p.at_s < 1e9]
        if not points:
            continue
        scale = task.operations / 1e9 if rated else points[0].best_s
        curves.append((task.workload, {round(p.at_s, 3): scale / p.best_s for p in points}))
    x = sorted({at for _, curve in curves for at in curve})
    if x and run.HasField("started_at") and run.HasField("updated_at"):
        now = (run.updated_at.ToNanoseconds() - run.started_at.ToNanoseconds()) / 1e9
        if x[-1] < now < 1e9:
            x.append(round(now, 3))  # nothing better since
    unit = {"unit": "GFLOPS", "digits": 2} if rated else {"unit": "x first", "digits": 3}
    series = []
    for name, curve in curves:
        values: list[float | None] = []
        for at in x:
            values.append(curve.get(at, values[-1] if values else None))
        series.append({"label": name, "steps": True, "points": False, "values": values, **unit})
    return {
        "x": x,
        "series": series,
        "time": False,
        "xlabel": "seconds since it began",
        "height": 260,
    }
