"""What the scheduler knows, what happens to it, and what it wants done. Plain data."""

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Config:
    """Times in seconds."""

    default_ttl: float = 6.0  # life of a lease without heartbeat
    min_ttl: float = 2.0
    max_ttl: float = 3600.0
    holder_grace: float = 3.0  # for a lost client stream to come back
    device_grace: float = 3.0  # for a lost device to come back to its lease
    device_silence: float = 4.0  # after which a device counts as lost
    restart_grace: float = 10.0  # for all of them, after the tracker's own restart
    heartbeat: float = 1.0  # asked of devices
    ended_kept: int = 10_000  # ends remembered, so that a late retry gets the same answer


@dataclass
class Device:
    """A device. `reported_lease` is what it last said that it serves."""

    id: str
    key: str
    addresses: tuple[str, ...] = ()
    facts: bytes = b""
    conditions: bytes = b""
    instance: str = ""
    reported_lease: str = ""
    lease: str = ""
    fence: int = 0
    online: bool = False
    last_seen: float = 0.0
    draining: bool = False
    health: str = "good"
    health_reason: str = ""

    @property
    def state(self) -> str:
        """One word: offline, leased, cleaning, draining or idle."""
        if not self.online:
            return "offline"
        if self.lease:
            return "leased"
        if self.reported_lease:
            return "cleaning"
        return "draining" if self.draining else "idle"

    @property
    def eligible(self) -> bool:
        """Whether it may be granted now."""
        return self.state == "idle" and self.health in ("good", "suspect")


@dataclass
class Request:
    """A waiting request. `leave_at` is set while its stream is lost."""

    id: str
    key: str
    priority: int = 0
    user: str = ""
    purpose: str = ""
    wait_until: float | None = None
    wait_for_key: bool = False
    ttl: float = 0.0
    order: int = 0
    queued_at: float = 0.0
    leave_at: float | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Smaller goes first: higher priority, then first come."""
        return (-self.priority, self.order)


@dataclass
class Lease:
    """A live lease."""

    id: str
    request: str
    device: str
    key: str
    holder: str
    purpose: str
    priority: int
    fence: int
    granted_at: float
    deadline: float
    ttl: float


@dataclass(frozen=True)
class End:
    """Why a request or lease is over; no code after a release."""

    code: str = ""
    message: str = ""
    hint: str = ""


# What happens.


@dataclass(frozen=True)
class DeviceReported:
    """A device says what is. `facts` is None where it has not changed."""

    id: str
    key: str
    instance: str
    addresses: tuple[str, ...] = ()
    lease: str = ""
    fence: int = 0
    facts: bytes | None = None
    conditions: bytes = b""


@dataclass(frozen=True)
class DeviceDisconnected:
    """A device's stream ended."""

    id: str
    instance: str


@dataclass(frozen=True)
class RequestOpened:
    """A client asks, for the first time or again. `wait` in seconds."""

    id: str
    key: str
    priority: int = 0
    user: str = ""
    purpose: str = ""
    wait: float | None = None
    wait_for_key: bool = False
    ttl: float = 0.0


@dataclass(frozen=True)
class Heartbeat:
    """The holder of a request or lease lives."""

    request: str


@dataclass(frozen=True)
class HolderLost:
    """A client's stream ended without a release."""

    request: str


@dataclass(frozen=True)
class Released:
    """A client is done, or cancels."""

    request: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = (
    DeviceReported | DeviceDisconnected | RequestOpened | Heartbeat | HolderLost | Released | Tick
)

# What is to be done.


@dataclass(frozen=True)
class Queued:
    """Tell the client where it stands."""

    request: str
    position: int
    waiting: int
    reason: str


@dataclass(frozen=True)
class Granted:
    """Tell the client that it holds the lease; once it is durable."""

    request: str
    lease: str


@dataclass(frozen=True)
class Renewed:
    """Tell the client the new deadline."""

    request: str
    deadline: float


@dataclass(frozen=True)
class Ended:
    """Tell the client that its request or lease is over."""

    request: str
    end: End


@dataclass(frozen=True)
class Desired:
    """Tell the device what should be."""

    device: str


@dataclass(frozen=True)
class Happened:
    """Tell those who watch. `kind` is device, request or lease."""

    kind: str
    subject: str
    action: str
    detail: str = ""


@dataclass(frozen=True)
class Save:
    """Keep a thing: kind is device, request or lease."""

    kind: str
    id: str


@dataclass(frozen=True)
class Forget:
    """Drop a thing that was kept."""

    kind: str
    id: str


Effect: TypeAlias = Queued | Granted | Renewed | Ended | Desired | Happened | Save | Forget


@dataclass
class State:
    """Everything that the scheduler knows."""

    devices: dict[str, Device] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
