"""Tuning records: one JSON line for each trial, good or bad, and the same rows in SQLite.

The lines are what counts: each is written whole, in one append, when its trial is over. The table
beside them is for questions (`SELECT schedule, median_s FROM trials WHERE ...`), and catches up
with the lines whenever the file is opened.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import sqlite3
import stat
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, get_origin, get_type_hints

from tunefarm.timing import format_seconds
from tunefarm_proto.errors import InvalidRequestError

VERSION = 2
SCREEN, FULL = "screen", "full"


def trial_id(workload: str, device_key: str, target: str, schedule: str, threads: int = 1) -> str:
    """The name of a trial: the same for the same candidate of the same task, in every run."""
    words = (workload, device_key, target, schedule, *([str(threads)] if threads > 1 else []))
    text = "\0".join(words)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """What became of one candidate. `samples_s` is empty and `error` says why where it failed.

    `error` is the name of a class of `tunefarm.errors`, `message` the words of whoever saw it.
    Times are seconds; samples are of one call, each the mean of `number` calls.

    Attributes:
        schedule: the candidate, as canonical text.
        tier: "screen", or "full" for the re-measurement of the best.
        abandoned: it was far slower than the best, so that its one sample is enough.
        duplicate_of: the trial whose library has the same bytes, and whose samples these are.
        threads: the most that the search dealt loops out to, `schedule` may say fewer; 1 for
            searches without any.
        resources: of a GPU's kernels, see `tunefarm_tuner.resources`.
        queue_s: from built to its turn on the device; `run_s` of that turn its kernel ran.
    """

    workload: str
    target: str
    device: str
    device_key: str
    emulated: bool
    schedule: str
    samples_s: list[float] = field(default_factory=list)
    number: int = 0
    error: str = ""
    message: str = ""
    bundle_digest: str = ""
    recorded_at: str = ""
    version: int = VERSION
    id: str = ""
    run: str = ""
    features: list[str] = field(default_factory=list)
    device_facts: dict[str, Any] = field(default_factory=dict)
    emulator: str = ""
    tier: str = SCREEN
    abandoned: bool = False
    duplicate_of: str = ""
    object_digest: str = ""
    outputs_digest: str = ""
    cache: str = ""
    first_call_s: float = 0.0
    conditions_before: dict[str, Any] = field(default_factory=dict)
    conditions_after: dict[str, Any] = field(default_factory=dict)
    operations: int = 0
    build_s: float = 0.0
    queue_s: float = 0.0
    load_s: float = 0.0
    run_s: float = 0.0
    faults: int = 0
    seed: int = 0
    threads: int = 1
    resources: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def task(self) -> tuple[str, str, str]:
        """Workload, key and target: what is searched for together."""
        return self.workload, self.device_key, self.target

    @property
    def trial(self) -> str:
        """Its name; for records of older versions too."""
        return self.id or trial_id(*self.task, self.schedule, self.threads)

    @property
    def median_s(self) -> float:
        """Median seconds of one call; infinite where it failed."""
        return statistics.median(self.samples_s) if self.samples_s else float("inf")

    @property
    def gflops(self) -> float:
        """1e9 operations a second; 0 where it failed or their number is not known."""
        return self.operations / self.median_s / 1e9 if self.samples_s else 0.0

    def summary(self) -> str:
        """A few words for a progress line."""
        return self.error or format_seconds(self.median_s)


# The types of the fields, without what is in lists; a whole number is a number too.
_TYPES: dict[str, tuple[type, ...]] = {
    name: (int, float) if hint is float else (get_origin(hint) or hint,)
    for name, hint in get_type_hints(Record).items()
}
_TORN = re.compile(r'\{("(?P<name>\w*)(?P<rest>".*)?)?')
_HINT = "name a file that `tunefarm tune --records` wrote, or a new one"


def read(path: Path) -> Iterator[Record]:
    """The records of a file, none where there is no file.

    A last line that a killed run cut short is passed over.
    Raises: InvalidRequestError for any other line that is no record.
    """
    if not path.exists():
        return
    *lines, tail = path.read_bytes().split(b"\n")
    if tail and not _torn(tail):
        lines.append(tail)
    for number, line in enumerate(lines, 1):
        yield _parsed(line, f"{path}:{number}")


def _parsed(line: bytes, where: str) -> Record:
    try:
        given = {k: v for k, v in json.loads(line).items() if k in _TYPES}
        for name, value in given.items():
            if not isinstance(value, _TYPES[name]):
                raise TypeError(name)
        record = Record(**given)
        if not all(isinstance(one, int | float) for one in record.samples_s):
            raise TypeError("samples_s")
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InvalidRequestError(f"{where} is not a tuning record", _HINT) from None
    return record


def _torn(tail: bytes) -> bool:
    """Whether a line is the beginning of a record, and no more."""
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(tail)
        return False
    found = _TORN.fullmatch(tail.decode(errors="replace"))
    if found is None or not found["name"]:
        return found is not None
    if found["rest"]:
        return found["name"] in _TYPES
    return any(name.startswith(found["name"]) for name in _TYPES)


def append(path: Path, record: Record) -> None:
    """Add one record to a file that nobody else writes."""
    with RecordFile(path) as file:
        file.add([record])


class RecordFile:
    """A file of records, open for one run. A context manager.

    Opening mends a last line that a killed run left without its end.
    Raises: InvalidRequestError for a file of something else, in no folder that there is, or that
    another run has open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.parent.is_dir():
            raise InvalidRequestError(
                f"{path}: there is no folder {path.parent}", "make it first, or name another file"
            )
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise InvalidRequestError(f"{path} is no plain file", _HINT)
            self._lock()
            self._mend()
            self._table = Table(path.with_name(path.name + ".sqlite"))
            self._table.catch_up(self.records)
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidRequestError(
                f"another run writes to {self.path}", "wait for it, or name another file"
            ) from None

    def _mend(self) -> None:
        """Cut off a record that was not written to its end; what is no record stays as it is."""
        self.records = list(read(self.path))
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole == len(data):
            return
        if _torn(data[whole:]):
            os.ftruncate(self._file, whole)
        else:  # all but its end is there
            os.write(self._file, b"\n")

    def add(self, records: Iterable[Record]) -> None:
        """Append them, in order: they are in the file when this returns. Raises: OSError."""
        new = list(records)
        lines = "".join(json.dumps(asdict(one), sort_keys=True) + "\n" for one in new).encode()
        try:
            while lines:
                lines = lines[os.write(self._file, lines) :]
        except OSError as error:  # that knows no name
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.records += new
        self._table.add(new)

    def close(self) -> None:
        """Have all of it on the disk."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1
            self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Table:
    """The rows in SQLite: a column for each field of a record, lists and objects as JSON."""

    _EXTRA = ("median_s", "gflops")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns = [one.name for one in fields(Record)]
        names = ", ".join(f'"{name}"' for name in (*self._columns, *self._EXTRA) if name != "id")
        self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            # The lines are what counts: what a crash takes from here is put back from them.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = OFF")
            known = {row[1] for row in self._connection.execute("PRAGMA table_info(trials)")}
            if known and not known >= {*self._columns, *self._EXTRA}:
                self._connection.execute("DROP TABLE trials")  # an older version's
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS trials (id TEXT PRIMARY KEY, {names}) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as error:
            raise InvalidRequestError(
                f"{path} cannot be used: {error}", "delete it: it is made again from the records"
            ) from None
        self._many = 0

    def catch_up(self, records: list[Record]) -> None:
        """Bring it to just these."""
        (held,) = self._connection.execute("SELECT count(*) FROM trials").fetchone()
        if held != len(records):
            self._connection.execute("DELETE FROM trials")
            self.add(records)

    def add(self, records: list[Record]) -> None:
        """Add rows; those of names that are there stay. Raises: OSError."""
        marks = ", ".join("?" * (len(self._columns) + len(self._EXTRA)))
        names = ", ".join(f'"{name}"' for name in (*self._columns, *self._EXTRA))
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(
                f"INSERT OR IGNORE INTO trials ({names}) VALUES ({marks})",  # noqa: S608
                [self._row(one) for one in records],
            )
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:  # the disk is full, say
            raise OSError(errno.EIO, str(error), str(self._path)) from None

    def _row(self, record: Record) -> list[Any]:
        values = asdict(record) | {"id": record.trial}
        row = [values[name] for name in self._columns]
        row = [json.dumps(one) if isinstance(one, list | dict) else one for one in row]
        return [*row, record.median_s if record.samples_s else None, record.gflops]

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()
