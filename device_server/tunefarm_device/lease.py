"""Who may use the device: the lease it serves, checked at every call."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from tunefarm_proto.errors import LeaseLostError, LeaseRefusedError
from tunefarm_proto.v1 import common_pb2 as pb

ARRIVAL_S = 2.0  # a client may hear of its grant before the device does

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Use:
    """One call made under the lease; `ended` is set when the lease ends first."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def check(self) -> None:
        """Raises: LeaseLostError where the lease has ended."""
        if self.ended.done():
            raise LeaseLostError("the lease has ended", "request the device again")

    @contextlib.contextmanager
    def cutting(self) -> Iterator[None]:
        """Cut off whatever the block waits for when the lease ends. Raises: LeaseLostError."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (there is one in every coroutine)
        cut = False

        def end(_: object) -> None:
            nonlocal cut
            cut = True
            task.cancel()

        self.check()
        self.ended.add_done_callback(end)
        try:
            yield
        except asyncio.CancelledError:
            if not cut:
                raise
            task.uncancel()
            self.check()
        finally:
            self.ended.remove_done_callback(end)

    async def until_end(self, awaitable: Awaitable[T]) -> T:
        """Wait for something, or for the end of the lease. Raises: LeaseLostError."""
        task = asyncio.ensure_future(awaitable)
        try:
            either: set[asyncio.Future[Any]] = {task, self.ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            self.check()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
            elif not task.cancelled():
                task.exception()  # seen, or asyncio would tell of it in the log


class LeaseGate:
    """The lease being served, and the calls made under it.

    `fence` is the highest ever seen; `on_fence` keeps it across restarts.
    """

    def __init__(self, fence: int, on_fence: Callable[[int], None]) -> None:
        self.fence = fence
        self._on_fence = on_fence
        self.lease: pb.Lease | None = None
        self._token_sha256 = ""
        self._changed = asyncio.Condition()
        self._uses: set[Use] = set()

    @property
    def lease_id(self) -> str:
        """The lease being served, "" where there is none."""
        return self.lease.id if self.lease is not None else ""

    @property
    def in_use(self) -> bool:
        """Whether any call is under way."""
        return bool(self._uses)

    def accepts(self, lease: pb.Lease) -> bool:
        """Whether a lease is not older than one seen before."""
        return lease.fence >= self.fence

    async def serve(self, lease: pb.Lease, token_sha256: str) -> None:
        """Open for a lease: a new one, or the present one renewed.

        The log tells of the begin before it and of the end after it: no call is outside of them.
        """
        if lease.id != self.lease_id:
            _log.info("lease %s begins, fence %d, for %s", lease.id, lease.fence, lease.holder)
        if lease.fence > self.fence:
            self.fence = lease.fence
            self._on_fence(lease.fence)
        async with self._changed:
            self.lease, self._token_sha256 = lease, token_sha256.lower()
            self._changed.notify_all()

    def shut(self) -> None:
        """Refuse every further call, and end those under way."""
        lease, self.lease, self._token_sha256 = self.lease, None, ""
        if lease is not None:
            _log.info("lease %s ends, fence %d", lease.id, lease.fence)
        for use in self._uses:
            if not use.ended.done():
                use.ended.set_result(None)

    async def arrival(self, lease_id: str) -> None:
        """Wait until it is served, 2 s at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ARRIVAL_S), self._changed:
                await self._changed.wait_for(lambda: self.lease_id == lease_id)

    async def check(self, lease_id: str, token: str) -> None:
        """Raises: LeaseRefusedError unless these open the device now, or within 2 s."""
        if not lease_id:
            raise LeaseRefusedError(
                "this device is opened by a lease and the call names none",
                "request the device from its tracker",
            )
        if self.lease_id != lease_id:
            await self.arrival(lease_id)
        if self.lease_id != lease_id:
            now = "serves another lease" if self.lease_id else "is not leased"
            raise LeaseRefusedError(
                f"lease {lease_id} does not open this device: it {now}", "request the device again"
            )
        given = hashlib.sha256(token.encode()).hexdigest()
        if not hmac.compare_digest(given.encode(), self._token_sha256.encode()):
            raise LeaseRefusedError(
                f"the token does not open lease {lease_id}", "use the token of the grant"
            )

    @contextlib.contextmanager
    def use(self) -> Iterator[Use]:
        """A call under way, made after `check` without an await in between."""
        use = Use()
        self._uses.add(use)
        try:
            yield use
        finally:
            self._uses.discard(use)
