"""What survives a restart: devices, requests, leases, events, results."""

import asyncio
import json
import queue
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tunefarm_proto.errors import InternalError

from tunefarm_tracker.core.model import Device, Lease, Request, State

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE things (kind TEXT, id TEXT, data TEXT NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE events (cursor INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, kind TEXT, subject TEXT,
                     action TEXT, detail TEXT);
CREATE TABLE results (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, workload TEXT,
                      device_id TEXT, device_key TEXT, user TEXT, data BLOB NOT NULL);
CREATE INDEX results_of_workload ON results (workload, number);
"""
_KINDS = {"device": Device, "request": Request, "lease": Lease}
EVENTS_KEPT = 100_000


@dataclass(frozen=True)
class StoredEvent:
    """An event with its place in the order of all."""

    cursor: int
    at: float
    kind: str
    subject: str
    action: str
    detail: str


@dataclass(frozen=True)
class Write:
    """One change: SQL with its values. Made by the functions below."""

    sql: str
    values: tuple[Any, ...]


class Store(Protocol):
    """Where the tracker's memory is kept."""

    def load(self) -> State:
        """Devices, requests and leases as they were."""

    def last_cursor(self) -> int:
        """Cursor of the newest event, 0 where there is none."""

    def write(self, writes: Sequence[Write]) -> "asyncio.Future[None]":
        """Make changes, all or none; the future is done when they are durable."""

    def events(self, after: int, limit: int) -> list[StoredEvent]:
        """Events after a cursor, in order."""

    def has_result(self, result_id: str) -> bool:
        """Whether a result is kept."""

    def results(self, where: dict[str, str], limit: int) -> list[bytes]:
        """Results that match every given field, newest first."""

    def close(self) -> None:
        """Finish what is under way."""


def save(kind: str, thing: Device | Request | Lease) -> Write:
    """Keep a device, request or lease."""
    data = asdict(thing)
    text = json.dumps({k: v.hex() if isinstance(v, bytes) else v for k, v in data.items()})
    return Write("INSERT OR REPLACE INTO things VALUES (?, ?, ?)", (kind, thing.id, text))


def forget(kind: str, thing_id: str) -> Write:
    """Drop a device, request or lease."""
    return Write("DELETE FROM things WHERE kind = ? AND id = ?", (kind, thing_id))


def event(stored: StoredEvent) -> Write:
    """Keep an event."""
    values = (stored.cursor, stored.at, stored.kind, stored.subject, stored.action, stored.detail)
    return Write("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", values)


def trim_events(newest: int) -> Write:
    """Drop the oldest events."""
    return Write("DELETE FROM events WHERE cursor <= ?", (newest - EVENTS_KEPT,))


def result(fields: dict[str, str], data: bytes) -> Write:
    """Keep a result; the same id twice is kept once."""
    names = ("id", "workload", "device_id", "device_key", "user")
    return Write(
        "INSERT OR IGNORE INTO results (id, workload, device_id, device_key, user, data) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (*(fields[name] for name in names), data),
    )


def _thing(kind: str, text: str) -> Device | Request | Lease:
    data = json.loads(text)
    if kind == "device":
        data["facts"], data["conditions"] = (
            bytes.fromhex(data[k]) for k in ("facts", "conditions")
        )
        data["addresses"] = tuple(data["addresses"])
    made: Device | Request | Lease = _KINDS[kind](**data)
    return made


class SqliteStore:
    """SQLite, WAL, synchronous=FULL. A writer thread commits all that waits at once.

    `path` None keeps everything in memory, for tests.
    """

    def __init__(self, path: Path | None) -> None:
        self._read = sqlite3.connect(
            path or "file:tunefarm?mode=memory", uri=path is None, check_same_thread=False
        )
        self._read.execute("PRAGMA journal_mode=WAL")
        self._read.execute("PRAGMA synchronous=FULL")
        version = self._read.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._read.executescript(f"{_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
        elif version > SCHEMA_VERSION:
            raise InternalError(
                f"{path} is of schema {version}, this tracker knows {SCHEMA_VERSION}",
                "run the newer tunefarm",
            )
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Sequence[Write], Any, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tunefarm-store", daemon=True)
        self._thread.start()

    def load(self) -> State:
        """Devices, requests and leases as they were."""
        state = State()
        tables: dict[str, dict[str, Any]] = {
            "device": state.devices,
            "request": state.requests,
            "lease": state.leases,
        }
        for kind, name, text in self._select("SELECT kind, id, data FROM things"):
            tables[kind][name] = _thing(kind, text)
        for device in state.devices.values():
            if device.lease not in state.leases:
                device.lease = ""
        return state

    def last_cursor(self) -> int:
        """Cursor of the newest event."""
        return int(self._select("SELECT coalesce(max(cursor), 0) FROM events")[0][0])

    def write(self, writes: Sequence[Write]) -> "asyncio.Future[None]":
        """Make changes off the event loop."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._jobs.put((writes, loop, done))
        return done

    def events(self, after: int, limit: int) -> list[StoredEvent]:
        """Events after a cursor."""
        rows = self._select(
            "SELECT * FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?", (after, limit)
        )
        return [StoredEvent(*row) for row in rows]

    def has_result(self, result_id: str) -> bool:
        """Whether a result is kept."""
        return bool(self._select("SELECT 1 FROM results WHERE id = ?", (result_id,)))

    def results(self, where: dict[str, str], limit: int) -> list[bytes]:
        """Results, newest first. The names in `where` are columns, never a user's text."""
        clause = " AND ".join(f"{name} = ?" for name in where) or "1"
        query = f"SELECT data FROM results WHERE {clause} ORDER BY number DESC LIMIT ?"  # noqa: S608
        return [row[0] for row in self._select(query, (*where.values(), limit))]

    def close(self) -> None:
        """Commit what waits and close."""
        self._jobs.put(None)
        self._thread.join()
        self._read.close()

    def _select(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            return self._read.execute(query, values).fetchall()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            batch = []
            while job is not None:
                batch.append(job)
                if self._jobs.empty():
                    break
                job = self._jobs.get()
            if batch:
                self._commit(batch)
            if job is None:
                return

    def _commit(self, batch: list[tuple[Sequence[Write], Any, Any]]) -> None:
        failure: Exception | None = None
        try:
            with self._lock, self._read:
                for writes, _, _ in batch:
                    for write in writes:
                        self._read.execute(write.sql, write.values)
        except sqlite3.Error as error:
            failure = InternalError(f"the tracker's store failed: {error}")
        for _, loop, done in batch:
            loop.call_soon_threadsafe(_finish, done, failure)


def _finish(done: "asyncio.Future[None]", failure: Exception | None) -> None:
    if done.cancelled():
        return
    if failure is not None:
        done.set_exception(failure)
    else:
        done.set_result(None)
