"""Tuning: the runs that the tracker keeps, and each of them live."""

import json
from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import HTMLResponse
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.access import Who
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import Entry, render
from tunefarm_dashboard.views import tuning as view
from tunefarm_dashboard.who import Viewer

SHOWN = 200  # tasks on the page
Id = Annotated[str, Query(min_length=1, max_length=200)]


def add(board: Board, app: FastAPI) -> None:
    """Add the pages, their sections and tables."""

    def run_of(run_id: str) -> tpb.TuningRun:
        found = board.mirror.tunings.get(run_id)
        if found is None:
            raise HTTPException(404, f"There is no tuning run {run_id[:200]}")
        return found

    def rows() -> list[view.RunRow]:
        found = [view.run_row(one) for one in board.mirror.tunings.values()]
        return sorted(found, key=lambda row: row.started_at, reverse=True)

    async def runs() -> Sequence[view.RunRow]:
        """Tuning runs, latest started first; the tracker keeps the last 100."""
        return rows()

    async def tasks(run: Id) -> Sequence[view.TaskRow]:
        """The tasks of a tuning run."""
        return view.task_rows(run_of(run))

    async def devices(run: Id) -> Sequence[view.DeviceRow]:
        """What each device did for a tuning run."""
        return view.device_rows(run_of(run))

    async def errors(run: Id) -> Sequence[view.ErrorRow]:
        """What trials of a tuning run failed of."""
        return view.error_rows(run_of(run))

    async def list_section(query: dict[str, str], viewer: Viewer) -> str:
        return render("sections/tunings.html", runs=rows())

    async def section(query: dict[str, str], viewer: Viewer) -> str:
        found = board.mirror.tunings.get(query.get("id", ""))
        if found is None:
            return render("sections/tuning.html", run=None)
        known = view.task_rows(found)
        return render(
            "sections/tuning.html",
            run=view.run_row(found),
            tasks=known[:SHOWN],
            more=len(known) - SHOWN,
            devices=view.device_rows(found),
            errors=view.error_rows(found),
            plot=json.dumps(view.best_plot(found)),
            drawn=view.DRAWN,
        )

    board.navigation.append(Entry("Tuning", "/tunings"))
    board.section("tunings", list_section, needs=("tunings",))
    board.section("tuning", section, needs=("tunings",))
    board.table(app, "tunings", view.RunRow, runs)
    board.table(app, "tuning-tasks", view.TaskRow, tasks)
    board.table(app, "tuning-devices", view.DeviceRow, devices)
    board.table(app, "tuning-errors", view.ErrorRow, errors)

    @app.get("/tunings", response_class=HTMLResponse, include_in_schema=False)
    async def list_page(viewer: Who) -> HTMLResponse:
        """Every run."""
        part = await board.part("tunings", viewer)
        return await board.page("tunings.html", viewer, "Tuning", tunings=part)

    @app.get("/tunings/{run_id}", response_class=HTMLResponse, include_in_schema=False)
    async def page(viewer: Who, run_id: str) -> HTMLResponse:
        """One run, live."""
        part = await board.part("tuning", viewer, {"id": run_id})
        return await board.page(
            "tuning.html", viewer, f"Tuning {run_id[:8]}", section="Tuning", tuning=part
        )
