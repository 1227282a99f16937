"""The store in SQLite: one thread writes, gathering what waits into one commit; another reads."""

import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from tunefarm_proto.errors import InternalError, InvalidRequestError

from tunefarm_tracker.core import Snapshot
from tunefarm_tracker.core.effects import Change
from tunefarm_tracker.core.records import (
    Device,
    End,
    Event,
    EventKind,
    Failure,
    FailureKind,
    Fault,
    Health,
    Lease,
    Need,
    PastLease,
    Quota,
    Request,
    Usage,
    Wish,
)
from tunefarm_tracker.core.where import Condition
from tunefarm_tracker.gather import PAST_COLUMNS, Gathered
from tunefarm_tracker.store import EventQuery, PastQuery, ResultQuery, ResultRecord

T = TypeVar("T")
# Changes to be gathered with others, or something else to be done in the same commit.
Work: TypeAlias = tuple[Change, ...] | Callable[[sqlite3.Connection], T]
Job: TypeAlias = tuple[Work[Any], "Future[Any]"]

SCHEMA_VERSION = 2
_BATCH = 2000  # at most so many jobs in one commit

_SCHEMA = """
CREATE TABLE devices (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, addresses TEXT NOT NULL, facts BLOB NOT NULL,
    instance TEXT NOT NULL, fence INTEGER NOT NULL, health TEXT NOT NULL,
    health_reason TEXT NOT NULL, lease_id TEXT NOT NULL, attributes TEXT NOT NULL,
    draining INTEGER NOT NULL, faults TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE requests (
    request_id TEXT PRIMARY KEY, needs TEXT NOT NULL, priority INTEGER NOT NULL,
    user TEXT NOT NULL, purpose TEXT NOT NULL, wait_timeout REAL, wait_for_key INTEGER NOT NULL,
    ttl REAL, maintenance INTEGER NOT NULL, seq INTEGER NOT NULL, queued_at REAL NOT NULL,
    lease_ids TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE quotas (
    user TEXT PRIMARY KEY, max_devices INTEGER, max_requests INTEGER
) WITHOUT ROWID;
CREATE TABLE usage (
    user TEXT NOT NULL, key TEXT NOT NULL, amount REAL NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (user, key)
) WITHOUT ROWID;
CREATE TABLE leases (
    id TEXT PRIMARY KEY, request_id TEXT NOT NULL, device_id TEXT NOT NULL UNIQUE,
    device_key TEXT NOT NULL, holder TEXT NOT NULL, purpose TEXT NOT NULL,
    priority INTEGER NOT NULL, fence INTEGER NOT NULL, granted_at REAL NOT NULL, ttl REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE ends (
    request_id TEXT PRIMARY KEY, at REAL NOT NULL, kind TEXT, message TEXT, hint TEXT
) WITHOUT ROWID;
CREATE TABLE events (
    cursor INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
    action TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE TABLE results (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, workload TEXT NOT NULL,
    device_id TEXT NOT NULL, device_key TEXT NOT NULL, user TEXT NOT NULL, body BLOB NOT NULL,
    recorded_at REAL NOT NULL
);
CREATE INDEX results_workload ON results (workload, n);
CREATE INDEX results_device ON results (device_id, n);
CREATE INDEX results_time ON results (recorded_at);
"""

# Came after version 2. Trackers that do not know these leave them alone.
_LATER = """
CREATE TABLE IF NOT EXISTS past_leases (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL, request_id TEXT NOT NULL,
    device_id TEXT NOT NULL, device_key TEXT NOT NULL, holder TEXT NOT NULL, purpose TEXT NOT NULL,
    priority INTEGER NOT NULL, fence INTEGER NOT NULL, granted_at REAL NOT NULL, ttl REAL NOT NULL,
    queued_at REAL NOT NULL, ended_at REAL NOT NULL, outcome TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS past_leases_time ON past_leases (ended_at);
CREATE INDEX IF NOT EXISTS past_leases_request ON past_leases (request_id);
CREATE INDEX IF NOT EXISTS events_device ON events (subject, cursor) WHERE kind = 'device';
"""


class SqliteStore:
    """A store in one file. Opening it creates it or checks its version.

    Raises: InvalidRequestError for a file that is not of this version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._prepare()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="tracker-store", daemon=True)
        self._writer.start()
        self._readers = ThreadPoolExecutor(1, "tracker-store-reader")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=30
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _prepare(self) -> None:
        try:
            connection = self._connect()
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
            if version in (0, SCHEMA_VERSION):
                connection.executescript(f"BEGIN; {_LATER} COMMIT;")
            connection.close()
        except sqlite3.DatabaseError as error:
            raise InvalidRequestError(
                f"{self._path} cannot be used as the tracker's store: {error}",
                "name another folder by --state",
            ) from None
        if version not in (0, SCHEMA_VERSION):
            raise InvalidRequestError(
                f"{self._path} is of schema version {version}, this tracker knows {SCHEMA_VERSION}",
                "use the tunefarm that wrote it, or another folder by --state",
            )

    def load(self) -> Snapshot:
        """Everything kept."""
        connection = self._connect()
        rows = connection.execute
        last = rows("SELECT coalesce(max(cursor), 0) FROM events").fetchone()[0]
        snapshot = Snapshot(
            devices=tuple(_device(row) for row in rows("SELECT * FROM devices")),
            requests=tuple(_request(row) for row in rows("SELECT * FROM requests")),
            leases=tuple(Lease(*row) for row in rows("SELECT *, 0.0 FROM leases")),
            ends=tuple(_end(row) for row in rows("SELECT * FROM ends ORDER BY at")),
            quotas=tuple(Quota(*row) for row in rows("SELECT * FROM quotas")),
            usage=tuple(Usage(*row) for row in rows("SELECT * FROM usage")),
            cursor=last,
        )
        connection.close()
        return snapshot

    def write(self, changes: Sequence[Change]) -> "Future[None]":
        """Keep these changes, all or none."""
        return self._submit(tuple(changes))

    def add_result(self, result: ResultRecord) -> "Future[bool]":
        """Keep a result; false where one with its id is kept already."""
        row = tuple(getattr(result, one.name) for one in fields(result))

        def apply(connection: sqlite3.Connection) -> bool:
            sql = (
                "INSERT OR IGNORE INTO results"
                " (id, workload, device_id, device_key, user, body, recorded_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            return connection.execute(sql, row).rowcount == 1

        return self._submit(apply)

    def results(self, query: ResultQuery) -> "Future[list[bytes]]":
        """Bodies of results, last kept first."""
        parts: list[tuple[str, Any]] = [
            ("workload = ?", query.workload),
            ("device_id = ?", query.device_id),
            ("device_key = ?", query.device_key),
            ("user = ?", query.user),
            ("recorded_at >= ?", query.since),
            ("recorded_at < ?", query.until),
            ("n < (SELECT n FROM results WHERE id = ?)", query.before_id),
            ("id = ?", query.id),
        ]
        asked = [(sql, value) for sql, value in parts if value]
        where = " AND ".join(sql for sql, _ in asked) or "1"
        sql = f"SELECT body FROM results WHERE {where} ORDER BY n DESC LIMIT ?"  # noqa: S608
        values = [*(value for _, value in asked), query.limit]
        return self._readers.submit(lambda: [row[0] for row in self._read(sql, values)])

    def forget_results(self, before: float) -> "Future[int]":
        """Drop results recorded before a time. Returns how many."""
        sql = "DELETE FROM results WHERE recorded_at < ?"
        return self._submit(lambda connection: connection.execute(sql, (before,)).rowcount)

    def events_after(self, cursor: int, limit: int) -> "Future[list[Event]]":
        """The first events kept after a cursor."""
        sql = "SELECT * FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?"
        return self._readers.submit(
            lambda: [_event(row) for row in self._read(sql, [cursor, limit])]
        )

    def events_of(self, query: EventQuery) -> "Future[list[Event]]":
        """What happened to one thing, newest first."""
        # The kind stands in the text: else SQLite does not use the index of one kind.
        where = f"kind = '{query.kind.value}' AND subject = ? AND cursor < ?"
        sql = f"SELECT * FROM events WHERE {where} ORDER BY cursor DESC LIMIT ?"  # noqa: S608
        values = [query.subject, query.before or 2**62, query.limit]
        return self._readers.submit(lambda: [_event(row) for row in self._read(sql, values)])

    def past_leases(self, query: PastQuery) -> "Future[list[PastLease]]":
        """Leases that have ended, last ended first."""
        parts: list[tuple[str, Any]] = [
            ("device_id = ?", query.device_id),
            ("holder = ?", query.holder),
            ("request_id = ?", query.request_id),
            ("ended_at >= ?", query.since),
            ("granted_at < ?", query.until),
        ]
        asked = [(sql, value) for sql, value in parts if value]
        where = " AND ".join(sql for sql, _ in asked) or "1"
        order = "ORDER BY ended_at DESC, n DESC LIMIT ?"
        sql = f"SELECT {PAST_COLUMNS} FROM past_leases WHERE {where} {order}"  # noqa: S608
        values = [*(value for _, value in asked), query.limit]
        return self._readers.submit(lambda: [_past(row) for row in self._read(sql, values)])

    def _read(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        connection = self._connect()
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def close(self) -> None:
        """Finish what was asked for, then let go."""
        self._jobs.put(None)
        self._writer.join()
        self._readers.shutdown()

    def _submit(self, work: "Work[T]") -> "Future[T]":
        future: Future[T] = Future()
        self._jobs.put((work, future))
        return future

    def _write_all(self) -> None:
        connection = self._connect()
        stopping = False
        while not stopping:
            jobs = [self._jobs.get()]
            while len(jobs) < _BATCH and not self._jobs.empty():
                jobs.append(self._jobs.get())
            stopping = None in jobs
            _commit(connection, [job for job in jobs if job is not None])
        connection.close()


def _commit(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    answers: list[Any] = []
    gathered = Gathered()
    try:
        connection.execute("BEGIN IMMEDIATE")
        for work, _ in jobs:
            if isinstance(work, tuple):
                for change in work:
                    gathered.add(change)
                answers.append(None)
            else:
                answers.append(work(connection))
        gathered.execute(connection)
        connection.execute("COMMIT")
    except Exception as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        failure = InternalError(f"the tracker cannot keep its state: {error}")
        for _, future in jobs:
            if future.set_running_or_notify_cancel():
                future.set_exception(failure)
        return
    for (_, future), answer in zip(jobs, answers, strict=True):
        if future.set_running_or_notify_cancel():  # else whoever asked has gone
            future.set_result(answer)


def _event(row: tuple[Any, ...]) -> Event:
    return Event(row[0], row[1], EventKind(row[2]), *row[3:])


def _past(row: tuple[Any, ...]) -> PastLease:
    lease = (*row[:10], 0.0)
    return PastLease(Lease(*lease), *row[10:])


def _device(row: tuple[Any, ...]) -> Device:
    identity, key, addresses, facts, instance, fence, health, reason, lease_id, *more = row
    attributes, draining, faults = more
    return Device(
        id=identity,
        key=key,
        addresses=tuple(json.loads(addresses)),
        facts=facts,
        instance=instance,
        fence=fence,
        health=Health(health),
        health_reason=reason,
        lease_id=lease_id,
        attributes=tuple((name, value) for name, value in json.loads(attributes)),
        draining=bool(draining),
        faults=tuple(Fault(*one) for one in json.loads(faults)),
    )


def _request(row: tuple[Any, ...]) -> Request:
    identity, needs, *wish, seq, queued_at, lease_ids = row
    wish[4], wish[6] = bool(wish[4]), bool(wish[6])
    parsed = tuple(
        Need(tuple(keys), tuple(Condition(*one) for one in where))
        for keys, where in json.loads(needs)
    )
    return Request(Wish(identity, parsed, *wish), seq, queued_at, tuple(lease_ids.split()))


def _end(row: tuple[Any, ...]) -> End:
    request_id, at, kind, message, hint = row
    return End(request_id, at, Failure(FailureKind(kind), message, hint) if kind else None)
