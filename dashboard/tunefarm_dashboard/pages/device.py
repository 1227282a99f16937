"""A device: what it is, how it is and was, who holds and held it; and what operators do with it."""

import asyncio
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Form, HTTPException, Query
from fastapi.responses import HTMLResponse
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.access import Acting, Who
from tunefarm_dashboard.acts import Done, farm_of
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import render
from tunefarm_dashboard.outputs import outputs_of
from tunefarm_dashboard.tables import REFUSALS
from tunefarm_dashboard.views import device as view
from tunefarm_dashboard.views.output import OutputRow
from tunefarm_dashboard.views.rows import device_facts, iso, moment_of
from tunefarm_dashboard.who import Viewer

EVENTS = 200
ANCHORS = 400
LEASES = 12
Id = Annotated[str, Query(min_length=1, max_length=200)]
GivenId = Annotated[str, Form(min_length=1, max_length=200)]
Reason = Annotated[str, Form(max_length=2000)]


class Action(StrEnum):
    """What an operator does with a device."""

    DRAIN = "drain"
    ENABLE = "enable"
    QUARANTINE = "quarantine"
    RETIRE = "retire"
    FORGET = "forget"


def add(board: Board, app: FastAPI) -> None:
    """Add the page, its sections, tables and acts."""

    async def events(device: Id) -> Sequence[view.EventRow]:
        """What happened to a device, newest first: its health, its recovery, its comings."""
        found = await board.farm().events(device, limit=EVENTS)
        return [view.event_row(one) for one in found]

    async def anchors(device: Id) -> Sequence[view.AnchorRow]:
        """What the anchors of a device took, oldest first."""
        names = ("anchor compute", "anchor memory")
        farm = board.farm()
        found = await asyncio.gather(*(farm.results(one, device, limit=ANCHORS) for one in names))
        return [row for results in found for row in view.anchor_rows(results)]

    async def conditions(device: Id) -> Sequence[view.ConditionRow]:
        """A device's temperature, frequency and load while the dashboard has watched."""
        return view.condition_rows(board.mirror.history.of(device))

    async def outputs(viewer: Who, device: Id) -> Sequence[OutputRow]:
        """What its latest leases printed last, those that the caller may read: its own."""
        return await outputs_of(board, viewer, device_id=device)

    board.table(app, "device-output", OutputRow, outputs)
    board.table(app, "device-events", view.EventRow, events)
    board.table(app, "device-anchors", view.AnchorRow, anchors)
    board.table(app, "device-conditions", view.ConditionRow, conditions)
    _add_sections(board, events, anchors, conditions)
    _add_page(board, app)
    _add_acts(app)


def _add_sections(board: Board, events, anchors, conditions) -> None:  # type: ignore[no-untyped-def]
    async def head(query: dict[str, str], viewer: Viewer) -> str:
        name = query.get("id", "")
        row = next((one for one in board.snapshot.rows if one.id == name), None)
        if row is None:
            return render("sections/gone.html", known=board.snapshot.connected)
        device = board.snapshot.devices[name]
        seen = iso(moment_of(device, "last_seen"))
        return render("sections/device.html", device=row, last_seen=seen, viewer=viewer)

    async def facts(query: dict[str, str], viewer: Viewer) -> str:
        device = board.snapshot.devices.get(query.get("id", ""))
        found = device_facts(device) if device is not None else []
        return render("sections/facts.html", facts=found)

    async def history(query: dict[str, str], viewer: Viewer) -> str:
        name = query.get("id", "")
        device = board.snapshot.devices.get(name)
        found = await events(name) if board.mirror.farm else None
        faults = (
            [(iso(moment_of(one, "at")), one.reason) for one in device.faults] if device else []
        )
        return render("sections/history.html", events=found, faults=faults)

    async def drift(query: dict[str, str], viewer: Viewer) -> str:
        rows = await anchors(query.get("id", "")) if board.mirror.farm else []
        return render("sections/drift.html", rows=rows, plot=json.dumps(view.anchor_plot(rows)))

    async def climate(query: dict[str, str], viewer: Viewer) -> str:
        rows = await conditions(query.get("id", ""))
        plot = view.condition_plot(rows)
        return render(
            "sections/climate.html", rows=rows, plot=json.dumps(plot), series=plot["series"]
        )

    async def held(query: dict[str, str], viewer: Viewer) -> str:
        rows = None
        if board.mirror.farm:
            found = await board.farm().past_leases(device_id=query.get("id", ""), limit=LEASES)
            rows = [view.past_lease_row(one) for one in found]
        return render("sections/past.html", leases=rows, with_device=False)

    board.section("device", head, needs=("devices", "conditions"), varies="role")
    board.section("facts", facts, needs=("conditions",))
    board.section("history", history, needs=("events",))
    board.section("drift", drift, needs=("results",))
    board.section("climate", climate, needs=("conditions",))
    board.section("held", held, needs=("leases",))


def _add_page(board: Board, app: FastAPI) -> None:
    @app.get("/devices/{device_id:path}", response_class=HTMLResponse, include_in_schema=False)
    async def page(viewer: Who, device_id: str) -> HTMLResponse:
        """One device."""
        if board.snapshot.connected and device_id not in board.snapshot.devices:
            raise HTTPException(404, f"There is no device {device_id[:200]}")
        names = ("device", "facts", "history", "drift", "climate", "held")
        query = {"id": device_id}
        parts = {name: await board.part(name, viewer, query) for name in names}
        parts["results"] = await board.part("results", viewer, {"device": device_id})
        return await board.page(
            "device.html",
            viewer,
            device_id,
            section="Fleet",
            device_id=device_id,
            parts_of=parts,
            outputs=await outputs_of(board, viewer, device_id=device_id, most=1),
            output_table=f"device-output?device={quote(device_id, safe='')}",
        )


def _add_acts(app: FastAPI) -> None:
    @app.post("/api/act/device", tags=["acts"], responses=REFUSALS)
    async def manage(
        actor: Acting, device: GivenId, action: Annotated[Action, Form()], reason: Reason = ""
    ) -> Done:
        """Drain, enable, quarantine, retire or forget a device. For operators."""
        number = tpb.DeviceAction.Value(f"DEVICE_ACTION_{action.name}")
        await farm_of(actor).manage(device, number, reason)
        past = {"drain": "drained", "enable": "enabled", "forget": "forgotten"}
        done = past.get(action, f"{action}d")
        return Done(message=f"{device} is {done}.")
