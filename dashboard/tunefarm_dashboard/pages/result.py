"""One result: its samples, what they can be believed for, where it came from, and its kernel."""

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.responses import HTMLResponse
from tunefarm_proto.errors import BuildFailedError
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard import listings
from tunefarm_dashboard.access import Who
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import render
from tunefarm_dashboard.leases import request_of
from tunefarm_dashboard.tables import REFUSALS, Problem
from tunefarm_dashboard.views import result as view
from tunefarm_dashboard.views.rows import emulated_ids, result_row
from tunefarm_dashboard.who import Viewer

OTHERS = 30  # results of the same workload to compare with
Id = Annotated[str, Query(min_length=1, max_length=200)]


class Text(StrEnum):
    """What of a kernel is read."""

    LOOPS = "loops"
    LLVM = "llvm"
    ASSEMBLY = "assembly"


TITLES = {Text.LOOPS: "Loops", Text.LLVM: "LLVM text", Text.ASSEMBLY: "Instructions"}


async def one_result(board: Board, result_id: str) -> tpb.Result:
    """The result of that id. Raises: HTTPException, TrackerUnreachableError."""
    found = await board.farm().results(result_id=result_id, limit=1)
    if not found or found[0].id != result_id:  # a tracker before ours knows no ids
        raise HTTPException(404, f"There is no result {result_id[:200]}")
    return found[0]


def add(board: Board, app: FastAPI) -> None:
    """Add the pages, their section and tables."""
    made = listings.Listings()

    async def samples(result: Id) -> Sequence[view.SampleRow]:
        """Every sample of a result in the order measured, those measured again included."""
        return view.sample_rows((await one_result(board, result)).timing)

    async def section(query: dict[str, str], viewer: Viewer) -> str:
        if board.mirror.farm is None:
            return render("sections/result.html", result=None)
        found = next(iter(await board.farm().results(result_id=query.get("id", ""), limit=1)), None)
        if found is None:
            return render("sections/result.html", result=None)
        emulated = emulated_ids(board.snapshot)
        same = await board.farm().results(found.workload, limit=OTHERS + 1)
        rows = view.sample_rows(found.timing)
        kept = [row.seconds for row in rows if not row.discarded]
        low, high = found.timing.median_low_s, found.timing.median_high_s
        told = (low, high) if view.usable(low) and view.usable(high) else None
        row = result_row(found, emulated)
        return render(
            "sections/result.html",
            result=row,
            raw=found,
            request_id=await request_of(board, found),
            marks=view.marks(found, emulated=row.emulated),
            facts=view.facts(found),
            conditions=view.condition_pairs(found.timing),
            schedule=view.pretty(found.schedule),
            samples=rows,
            plots=[
                json.dumps(one)
                for one in (
                    view.sample_plot(rows, told),
                    view.histogram_plot(kept),
                    view.ecdf_plot(kept),
                )
            ],
            others=[result_row(one, emulated) for one in same if one.id != found.id][:OTHERS],
            has_code=listings.installed(),
            texts=TITLES,
        )

    board.section("measured", section, needs=())
    board.table(app, "result-samples", view.SampleRow, samples)

    @app.get("/results/{result_id}", response_class=HTMLResponse, include_in_schema=False)
    async def page(viewer: Who, result_id: str) -> HTMLResponse:
        """One result."""
        query = {"id": result_id}
        if board.mirror.farm is not None:
            await one_result(board, result_id)
        part = await board.part("measured", viewer, query)
        return await board.page(
            "result.html", viewer, f"Result {result_id[:8]}", section="Results", result=part
        )

    _add_code(board, app, made)


def _add_code(board: Board, app: FastAPI, made: listings.Listings) -> None:
    @app.get(
        "/results/{result_id}/code/{what}", response_class=HTMLResponse, include_in_schema=False
    )
    async def code(viewer: Who, result_id: str, what: Text) -> HTMLResponse:
        """Its kernel as loops, LLVM's text or instructions."""
        found = await one_result(board, result_id)
        texts = await made.of(found) if listings.installed() else {}
        return await board.page(
            "code.html",
            viewer,
            f"{TITLES[what]} of {result_id[:8]}",
            section="Results",
            result=found,
            what=what,
            titles=TITLES,
            texts=texts,
            has_code=listings.installed(),
            same=bool(texts.get("digest")) and texts["digest"] == found.bundle_digest,
        )

    plain = {"text/plain": {"schema": {"type": "string"}}}

    @app.get(
        "/api/result-code",
        tags=["tables"],
        response_class=Response,
        responses={**REFUSALS, 502: {"model": Problem}, 200: {"content": plain}},
    )
    async def text(viewer: Who, result: Id, what: Text = Text.LLVM) -> Response:
        """A result's kernel as text, made anew by the compiler beside the dashboard."""
        found = await one_result(board, result)
        if not listings.installed():
            raise HTTPException(404, "The compiler is not installed beside the dashboard")
        texts = await made.of(found)
        if "error" in texts:
            raise BuildFailedError(texts["error"], texts["hint"])
        return Response(texts[what], media_type="text/plain; charset=utf-8")
