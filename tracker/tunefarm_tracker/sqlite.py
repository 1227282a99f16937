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
from tunefarm_tracker.core.effects import (
    Change,
    DropLease,
    EndRequest,
    EventHappened,
    ForgetEnds,
    SaveDevice,
    SaveLease,
    SaveRequest,
)
from tunefarm_tracker.core.records import (
    Device,
    End,
    Event,
    EventKind,
    Failure,
    FailureKind,
    Health,
    Lease,
    Request,
    Wish,
)
from tunefarm_tracker.store import ResultQuery, ResultRecord

T = TypeVar("T")
Statement: TypeAlias = tuple[str, tuple[Any, ...]]
Job: TypeAlias = tuple[Callable[[sqlite3.Connection], Any], "Future[Any]"]

SCHEMA_VERSION = 1
KEPT_EVENTS = 100_000
_BATCH = 2000  # at most so many jobs in one commit

_SCHEMA = """
CREATE TABLE devices (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, addresses TEXT NOT NULL, facts BLOB NOT NULL,
    instance TEXT NOT NULL, fence INTEGER NOT NULL, health TEXT NOT NULL,
    health_reason TEXT NOT NULL, lease_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE requests (
    request_id TEXT PRIMARY KEY, key TEXT NOT NULL, priority INTEGER NOT NULL,
    user TEXT NOT NULL, purpose TEXT NOT NULL, wait_timeout REAL, wait_for_key INTEGER NOT NULL,
    ttl REAL, seq INTEGER NOT NULL, queued_at REAL NOT NULL, lease_id TEXT NOT NULL
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
    device_id TEXT NOT NULL, device_key TEXT NOT NULL, user TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX results_workload ON results (workload, n);
CREATE INDEX results_device ON results (device_id, n);
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
        """Everything kept; also forgets all but the last events."""
        connection = self._connect()
        rows = connection.execute
        last = rows("SELECT coalesce(max(cursor), 0) FROM events").fetchone()[0]
        rows("DELETE FROM events WHERE cursor <= ?", (last - KEPT_EVENTS,))
        snapshot = Snapshot(
            devices=tuple(_device(row) for row in rows("SELECT * FROM devices")),
            requests=tuple(_request(row) for row in rows("SELECT * FROM requests")),
            leases=tuple(Lease(*row) for row in rows("SELECT *, 0.0 FROM leases")),
            ends=tuple(_end(row) for row in rows("SELECT * FROM ends ORDER BY at")),
            cursor=last,
        )
        connection.close()
        return snapshot

    def write(self, changes: Sequence[Change]) -> "Future[None]":
        """Keep these changes, all or none."""
        statements = [one for change in changes for one in _statements(change)]

        def apply(connection: sqlite3.Connection) -> None:
            for sql, row in statements:
                connection.execute(sql, row)

        return self._submit(apply)

    def add_result(self, result: ResultRecord) -> "Future[bool]":
        """Keep a result; false where one with its id is kept already."""
        row = tuple(getattr(result, one.name) for one in fields(result))

        def apply(connection: sqlite3.Connection) -> bool:
            sql = (
                "INSERT OR IGNORE INTO results (id, workload, device_id, device_key, user, body)"
                " VALUES (?, ?, ?, ?, ?, ?)"
            )
            return connection.execute(sql, row).rowcount == 1

        return self._submit(apply)

    def results(self, query: ResultQuery) -> "Future[list[bytes]]":
        """Bodies of results, last kept first."""
        names = [
            name for name in ("workload", "device_id", "device_key", "user") if getattr(query, name)
        ]
        where = " AND ".join(f"{name} = ?" for name in names) or "1"
        sql = f"SELECT body FROM results WHERE {where} ORDER BY n DESC LIMIT ?"  # noqa: S608
        values = [*(getattr(query, name) for name in names), query.limit]
        return self._readers.submit(lambda: [row[0] for row in self._read(sql, values)])

    def events_after(self, cursor: int, limit: int) -> "Future[list[Event]]":
        """The first events kept after a cursor."""
        sql = "SELECT * FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?"
        return self._readers.submit(
            lambda: [
                Event(row[0], row[1], EventKind(row[2]), *row[3:])
                for row in self._read(sql, [cursor, limit])
            ]
        )

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

    def _submit(self, apply: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        future: Future[T] = Future()
        self._jobs.put((apply, future))
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
    answers = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for apply, _ in jobs:
            answers.append(apply(connection))
        connection.execute("COMMIT")
    except Exception as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        failure = InternalError(f"the tracker cannot keep its state: {error}")
        for _, future in jobs:
            future.set_exception(failure)
        return
    for (_, future), answer in zip(jobs, answers, strict=True):
        future.set_result(answer)


def _device(row: tuple[Any, ...]) -> Device:
    identity, key, addresses, facts, instance, fence, health, reason, lease_id = row
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
    )


def _request(row: tuple[Any, ...]) -> Request:
    *wish, seq, queued_at, lease_id = row
    wish[6] = bool(wish[6])
    return Request(Wish(*wish), seq, queued_at, lease_id)


def _end(row: tuple[Any, ...]) -> End:
    request_id, at, kind, message, hint = row
    return End(request_id, at, Failure(FailureKind(kind), message, hint) if kind else None)


def _statements(change: Change) -> list[Statement]:
    match change:
        case SaveDevice(d):
            row: tuple[Any, ...] = (
                d.id, d.key, json.dumps(d.addresses), d.facts, d.instance, d.fence, d.health.value,
                d.health_reason, d.lease_id,
            )  # fmt: skip
            return [_put("devices", row)]
        case SaveRequest(r):
            w = r.wish
            row = (
                w.request_id, w.key, w.priority, w.user, w.purpose, w.wait_timeout, w.wait_for_key,
                w.ttl, r.seq, r.queued_at, r.lease_id,
            )  # fmt: skip
            return [_put("requests", row)]
        case SaveLease(one):
            row = (
                one.id, one.request_id, one.device_id, one.device_key, one.holder, one.purpose,
                one.priority, one.fence, one.granted_at, one.ttl,
            )  # fmt: skip
            # Never OR REPLACE: a second lease on a device must fail here, whatever went before.
            return [_put("leases", row, verb="INSERT")]
        case DropLease(lease_id):
            return [("DELETE FROM leases WHERE id = ?", (lease_id,))]
        case EndRequest(end):
            why = end.failure
            words = (why.kind.value, why.message, why.hint) if why else (None, None, None)
            drop = ("DELETE FROM requests WHERE request_id = ?", (end.request_id,))
            return [drop, _put("ends", (end.request_id, end.at, *words))]
        case ForgetEnds(request_ids):
            return [("DELETE FROM ends WHERE request_id = ?", (one,)) for one in request_ids]
        case EventHappened(e):
            row = (e.cursor, e.at, e.kind.value, e.subject, e.action, e.detail)
            return [_put("events", row)]


def _put(table: str, row: tuple[Any, ...], verb: str = "INSERT OR REPLACE") -> Statement:
    return f"{verb} INTO {table} VALUES ({', '.join('?' * len(row))})", row
