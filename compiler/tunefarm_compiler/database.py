"""The best schedule known for each workload and target: a file of JSON lines that can be shipped.

    {"cpu": "znver4", "features": [...], "schedule": {...}, "seconds": 0.018, "workload": ...}

One line for each workload, target and number of threads, sorted: two files compare line by line.
The number is what a search was given; where the best schedule takes fewer, the line says `threads`.
"""

import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunefarm_proto.errors import (
    InvalidRequestError,
    InvalidScheduleError,
    OperatorInvalidError,
    UnknownWorkloadError,
)

from tunefarm_compiler import workload as workloads
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.spaces import ScheduleRules, Tuned, rules_of
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.threads import MOST_THREADS
from tunefarm_compiler.workload import Workload, distance

VERSION = 1
VARIABLE = "TUNEFARM_BEST"
NEAR = 4.0  # powers of two that the sizes of a shape in place of another may differ by in all


BAD = (
    ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError,
    InvalidScheduleError,
)  # fmt: skip
Key = tuple[str, TargetSpec, int]


def default_path() -> Path:
    """The database that holds where none is named: TUNEFARM_BEST, or one of this user."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "tunefarm" / "best.jsonl"


def known_best() -> Tuned | None:
    """What this user's database knows, None where there is none; read again once it changed.

    Raises: InvalidRequestError for a file of anything else.
    """
    try:
        path = default_path()
        about = path.stat()
    except (OSError, RuntimeError):  # nobody at home, in a container say
        return None
    return _read(path, about.st_ino, about.st_mtime_ns, about.st_size)


@lru_cache(1)
def _read(path: Path, *about: int) -> Tuned:
    return Database.read(path)


@dataclass(frozen=True)
class Entry:
    """A tuned workload. `seconds` are those of one call, the median of the full measurement.

    `threads` are how many there were: the schedule may take fewer of them.
    """

    workload: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    schedule: str
    seconds: float
    device: str = ""
    device_key: str = ""
    trials: int = 0
    recorded_at: str = ""
    version: int = VERSION
    threads: int = 1

    @classmethod
    def of(
        cls, workload: Workload, spec: TargetSpec, schedule: str, seconds: float, threads: int = 1
    ) -> "Entry":
        """The entry of a workload on a target; what else is known is put in by `replace`."""
        most = max(threads, _taken(schedule))
        target = (spec.triple, spec.cpu, spec.features)
        return cls(str(workload), *target, schedule, seconds, threads=most)

    @property
    def spec(self) -> TargetSpec:
        """The target."""
        return TargetSpec(self.triple, self.cpu, self.features)

    @property
    def key(self) -> Key:
        """What there is one entry for."""
        return self.workload, self.spec, self.threads

    def to_json(self) -> str:
        """One line."""
        data = asdict(self) | {"schedule": json.loads(self.schedule)}
        if self.threads == _taken(self.schedule):  # it says so itself
            del data["threads"]
        return json.dumps({k: v for k, v in data.items() if v not in ("", 0)}, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "Entry":
        """Read a line. Raises: ValueError, TypeError, KeyError, InvalidScheduleError."""
        data: dict[str, Any] = json.loads(line)
        if int(data.get("version", VERSION)) > VERSION:
            raise ValueError(f"of version {data['version']}, {VERSION} is known here")
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        schedule = Schedule.from_json(json.dumps(data["schedule"]))
        known |= {"schedule": schedule.to_json(), "features": tuple(data["features"])}
        threads = data.get("threads", 1)
        if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"{str(threads)[:40]} threads")
        known["threads"] = max(threads, schedule.most_threads)
        made = cls(**known)
        if not all(isinstance(one, str) for one in (made.workload, made.triple, made.cpu)):
            raise ValueError("workload, triple and cpu are words")
        if not all(isinstance(one, str) for one in made.features):
            raise ValueError("features are words")
        if not isinstance(made.seconds, int | float) or not 0 < made.seconds < math.inf:
            raise ValueError(f"{made.seconds} seconds")
        return made


def _taken(schedule: str) -> int:
    return Schedule.from_json(schedule).most_threads


@dataclass(frozen=True)
class Found:
    """An answer. `how`: "exact", "target" (of one like it), "shape" (of the nearest shape)."""

    schedule: Schedule
    how: str
    entry: Entry


class Database:
    """Best schedules by workload and target; a `spaces.Tuned`."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[Key, Entry] = {}
        self.merge(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        order = sorted(self._entries, key=lambda k: (k[0], k[1].triple, k[1].cpu, k[2]))
        return iter([self._entries[key] for key in order])

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Database":
        """What a file holds; nothing where there is none. Raises: InvalidRequestError, OSError."""
        file, found = Path(path), []
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found.append(Entry.from_json(line))
            except BAD as error:
                said = str(error).splitlines()[0]
                if isinstance(error, KeyError):
                    said = f"it has no {error.args[0]}"
                raise InvalidRequestError(
                    f"{file}:{number} is no tuned schedule: {said}",
                    "name a file that `tunefarm best` exported",
                ) from None
        return cls(found)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Replace a file, whole or not at all. Raises: OSError."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")  # others may read it, as the file
        try:
            part.write_text("".join(entry.to_json() + "\n" for entry in self))
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def put(cls, path: str | os.PathLike[str], entries: Iterable[Entry]) -> int:
        """Add entries to a file that others may be adding to; how many were taken.

        Raises: InvalidRequestError, OSError.
        """
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            held = cls.read(file)
            if taken := held.merge(entries):
                held.write(file)
            return taken
        finally:
            os.close(folder)

    def add(self, entry: Entry) -> bool:
        """Keep an entry if it is the fastest of its workload, target and threads; whether it is.

        Of two measurements of one schedule the newer one holds.
        """
        old = self._entries.get(entry.key)
        if old and old.schedule == entry.schedule and old.recorded_at > entry.recorded_at:
            return False
        if old and old.schedule != entry.schedule and old.seconds <= entry.seconds:
            return False
        self._entries[entry.key] = entry
        return True

    def merge(self, entries: Iterable[Entry]) -> int:
        """Add entries of another database; how many were taken."""
        return sum([self.add(entry) for entry in entries])

    def select(self, workload: str = "", cpu: str = "") -> "Database":
        """The part whose workloads contain a text and whose targets have that CPU."""
        return Database(e for e in self if workload in e.workload and cpu in ("", e.cpu))

    # Looking up

    def lookup(self, workload: Workload, spec: TargetSpec, threads: int = 1) -> Found | None:
        """The best known: of the very workload and target, of a target like it, of a shape near.

        None where nothing is near. A schedule that this version cannot apply is passed over.
        """
        rules = _rules(workload, spec, threads)
        alike = [entry for entry in self if _alike(entry.spec, spec) and entry.threads == threads]
        alike.sort(key=lambda entry: (entry.spec != spec, entry.cpu != spec.cpu, entry.seconds))
        for entry in alike:
            if entry.workload == str(workload):
                schedule = Schedule.from_json(entry.schedule)
                if not rules.broken(schedule):
                    return Found(schedule, "exact" if entry.spec == spec else "target", entry)
        return self._near(rules, alike)

    def _near(self, rules: ScheduleRules, alike: Iterable[Entry]) -> Found | None:
        """The best of the nearest shape, in the form that suits this one."""
        shapes = []
        for entry in alike:
            try:
                other = workloads.parse(entry.workload)
            except (UnknownWorkloadError, OperatorInvalidError):
                continue
            far = distance(other, rules.workload)
            if far <= NEAR and other.dtype == rules.workload.dtype:
                shapes.append((far, entry, other))
        for _, entry, other in sorted(shapes, key=lambda one: one[0]):
            source = _rules(other, entry.spec, rules.threads)
            schedule = rules.adapt(Schedule.from_json(entry.schedule), source)
            if schedule is not None:
                return Found(schedule, "shape", entry)
        return None

    def schedule(self, workload: Workload, spec: TargetSpec, threads: int = 1) -> Schedule | None:
        """The schedule of `lookup`, if any."""
        found = self.lookup(workload, spec, threads)
        return found.schedule if found else None


@lru_cache(64)
def _rules(workload: Workload, spec: TargetSpec, threads: int) -> ScheduleRules:
    return rules_of(workload, spec, threads)


def _alike(one: TargetSpec, other: TargetSpec) -> bool:
    """Whether what is fast on one target is likely so on the other, and can be built for it."""
    same = (one.arch, one.lanes, one.vector_registers) == (
        other.arch, other.lanes, other.vector_registers,
    )  # fmt: skip
    return same and set(one.features) <= set(other.features) | {"f16c", "avx512bw", "avx512dq"}


__all__ = ["Database", "Entry", "Found", "default_path", "known_best", "replace"]
