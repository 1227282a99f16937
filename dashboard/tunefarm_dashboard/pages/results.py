"""The latest results."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse

from tunefarm_dashboard.access import Who
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import Entry, render
from tunefarm_dashboard.mirror import OWN
from tunefarm_dashboard.views.rows import ResultRow, emulated_ids, result_row
from tunefarm_dashboard.who import Viewer

SHOWN = 50
MOST = 1000
Word = Annotated[str, Query(max_length=500)]


def add(board: Board, app: FastAPI) -> None:
    """Add the page, its section and its table."""

    async def rows(workload: Word = "", device: Word = "", key: Word = "") -> Sequence[ResultRow]:
        """Results, newest first; those that devices measure of themselves only where named."""
        found = await board.farm().results(workload, device, key, limit=MOST)
        emulated = emulated_ids(board.snapshot)
        return [
            result_row(one, emulated)
            for one in found
            if workload or not one.workload.startswith(OWN)
        ]

    async def results(query: dict[str, str], viewer: Viewer) -> str:
        if board.mirror.farm is None:
            return render("sections/results.html", results=None)
        names = ("workload", "device", "key")
        found = await rows(*(query.get(name, "") for name in names))
        return render("sections/results.html", results=found[:SHOWN])

    board.navigation.append(Entry("Results", "/results"))
    board.section("results", results, needs=("results",))
    board.table(app, "results", ResultRow, rows)

    @app.get("/results", response_class=HTMLResponse, include_in_schema=False)
    async def page(
        viewer: Who, workload: Word = "", device: Word = "", key: Word = ""
    ) -> HTMLResponse:
        """The latest results."""
        query = {"workload": workload, "device": device, "key": key}
        return await board.page(
            "results.html",
            viewer,
            "Results",
            wanted=query,
            results=await board.part("results", viewer, query),
        )
