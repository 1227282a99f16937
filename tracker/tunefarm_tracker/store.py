"""Where the tracker's memory is kept: the interface, and a store that forgets."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

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
from tunefarm_tracker.core.records import Device, End, Event, Lease, Request

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


@dataclass(frozen=True, slots=True)
class ResultQuery:
    """Which results; empty fields ask for all."""

    workload: str = ""
    device_id: str = ""
    device_key: str = ""
    user: str = ""
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

    def events_after(self, cursor: int, limit: int) -> "Future[list[Event]]":
        """The first events kept after a cursor."""

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
        self.events: list[Event] = []
        self._results: dict[str, ResultRecord] = {}

    def load(self) -> Snapshot:
        """Everything kept."""
        return Snapshot(
            devices=tuple(self.devices.values()),
            requests=tuple(self.requests.values()),
            leases=tuple(self.leases.values()),
            ends=tuple(self.ends.values()),
            cursor=self.events[-1].cursor if self.events else 0,
        )

    def write(self, changes: Sequence[Change]) -> "Future[None]":
        """Keep these changes."""
        for change in changes:
            self._apply(change)
        return done(None)

    def _apply(self, change: Change) -> None:
        match change:
            case SaveDevice(device):
                self.devices[device.id] = device.durable()
            case SaveRequest(request):
                self.requests[request.id] = request.durable()
            case SaveLease(lease):
                self.leases[lease.id] = replace(lease, deadline=0.0)
            case DropLease(lease_id):
                self.leases.pop(lease_id, None)
            case EndRequest(end):
                self.requests.pop(end.request_id, None)
                self.ends[end.request_id] = end
            case ForgetEnds(request_ids):
                for request_id in request_ids:
                    self.ends.pop(request_id, None)
            case EventHappened(event):
                self.events.append(event)

    def add_result(self, result: ResultRecord) -> "Future[bool]":
        """Keep a result."""
        added = result.id not in self._results
        self._results.setdefault(result.id, result)
        return done(added)

    def results(self, query: ResultQuery) -> "Future[list[bytes]]":
        """Bodies of results, last kept first."""
        fields = ("workload", "device_id", "device_key", "user")
        wanted = {name: getattr(query, name) for name in fields if getattr(query, name)}
        found = [
            one.body
            for one in reversed(self._results.values())
            if all(getattr(one, name) == value for name, value in wanted.items())
        ]
        return done(found[: query.limit])

    def events_after(self, cursor: int, limit: int) -> "Future[list[Event]]":
        """The first events kept after a cursor."""
        return done([event for event in self.events if event.cursor > cursor][:limit])

    def close(self) -> None:
        """Nothing to let go of."""
