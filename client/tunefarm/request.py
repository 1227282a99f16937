"""request_device and request_devices: the way to devices."""

import getpass
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from tunefarm_proto.errors import DeviceUnreachableError, InvalidRequestError
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.device import Device
from tunefarm.lease import LeaseHolder
from tunefarm.tracker import Tracker

ATTEMPTS = 3  # devices tried, where those granted do not answer

Condition: TypeAlias = str | int | float | bool | Sequence[str] | Mapping[str, str]
Where: TypeAlias = Mapping[str, Condition]
OnWait: TypeAlias = Callable[[tpb.QueuePosition], None]


@dataclass(frozen=True)
class Need:
    """One device of several: a key or any of several keys, and conditions on its attributes."""

    key: str | Sequence[str]
    where: Where | None = None


class Devices:
    """Devices that were granted together. Leaving the `with` block gives all of them back."""

    def __init__(self, devices: Sequence[Device], give_back: Callable[[], None]) -> None:
        self._devices = tuple(devices)
        self._give_back = give_back

    def __getitem__(self, index: int) -> Device:
        return self._devices[index]

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give them back. Doing it twice is fine."""
        for device in self._devices:
            device.close()
        self._give_back()


def current_user() -> str:
    """The name that requests and results carry."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def request_device(
    key: str | Sequence[str],
    *,
    where: Where | None = None,
    tracker: str | None = None,
    priority: int = 0,
    timeout: float | None = None,
    wait_for_key: bool = False,
    ttl: float | None = None,
    purpose: str = "",
    user: str | None = None,
    maintenance: bool = False,
    on_wait: OnWait | None = None,
    credentials: Credentials | None = None,
) -> Device:
    """Wait for a device of that key, or of any of several; lease it until the `with` block ends.

    `where` says what it must be, as in {"memory_mb": ">=2048", "cpu": "cortex-a*", "features":
    "sve", "labels": {"lab": "berlin"}}; `tunefarm status --json` shows every device's attributes.
    `tracker` is HOST:PORT (else TUNEFARM_TRACKER, else 127.0.0.1:9190); higher `priority` goes
    first; `timeout` is how long to wait, in seconds (None: without end). A key that no device has
    fails at once unless `wait_for_key`. `on_wait` is told the place in the queue, the reason and an
    estimate as they change. The lease is renewed in the background and ends soon after this process
    does, or `ttl` seconds after it was last heard of. `maintenance` may have devices that are
    drained or quarantined, for operators. `credentials` (a token, the farm's CA): else as the
    environment says.

    A device that is granted and does not answer is given back, which counts against its health, and
    another is requested.

    Raises: TrackerUnreachableError, UnknownKeyError, RequestTimeoutError, QuotaExceededError,
    DeviceUnreachableError, UnauthenticatedError, PermissionDeniedError.
    """
    wish = _wish([Need(key, where)], priority, timeout, ttl)
    wish.wait_for_key, wish.purpose, wish.maintenance = wait_for_key, purpose, maintenance
    wish.user = user or current_user()
    return _leased(wish, Tracker(tracker, credentials), on_wait)[0]


def request_devices(
    *needs: str | Need,
    tracker: str | None = None,
    priority: int = 0,
    timeout: float | None = None,
    wait_for_key: bool = False,
    ttl: float | None = None,
    purpose: str = "",
    user: str | None = None,
    on_wait: OnWait | None = None,
    credentials: Credentials | None = None,
) -> Devices:
    """Wait for several devices, granted together or not at all; arguments as of request_device.

    Each need is a key, or a `Need` with keys and conditions. The devices come in that order. Where
    one of them is lost, the leases of all end.
    """
    wish = _wish(
        [Need(one) if isinstance(one, str) else one for one in needs], priority, timeout, ttl
    )
    wish.wait_for_key, wish.purpose = wait_for_key, purpose
    wish.user = user or current_user()
    return _leased(wish, Tracker(tracker, credentials), on_wait)


def _wish(
    needs: Sequence[Need], priority: int, timeout: float | None, ttl: float | None
) -> tpb.DeviceRequest:
    for name, value in (("timeout", timeout), ("ttl", ttl)):
        if value is not None and not value > 0:
            raise InvalidRequestError(f"{name}={value} is not a time", "give seconds above 0")
    if not needs:
        raise InvalidRequestError("no device asked for", "name a key for each")
    wish = tpb.DeviceRequest(priority=priority, needs=[_need(one) for one in needs])
    if timeout is not None:
        wish.wait_timeout.FromNanoseconds(round(timeout * 1e9))
    if ttl is not None:
        wish.ttl.FromNanoseconds(round(ttl * 1e9))
    return wish


def _need(need: Need) -> tpb.DeviceNeed:
    keys = [need.key] if isinstance(need.key, str) else list(need.key)
    if not keys or not all(keys):
        raise InvalidRequestError("no key given", 'name one, as in request_device("rasp3b")')
    where = {name: condition_text(value) for name, value in (need.where or {}).items()}
    return tpb.DeviceNeed(keys=keys, where=where)


def condition_text(value: Condition) -> str:
    """A condition as it travels: lists by commas, mappings as NAME=VALUE, truth as yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, Mapping):
        return ",".join(f"{name}={text}" for name, text in value.items())
    return ",".join(value)


def _leased(wish: tpb.DeviceRequest, connection: Tracker, on_wait: OnWait | None) -> Devices:
    try:
        for attempt in range(1, ATTEMPTS + 1):
            wish.request_id = uuid.uuid4().hex
            try:
                return _granted(connection, wish, on_wait)
            except DeviceUnreachableError:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")
    except BaseException:
        connection.close()
        raise


def _granted(connection: Tracker, wish: tpb.DeviceRequest, on_wait: OnWait | None) -> Devices:
    holder = LeaseHolder(connection, wish, on_wait)
    devices: list[Device] = []
    fault = ("", "")

    def give_back() -> None:
        holder.release()
        connection.close()

    try:
        grant = holder.wait()
        grants = [grant, *grant.others]
        for one in grants:
            fault = ("it does not answer its holder", one.lease.device_id)
            alone = give_back if len(grants) == 1 else _nothing
            devices.append(Device(holder, one, alone))
        return Devices(devices, give_back if len(grants) > 1 else _nothing)
    except DeviceUnreachableError:
        holder.release(*fault)
        raise
    except BaseException:
        holder.release()
        raise


def _nothing() -> None:
    """The devices of one request are given back together."""
