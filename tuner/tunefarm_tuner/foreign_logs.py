"""Logs of AutoTVM and MetaSchedule: what carries over is the workload and what it cost.

Their schedules are of another compiler and are not read. A cost is the mean of a line's runs, in
seconds; a run that failed has none.

    log = tasks_of(read_log("auto.log"))
    result = tune(workloads_of(log), "rasp4b", trials=64, records="ours.jsonl").beside(log)
"""

import json
import math
import os
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefarm_proto.errors import InvalidRequestError

from tunefarm_tuner import foreign_autotvm, foreign_match

HINT = "name a log of AutoTVM (JSON lines), or both database_*.json files of MetaSchedule"
NAMES = ("database_workload.json", "database_tuning_record.json")  # of MetaSchedule
LARGEST = 1 << 30  # bytes
BAD = (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True)
class ForeignRecord:
    """One measurement of another tuner. `cost_s` is infinite where it failed.

    `workload` is ours where it is one that this version knows, as in "matmul:m=512,n=512,k=512",
    else "" and `task` alone says what it was, in the other tuner's words.
    """

    tuner: str
    task: str
    workload: str
    target: str
    cost_s: float
    samples_s: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class ForeignTask:
    """What a log says of one task on one target: its best run, `best_s` infinite where none worked.

    `workload` and `task` as in `ForeignRecord`; `trials` with those that failed.
    """

    tuner: str
    task: str
    workload: str
    target: str
    best_s: float
    trials: int
    failed: int


def read_log(path: str | os.PathLike[str]) -> Iterator[ForeignRecord]:
    """A log of AutoTVM, or a folder of MetaSchedule's, or one of the two files in it.

    Raises: InvalidRequestError for a line of anything else, OSError.
    """
    file = Path(path)
    folder = file.parent if file.name in NAMES else file
    if folder.is_dir():
        return read_metaschedule(*(folder / name for name in NAMES))
    return read_autotvm(file)


def is_log(path: Path) -> bool:
    """Whether it is one, by its first line."""
    try:
        return next(read_log(path), None) is not None
    except (InvalidRequestError, OSError):
        return False


def tasks_of(records: Iterable[ForeignRecord]) -> list[ForeignTask]:
    """What they say of each task and target, in their order."""
    found: dict[tuple[str, str, str], list[ForeignRecord]] = {}
    for one in records:
        found.setdefault((one.workload, one.workload or one.task, one.target), []).append(one)
    return [
        ForeignTask(
            tuner=held[0].tuner,
            task=held[0].task,
            workload=held[0].workload,
            target=held[0].target,
            best_s=min(one.cost_s for one in held),
            trials=len(held),
            failed=sum(1 for one in held if one.error),
        )
        for held in found.values()
    ]


def workloads_of(tasks: Iterable[ForeignTask]) -> list[str]:
    """Those that can be tuned here, each once."""
    return list(dict.fromkeys(one.workload for one in tasks if one.workload))


def read_autotvm(path: Path) -> Iterator[ForeignRecord]:
    """The lines of an AutoTVM log. Raises: InvalidRequestError for one that is none, OSError."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            row = json.loads(line)
            target, task, arguments = row["input"][:3]
            costs, error, *_ = row["result"]
            failed = bool(error)
            samples = () if failed else tuple(_seconds(one) for one in costs)
            yield ForeignRecord(
                tuner="autotvm",
                task=f"{task} {json.dumps(arguments)}",
                workload=foreign_autotvm.workload_of(str(task), arguments),
                target=str(target),
                cost_s=statistics.fmean(samples) if samples else math.inf,
                samples_s=samples,
                error=f"autotvm error {error}" if failed else "",
            )
        except BAD:
            raise InvalidRequestError(f"{path}:{number} is no line of AutoTVM", HINT) from None


def read_metaschedule(workloads: Path, records: Path) -> Iterator[ForeignRecord]:
    """A database of MetaSchedule: `database_workload.json` and `database_tuning_record.json`.

    Raises: InvalidRequestError for a line that is none, OSError.
    """
    known, ours = [], dict[int, tuple[str, str]]()
    for number, line in enumerate(_lines(workloads), 1):
        known.append(_parsed(line, f"{workloads}:{number}"))
    for number, line in enumerate(_lines(records), 1):
        where = f"{records}:{number}"
        row = _parsed(line, where)
        try:
            index, (_, runs, target, arguments) = range(len(known))[row[0]], row[1]
            shapes = [[int(n) for n in one[-1]] for one in arguments]
            if index not in ours:
                digest, module = known[index]
                words = f"{digest} {foreign_match.words_of(module)}".strip()
                ours[index] = words, foreign_match.workload_of(module)
            samples = tuple(_seconds(one) for one in runs or () if float(one) < 1e9)
            kind = target if isinstance(target, str) else json.dumps(target, sort_keys=True)
            yield ForeignRecord(
                tuner="metaschedule",
                task=f"{ours[index][0]} {json.dumps(shapes)}",
                workload=ours[index][1],
                target=kind,
                cost_s=statistics.fmean(samples) if samples else math.inf,
                samples_s=samples,
                error="" if samples else "no run succeeded",
            )
        except BAD:
            raise InvalidRequestError(f"{where} is no record of MetaSchedule", HINT) from None


def _lines(path: Path) -> list[str]:
    """Its lines; what is no text is no line of a log either. Raises: InvalidRequestError."""
    if path.stat().st_size > LARGEST:
        raise InvalidRequestError(f"{path} is larger than any log, {LARGEST >> 20} MiB", HINT)
    return path.read_text(errors="replace").splitlines()


def _seconds(value: Any) -> float:
    """What a run took. Raises: ValueError, TypeError for what no run can take."""
    seconds = float(value)
    if not 0 < seconds < math.inf:
        raise ValueError(f"{seconds} seconds")
    return seconds


def _parsed(line: str, where: str) -> Any:
    try:
        row = json.loads(line)
        if not isinstance(row, list) or len(row) != 2:
            raise ValueError(line)
        return row
    except (ValueError, RecursionError):
        raise InvalidRequestError(f"{where} is no line of MetaSchedule", HINT) from None
