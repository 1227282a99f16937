"""The live stream, the files that pages load, and the description of the interface."""

from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel

from tunefarm_dashboard import assets
from tunefarm_dashboard.access import Who
from tunefarm_dashboard.board import Board, shareable
from tunefarm_dashboard.live import MAX_TOPICS
from tunefarm_dashboard.tables import REFUSALS
from tunefarm_dashboard.views.rows import iso

MAX_STREAMS = 2000
FOR_EVER = "public, max-age=31536000, immutable"


class Status(BaseModel):
    """Whether the tracker answers; where it does not, the numbers are of `read_at`."""

    tracker: str
    connected: bool
    trouble: str
    read_at: str
    devices: int
    waiting: int
    leases: int


def add(board: Board, app: FastAPI) -> None:
    """Add the routes."""

    @app.get("/events", include_in_schema=False)
    async def events(
        viewer: Who,
        topic: Annotated[list[str], Query(max_length=MAX_TOPICS)] = [],  # noqa: B006
    ) -> StreamingResponse:
        """Sections as they change, as server-sent events."""
        if len(board.live.streams) >= MAX_STREAMS:
            raise HTTPException(503, "too many viewers")
        for name in topic:
            if board.live.parse(name) is None:
                raise HTTPException(404, f"there is no section {name}")
        frames = board.live.follow(topic, shareable(viewer))
        return StreamingResponse(
            frames, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        """A file by its hashed name."""
        found = assets.find(name)
        if found is None:
            raise HTTPException(404, "There is no such file")
        headers = {"Cache-Control": FOR_EVER}
        return Response(found.content, media_type=found.content_type, headers=headers)

    @app.get("/api/status", tags=["tables"], responses=REFUSALS)
    async def status(viewer: Who) -> Status:
        """Whether the tracker answers, and how much there is."""
        snapshot = board.snapshot
        return Status(
            tracker=snapshot.tracker,
            connected=snapshot.connected,
            trouble=snapshot.trouble,
            read_at=iso(snapshot.read_at),
            devices=len(snapshot.rows),
            waiting=len(snapshot.queue),
            leases=len(snapshot.leases),
        )

    @app.get("/api", response_class=HTMLResponse, include_in_schema=False)
    async def interface(viewer: Who) -> HTMLResponse:
        """What programs may ask for."""
        schema: dict[str, Any] = app.openapi()
        calls = [
            (method.upper(), path, what.get("description") or what.get("summary", ""))
            for path, methods in sorted(schema["paths"].items())
            for method, what in methods.items()
        ]
        return await board.page("api.html", viewer, "Interface", calls=calls)
