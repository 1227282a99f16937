"""What the scheduler wants done. Changes must be durable before the messages after them go out."""

from tunefarm_tracker.core.record import record
from tunefarm_tracker.core.records import (
    Device,
    End,
    Event,
    Failure,
    Lease,
    PastLease,
    Quota,
    Request,
    Usage,
)


class Effect:
    """Anything that the scheduler wants done."""

    __slots__ = ()


class Change(Effect):
    """Something to be kept."""

    __slots__ = ()


class Message(Effect):
    """Something to be told to the stream `to`."""

    __slots__ = ()
    to: int


class Action(Effect):
    """Something to be done outside."""

    __slots__ = ()


@record
class SaveDevice(Change):
    """Keep a device."""

    device: Device


@record
class DropDevice(Change):
    """A device is known no more."""

    device_id: str


@record
class SaveHold(Change):
    """Keep which lease a device serves ("" is none), and its fence."""

    device_id: str
    lease_id: str
    fence: int


@record
class SaveRequest(Change):
    """Keep a request."""

    request: Request


@record
class SaveLease(Change):
    """Keep a lease."""

    lease: Lease


@record
class DropLease(Change):
    """A lease has ended."""

    lease_id: str


@record
class SavePast(Change):
    """Keep who held a device, once a lease has ended."""

    past: PastLease


@record
class EndRequest(Change):
    """A request has ended: drop it, keep how it ended."""

    end: End


@record
class ForgetEnds(Change):
    """Ends that are no longer remembered."""

    request_ids: tuple[str, ...]


@record
class SaveQuota(Change):
    """Keep what a user may have."""

    quota: Quota


@record
class SaveUsage(Change):
    """Keep what a user has used."""

    usage: Usage


@record
class EventHappened(Change):
    """Keep an event, then tell the watchers."""

    event: Event


@record
class DesiredLease(Message):
    """Tell a device what it should serve (None: nothing) and how often to report (seconds).

    `ended` is the lease that has just ended: the device is to say when it is clean of it.
    """

    to: int
    lease: Lease | None
    heartbeat: float
    ended: str = ""


@record
class StreamReplaced(Message):
    """Close a device's stream: a newer one has taken its place."""

    to: int
    failure: Failure


@record
class Place:
    """Where a request stands. `position` 1 is next; `waiting` counts this key's queue.

    `estimate` is how long it may still wait, in seconds, where anything is known.
    """

    position: int
    waiting: int
    reason: str
    estimate: float | None = None


@record
class Queued(Message):
    """Tell a client where it stands."""

    to: int
    place: Place


@record
class Grant:
    """One device of a granted request."""

    lease: Lease
    addresses: tuple[str, ...]
    facts: bytes


@record
class Granted(Message):
    """Tell a client that the devices are its own, in the order of its needs."""

    to: int
    grants: tuple[Grant, ...]

    @property
    def lease(self) -> Lease:
        """The first lease."""
        return self.grants[0].lease


@record
class Renewed(Message):
    """Tell a holder its moved deadline."""

    to: int
    lease: Lease


@record
class Ended(Message):
    """Tell a client that its request or lease is over; no failure after a release."""

    to: int
    failure: Failure | None


@record
class CancelAnswered(Message):
    """Tell whoever cancelled whether there was anything to cancel."""

    to: int
    cancelled: bool


@record
class DeviceAnswered(Message):
    """Tell an operator what has become of a device, or why nothing was done."""

    to: int
    device: Device | None
    failure: Failure | None = None


@record
class RunRecovery(Action):
    """Run a step of the operator's ladder for a device; its end is to be fed back."""

    device: Device
    step: int


@record
class Notify(Action):
    """Tell the operator, outside the farm, that a device needs a person."""

    device: Device
    text: str
