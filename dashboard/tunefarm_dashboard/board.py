"""What the pages share: the mirror of the farm, the live stream, who looks, and how a page is made.

A group of pages is a module in `pages/` with a function `add(board, app)`. It registers

- its entries of the navigation: `board.navigation.append(Entry("Queue", "/queue"))`,
- its sections, the parts of pages that are kept up to date: `board.section("queue", render, ...)`,
- its tables, as JSON and CSV: `board.table(app, "queue", QueueRow, rows)`,
- its pages: `app.get("/queue")` with `viewer: Who`, answered by `await board.page(...)`,
- its acts: `app.post("/api/act/...")` with `actor: Acting`.

Data comes from `views/`, markup from `templates/`.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from tunefarm.farm import AsyncFarm
from tunefarm_proto.errors import TrackerUnreachableError
from tunefarm_proto.identity import Role
from tunefarm_proto.security import Credentials

from tunefarm_dashboard import tables
from tunefarm_dashboard.access import visitor
from tunefarm_dashboard.frame import Entry, render
from tunefarm_dashboard.live import Live, Render, Section, version_of
from tunefarm_dashboard.mirror import Mirror
from tunefarm_dashboard.sessions import Sessions
from tunefarm_dashboard.views.rows import Snapshot, iso
from tunefarm_dashboard.who import Viewer

T = TypeVar("T")
# Browsers ask again after a stream that is silent for three of these.
TICK_S = 5.0
SWEEP_S = 2.0
NOBODY = Viewer("", Role.VIEWER)


@dataclass(frozen=True)
class Part:
    """A section as a page shows it first."""

    topic: str
    html: Markup
    version: str


class Board:
    """The dashboard of one tracker. `credentials`: with which it reads."""

    def __init__(self, tracker: str, credentials: Credentials) -> None:
        self.tracker = tracker
        self.live = Live()
        self.sessions = Sessions(tracker, credentials)
        self.mirror = Mirror(lambda: AsyncFarm(tracker, credentials), tracker, self.live.publish)
        self.navigation: list[Entry] = []
        self._asks = bool(credentials.token)
        self._csrf = secrets.token_urlsafe(24)
        self.section("status", self._status, needs=("status",))

    # Who looks.

    @property
    def closed(self) -> bool:
        """Whether visitors must say who they are: the farm uses tokens."""
        us = self.mirror.us
        self._asks = self._asks or self.mirror.refused or bool(us and us.name)
        return self._asks

    @property
    def anybody(self) -> Viewer:
        """A visitor of a farm that asks nobody who they are: an operator, as everywhere in it."""
        return Viewer("", Role.OPERATOR, csrf=self._csrf, farm=self.mirror.farm)

    @property
    def passer_by(self) -> Viewer:
        """A visitor of such a farm from another machine, which has no right to it: only looks."""
        return Viewer("", Role.VIEWER)

    @property
    def snapshot(self) -> Snapshot:
        """The newest that is known of the farm."""
        return self.mirror.snapshot

    def farm(self) -> AsyncFarm:
        """The tracker, to be read. Raises: TrackerUnreachableError."""
        if self.mirror.farm is None:
            raise TrackerUnreachableError(
                f"the tracker is out of reach: {self.snapshot.trouble}", "try again soon"
            )
        return self.mirror.farm

    # What groups of pages register.

    def section(self, name: str, render: Render, *, needs: Sequence[str], varies: str = "") -> None:
        """A part of pages that is kept up to date.

        `render(query, viewer)` makes its html from the query of its topic. It is called again when
        any of `needs` changed: "devices", "conditions", "queue", "leases", "results", "events" of
        devices, "users", "tunings". `varies`: "role" or "name", where it differs with who looks.
        """
        self.live.sections[name] = Section(render, frozenset({*needs, "status"}), varies)

    def table(
        self,
        app: FastAPI,
        name: str,
        row_type: type[T],
        rows: Callable[..., Awaitable[Sequence[T]]],
    ) -> None:
        """A table at /api/NAME and /api/NAME.csv. `rows`: see `tables.add_table`."""
        tables.add_table(app, name, row_type, rows, [Depends(visitor)])

    # How a page is made.

    async def part(self, name: str, viewer: Viewer, query: Mapping[str, str] | None = None) -> Part:
        """A section as it is now. Empty values of the query are left out."""
        given = {key: value for key, value in (query or {}).items() if value}
        topic = f"{name}?{urlencode(given)}" if given else name
        html = await self.live.sections[name].render(given, viewer)
        return Part(topic, Markup(html), version_of(html))  # noqa: S704 (rendered by us)

    async def page(
        self, template: str, viewer: Viewer, title: str, status: int = 200, **context: Any
    ) -> HTMLResponse:
        """A whole page. `title` also names it in the history of the browser."""
        hidden = self.closed and viewer is NOBODY
        shown = [] if hidden else [entry for entry in self.navigation if viewer.may(entry.role)]
        html = render(
            template,
            title=title,
            viewer=viewer,
            navigation=shown,
            closed=self.closed,
            snapshot=self.snapshot,
            status=await self.part("status", viewer),
            now_ms=now_ms(),
            **context,
        )
        return HTMLResponse(html, status)

    async def _status(self, query: dict[str, str], viewer: Viewer) -> str:
        snapshot = self.snapshot
        return render("sections/status.html", snapshot=snapshot, read_at=iso(snapshot.read_at))

    # Its life.

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Follow the tracker while the application runs."""
        tasks = [
            asyncio.create_task(one) for one in (self.mirror.run(), self._tick(), self._sweep())
        ]
        try:
            yield
        finally:
            self.live.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.sessions.close_all()

    async def _tick(self) -> None:
        while True:
            self.live.tick(now_ms())
            await asyncio.sleep(TICK_S)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            ended = set(await self.sessions.sweep())
            self.live.close(lambda viewer, ended=ended: viewer.token_id in ended)  # type: ignore[misc]
            if self.closed:  # streams that began while the farm asked nobody
                self.live.close(lambda viewer: not viewer.token_id)


def now_ms() -> int:
    """The time in ms since 1970."""
    return int(datetime.now(UTC).timestamp() * 1000)


def shareable(viewer: Viewer) -> Viewer:
    """A viewer without what is theirs alone."""
    return replace(viewer, csrf="", farm=None)
