"""The shell's loop: feeds the scheduler, keeps its changes, then delivers its messages in order."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol

from tunefarm_proto.errors import InternalError, TrackerUnreachableError, TunefarmError

from tunefarm_tracker.core import Scheduler
from tunefarm_tracker.core.effects import Action, Change, Effect, Ended, EventHappened, Message
from tunefarm_tracker.core.inputs import Input, Tick
from tunefarm_tracker.core.records import Event
from tunefarm_tracker.store import Store

_log = logging.getLogger(__name__)
KEPT_EVENTS = 4096


class Clock:
    """Seconds since 1970 that never jump: the wall clock at the start, monotonic from there."""

    def __init__(self) -> None:
        self._zero = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Now."""
        return self._zero + time.monotonic()


class Mailbox:
    """Messages for one stream. Of successive ones of a kind only the last counts, so a peer that
    does not read cannot make it grow."""

    def __init__(self) -> None:
        self.number = 0
        self._messages: deque[Message] = deque()
        self._error: TunefarmError | None = None
        self._closed = False
        self._reader: asyncio.Future[None] | None = None

    def put(self, message: Message) -> None:
        """Add a message."""
        last = self._messages[-1] if self._messages else None
        if isinstance(last, Ended):
            return  # nothing comes after the end, no other end either
        if type(last) is type(message):
            self._messages.pop()
        self._messages.append(message)
        self._wake()

    def close(self, error: TunefarmError | None = None) -> None:
        """Let the reader end, with an error if there is one."""
        self._closed, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def next(self) -> Message | None:
        """The next message; None after the last. One reader at a time."""
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._closed:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._messages.popleft()

    async def take(self) -> Message:
        """The one answer to a unary call."""
        if (message := await self.next()) is None:
            raise TrackerUnreachableError("the tracker is stopping", "try again when it is back")
        return message


class Box(Protocol):
    """Where a stream's messages go."""

    def put(self, message: Message) -> None:
        """Add a message."""

    def close(self, error: TunefarmError | None = None) -> None:
        """Let the reader end, with an error if there is one."""


class EventLog:
    """The last events, for watchers that are nearly up to date. Holds only durable ones."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._waiting: set[asyncio.Future[None]] = set()

    def add(self, event: Event) -> None:
        """Add an event and wake the watchers."""
        self._events.append(event)
        self.cursor = event.cursor
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def after(self, cursor: int) -> list[Event] | None:
        """The events after a cursor; None where they are not all here."""
        missing = self.cursor - cursor
        if missing > len(self._events):
            return None
        return [self._events[i] for i in range(len(self._events) - missing, len(self._events))]

    async def beyond(self, cursor: int) -> None:
        """Wait until there is an event after a cursor."""
        if self.cursor <= cursor:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)


class Hub:
    """One scheduler and its store in the running loop."""

    def __init__(self, scheduler: Scheduler, store: Store, clock: Clock) -> None:
        self.scheduler = scheduler
        self.store = store
        self.clock = clock
        self.events = EventLog(scheduler.state.cursor)
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_action: Callable[[Action], None] = lambda action: None
        self.listeners: list[Callable[[Event], None]] = []
        self._loop = asyncio.get_running_loop()
        self._boxes: dict[int, Box] = {}
        self._streams = 0
        self._outbox: deque[tuple[Future[None] | None, Sequence[Effect]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._closed = False
        self._woken = False
        self._set_timer()

    def attach(self, box: "Box") -> int:
        """Deliver to a box what is meant for the number returned, which is new."""
        self._streams += 1
        self._boxes[self._streams] = box
        return self._streams

    def detach(self, number: int) -> None:
        """Deliver nothing more."""
        del self._boxes[number]

    @contextmanager
    def mailbox(self) -> Iterator[Mailbox]:
        """A mailbox with a new stream number."""
        box = Mailbox()
        box.number = self.attach(box)
        try:
            yield box
        finally:
            self.detach(box.number)

    def feed(self, event: Input) -> None:
        """Something happened."""
        self.feed_all((event,))

    def feed_all(self, events: Sequence[Input]) -> None:
        """Several things happened at once: their changes are kept together."""
        if self._closed:
            return
        effects: list[Effect] = []
        for event in events:
            try:
                effects += self.scheduler.handle(event, self.clock())
            except Exception as error:
                _log.exception("the scheduler failed on %r", event)
                self._fail(InternalError(f"the scheduler failed: {error!r}"))
                return
        changes, told = list[Change](), list[Effect]()
        for effect in effects:
            if isinstance(effect, Change):
                changes.append(effect)
                if not isinstance(effect, EventHappened):
                    continue
            told.append(effect)
        if changes:
            kept = self.store.write(changes)
            self._outbox.append((kept, told))
            kept.add_done_callback(self._kept)
        elif told:
            self._outbox.append((None, told))
            self._deliver()
        self._set_timer()

    def close(self) -> None:
        """Take no more: what the streams' ends would mean is for the next start to find out."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for box in list(self._boxes.values()):
            box.close()

    def _kept(self, _: "Future[None]") -> None:
        """In the store's thread. One wake-up of the loop serves all that was kept by then."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._outbox and not self._closed:
            kept, told = self._outbox[0]
            if kept is not None:
                if not kept.done():
                    return
                if (error := kept.exception()) is not None:
                    self._fail(error)
                    return
            self._outbox.popleft()
            for effect in told:
                if isinstance(effect, EventHappened):
                    self.events.add(effect.event)
                    for listener in self.listeners:
                        listener(effect.event)
                elif isinstance(effect, Action):
                    self.on_action(effect)
                elif isinstance(effect, Message):
                    box = self._boxes.get(effect.to)
                    if box is not None:
                        box.put(effect)

    def _fail(self, error: BaseException) -> None:
        # What is in memory and what is kept differ now; only a restart makes them one again.
        _log.critical("%s; stopping", error)
        self.close()
        if not self.failed.done():
            self.failed.set_exception(error)

    def _set_timer(self) -> None:
        due = self.scheduler.next_deadline()
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(max(due - self.clock(), 0.001), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(Tick())
