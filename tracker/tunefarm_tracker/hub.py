"""The shell around the scheduler: feeds it events and the time, carries out its effects.

Everything runs on one event loop. Effects of an event are made durable first and delivered after, in
the order of the events, so nobody is told what a crash could still undo.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence

from tunefarm_tracker import store as stored
from tunefarm_tracker.core.model import (
    Config,
    Desired,
    Effect,
    Ended,
    Event,
    Forget,
    Granted,
    Happened,
    Queued,
    Renewed,
    Save,
    Tick,
)
from tunefarm_tracker.core.scheduler import Scheduler
from tunefarm_tracker.store import Store, StoredEvent

_log = logging.getLogger(__name__)
TICK_S = 0.25
WATCHER_QUEUE = 10_000
EVENTS_IN_MEMORY = 10_000

Notice = Queued | Granted | Renewed | Ended
_TELLS_CLIENT = (Queued, Granted, Renewed, Ended)


class Hub:
    """The one owner of scheduler and store."""

    def __init__(
        self,
        store: Store,
        secret: bytes,
        config: Config | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._secret, self._clock = store, secret, clock
        self.config = config or Config()
        self.scheduler = Scheduler.restored(
            lambda: secrets.token_hex(8), self.config, store.load(), clock()
        )
        self.clients: dict[str, asyncio.Queue[Notice]] = {}
        self.devices: dict[str, asyncio.Event] = {}
        self._watchers: set[asyncio.Queue[StoredEvent]] = set()
        self._recent: deque[StoredEvent] = deque(maxlen=EVENTS_IN_MEMORY)
        self.cursor = store.last_cursor()
        self._outbox: asyncio.Queue[tuple[Sequence[Effect], asyncio.Future[None] | None]] = (
            asyncio.Queue()
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to tick and to deliver."""
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._deliver())]

    async def stop(self) -> None:
        """Stop, with everything durable."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._store.close()

    def token(self, lease_id: str) -> str:
        """The lease's token: derived, so that a restart gives the same and none is stored."""
        return hmac.new(self._secret, lease_id.encode(), hashlib.sha256).hexdigest()

    def token_sha256(self, lease_id: str) -> str:
        """What the device is told of the token."""
        return hashlib.sha256(self.token(lease_id).encode()).hexdigest()

    def dispatch(self, event: Event) -> None:
        """Feed the scheduler one event."""
        now = self._clock()
        effects = self.scheduler.handle(event, now)
        if not effects:
            return
        events = [self._event(e, now) for e in effects if isinstance(e, Happened)]
        writes = self._writes(effects) + [stored.event(event) for event in events]
        done = self._store.write(writes) if writes else None
        self._outbox.put_nowait((effects, done))
        for happened in events:
            self._publish(happened)

    def _writes(self, effects: Sequence[Effect]) -> list[stored.Write]:
        """What to keep, each thing once, as it is now."""
        state = self.scheduler.state
        changed = {(e.kind, e.id) for e in effects if isinstance(e, Save | Forget)}
        writes = []
        for kind, thing_id in sorted(changed):
            tables = {"device": state.devices, "request": state.requests, "lease": state.leases}
            thing = tables[kind].get(thing_id)  # type: ignore[attr-defined]
            writes.append(
                stored.forget(kind, thing_id) if thing is None else stored.save(kind, thing)
            )
        return writes

    def _event(self, happened: Happened, now: float) -> StoredEvent:
        self.cursor += 1
        return StoredEvent(
            self.cursor, now, happened.kind, happened.subject, happened.action, happened.detail
        )

    def _publish(self, event: StoredEvent) -> None:
        self._recent.append(event)
        for watcher in list(self._watchers):
            try:
                watcher.put_nowait(event)
            except asyncio.QueueFull:  # it does not read; it can resume by its cursor
                self._watchers.discard(watcher)

    async def _deliver(self) -> None:
        while True:
            effects, done = await self._outbox.get()
            if done is not None:
                try:
                    await done
                except Exception:
                    _log.exception("could not keep what happened; nobody was told of it")
                    continue
            for effect in effects:
                if isinstance(effect, Desired):
                    if wake := self.devices.get(effect.device):
                        wake.set()
                elif isinstance(effect, _TELLS_CLIENT):
                    if inbox := self.clients.get(effect.request):
                        inbox.put_nowait(effect)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.dispatch(Tick())

    async def record(self, fields: dict[str, str], data: bytes) -> bool:
        """Keep a result. False where one with its id was kept before."""
        if self._store.has_result(fields["id"]):
            return False
        happened = Happened("result", fields["id"], "recorded", fields["workload"])
        event = self._event(happened, self._clock())
        await self._store.write([stored.result(fields, data), stored.event(event)])
        self._publish(event)
        return True

    def results(self, where: dict[str, str], limit: int) -> list[bytes]:
        """Results that match, newest first."""
        return self._store.results(where, limit)

    def watch(self, after: int) -> "tuple[list[StoredEvent], asyncio.Queue[StoredEvent]]":
        """Events after a cursor (none for 0), and a queue of those to come."""
        queue: asyncio.Queue[StoredEvent] = asyncio.Queue(WATCHER_QUEUE)
        self._watchers.add(queue)
        if not after:
            return [], queue
        if self._recent and self._recent[0].cursor <= after + 1:
            return [event for event in self._recent if event.cursor > after], queue
        return self._store.events(after, stored.EVENTS_KEPT), queue

    def unwatch(self, queue: "asyncio.Queue[StoredEvent]") -> bool:
        """Stop a watch. False where it had been dropped for not reading."""
        held = queue in self._watchers
        self._watchers.discard(queue)
        return held
