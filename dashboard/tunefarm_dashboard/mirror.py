"""Keeps what the tracker knows, and says when it changed or the tracker went away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from tunefarm.farm import AsyncFarm
from tunefarm_proto.errors import TrackerUnreachableError, TunefarmError
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.view import Snapshot, moment_of

RESULTS_SHOWN = 50
RESULTS_READ = 4 * RESULTS_SHOWN
# What devices measure of themselves.
OWN = ("anchor ", "health ")
# Events that come together are read together.
DEBOUNCE_S = 0.25
# Deadlines move and conditions change without an event.
POLL_S = 2.0
RETRY_S = 1.0
FIRST_ANSWER_S = 2.0

_log = logging.getLogger(__name__)


class Mirror:
    """The newest snapshot of a farm. `on_change` is awaited whenever there is another."""

    def __init__(self, tracker: str, on_change: Callable[[], Awaitable[None]]) -> None:
        self.snapshot = Snapshot(tracker=tracker, trouble="not asked yet")
        self._on_change = on_change
        self._farm: AsyncFarm | None = None
        self._tried = asyncio.Event()
        self._dirty = asyncio.Event()
        self._results_dirty = True

    async def run(self) -> None:
        """Follow the tracker until cancelled, across its absences."""
        while True:
            try:
                async with AsyncFarm(self.snapshot.tracker) as farm:
                    self._results_dirty = True
                    await self._follow(farm)
            except TunefarmError as error:
                trouble = error.message
            except Exception as error:  # whatever it is, the page goes on and says so
                _log.exception("reading the tracker failed")
                trouble = f"the dashboard failed: {type(error).__name__}"
            finally:
                self._farm = None
            await self._take(replace(self.snapshot, connected=False, trouble=trouble))
            await asyncio.sleep(RETRY_S)

    async def ready(self) -> None:
        """Return when the tracker was first asked, or when that takes too long to wait for."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), FIRST_ANSWER_S)

    async def results_of(self, device_id: str) -> list[tpb.Result]:
        """The latest results of one device; where the tracker is lost, those that are known."""
        if self._farm is not None:
            try:
                return await _measured(self._farm, device_id)
            except TunefarmError as error:
                _log.info("no results of %s: %s", device_id, error)
        return [result for result in self.snapshot.results if result.device_id == device_id]

    async def _follow(self, farm: AsyncFarm) -> None:
        """Returns never; raises where the tracker is lost."""
        self._farm = farm
        watching = asyncio.create_task(self._watch(farm))
        try:
            while True:
                self._dirty.clear()
                await self._refresh(farm)
                dirty = asyncio.create_task(self._dirty.wait())
                await asyncio.wait(
                    (dirty, watching), timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED
                )
                dirty.cancel()
                if watching.done():
                    watching.result()
                    raise TrackerUnreachableError(f"the tracker at {farm.address} went away")
                if self._dirty.is_set():
                    await asyncio.sleep(DEBOUNCE_S)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, farm: AsyncFarm) -> None:
        async for event in farm.watch():
            moment = moment_of(event, "at")
            if event.kind == tpb.EVENT_KIND_DEVICE and moment is not None:
                since = {**self.snapshot.since, event.subject: moment}
                self.snapshot = replace(self.snapshot, since=since)
            self._results_dirty |= event.kind == tpb.EVENT_KIND_RESULT
            self._dirty.set()

    async def _refresh(self, farm: AsyncFarm) -> None:
        wants_results, self._results_dirty = self._results_dirty, False
        devices, queue, leases = await asyncio.gather(farm.devices(), farm.queue(), farm.leases())
        results = self.snapshot.results
        if wants_results:
            results = tuple(await _measured(farm))
        known = {device.id for device in devices}
        await self._take(
            replace(
                self.snapshot,
                connected=True,
                trouble="",
                read_at=datetime.now(UTC),
                devices=tuple(devices),
                queue=tuple(queue),
                leases=tuple(leases),
                results=results,
                since={name: at for name, at in self.snapshot.since.items() if name in known},
            )
        )

    async def _take(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._tried.set()
        await self._on_change()


async def _measured(farm: AsyncFarm, device_id: str = "") -> list[tpb.Result]:
    """The latest results that somebody asked for."""
    found = await farm.results(device_id=device_id, limit=RESULTS_READ)
    return [one for one in found if not one.workload.startswith(OWN)][:RESULTS_SHOWN]
