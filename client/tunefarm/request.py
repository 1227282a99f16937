"""request_device: the way to a device."""

import getpass
import uuid
from collections.abc import Callable

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.device import Device
from tunefarm.lease import LeaseHolder
from tunefarm.tracker import Tracker


def current_user() -> str:
    """The name that requests and results carry."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def request_device(
    key: str,
    *,
    tracker: str | None = None,
    priority: int = 0,
    timeout: float | None = None,
    wait_for_key: bool = False,
    purpose: str = "",
    user: str | None = None,
    on_wait: Callable[[tpb.QueuePosition], None] | None = None,
) -> Device:
    """Wait for a device of that key, and lease it until the `with` block ends.

    `tracker` is HOST:PORT (else TUNEFARM_TRACKER, else 127.0.0.1:9190); higher `priority` goes
    first; `timeout` is how long to wait, in seconds (None: without end). A key that no device has
    fails at once unless `wait_for_key`. `on_wait` is told the place in the queue as it changes.
    The lease is renewed in the background and ends soon after this process does.

    Raises: TrackerUnreachableError, UnknownKeyError, RequestTimeoutError, DeviceUnreachableError.
    """
    if not key:
        raise InvalidRequestError("no key given", 'name one, as in request_device("rasp3b")')
    if timeout is not None and timeout <= 0:
        raise InvalidRequestError(f"timeout={timeout} is not a time", "give seconds above 0")
    wish = tpb.DeviceRequest(
        request_id=uuid.uuid4().hex,
        key=key,
        priority=priority,
        user=user or current_user(),
        purpose=purpose,
        wait_for_key=wait_for_key,
    )
    if timeout is not None:
        wish.wait_timeout.FromNanoseconds(round(timeout * 1e9))
    connection = Tracker(tracker)
    holder: LeaseHolder | None = None
    try:
        holder = LeaseHolder(connection, wish, on_wait)
        return Device(holder, holder.wait(), connection.close)
    except BaseException:
        if holder is not None:
            holder.release()
        connection.close()
        raise
