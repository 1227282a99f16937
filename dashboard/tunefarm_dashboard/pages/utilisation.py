"""Utilisation: who used which device when."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.access import Who
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import Entry, render
from tunefarm_dashboard.views import utilisation as view
from tunefarm_dashboard.views.device import PastLeaseRow, past_lease_row
from tunefarm_dashboard.views.fleet import page_of
from tunefarm_dashboard.views.rows import iso
from tunefarm_dashboard.who import Viewer

DEVICES = 50  # strips on a page
MOST = 20_000  # leases that one picture is made of
Window = Literal["1h", "6h", "24h", "7d"]
Word = Annotated[str, Query(max_length=200)]
Seconds = Annotated[float, Query(ge=0, le=4e9, description="Seconds since 1970; 0: no limit.")]


def add(board: Board, app: FastAPI) -> None:
    """Add the page, its section and its table."""
    kept = _Kept()

    async def past(
        device: Word = "", user: Word = "", request: Word = "",
        since: Seconds = 0.0, until: Seconds = 0.0,
    ) -> Sequence[PastLeaseRow]:  # fmt: skip
        """Leases that ended after `since` and began before `until`, last ended first."""
        found = await board.farm().past_leases(
            device_id=device, holder=user, request_id=request, since=since, until=until, limit=MOST
        )
        return [past_lease_row(one) for one in found]

    async def strips(query: dict[str, str], viewer: Viewer) -> str:
        if board.mirror.farm is None:
            return render("sections/strips.html", used=None)
        window = query.get("window", "6h")
        length = view.HOURS.get(window, 6) * 3600.0
        step = length / view.STEPS
        end = (time.time() // step + 1) * step
        leases = await kept.get(board, end - length)
        holds = view.holds_of(leases, board.snapshot.leases, end - length, min(end, time.time()))
        key, number = query.get("key", ""), query.get("page", "1")
        rows = [row for row in view.counting(board.snapshot.rows) if key in ("", row.key)]
        page = page_of(rows, int(number) if number.isdecimal() else 1, DEVICES)
        return render(
            "sections/strips.html",
            used=view.utilisation(holds, page.rows, end - length, end),
            page=page,
            query=query,
            ticks=[_tick(end - length + length * part / 4, window) for part in range(5)],
            cut=len(leases) >= MOST,
            width=view.WIDTH,
        )

    board.navigation.append(Entry("Utilisation", "/utilisation"))
    board.section("strips", strips, needs=("leases", "conditions"))
    board.table(app, "past-leases", PastLeaseRow, past)

    @app.get("/utilisation", response_class=HTMLResponse, include_in_schema=False)
    async def page(
        viewer: Who, *, window: Window = "6h", key: Word = "",
        page: Annotated[int, Query(ge=1, le=10**6)] = 1,
    ) -> HTMLResponse:  # fmt: skip
        """Strips of each device over the last hours."""
        query = {"window": window, "key": key, "page": str(page) if page > 1 else ""}
        since = time.time() - view.HOURS[window] * 3600
        return await board.page(
            "utilisation.html",
            viewer,
            "Utilisation",
            window=window,
            windows=list(view.HOURS),
            key=key,
            keys=sorted({row.key for row in board.snapshot.rows}),
            since=f"{since:.0f}",
            strips=await board.part("strips", viewer, query),
        )


class _Kept:
    """The past leases that were read last, so that many changes do not read them many times."""

    def __init__(self) -> None:
        self._since = float("inf")
        self._until = 0.0
        self._leases: list[tpb.PastLease] = []

    async def get(self, board: Board, since: float) -> list[tpb.PastLease]:
        """Those that ended after a time, as of the last seconds."""
        now = time.monotonic()
        if now > self._until or abs(since - self._since) > 1.0:
            self._leases = await board.farm().past_leases(since=since, limit=MOST)
            self._since = since
            took = time.monotonic() - now
            self._until = now + max(1.0, 10 * took)
        return self._leases


def _tick(at: float, window: str) -> tuple[str, str]:
    """A moment of the axis: in ISO, and as it is written."""
    moment = datetime.fromtimestamp(at, UTC)
    return iso(moment), moment.strftime("%d %b %H:%M" if window == "7d" else "%H:%M")
