"""The fleet: every device at a glance, found by words, key, state and health."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse

from tunefarm_dashboard.access import Who
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import Entry, render
from tunefarm_dashboard.views import fleet
from tunefarm_dashboard.views.rows import DeviceRow
from tunefarm_dashboard.who import Viewer

Word = Annotated[str, Query(max_length=200)]


def add(board: Board, app: FastAPI) -> None:
    """Add the page, its sections and its table."""

    async def tally(query: dict[str, str], viewer: Viewer) -> str:
        wanted = _filter(query)
        return render(
            "sections/tally.html",
            tally=fleet.tally(board.snapshot.rows),
            waiting=len(board.snapshot.queue),
            wanted=wanted,
        )

    async def devices(query: dict[str, str], viewer: Viewer) -> str:
        wanted = _filter(query)
        number = query.get("page", "1")
        page = fleet.page_of(
            wanted.find(board.snapshot.rows), int(number) if number.isdecimal() else 1
        )
        return render(
            "sections/fleet.html",
            page=page,
            wanted=wanted,
            total=len(board.snapshot.rows),
            tracker=board.tracker,
        )

    board.navigation.append(Entry("Fleet", "/"))
    board.section("tally", tally, needs=("devices", "queue"))
    board.section("fleet", devices, needs=("devices",))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page(
        viewer: Who, *, q: Word = "", key: Word = "", state: Word = "",
        health: Word = "", page: Annotated[int, Query(ge=1, le=10**6)] = 1,
    ) -> HTMLResponse:  # fmt: skip
        """Every device that the filter finds, a page at a time."""
        wanted = fleet.Filter(q, key, state, health)
        query = wanted.query
        return await board.page(
            "fleet.html",
            viewer,
            "Fleet",
            wanted=wanted,
            keys=sorted({row.key for row in board.snapshot.rows}),
            tally=await board.part("tally", viewer, query),
            fleet=await board.part(
                "fleet", viewer, {**query, "page": str(page) if page > 1 else ""}
            ),
        )

    async def rows(
        q: Word = "", key: Word = "", state: Word = "", health: Word = ""
    ) -> Sequence[DeviceRow]:
        """Devices, ordered by key and id."""
        return fleet.Filter(q, key, state, health).find(board.snapshot.rows)

    board.table(app, "devices", DeviceRow, rows)


def _filter(query: dict[str, str]) -> fleet.Filter:
    return fleet.Filter(*(query.get(name, "") for name in ("q", "key", "state", "health")))
