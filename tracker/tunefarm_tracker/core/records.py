"""What the scheduler knows, as plain records. Times are seconds by the tracker's clock."""

from dataclasses import dataclass, replace
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Config:
    """The scheduler's numbers, in seconds where not said otherwise."""

    ttl: float = 6.0
    min_ttl: float = 2.0
    max_ttl: float = 3600.0
    holder_grace: float = 3.0  # a client without its stream may come back for so long
    device_grace: float = 3.0  # a leased device that went offline likewise
    restart_grace: float = 10.0  # everybody likewise, after the tracker came back
    idle_heartbeat: float = 5.0
    busy_heartbeat: float = 0.5
    missed_heartbeats: int = 3  # so many make a device offline, but
    min_silence: float = 3.0  # never a shorter silence than this
    places_interval: float = 0.2  # between two updates of the places in one queue
    remember_ends: float = 600.0  # a request that ended is known for so long
    max_ends: int = 50_000  # and at most so many are


class DeviceState(StrEnum):
    """What a device is doing. It is in exactly one of these."""

    IDLE = "idle"
    LEASED = "leased"
    CLEANING = "cleaning"
    OFFLINE = "offline"


class Health(StrEnum):
    """Whether a device is to be trusted."""

    GOOD = "good"
    SUSPECT = "suspect"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


class FailureKind(StrEnum):
    """Why a request or lease ended; the shell has one error class for each."""

    INVALID_REQUEST = "invalid_request"
    UNKNOWN_KEY = "unknown_key"
    REQUEST_TIMEOUT = "request_timeout"
    REQUEST_CANCELLED = "request_cancelled"
    LEASE_LOST = "lease_lost"
    DEVICE_LOST = "device_lost"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as a value: what is wrong, and what would be right."""

    kind: FailureKind
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a device says of itself. `facts` and `conditions` are opaque to the scheduler."""

    device_id: str
    key: str
    addresses: tuple[str, ...]
    instance: str
    lease_id: str = ""
    fence: int = 0
    facts: bytes | None = None
    conditions: bytes = b""


@dataclass(frozen=True, slots=True)
class Device:
    """A device. What follows `stream` is not durable: it is unknown after a restart."""

    id: str
    key: str
    addresses: tuple[str, ...] = ()
    facts: bytes = b""
    instance: str = ""
    fence: int = 0  # of its last lease
    health: Health = Health.GOOD
    health_reason: str = ""
    lease_id: str = ""
    stream: int = 0
    online: bool = False
    clean: bool = False  # it has said that it serves no lease
    conditions: bytes = b""
    last_seen: float = 0.0

    @property
    def state(self) -> DeviceState:
        """What it is doing."""
        if not self.online:
            return DeviceState.OFFLINE
        if self.lease_id:
            return DeviceState.LEASED
        return DeviceState.IDLE if self.clean else DeviceState.CLEANING

    @property
    def free(self) -> bool:
        """Whether it may be granted now."""
        usable = self.health in (Health.GOOD, Health.SUSPECT)
        return usable and self.state is DeviceState.IDLE

    def durable(self) -> "Device":
        """What a restart keeps of it."""
        return replace(self, stream=0, online=False, clean=False, conditions=b"", last_seen=0.0)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for. `wait_timeout` None waits without end; `ttl` None is the default."""

    request_id: str
    key: str
    priority: int = 0
    user: str = ""
    purpose: str = ""
    wait_timeout: float | None = None
    wait_for_key: bool = False
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request, waiting or (with a lease) granted. `stream` and `present` are not durable."""

    wish: Wish
    seq: int  # order of arrival
    queued_at: float
    lease_id: str = ""
    stream: int = 0
    present: bool = True  # its holder is there, or is presumed to be after a restart

    @property
    def id(self) -> str:
        """The client's id of it."""
        return self.wish.request_id

    @property
    def rank(self) -> tuple[int, int, str]:
        """Its place among others: lower is served first."""
        return (-self.wish.priority, self.seq, self.id)

    def durable(self) -> "Request":
        """What a restart keeps of it."""
        return replace(self, stream=0, present=True)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; cursors count all events without a gap."""

    cursor: int
    at: float
    kind: EventKind
    subject: str
    action: str
    detail: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything durable, as a store gives it back."""

    devices: tuple[Device, ...] = ()
    requests: tuple[Request, ...] = ()
    leases: tuple[Lease, ...] = ()
    ends: tuple[End, ...] = ()
    cursor: int = 0
