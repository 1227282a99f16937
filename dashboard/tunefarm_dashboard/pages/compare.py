"""Results side by side: chosen ones, or one workload on every device; and under their roofs."""

import asyncio
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.access import Who
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import Entry, render
from tunefarm_dashboard.mirror import OWN
from tunefarm_dashboard.views import compare as view
from tunefarm_dashboard.views import roofline
from tunefarm_dashboard.views.rows import emulated_ids, result_row
from tunefarm_dashboard.who import Viewer

MOST = 12  # results side by side, and devices under their roofs
FLEET = 1000  # results of a workload that are looked at
RECENT = 300  # results whose workloads are offered
READINGS = 20
Word = Annotated[str, Query(max_length=500)]
Ids = Annotated[list[Annotated[str, Query(max_length=200)]], Query(max_length=MOST)]


class Pick(StrEnum):
    """Which result of each device."""

    LATEST = "latest"
    BEST = "best"


async def chosen(
    board: Board, ids: Sequence[str], workload: str, key: str, pick: Pick
) -> list[tpb.Result]:
    """The results asked for, in that order; else one of each device for that workload."""
    farm = board.farm()
    if ids:
        found = await asyncio.gather(
            *(farm.results(result_id=one, limit=1) for one in dict.fromkeys(ids))
        )
        return [one[0] for one in found if one]
    if not workload:
        return []
    results = await farm.results(workload, device_key=key, limit=FLEET)
    return view.pick_per_device(results, best=pick is Pick.BEST)


async def under_roofs(board: Board, results: Sequence[tpb.Result]) -> list[roofline.RoofRow]:
    """The results under the roofs of their devices, of the first MOST devices."""
    devices = list(dict.fromkeys(one.device_id for one in results))[:MOST]

    async def of(device: str) -> roofline.Roofs:
        farm = board.farm()
        memory, peak, others = await asyncio.gather(
            farm.results(roofline.MEMORY, device, limit=READINGS),
            farm.results(roofline.PEAK, device, limit=READINGS),
            farm.results("", device, limit=RECENT),
        )
        return roofline.roofs(memory, peak, others)

    found = dict(zip(devices, await asyncio.gather(*map(of, devices)), strict=True))
    known = [one for one in results if one.device_id in found]
    return roofline.roof_rows(known, found, emulated_ids(board.snapshot))


def add(board: Board, app: FastAPI) -> None:
    """Add the page, its section and its tables."""

    async def rows(
        result: Ids = [],  # noqa: B006
        workload: Word = "",
        key: Word = "",
        pick: Pick = Pick.LATEST,
    ) -> Sequence[view.CompareRow]:
        """Results beside the first: those named, else one of each device for a workload."""
        found = await chosen(board, result, workload, key, pick)
        return view.compare_rows(found, emulated_ids(board.snapshot)) if found else []

    async def roofs(
        result: Ids = [],  # noqa: B006
        workload: Word = "",
        key: Word = "",
        pick: Pick = Pick.LATEST,
    ) -> Sequence[roofline.RoofRow]:
        """Results under the measured roofs of their devices."""
        return await under_roofs(board, await chosen(board, result, workload, key, pick))

    async def section(query: dict[str, str], viewer: Viewer) -> str:
        if board.mirror.farm is None:
            return render("sections/compare.html", known=False)
        ids = query.get("results", "").split()[:MOST]
        pick = Pick.BEST if query.get("pick") == Pick.BEST else Pick.LATEST
        workload, key = query.get("workload", ""), query.get("key", "")
        found = await chosen(board, ids, workload, key, pick)
        emulated = emulated_ids(board.snapshot)
        compared = view.compare_rows(found, emulated) if found else []
        under = await under_roofs(board, found)
        asked = [("result", one) for one in ids] or list(query.items())
        more = await board.farm().results(found[0].workload, limit=50) if ids and found else []
        return render(
            "sections/compare.html",
            known=True,
            rows=compared,
            ids=ids,
            margin=view.MARGIN,
            confidence=view.CONFIDENCE,
            plot=json.dumps(view.interval_plot(compared)),
            roofs=under,
            roof_plot=json.dumps(roofline.roof_plot(under)),
            address=urlencode(asked),
            more=[result_row(one, emulated) for one in more if one.id not in ids],
            asked=bool(ids or workload),
        )

    board.navigation.append(Entry("Compare", "/compare"))
    board.section("compare", section, needs=("results",))
    board.table(app, "compare", view.CompareRow, rows)
    board.table(app, "roofline", roofline.RoofRow, roofs)

    @app.get("/compare", response_class=HTMLResponse, include_in_schema=False)
    async def page(
        viewer: Who, *, result: Ids = [], workload: Word = "", key: Word = "",  # noqa: B006
        pick: Pick = Pick.LATEST,
    ) -> HTMLResponse:  # fmt: skip
        """Results side by side."""
        query = {"workload": workload, "key": key, "pick": pick.value if workload else ""}
        if result:
            query = {"results": " ".join(result)}
        recent = await board.farm().results(limit=RECENT) if board.mirror.farm else []
        known = dict.fromkeys(one.workload for one in recent if not one.workload.startswith(OWN))
        return await board.page(
            "compare.html",
            viewer,
            "Compare",
            workloads=sorted({*known, *([workload] if workload else [])}),
            workload=workload,
            key=key,
            keys=sorted({row.key for row in board.snapshot.rows}),
            pick=pick,
            picks=list(Pick),
            compare=await board.part("compare", viewer, query),
        )
