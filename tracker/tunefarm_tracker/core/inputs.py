"""What can happen to the scheduler. A `stream` is a number, greater for each new stream."""

from enum import StrEnum
from typing import TypeAlias

from tunefarm_tracker.core.record import record
from tunefarm_tracker.core.records import Quota, Report, Wish


@record
class DeviceReported:
    """A device stated what is. The first report of a stream connects the device."""

    stream: int
    report: Report


@record
class DeviceDisconnected:
    """A device's stream is gone."""

    stream: int
    device_id: str


@record
class RequestOpened:
    """A client asked, or came back with the same request id.

    `attempt` counts its streams: an earlier one may arrive later.
    """

    stream: int
    wish: Wish
    attempt: int = 0


@record
class HolderDisconnected:
    """A client's stream ended without a release."""

    stream: int
    request_id: str


@record
class Heartbeat:
    """A client said on its stream that it lives; `ttl` is a new time to live, None the old one."""

    stream: int
    request_id: str
    ttl: float | None = None


@record
class Released:
    """A client ended its request or leases on its stream; perhaps since a device was no use."""

    stream: int
    request_id: str
    device_fault: str = ""
    device_id: str = ""


@record
class LeaseRenewed:
    """A holder without a stream moves its deadline; the answer goes to `stream`."""

    stream: int
    lease_id: str
    ttl: float | None = None


@record
class LeaseReleased:
    """A holder without a stream ends its lease; the answer goes to `stream`."""

    stream: int
    lease_id: str


@record
class RequestCancelled:
    """Somebody ends a waiting request; the answer goes to `stream`."""

    stream: int
    request_id: str


@record
class PriorityChanged:
    """Somebody moves a waiting request up or down; the answer goes to `stream`."""

    stream: int
    request_id: str
    priority: int


@record
class LeaseRevoked:
    """An operator ends somebody's lease; the answer goes to `stream`."""

    stream: int
    lease_id: str
    by: str
    reason: str


class DeviceAction(StrEnum):
    """What an operator does with a device."""

    DRAIN = "drain"
    ENABLE = "enable"
    QUARANTINE = "quarantine"
    RETIRE = "retire"
    FORGET = "forget"


@record
class DeviceManaged:
    """An operator changes what a device is used for; the answer goes to `stream`."""

    stream: int
    device_id: str
    action: DeviceAction
    by: str
    reason: str


@record
class HealthChecked:
    """A health check ended; the answer goes to `stream`."""

    stream: int
    device_id: str
    passed: bool
    detail: str
    severe: bool = False


@record
class RecoveryEnded:
    """A step of the ladder has been run; whether it helped shows when the device comes back."""

    device_id: str
    step: int
    detail: str


@record
class QuotaSet:
    """An operator limits a user; the answer goes to `stream`."""

    stream: int
    quota: Quota


@record
class ResultRecorded:
    """A result was kept."""

    result_id: str
    detail: str


@record
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
    | PriorityChanged
    | LeaseRevoked
    | DeviceManaged
    | HealthChecked
    | RecoveryEnded
    | QuotaSet
    | ResultRecorded
    | Tick
)
