"""The queue: who waits, why, for how long yet; and who holds what."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Form
from fastapi.responses import HTMLResponse

from tunefarm_dashboard.access import Acting, Who
from tunefarm_dashboard.acts import Done, farm_of
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import Entry, render
from tunefarm_dashboard.tables import REFUSALS
from tunefarm_dashboard.views.rows import LeaseRow, QueueRow, emulated_ids, lease_row, queue_row
from tunefarm_dashboard.who import Viewer

SHOWN = 200  # of each table, on the page
Id = Annotated[str, Form(min_length=1, max_length=200)]
Reason = Annotated[str, Form(max_length=2000)]
Priority = Annotated[int, Form(ge=-1000, le=1000)]


def add(board: Board, app: FastAPI) -> None:
    """Add the page, its sections, tables and acts."""

    async def waiting() -> Sequence[QueueRow]:
        """Waiting requests, in the order in which they would be served."""
        return [queue_row(one) for one in board.snapshot.queue]

    async def held() -> Sequence[LeaseRow]:
        """Live leases, oldest first."""
        emulated = emulated_ids(board.snapshot)
        return [lease_row(one, emulated) for one in board.snapshot.leases]

    async def queue(query: dict[str, str], viewer: Viewer) -> str:
        first = [queue_row(one) for one in board.snapshot.queue[:SHOWN]]
        more = len(board.snapshot.queue) - len(first)
        return render("sections/queue.html", queue=first, more=more, viewer=viewer)

    async def leases(query: dict[str, str], viewer: Viewer) -> str:
        first, emulated = board.snapshot.leases[:SHOWN], emulated_ids(board.snapshot)
        return render(
            "sections/leases.html",
            leases=[lease_row(one, emulated) for one in first],
            more=len(board.snapshot.leases) - len(first),
            viewer=viewer,
        )

    board.navigation.append(Entry("Queue", "/queue"))
    board.section("queue", queue, needs=("queue",), varies="name")
    board.section("leases", leases, needs=("leases", "devices"), varies="role")
    board.table(app, "queue", QueueRow, waiting)
    board.table(app, "leases", LeaseRow, held)

    @app.get("/queue", response_class=HTMLResponse, include_in_schema=False)
    async def page(viewer: Who) -> HTMLResponse:
        """Who waits and who holds."""
        return await board.page(
            "queue.html",
            viewer,
            "Queue",
            queue=await board.part("queue", viewer),
            leases=await board.part("leases", viewer),
        )

    @app.post("/api/act/cancel", tags=["acts"], responses=REFUSALS)
    async def cancel(actor: Acting, request: Id) -> Done:
        """End a waiting request: one's own, or as an operator anybody's."""
        if await farm_of(actor).cancel(request):
            return Done(message=f"Request {request} is cancelled.")
        return Done(message=f"Request {request} was over already.", changed=False)

    @app.post("/api/act/priority", tags=["acts"], responses=REFUSALS)
    async def priority(actor: Acting, request: Id, priority: Priority) -> Done:
        """Move a waiting request: one's own, or as an operator anybody's. Higher goes first."""
        if await farm_of(actor).change_priority(request, priority):
            return Done(message=f"Request {request} has priority {priority} now.")
        return Done(message=f"Request {request} does not wait any more.", changed=False)

    @app.post("/api/act/revoke-lease", tags=["acts"], responses=REFUSALS)
    async def revoke(actor: Acting, lease: Id, reason: Reason = "") -> Done:
        """End somebody's lease and cut off what runs under it. For operators."""
        if await farm_of(actor).revoke_lease(lease, reason):
            return Done(message="The lease is revoked.")
        return Done(message="The lease had ended already.", changed=False)
