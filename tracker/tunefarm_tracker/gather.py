"""The net effect of many changes, in one statement for each table.

SQLite lets go of Python's lock at each row that Python hands it, and has to win it back against a
busy loop. Rows travel as one JSON array instead, so a commit costs the same few handovers however
many changes it holds. Drops come before puts, so that a device may change its lease in one commit.
"""

import json
import sqlite3
from dataclasses import astuple
from typing import Any, TypeAlias

from tunefarm_tracker.core.effects import (
    Change,
    DropLease,
    EndRequest,
    EventHappened,
    ForgetEnds,
    SaveDevice,
    SaveHold,
    SaveLease,
    SaveQuota,
    SaveRequest,
    SaveUsage,
)
from tunefarm_tracker.core.records import Device, Wish

KEPT_EVENTS = 100_000
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
        self._devices: dict[str, Row] = {}
        self._holds: dict[str, Row] = {}
        self._last_event = 0

    def add(self, change: Change) -> None:
        """One more change, after those before."""
        puts = self._puts
        match change:
            case SaveLease(one):
                puts["leases"][one.id] = (
                    one.id, one.request_id, one.device_id, one.device_key, one.holder,
                    one.purpose, one.priority, one.fence, one.granted_at, one.ttl,
                )  # fmt: skip
            case SaveHold(device_id, lease_id, fence):
                self._holds[device_id] = (device_id, lease_id, fence)
            case EventHappened(e):
                puts["events"][e.cursor] = (
                    e.cursor, e.at, e.kind.value, e.subject, e.action, e.detail,
                )  # fmt: skip
                self._last_event = e.cursor
            case SaveRequest(r):
                w = r.wish
                puts["requests"][r.id] = (
                    w.request_id, _needs(w), w.priority, w.user, w.purpose, w.wait_timeout,
                    int(w.wait_for_key), w.ttl, int(w.maintenance), r.seq, r.queued_at,
                    " ".join(r.lease_ids),
                )  # fmt: skip
            case DropLease(lease_id):
                puts["leases"][lease_id] = None
            case EndRequest(end):
                why = end.failure
                words = (why.kind.value, why.message, why.hint) if why else (None, None, None)
                puts["requests"][end.request_id] = None
                puts["ends"][end.request_id] = (end.request_id, end.at, *words)
            case SaveUsage(u):
                puts["usage"][u.user, u.key] = (u.user, u.key, u.amount, u.at)
            case SaveDevice(device):
                self._devices[device.id] = _device(device)
                self._holds.pop(device.id, None)
            case ForgetEnds(request_ids):
                puts["ends"].update(dict.fromkeys(request_ids))
            case SaveQuota(q):
                puts["quotas"][q.user] = (q.user, q.max_devices, q.max_requests)

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
        if self._devices:
            connection.executemany(_PUT_DEVICE, self._devices.values())
        if self._holds:
            execute(_HOLD, (json.dumps(list(self._holds.values())),))
        events = len(self._puts["events"])
        if self._last_event % TRIM_EVERY < events:
            execute("DELETE FROM events WHERE cursor <= ?", (self._last_event - KEPT_EVENTS,))


def _device(d: Device) -> Row:
    faults = json.dumps([astuple(one) for one in d.faults])
    return (
        d.id, d.key, json.dumps(d.addresses), d.facts, d.instance, d.fence, d.health.value,
        d.health_reason, d.lease_id, json.dumps(d.attributes), d.draining, faults,
    )  # fmt: skip


def _needs(wish: Wish) -> str:
    return json.dumps([[need.keys, [astuple(one) for one in need.where]] for need in wish.needs])
