"""The net effect of many changes, in one statement for each table.

SQLite lets go of Python's lock at each row that Python hands it, and has to win it back against a
busy loop. Rows travel as one JSON array instead, so a commit costs the same few handovers however
many changes it holds. Drops come before puts, so that a device may change its lease in one commit.
"""

import functools
import json
import sqlite3
from collections.abc import Callable
from dataclasses import astuple
from typing import Any, TypeAlias

from tunefarm_tracker.core.effects import (
    Change,
    DropDevice,
    DropLease,
    EndRequest,
    EventHappened,
    ForgetEnds,
    SaveDevice,
    SaveHold,
    SaveLease,
    SavePast,
    SaveQuota,
    SaveRequest,
    SaveUsage,
)
from tunefarm_tracker.core.records import Lease, Need

KEPT_EVENTS = 100_000
KEPT_PAST = 200_000  # leases that have ended
TRIM_EVERY = 10_000  # events

Row: TypeAlias = tuple[Any, ...]

# Columns of each table, and its key. Nothing else is ever put into the text of a statement.
_TABLES = {
    "requests": (12, "request_id"),
    "leases": (10, "id"),
    "ends": (5, "request_id"),
    "quotas": (3, "user"),
    "usage": (4, ""),
    "events": (6, "cursor"),
}


def _columns(count: int) -> str:
    return ", ".join(f"json_extract(value, '$[{n}]')" for n in range(count))


def _insert(table: str, count: int) -> str:
    source = f"SELECT {_columns(count)} FROM json_each(?) WHERE true"  # noqa: S608
    if table == "leases":
        # Never OR REPLACE: a second lease on a device must fail here, whatever went before.
        return f"INSERT INTO leases {source} ON CONFLICT (id) DO UPDATE SET ttl = excluded.ttl"
    return f"INSERT OR REPLACE INTO {table} {source}"


_PUT = {table: _insert(table, count) for table, (count, _) in _TABLES.items()}
_DROP = {
    table: f"DELETE FROM {table} WHERE {key} IN (SELECT value FROM json_each(?))"  # noqa: S608
    for table, (_, key) in _TABLES.items()
    if key
}
PAST_COLUMNS = (
    "id, request_id, device_id, device_key, holder, purpose, priority, fence, granted_at, ttl,"
    " queued_at, ended_at, outcome"
)
_PUT_PAST = f"INSERT INTO past_leases ({PAST_COLUMNS}) SELECT {_columns(13)} FROM json_each(?)"  # noqa: S608
_PUT_DEVICE = f"INSERT OR REPLACE INTO devices VALUES ({', '.join('?' * 12)})"  # noqa: S608
_HOLD = (
    "UPDATE devices SET lease_id = new.lease_id, fence = new.fence FROM"
    " (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS lease_id,"
    " json_extract(value, '$[2]') AS fence FROM json_each(?)) AS new WHERE devices.id = new.id"
)


class Gathered:
    """Changes gathered for one commit. Of several to one record the last counts."""

    def __init__(self) -> None:
        self._puts: dict[str, dict[Any, Row | None]] = {table: {} for table in _TABLES}
        self._devices: dict[str, Row | None] = {}
        self._holds: dict[str, Row] = {}
        self._past: list[Row] = []
        self._last_event = 0

    def add(self, change: Change) -> None:
        """One more change, after those before."""
        _ADD[type(change)](self, change)

    def _event(self, change: EventHappened) -> None:
        e = change.event
        row = (e.cursor, e.at, e.kind.value, e.subject, e.action, e.detail)
        self._puts["events"][e.cursor] = row
        self._last_event = e.cursor

    def _lease(self, change: SaveLease) -> None:
        self._puts["leases"][change.lease.id] = _lease_row(change.lease)

    def _past_lease(self, change: SavePast) -> None:
        one = change.past
        self._past.append((*_lease_row(one.lease), one.queued_at, one.ended_at, one.outcome))

    def _drop_lease(self, change: DropLease) -> None:
        self._puts["leases"][change.lease_id] = None

    def _request(self, change: SaveRequest) -> None:
        r = change.request
        w = r.wish
        self._puts["requests"][r.id] = (
            w.request_id, _needs(w.needs), w.priority, w.user, w.purpose, w.wait_timeout,
            int(w.wait_for_key), w.ttl, int(w.maintenance), r.seq, r.queued_at,
            " ".join(r.lease_ids),
        )  # fmt: skip

    def _end(self, change: EndRequest) -> None:
        end = change.end
        why = end.failure
        words = (why.kind.value, why.message, why.hint) if why else (None, None, None)
        self._puts["requests"][end.request_id] = None
        self._puts["ends"][end.request_id] = (end.request_id, end.at, *words)

    def _forget_ends(self, change: ForgetEnds) -> None:
        self._puts["ends"].update(dict.fromkeys(change.request_ids))

    def _usage(self, change: SaveUsage) -> None:
        u = change.usage
        self._puts["usage"][u.user, u.key] = (u.user, u.key, u.amount, u.at)

    def _quota(self, change: SaveQuota) -> None:
        q = change.quota
        self._puts["quotas"][q.user] = (q.user, q.max_devices, q.max_requests)

    def _hold(self, change: SaveHold) -> None:
        self._holds[change.device_id] = (change.device_id, change.lease_id, change.fence)

    def _device(self, change: SaveDevice) -> None:
        d = change.device
        faults = json.dumps([astuple(one) for one in d.faults])
        self._devices[d.id] = (
            d.id, d.key, json.dumps(d.addresses), d.facts, d.instance, d.fence, d.health.value,
            d.health_reason, d.lease_id, json.dumps(d.attributes), d.draining, faults,
        )  # fmt: skip
        self._holds.pop(d.id, None)

    def _drop_device(self, change: DropDevice) -> None:
        self._devices[change.device_id] = None
        self._holds.pop(change.device_id, None)

    def execute(self, connection: sqlite3.Connection) -> None:
        """Carry them out in the open transaction."""
        execute = connection.execute
        for table, rows in self._puts.items():
            dropped = [key for key, row in rows.items() if row is None]
            if dropped:
                execute(_DROP[table], (json.dumps(dropped),))
        for table, rows in self._puts.items():
            kept = [row for row in rows.values() if row is not None]
            if kept:
                execute(_PUT[table], (json.dumps(kept),))
        if dropped := [name for name, row in self._devices.items() if row is None]:
            execute(
                "DELETE FROM devices WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(dropped),),
            )
        if saved := [row for row in self._devices.values() if row is not None]:
            connection.executemany(_PUT_DEVICE, saved)
        if self._holds:
            execute(_HOLD, (json.dumps(list(self._holds.values())),))
        if self._past:
            execute(_PUT_PAST, (json.dumps(self._past),))
        events = len(self._puts["events"])
        if self._last_event % TRIM_EVERY < events:
            execute("DELETE FROM events WHERE cursor <= ?", (self._last_event - KEPT_EVENTS,))
            last = execute("SELECT coalesce(max(n), 0) FROM past_leases").fetchone()[0]
            execute("DELETE FROM past_leases WHERE n <= ?", (last - KEPT_PAST,))


def _lease_row(one: Lease) -> Row:
    return (
        one.id, one.request_id, one.device_id, one.device_key, one.holder,
        one.purpose, one.priority, one.fence, one.granted_at, one.ttl,
    )  # fmt: skip


@functools.lru_cache(256)
def _needs(needs: tuple[Need, ...]) -> str:
    return json.dumps([[need.keys, [astuple(one) for one in need.where]] for need in needs])


_ADD: dict[type[Change], Callable[[Gathered, Any], None]] = {
    EventHappened: Gathered._event,
    SaveLease: Gathered._lease,
    DropLease: Gathered._drop_lease,
    SavePast: Gathered._past_lease,
    SaveRequest: Gathered._request,
    EndRequest: Gathered._end,
    ForgetEnds: Gathered._forget_ends,
    SaveUsage: Gathered._usage,
    SaveQuota: Gathered._quota,
    SaveHold: Gathered._hold,
    SaveDevice: Gathered._device,
    DropDevice: Gathered._drop_device,
}
