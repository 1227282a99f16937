"""Where the tracker's memory is kept: the interface, and a store that forgets."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from tunefarm_tracker.core import Snapshot
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
from tunefarm_tracker.core.records import (
    Device,
    End,
    Event,
    EventKind,
    Lease,
    PastLease,
    Quota,
    Request,
    Usage,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """A result: what it is looked up by, and the whole of it as opaque bytes."""

    id: str
    workload: str
    device_id: str
    device_key: str
    user: str
    body: bytes
    recorded_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ResultQuery:
    """Which results; empty fields ask for all. Times are seconds since 1970, 0 is no limit.

    `before_id` pages on: results kept before the one of that id.
    """

    workload: str = ""
    device_id: str = ""
    device_key: str = ""
    user: str = ""
    limit: int = 100
    since: float = 0.0
    until: float = 0.0
    before_id: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class PastQuery:
    """Which leases that have ended; empty fields ask for all, times as in ResultQuery.

    They ended at `since` or later and were granted before `until`.
    """

    device_id: str = ""
    holder: str = ""
    request_id: str = ""
    since: float = 0.0
    until: float = 0.0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events: of one kind and subject, before a cursor (0: from the newest)."""

    kind: EventKind
    subject: str
    before: int = 0
    limit: int = 100


class Store(Protocol):
    """Keeps changes in the order given. A future is done when its change would survive a crash."""

    def load(self) -> Snapshot:
        """Everything kept. Called once, before anything is written."""

    def write(self, changes: Sequence[Change]) -> "Future[None]":
        """Keep these changes, all or none."""

    def add_result(self, result: ResultRecord) -> "Future[bool]":
        """Keep a result; false where one with its id is kept already."""

    def results(self, query: ResultQuery) -> "Future[list[bytes]]":
        """Bodies of results, last kept first."""

    def forget_results(self, before: float) -> "Future[int]":
        """Drop results recorded before a time. Returns how many."""

    def events_after(self, cursor: int, limit: int) -> "Future[list[Event]]":
        """The first events kept after a cursor."""

    def events_of(self, query: EventQuery) -> "Future[list[Event]]":
        """What happened to one thing, newest first."""

    def past_leases(self, query: PastQuery) -> "Future[list[PastLease]]":
        """Leases that have ended, last ended first."""

    def close(self) -> None:
        """Finish what was asked for, then let go."""


def done(value: T) -> "Future[T]":
    """A future that is done."""
    future: Future[T] = Future()
    future.set_result(value)
    return future


class MemoryStore:
    """A store in memory, for tests: the same rules, gone with the process."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.requests: dict[str, Request] = {}
        self.leases: dict[str, Lease] = {}
        self.ends: dict[str, End] = {}
        self.quotas: dict[str, Quota] = {}
        self.usage: dict[tuple[str, str], Usage] = {}
        self.events: list[Event] = []
        self.past: list[PastLease] = []
        self._results: dict[str, ResultRecord] = {}

    def load(self) -> Snapshot:
        """Everything kept."""
        return Snapshot(
            devices=tuple(self.devices.values()),
            requests=tuple(self.requests.values()),
            leases=tuple(self.leases.values()),
            ends=tuple(self.ends.values()),
            quotas=tuple(self.quotas.values()),
            usage=tuple(self.usage.values()),
            cursor=self.events[-1].cursor if self.events else 0,
        )

    def write(self, changes: Sequence[Change]) -> "Future[None]":
        """Keep these changes."""
        for change in changes:
            self._apply(change)
        return done(None)

    def _apply(self, change: Change) -> None:  # noqa: PLR0912 (one case a change)
        match change:
            case SaveDevice(device):
                self.devices[device.id] = device.durable()
            case DropDevice(device_id):
                self.devices.pop(device_id, None)
            case SaveHold(device_id, lease_id, fence):
                device = self.devices[device_id]
                self.devices[device_id] = replace(device, lease_id=lease_id, fence=fence)
            case SaveRequest(request):
                self.requests[request.id] = request.durable()
            case SaveLease(lease):
                self.leases[lease.id] = replace(lease, deadline=0.0)
            case DropLease(lease_id):
                self.leases.pop(lease_id, None)
            case SavePast(past):
                self.past.append(past)
            case EndRequest(end):
                self.requests.pop(end.request_id, None)
                self.ends[end.request_id] = end
            case ForgetEnds(request_ids):
                for request_id in request_ids:
                    self.ends.pop(request_id, None)
            case SaveQuota(quota):
                self.quotas[quota.user] = quota
            case SaveUsage(usage):
                self.usage[usage.user, usage.key] = usage
            case EventHappened(event):
                self.events.append(event)

    def add_result(self, result: ResultRecord) -> "Future[bool]":
        """Keep a result."""
        added = result.id not in self._results
        self._results.setdefault(result.id, result)
        return done(added)

    def results(self, query: ResultQuery) -> "Future[list[bytes]]":
        """Bodies of results, last kept first."""
        fields = ("workload", "device_id", "device_key", "user", "id")
        wanted = {name: getattr(query, name) for name in fields if getattr(query, name)}
        kept = list(self._results.values())
        if query.before_id:
            kept = kept[: [one.id for one in kept].index(query.before_id)]
        found = [
            one.body
            for one in reversed(kept)
            if all(getattr(one, name) == value for name, value in wanted.items())
            and one.recorded_at >= query.since
            and (not query.until or one.recorded_at < query.until)
        ]
        return done(found[: query.limit])

    def forget_results(self, before: float) -> "Future[int]":
        """Drop results recorded before a time."""
        old = [one.id for one in self._results.values() if one.recorded_at < before]
        for result_id in old:
            del self._results[result_id]
        return done(len(old))

    def events_after(self, cursor: int, limit: int) -> "Future[list[Event]]":
        """The first events kept after a cursor."""
        return done([event for event in self.events if event.cursor > cursor][:limit])

    def events_of(self, query: EventQuery) -> "Future[list[Event]]":
        """What happened to one thing, newest first."""
        found = [
            event
            for event in reversed(self.events)
            if (event.kind, event.subject) == (query.kind, query.subject)
            and (not query.before or event.cursor < query.before)
        ]
        return done(found[: query.limit])

    def past_leases(self, query: PastQuery) -> "Future[list[PastLease]]":
        """Leases that have ended, last ended first."""
        fields = ("device_id", "holder", "request_id")
        wanted = {name: getattr(query, name) for name in fields if getattr(query, name)}
        found = [
            past
            for past in reversed(self.past)
            if all(getattr(past.lease, name) == value for name, value in wanted.items())
            and past.ended_at >= query.since
            and (not query.until or past.lease.granted_at < query.until)
        ]
        return done(found[: query.limit])

    def close(self) -> None:
        """Nothing to let go of."""
