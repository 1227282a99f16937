"""Who may use the device: the lease that the tracker states, and the token that proves it."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Iterable

from tunefarm_proto import rpc
from tunefarm_proto.errors import LeaseLostError, LeaseRefusedError
from tunefarm_proto.v1 import common_pb2 as pb

ARRIVAL_S = 2.0  # a client may come before the tracker's word does


class Gate:
    """The lease being served, and the tasks that work under it.

    When a lease ends its tasks are cancelled; the device is clean when the last of them is done.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._arrived = asyncio.Condition()
        self._token_sha256 = ""
        self._guests: set[asyncio.Task[object]] = set()
        self.lease: pb.Lease | None = None
        self.fence = 0

    @property
    def busy(self) -> bool:
        """Whether anything works under the lease."""
        return bool(self._guests)

    async def state(self, lease: pb.Lease | None, token_sha256: str) -> None:
        """Take the tracker's word. A lease with a fence below one seen is not served."""
        if lease is not None and lease.fence < self.fence:
            lease = None
        before = self.lease.id if self.lease else ""
        after = lease.id if lease else ""
        if before and before != after:
            await self._end()
        if lease is not None:
            self.fence, self._token_sha256 = lease.fence, token_sha256
            async with self._arrived:
                self.lease = lease
                self._arrived.notify_all()
        if before != after:
            self._on_change()

    async def _end(self) -> None:
        self.lease, self._token_sha256 = None, ""
        guests = list(self._guests)
        for task in guests:
            task.cancel()
        if guests:
            await asyncio.wait(guests)

    async def enter(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> pb.Lease:
        """Admit the current task. Raises: LeaseRefusedError, in one line."""
        lease_id = rpc.metadata_text(metadata, rpc.LEASE_ID_HEADER)
        token = rpc.metadata_text(metadata, rpc.LEASE_TOKEN_HEADER)
        if not lease_id or not token:
            raise LeaseRefusedError(
                "this call names no lease", "get one by request_device(...): it carries a token"
            )
        if self.lease is None or self.lease.id != lease_id:
            await self._wait_for(lease_id)
        digest = hashlib.sha256(token.encode()).hexdigest()
        if self.lease is None or self.lease.id != lease_id:
            raise LeaseRefusedError(
                f"lease {lease_id} is not the one that this device serves",
                "it has ended, or is another device's: request the device again",
            )
        if not hmac.compare_digest(digest, self._token_sha256):
            raise LeaseRefusedError(
                "the token does not open this lease", "use the one that came with the grant"
            )
        task = asyncio.current_task()
        if task is not None:
            self._guests.add(task)
            task.add_done_callback(self._guests.discard)
        return self.lease

    async def _wait_for(self, lease_id: str) -> None:
        try:
            async with asyncio.timeout(ARRIVAL_S), self._arrived:
                await self._arrived.wait_for(
                    lambda: self.lease is not None and self.lease.id == lease_id
                )
        except TimeoutError:
            return

    def lost(self, lease: pb.Lease) -> LeaseLostError | None:
        """The error for a task whose lease has ended, None while it holds."""
        if self.lease is not None and self.lease.id == lease.id:
            return None
        return LeaseLostError(f"lease {lease.id} has ended", "request the device again")
