"""Tuning records: one JSON line for each candidate, good or bad."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tunefarm.timing import format_seconds
from tunefarm_proto.errors import InvalidRequestError

VERSION = 1


@dataclass(frozen=True)
class Record:
    """What became of one candidate. `samples_s` is empty and `error` says why where it failed.

    `error` is the name of a class of `tunefarm.errors`, `message` the words of whoever saw it.
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

    @property
    def median_s(self) -> float:
        """Median seconds of one call; infinite where it failed."""
        ordered = sorted(self.samples_s)
        return ordered[len(ordered) // 2] if ordered else float("inf")

    def summary(self) -> str:
        """A few words for a progress line."""
        return self.error or format_seconds(self.median_s)


def read(path: Path) -> Iterator[Record]:
    """The records of a file, none where there is no file.

    A last line without its end, as a killed run leaves it, is passed over.
    Raises: InvalidRequestError for any other line that is no record.
    """
    if not path.exists():
        return
    text = path.read_text()
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            known = {k: v for k, v in json.loads(line).items() if k in Record.__annotations__}
            yield Record(**known)
        except (ValueError, TypeError, AttributeError):
            raise InvalidRequestError(
                f"{path}:{number} is not a tuning record", "name another file by --records"
            ) from None


def append(path: Path, record: Record) -> None:
    """Add one record, after mending a last line that a killed run left without its end."""
    line = json.dumps(asdict(record), sort_keys=True) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        end = file.tell()
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                whole = file.read().rfind(b"\n") + 1
                file.truncate(whole)
        file.write(line.encode())
