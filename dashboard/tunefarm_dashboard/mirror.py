"""Keeps what the tracker knows, and says what changed or that the tracker went away.

Of a large fleet only those devices are read again of which an event or a lease tells; all of them
at intervals, so that reading takes a small share of the tracker's time whatever its size.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from tunefarm.awaited import COME_BACK_S, unheard
from tunefarm.farm import AsyncFarm
from tunefarm_proto.errors import AccessError, TrackerUnreachableError, TunefarmError
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.conditions import History
from tunefarm_dashboard.sessions import viewer_of
from tunefarm_dashboard.views.rows import Snapshot, moment_of, next_snapshot
from tunefarm_dashboard.who import Viewer

# What devices measure of themselves.
OWN = ("anchor ", "health ")
# Events that come together are read together.
DEBOUNCE_S = 0.25
# Reading takes at most one part in so many and one of the time.
REST = 4
# Deadlines move and conditions change without an event.
POLL_S = 2.0
# Reading all devices takes at most one part in so many of the time.
SHARE = 20
MOST_IDS = 500
MOST_TUNINGS = 200
TUNINGS_S = 0.5
TUNINGS_RETRY_S = 5.0
RETRY_S = 1.0
FIRST_ANSWER_S = 2.0
ALL = frozenset(
    {"status", "devices", "conditions", "queue", "leases", "results", "events", "users"}
)
_KINDS = {
    tpb.EVENT_KIND_RESULT: "results",
    tpb.EVENT_KIND_DEVICE: "events",
    tpb.EVENT_KIND_LEASE: "users",
    tpb.EVENT_KIND_REQUEST: "users",
}

_log = logging.getLogger(__name__)


class Mirror:
    """The newest snapshot of a farm. `on_change` is awaited with the names of what changed."""

    def __init__(
        self,
        farm: Callable[[], AsyncFarm],
        tracker: str,
        on_change: Callable[[frozenset[str]], Awaitable[None]],
    ) -> None:
        self.snapshot = Snapshot(tracker=tracker, trouble="not asked yet")
        self.history = History()
        self.farm: AsyncFarm | None = None
        self.tunings: dict[str, tpb.TuningRun] = {}
        self.us: Viewer | None = None  # as the tracker knows the dashboard itself
        self.refused = False  # the tracker wants a token that we do not have
        self._open = farm
        self._on_change = on_change
        self._tried = asyncio.Event()
        self._dirty = asyncio.Event()
        self._told: set[str] = set()  # what events told of since the last reading
        self._ids: set[str] = set()
        self._read_all_at = 0.0

    async def run(self) -> None:
        """Follow the tracker until cancelled, across its absences."""
        while True:
            try:
                async with self._open() as farm:
                    self.us = viewer_of(await farm.identity(), farm)
                    self.refused = False
                    self._told, self._read_all_at = set(ALL), 0.0
                    await self._follow(farm)
            except AccessError as error:
                trouble, self.refused = error.message, True
            except TunefarmError as error:
                trouble = error.message
            except Exception as error:  # whatever it is, the page goes on and says so
                _log.exception("reading the tracker failed")
                trouble = f"the dashboard failed: {type(error).__name__}"
            finally:
                self.farm = None
            await self._take(replace(self.snapshot, connected=False, trouble=trouble), ALL)
            await asyncio.sleep(RETRY_S)

    async def ready(self) -> None:
        """Return when the tracker was first asked, or when that takes too long to wait for."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), FIRST_ANSWER_S)

    async def _follow(self, farm: AsyncFarm) -> None:
        """Returns never; raises where the tracker is lost."""
        self.farm = farm
        watching = asyncio.create_task(self._watch(farm))
        tunings = asyncio.create_task(self._watch_tunings(farm))
        try:
            while True:
                self._dirty.clear()
                began = time.monotonic()
                await self._refresh(farm)
                took = time.monotonic() - began
                dirty = asyncio.create_task(self._dirty.wait())
                await asyncio.wait(
                    (dirty, watching), timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED
                )
                dirty.cancel()
                if watching.done():
                    watching.result()
                    raise TrackerUnreachableError(f"the tracker at {farm.address} went away")
                if self._dirty.is_set():
                    await asyncio.sleep(max(DEBOUNCE_S, REST * took))
        finally:
            watching.cancel()
            tunings.cancel()
            await asyncio.gather(watching, tunings, return_exceptions=True)

    async def _watch(self, farm: AsyncFarm) -> None:
        async for event in farm.watch():
            moment = moment_of(event, "at")
            if event.kind == tpb.EVENT_KIND_DEVICE:
                self._ids.add(event.subject)
                if event.action == "forgotten":  # an answer without it tells nothing
                    self._read_all_at = 0.0
                if moment is not None:
                    self.snapshot.since[event.subject] = moment
            self._told.add(_KINDS.get(event.kind, ""))
            self._dirty.set()

    async def _watch_tunings(self, farm: AsyncFarm) -> None:
        """Keep what tuning runs are at; their pages are told at most once in TUNINGS_S."""
        while True:
            # Whether the tracker lives others see; an old one knows no runs.
            with suppress(TunefarmError):
                await self._follow_tunings(farm)
            await asyncio.sleep(TUNINGS_RETRY_S)

    async def _follow_tunings(self, farm: AsyncFarm) -> None:
        known = self.tunings = {one.id: one for one in await farm.tunings()}
        telling = asyncio.create_task(self._tell_tunings())
        try:
            async for run in farm.watch_tunings():
                known[run.id] = run
                while len(known) > MOST_TUNINGS:
                    known.pop(min(known, key=lambda one: known[one].started_at.seconds))
                if telling.done():
                    telling = asyncio.create_task(self._tell_tunings())
        finally:
            telling.cancel()

    async def _tell_tunings(self) -> None:
        await asyncio.sleep(TUNINGS_S)
        await self._on_change(frozenset({"tunings"}))

    async def _refresh(self, farm: AsyncFarm) -> None:
        told, self._told = self._told, set()
        ids, self._ids = self._ids, set()
        queue, leases = await asyncio.gather(farm.queue(), farm.leases())
        ids |= _changed_leases(self.snapshot.leases, leases)
        devices, whole = await self._devices(farm, ids)
        before = self.snapshot
        after = next_snapshot(
            before,
            devices,
            whole=whole,
            connected=True,
            trouble="",
            read_at=datetime.now(UTC),
            queue=tuple(queue),
            leases=tuple(leases),
        )
        awaiting = farm.uptime_s < COME_BACK_S and unheard(after.devices.values()) > 0
        after = replace(after, awaiting=awaiting)
        if whole:
            self.history.add(after.devices.values())
        changed = {"conditions"} if whole else set()
        for name, field in (("devices", "rows"), ("queue", "queue"), ("leases", "leases")):
            if getattr(before, field) != getattr(after, field):
                changed.add(name)
        if before.awaiting != after.awaiting:
            changed.add("status")
        if not before.connected:
            changed |= ALL
        await self._take(after, frozenset(changed | told))

    async def _devices(self, farm: AsyncFarm, ids: Iterable[str]) -> tuple[list[tpb.Device], bool]:
        """The devices that may have changed, and whether these are all that there are."""
        now, ids = time.monotonic(), set(ids)
        if now < self._read_all_at and len(ids) <= MOST_IDS:
            return (await farm.devices(ids=sorted(ids)) if ids else []), False
        devices = await farm.devices()
        took = time.monotonic() - now
        self._read_all_at = time.monotonic() + max(POLL_S, SHARE * took)
        return devices, True

    async def _take(self, snapshot: Snapshot, changed: frozenset[str]) -> None:
        self.snapshot = snapshot
        self._tried.set()
        await self._on_change(changed)


def _changed_leases(before: Iterable[pb.Lease], after: Iterable[pb.Lease]) -> set[str]:
    """The devices whose lease began or ended in between."""
    old = {lease.id: lease.device_id for lease in before}
    new = {lease.id: lease.device_id for lease in after}
    return {old[one] for one in old.keys() - new.keys()} | {
        new[one] for one in new.keys() - old.keys()
    }
