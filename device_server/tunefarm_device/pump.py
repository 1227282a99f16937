"""Carries out a session's requests one after another, wherever they come from."""

import asyncio
import collections
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_device.operations import answers
from tunefarm_device.session import DeviceSession

AHEAD_REQUESTS = 128  # read ahead of what is being carried out
AHEAD_BYTES = 16 << 20
LOOK_S = 200e-6  # so long the next request is looked for: to sleep and be woken takes 50 us
TURNS = 32  # short calls carried out before others have their turn: none of them need wait

Reply = Callable[[dpb.SessionResponse], Awaitable[None]]


class Pump:
    """Requests wait here, a bounded number of them, while one is carried out.

    `check` raises where the lease has ended. `open_lane` opens another way into this.
    """

    def __init__(
        self,
        session: DeviceSession,
        check: Callable[[], None],
        open_lane: Callable[["Pump"], dpb.Lane],
    ) -> None:
        self._lane = lambda: open_lane(self)
        self._session = session
        self._check = check
        self._waiting: collections.deque[tuple[dpb.SessionRequest, Reply, int]] = (
            collections.deque()
        )
        self._bytes = 0
        self._there: asyncio.Future[None] | None = None
        self._room: list[Callable[[], None]] = []
        self._ended = False
        self._why: BaseException | None = None
        self.look: Callable[[], None] | None = None  # takes in what has come; does not wait
        self._answered = 0.0  # by time.perf_counter
        self._brisk = False
        self._may_look = len(os.sched_getaffinity(0)) > 1

    @property
    def full(self) -> bool:
        """Whether a source should wait for `room`."""
        return len(self._waiting) >= AHEAD_REQUESTS or self._bytes >= AHEAD_BYTES

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def put(self, request: dpb.SessionRequest, reply: Reply, size: int) -> None:
        """Let a request of `size` bytes wait its turn. `reply` sends its answers."""
        self._waiting.append((request, reply, size))
        self._bytes += size
        if self._there is not None:
            self._brisk = time.perf_counter() - self._answered < LOOK_S
            self._wake()

    def _wake(self) -> None:
        if self._there is not None and not self._there.done():
            self._there.set_result(None)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back, once, when it takes more."""
        self._room.append(callback)

    def end(self, why: BaseException | None = None) -> None:
        """No more requests come; with an error, those that wait are dropped."""
        self._ended = True
        self._why = self._why or why
        self._wake()

    async def run(self) -> None:
        """Until the end. Raises: LeaseLostError, and what `end` was given."""
        for turn in itertools.count(1):
            if turn % TURNS == 0:
                await asyncio.sleep(0)
            if self._why is not None:
                raise self._why
            if not self._waiting:
                if self._ended:
                    return
                if self._brisk and self._looked():
                    continue
                self._there = asyncio.get_running_loop().create_future()
                await self._there
                self._there = None
                continue
            request, reply, size = self._waiting.popleft()
            self._bytes -= size
            if self._room and not self.full:
                callbacks, self._room = self._room, []
                for callback in callbacks:
                    callback()
            async for answer in answers(self._session, request, self._lane):
                self._check()
                answer.id = request.id
                await reply(answer)
            self._answered = time.perf_counter()

    def _looked(self) -> bool:
        """Look for the next request for a moment, without sleeping: whether it came.

        Done only where the one before came as soon after its answer.
        """
        if self.look is None or not self._may_look:
            return False
        while time.perf_counter() - self._answered < LOOK_S:
            self.look()
            if self._waiting or self._ended:
                return True
        self._brisk = False
        return False


async def feed(pump: Pump, requests: AsyncIterator[dpb.SessionRequest], reply: Reply) -> None:
    """Requests of a stream into the pump, until one of the two ends."""
    try:
        async for request in requests:
            pump.put(request, reply, request.ByteSize())
            while pump.full:
                room = asyncio.Event()
                pump.when_room(room.set)
                await room.wait()
    except TunefarmError as error:
        pump.end(error)
    else:
        pump.end()
