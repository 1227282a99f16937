"""What can happen to the scheduler. A `stream` is a number, greater for each new stream."""

from dataclasses import dataclass
from typing import TypeAlias

from tunefarm_tracker.core.records import Report, Wish


@dataclass(frozen=True, slots=True)
class DeviceReported:
    """A device stated what is. The first report of a stream connects the device."""

    stream: int
    report: Report


@dataclass(frozen=True, slots=True)
class DeviceDisconnected:
    """A device's stream is gone."""

    stream: int
    device_id: str


@dataclass(frozen=True, slots=True)
class RequestOpened:
    """A client asked, or came back with the same request id."""

    stream: int
    wish: Wish


@dataclass(frozen=True, slots=True)
class HolderDisconnected:
    """A client's stream ended without a release."""

    stream: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A client said on its stream that it lives."""

    stream: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Released:
    """A client ended its request or lease on its stream."""

    stream: int
    request_id: str


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """A holder without a stream moves its deadline; the answer goes to `stream`."""

    stream: int
    lease_id: str


@dataclass(frozen=True, slots=True)
class LeaseReleased:
    """A holder without a stream ends its lease; the answer goes to `stream`."""

    stream: int
    lease_id: str


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """Somebody ends a waiting request; the answer goes to `stream`."""

    stream: int
    request_id: str


@dataclass(frozen=True, slots=True)
class ResultRecorded:
    """A result was kept."""

    result_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Input: TypeAlias = (
    DeviceReported
    | DeviceDisconnected
    | RequestOpened
    | HolderDisconnected
    | Heartbeat
    | Released
    | LeaseRenewed
    | LeaseReleased
    | RequestCancelled
    | ResultRecorded
    | Tick
)
