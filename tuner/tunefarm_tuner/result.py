"""What a search found, for notebooks, tables and programs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from html import escape
from os import PathLike
from typing import Any

from tunefarm.timing import format_seconds

from tunefarm_tuner.foreign_logs import ForeignTask
from tunefarm_tuner.plots import plot_best

HEADS = "workload key GFLOP weight GFLOPS latency gain trials failed"


@dataclass(frozen=True)
class TaskResult:
    """What one task's search found. Times in seconds for one call; NaN where nothing worked.

    `best_s` and `default_s` are of the re-measurement in turns by the full protocol, `gain` their
    ratio; `screened_s` is what the best took when it was screened. `points` are the improvements:
    trial, seconds of one call, seconds since the run began. `trials` are without `duplicates`.
    """

    workload: str
    device_key: str
    target: str
    operations: int
    weight: float
    trials: int
    failed: int
    duplicates: int
    best: str | None
    best_s: float
    default_s: float
    screened_s: float
    points: list[tuple[int, float, float]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    theirs_s: float = math.inf  # the best of another tuner's log, see `TuneResult.beside`

    @property
    def gain(self) -> float:
        """How many times as fast as the default the best is."""
        return self.default_s / self.best_s

    @property
    def gflops(self) -> float:
        """Of the best, by the re-measurement: 1e9 operations a second."""
        return self.operations / self.best_s / 1e9

    def as_dict(self) -> dict[str, Any]:
        """What `tunefarm tune --json` prints."""
        return {
            "workload": self.workload,
            "device_key": self.device_key,
            "target": self.target,
            "operations": self.operations,
            "weight": self.weight,
            "trials": self.trials,
            "failed": self.failed,
            "duplicates": self.duplicates,
            "best_schedule": self.best,
            "best_s": self.best_s if self.best else None,
            "default_s": self.default_s if self.best else None,
            "gain": self.gain if self.best else None,
            "gflops": self.gflops if self.best else None,
            "points": self.points,
            "errors": self.errors,
        } | ({"theirs_s": self.theirs_s} if math.isfinite(self.theirs_s) else {})


@dataclass(frozen=True)
class DeviceUse:
    """What one device did, by its own account: `busy_s` at kernels of the `held_s` it was held."""

    id: str
    key: str
    trials: int
    busy_s: float
    held_s: float

    @property
    def use(self) -> float:
        """The share."""
        return self.busy_s / self.held_s if self.held_s else 0.0


@dataclass(frozen=True)
class TuneResult:
    """A run's end. `interrupted`: by Ctrl-C; its records are kept, and the same call goes on."""

    tasks: list[TaskResult]
    devices: list[DeviceUse]
    seconds: float
    interrupted: bool = False

    def __getitem__(self, workload: str) -> TaskResult:
        """The result of a workload, the first where it was tuned for several keys."""
        for task in self.tasks:
            if task.workload == workload:
                return task
        raise KeyError(workload)

    @property
    def trials(self) -> int:
        """Of all tasks, those of resumed records included."""
        return sum(task.trials for task in self.tasks)

    def beside(self, theirs: Iterable[ForeignTask]) -> "TuneResult":
        """The same result with the best that another tuner's log has of each workload beside ours.

        It is as the log says, of whatever device and by whatever protocol: nothing is timed again.
        """
        known: dict[str, float] = {}
        for one in theirs:
            known[one.workload] = min(one.best_s, known.get(one.workload, math.inf))
        tasks = [replace(task, theirs_s=known.get(task.workload, math.inf)) for task in self.tasks]
        return replace(self, tasks=tasks)

    def plot(self, path: str | PathLike[str]) -> None:
        """The best so far against the trials, as a PNG, SVG or PDF by the file's name.

        Raises: InvalidRequestError for another name, or where matplotlib is missing.
        """
        plot_best(self.tasks, path)

    def as_dict(self) -> dict[str, Any]:
        """What `tunefarm tune --json` prints."""
        return {
            "trials": self.trials,
            "tasks": [task.as_dict() for task in self.tasks],
            "devices": [
                {"id": one.id, "key": one.key, "trials": one.trials, "use": one.use}
                for one in self.devices
            ],
            "seconds": self.seconds,
            "interrupted": self.interrupted,
        }

    def rows(self) -> list[list[str]]:
        """A table by task, its heads first."""
        rows = [HEADS.split(), *map(_row, self.tasks)]
        if any(math.isfinite(task.theirs_s) for task in self.tasks):
            for row, cell in zip(rows, ["theirs", *map(_theirs, self.tasks)], strict=True):
                row.insert(HEADS.split().index("gain"), cell)
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        heads, *rest = self.rows()
        head = "".join(f"<th>{one}</th>" for one in heads)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rest
        )
        return f"<table><tr>{head}</tr>{body}</table>"


def _theirs(task: TaskResult) -> str:
    """Another tuner's best, and how many times as fast ours is."""
    if not math.isfinite(task.theirs_s):
        return "-"
    faster = f" ({task.theirs_s / task.best_s:.2f} x)" if task.best else ""
    return f"{format_seconds(task.theirs_s)}{faster}"


def _row(task: TaskResult) -> list[str]:
    rate = f"{task.gflops:.1f}" if task.best and task.operations else "-"
    return [
        task.workload,
        task.device_key,
        f"{task.operations / 1e9:.3g}",
        f"{task.weight:g}",
        rate,
        format_seconds(task.best_s) if task.best else "-",
        f"{task.gain:.2f} x" if task.best else "-",
        str(task.trials),
        str(task.failed),
    ]
