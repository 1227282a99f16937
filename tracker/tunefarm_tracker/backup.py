"""Backup and restore of a tracker's state, while it runs or not.

A backup is a tar, compressed, that only its owner reads: manifest.json, then the two databases,
each as it was at one moment by SQLite's own backup, and the secret of the leases' tokens.
"""

import fcntl
import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.rpc import software_version

FORMAT = 1
# Tokens last: one made while the other file is copied is in the backup, and opens nothing more.
DATABASES = ("state.sqlite", "accounts.sqlite")
SECRET, MANIFEST = "secret", "manifest.json"
MOST_BYTES = 1 << 40
_COUNTED = ("devices", "requests", "leases", "results", "events")


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself. `counts` are rows by table; `sha256` is of each file."""

    format: int
    made_at: float
    software: str
    counts: dict[str, int]
    sha256: dict[str, str]


def _copy(source: Path, target: Path) -> None:
    """A database as it is at one moment, whoever writes it. Raises: InvalidRequestError."""
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            # In one step: in several, each write of the tracker would start it anew.
            old.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise InvalidRequestError(f"{source} cannot be copied: {error}", "is it whole?") from None


def _counts(database: Path) -> dict[str, int]:
    with closing(sqlite3.connect(database)) as connection:
        return {
            name: int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0])  # noqa: S608
            for name in _COUNTED
        }


def backup(state: Path, target: Path) -> Manifest:
    """Write a backup of the state folder into a new file, mode 0600; the tracker may be running.

    Raises: InvalidRequestError where there is no state, or the file exists already.
    """
    if not (state / DATABASES[0]).is_file():
        raise InvalidRequestError(
            f"there is no tracker's state in {state}", "name the folder by --state"
        )
    part = target.with_name(target.name + ".part")
    with _new_file(target, part) as out, tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        copied: dict[str, Path] = {}
        for name in DATABASES:
            if (state / name).is_file():
                copied[name] = Path(scratch) / name
                _copy(state / name, copied[name])
        if (state / SECRET).is_file():
            copied[SECRET] = state / SECRET
        manifest = Manifest(
            FORMAT,
            time.time(),
            software_version(),
            _counts(copied[DATABASES[0]]),
            {name: _digest(path) for name, path in copied.items()},
        )
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=6) as archive:
            _add(archive, MANIFEST, json.dumps(asdict(manifest), indent=2).encode())
            for name, path in copied.items():
                archive.add(path, name, filter=_plain)
        out.flush()
        os.fsync(out.fileno())
    return manifest


@contextmanager
def _new_file(target: Path, part: Path) -> Iterator[IO[bytes]]:
    """A file that has its name once it is whole. Raises: InvalidRequestError."""
    if target.exists():
        raise InvalidRequestError(f"{target} exists already", "name a new file")
    try:
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidRequestError(
            f"{target} cannot be written: {error.strerror}", "name another file"
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o600
    return info


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), int(time.time())
    archive.addfile(_plain(info), io.BytesIO(data))


def restore(source: Path, state: Path, *, replace: bool = False) -> Manifest:
    """Make the state folder what it was. With `replace` what is there now is moved aside.

    All is checked before anything is changed: a tracker must not be running there.
    Raises: InvalidRequestError.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state.parent, prefix=f"{state.name}.restoring") as scratch:
        found = Path(scratch) / "state"
        manifest = _unpack(source, found)
        if state.exists():
            lock = _take(state)
            with lock:
                _move_aside(state, replace=replace)
                _put(found, state)
        else:
            _put(found, state)
    return manifest


def _unpack(source: Path, into: Path) -> Manifest:
    into.mkdir(mode=0o700)
    try:
        with tarfile.open(source, "r:gz") as archive:
            for info in archive:
                # Only names that we know, plain files; never a path that leads elsewhere.
                if not info.isfile() or info.name not in (MANIFEST, SECRET, *DATABASES):
                    raise InvalidRequestError(f"{source} holds {info.name!r}, which no backup does")
                data = archive.extractfile(info)
                assert data is not None  # noqa: S101 (it is a file)
                path = into / info.name
                with os.fdopen(
                    os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
                ) as o:
                    while chunk := data.read(1 << 20):
                        o.write(chunk)
        manifest = Manifest(**json.loads((into / MANIFEST).read_text()))
    except FileNotFoundError as error:
        missing = source if Path(str(error.filename)) == source else MANIFEST
        raise InvalidRequestError(f"there is no {missing}", "name a file of `backup`") from None
    except InvalidRequestError:
        raise
    except (OSError, EOFError, tarfile.TarError, ValueError, TypeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidRequestError(f"{source} is no whole backup: {said}", "take another") from None
    _check(source, into, manifest)
    return manifest


def _check(source: Path, into: Path, manifest: Manifest) -> None:
    if manifest.format > FORMAT:
        raise InvalidRequestError(
            f"{source} is of format {manifest.format}, this tracker knows {FORMAT}",
            f"use tunefarm {manifest.software}, which made it, or a later one",
        )
    for name, digest in manifest.sha256.items():
        if not (into / name).is_file() or _digest(into / name) != digest:
            raise InvalidRequestError(f"{source} is damaged: {name} is not what it was")
    if DATABASES[0] not in manifest.sha256:
        raise InvalidRequestError(f"{source} holds no {DATABASES[0]}")
    for name in DATABASES:
        if name in manifest.sha256:
            with closing(sqlite3.connect(into / name)) as connection:
                said = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if said != "ok":
                raise InvalidRequestError(f"{source} is damaged: {name}: {said.splitlines()[0]}")
    (into / MANIFEST).unlink()


def _take(state: Path) -> IO[str]:
    lock = (state / "lock").open("w")
    _give(state / "lock", state.stat())
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InvalidRequestError(
            f"a tracker is running on the state in {state}", "stop it first"
        ) from None
    return lock


def _files(state: Path) -> list[Path]:
    names = [*DATABASES, *(f"{one}{end}" for one in DATABASES for end in ("-wal", "-shm")), SECRET]
    return [state / name for name in names if (state / name).exists()]


def _move_aside(state: Path, *, replace: bool) -> None:
    """What is there goes into a folder of its own: a restore loses nothing either."""
    there = _files(state)
    if not there:
        return
    if not replace:
        raise InvalidRequestError(
            f"{state} holds a tracker's state already", "say --replace, which moves it aside"
        )
    aside = state / time.strftime("before-restore-%Y%m%d-%H%M%S")
    aside.mkdir(mode=0o700)
    _give(aside, state.stat())
    for path in there:
        path.rename(aside / path.name)


def _put(found: Path, state: Path) -> None:
    owner = (state if state.exists() else state.parent).stat()
    if not state.exists():
        state.mkdir(mode=0o700)
    for path in _files(found):
        _give(path, owner)
        path.rename(state / path.name)


def _give(path: Path, owner: os.stat_result) -> None:
    """Root restores for the user of the service."""
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)
