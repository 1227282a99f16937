"""What the scheduler knows, as plain records. Times are seconds by the tracker's clock."""

import functools
from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeVar

from tunefarm_tracker.core.record import record
from tunefarm_tracker.core.where import Condition

R = TypeVar("R")


@record
class RecoveryStep:
    """One step of the operator's ladder: the shell runs it and waits so long for the device."""

    name: str
    wait: float = 60.0


@record
class Config:
    """The scheduler's numbers, in seconds where not said otherwise."""

    ttl: float = 6.0
    min_ttl: float = 2.0
    max_ttl: float = 3600.0
    holder_grace: float = 3.0  # a client without its stream may come back for so long
    device_grace: float = 3.0  # a leased device that went offline likewise
    restart_grace: float = 10.0  # everybody likewise, after the tracker came back
    idle_heartbeat: float = 5.0  # longer in a large fleet:
    idle_reports: float = 1000.0  # all idle devices together report so often a second at most
    busy_heartbeat: float = 0.5
    missed_heartbeats: int = 3  # so many make a device offline, but
    min_silence: float = 3.0  # never a shorter silence than this
    repeat_told: float = 1.5  # a report is answered if the device was told nothing for so long
    places_interval: float = 0.2  # between two updates of the places in one queue
    remember_ends: float = 600.0  # a request that ended is known for so long
    max_ends: int = 50_000  # and at most so many are
    fair_half_life: float = 3600.0  # what a user has used counts half after so long
    reserve_after: float = 60.0  # a request for several devices then keeps the free ones for itself
    max_needs: int = 64  # devices in one request
    max_requests: int = 2000  # of a user without a quota, waiting or holding
    fault_window: float = 3600.0  # a fault counts for so long
    faults_to_quarantine: int = 3
    drop_window: float = 600.0  # a lost connection counts for so long
    drops_to_quarantine: int = 6
    recover_after: float = 60.0  # offline for so long starts the ladder
    recovery: tuple[RecoveryStep, ...] = ()


class DeviceState(StrEnum):
    """What a device is doing. It is in exactly one of these."""

    IDLE = "idle"
    LEASED = "leased"
    CLEANING = "cleaning"
    OFFLINE = "offline"
    DRAINING = "draining"


class Health(StrEnum):
    """Whether a device is to be trusted."""

    GOOD = "good"
    SUSPECT = "suspect"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


class FailureKind(StrEnum):
    """Why a request or lease ended; the shell has one error class for each."""

    INVALID_REQUEST = "invalid_request"
    PERMISSION_DENIED = "permission_denied"
    UNKNOWN_KEY = "unknown_key"
    REQUEST_TIMEOUT = "request_timeout"
    REQUEST_CANCELLED = "request_cancelled"
    QUOTA_EXCEEDED = "quota_exceeded"
    UNKNOWN_DEVICE = "unknown_device"
    LEASE_LOST = "lease_lost"
    DEVICE_LOST = "device_lost"


@functools.cache
def _fields_of(kind: type) -> tuple[Callable[[Any], tuple[Any, ...]], dict[str, int]]:
    names = [one.name for one in fields(kind)]
    return attrgetter(*names), {name: index for index, name in enumerate(names)}


def evolve(record: R, **changes: Any) -> R:
    """The record with some fields changed: dataclasses.replace in a third of its time.

    Of records alone, which have two fields or more and no rules of their own for making one.
    """
    kind: type = type(record)
    get, index = _fields_of(kind)
    values = list(get(record))
    for name, value in changes.items():
        values[index[name]] = value
    return type(record)(*values)


@record
class Failure:
    """A failure as a value: what is wrong, and what would be right."""

    kind: FailureKind
    message: str
    hint: str = ""


@record
class Report:
    """What a device says of itself. `facts` and `conditions` are opaque to the scheduler.

    `attributes` is what can be asked for, sorted by name; None where it is as before.
    """

    device_id: str
    key: str
    addresses: tuple[str, ...]
    instance: str
    lease_id: str = ""
    fence: int = 0
    facts: bytes | None = None
    conditions: bytes = b""
    attributes: tuple[tuple[str, str], ...] | None = None


@record
class Fault:
    """An infrastructure fault of a device, and who told of it ("" is the tracker itself)."""

    at: float
    reason: str
    witness: str = ""


@record
class Device:
    """A device. What `durable` resets is unknown after a restart."""

    id: str
    key: str
    addresses: tuple[str, ...] = ()
    facts: bytes = b""
    instance: str = ""
    fence: int = 0  # of its last lease
    health: Health = Health.GOOD
    health_reason: str = ""
    lease_id: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    draining: bool = False
    faults: tuple[Fault, ...] = ()
    stream: int = 0
    online: bool = False
    clean: bool = False  # it has said that it serves no lease
    conditions: bytes = b""
    last_seen: float = 0.0
    told_at: float = 0.0  # when it was last told what to serve
    drops: tuple[float, ...] = ()  # when its connection was lost
    recovery_step: int = -1  # of the ladder; -1: none is under way

    @property
    def state(self) -> DeviceState:
        """What it is doing."""
        if not self.online:
            return DeviceState.OFFLINE
        if self.lease_id:
            return DeviceState.LEASED
        if not self.clean:
            return DeviceState.CLEANING
        return DeviceState.DRAINING if self.draining else DeviceState.IDLE

    @property
    def idle(self) -> bool:
        """Whether it serves nobody and could, whatever its health."""
        return self.online and self.clean and not self.lease_id

    @property
    def usable(self) -> bool:
        """Whether it may be granted to anybody once it is idle."""
        return not self.draining and self.health in (Health.GOOD, Health.SUSPECT)

    def durable(self) -> "Device":
        """What a restart keeps of it."""
        return evolve(
            self,
            stream=0,
            online=False,
            clean=False,
            conditions=b"",
            last_seen=0.0,
            told_at=0.0,
            drops=(),
            recovery_step=-1,
        )


@record
class Need:
    """One device of a request: any of `keys`, and all that `where` says."""

    keys: tuple[str, ...]
    where: tuple[Condition, ...] = ()

    def fits(self, device: Device) -> bool:
        """Whether the device is one that is asked for."""
        if device.key not in self.keys:
            return False
        if not self.where:
            return True
        attributes = dict(device.attributes)
        return all(condition.holds(attributes) for condition in self.where)

    def __str__(self) -> str:
        where = f" with {' and '.join(map(str, self.where))}" if self.where else ""
        return " or ".join(self.keys) + where


@record
class Wish:
    """What a client asks for. `wait_timeout` None waits without end; `ttl` None is the default.

    `maintenance` may have devices that nobody else is given.
    """

    request_id: str
    needs: tuple[Need, ...]
    priority: int = 0
    user: str = ""
    purpose: str = ""
    wait_timeout: float | None = None
    wait_for_key: bool = False
    ttl: float | None = None
    maintenance: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key of every need, each once."""
        if len(self.needs) == 1:
            return self.needs[0].keys
        return tuple(dict.fromkeys(key for need in self.needs for key in need.keys))

    def __str__(self) -> str:
        return " and ".join(map(str, self.needs))


@record
class Request:
    """A request, waiting or (with leases) granted. What `durable` resets is not kept."""

    wish: Wish
    seq: int  # order of arrival
    queued_at: float
    lease_ids: tuple[str, ...] = ()  # in the order of the needs
    stream: int = 0
    present: bool = True  # its holder is there, or is presumed to be after a restart
    attempt: int = 0  # the highest that its holder has come with

    @property
    def id(self) -> str:
        """The client's id of it."""
        return self.wish.request_id

    @property
    def granted(self) -> bool:
        """Whether it holds its devices."""
        return bool(self.lease_ids)

    def durable(self) -> "Request":
        """What a restart keeps of it."""
        return evolve(self, stream=0, present=True, attempt=0)


@record
class Quota:
    """What a user may have at a time; None does not limit."""

    user: str
    max_devices: int | None = None
    max_requests: int | None = None


@record
class Usage:
    """Device seconds that a user had of a key, as they counted at a time."""

    user: str
    key: str
    amount: float
    at: float

    def later(self, now: float, half_life: float) -> float:
        """What is left of it now."""
        return float(self.amount * 0.5 ** (max(now - self.at, 0.0) / half_life))


@record
class Lease:
    """The only right to a device. Its deadline moves in memory; a restart sets it anew."""

    id: str
    request_id: str
    device_id: str
    device_key: str
    holder: str
    purpose: str
    priority: int
    fence: int
    granted_at: float
    ttl: float
    deadline: float


@record
class PastLease:
    """A lease that has ended: how ("released", "expired", "revoked"), and when its request came."""

    lease: Lease
    queued_at: float
    ended_at: float
    outcome: str


@record
class End:
    """How a request ended, so that asking again gets the same answer."""

    request_id: str
    at: float
    failure: Failure | None


class EventKind(StrEnum):
    """What an event is about."""

    DEVICE = "device"
    REQUEST = "request"
    LEASE = "lease"
    RESULT = "result"


@record
class Event:
    """Something that happened; cursors count all events without a gap."""

    cursor: int
    at: float
    kind: EventKind
    subject: str
    action: str
    detail: str


@record
class Snapshot:
    """Everything durable, as a store gives it back."""

    devices: tuple[Device, ...] = ()
    requests: tuple[Request, ...] = ()
    leases: tuple[Lease, ...] = ()
    ends: tuple[End, ...] = ()
    quotas: tuple[Quota, ...] = ()
    usage: tuple[Usage, ...] = ()
    cursor: int = 0
