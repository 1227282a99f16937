"""A job: one request, its leases, and what was measured under them; and the latest jobs."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.access import Who
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import Entry, render
from tunefarm_dashboard.leases import SLACK_S
from tunefarm_dashboard.outputs import outputs_of
from tunefarm_dashboard.views import job as view
from tunefarm_dashboard.views.device import EventRow, past_lease_row
from tunefarm_dashboard.views.output import OutputRow
from tunefarm_dashboard.views.rows import emulated_ids, iso, moment_of, queue_row, result_row
from tunefarm_dashboard.who import Viewer

LEASES = 100  # of one job
RESULTS = 1000  # of one device that are looked through
SHOWN = 60  # jobs in the list
Id = Annotated[str, Query(min_length=1, max_length=200)]


class _Read:
    """What the tracker knows of one request."""

    def __init__(self, board: Board, request_id: str) -> None:
        self._board = board
        self.id = request_id
        self.waiting: tpb.QueuedRequest | None = None
        self.holds: list[view.Held] = []
        self.results: list[tpb.Result] = []
        self.events: list[tpb.WatchEventsResponse] = []

    async def all(self) -> "_Read":
        """Ask for it. Raises: TrackerUnreachableError."""
        farm, now = self._board.farm(), self._board.snapshot
        waits = (one for one in now.queue if one.request.request_id == self.id)
        self.waiting = next(waits, None)
        past, told = await asyncio.gather(
            farm.past_leases(request_id=self.id, limit=LEASES),
            farm.events(self.id, tpb.EVENT_KIND_REQUEST, limit=LEASES),
        )
        ended = {one.lease.id for one in past}
        live = [one for one in now.leases if one.request_id == self.id and one.id not in ended]
        self.holds = view.held((one for one in past if one.lease.request_id == self.id), live)
        found = await asyncio.gather(
            *(farm.events(one.lease.id, tpb.EVENT_KIND_LEASE) for one in self.holds),
        )
        self.events = [*told, *(event for some in found for event in some)]
        self.results = [
            one for some in await asyncio.gather(*map(self._of, self.holds)) for one in some
        ]
        return self

    async def _of(self, held: view.Held) -> list[tpb.Result]:
        """The results of a lease, newest first."""
        began = view.seconds_of(held.lease.granted_at)
        found = await self._board.farm().results(
            device_id=held.lease.device_id,
            limit=RESULTS,
            since=max(began - SLACK_S, 1.0),
            until=(held.ended or time.time()) + SLACK_S,
        )
        return [one for one in found if one.lease_id == held.lease.id]

    @property
    def job(self) -> view.Job:
        """It as one."""
        queued = [view.seconds_of(one.at) for one in self.events if one.action == "queued"]
        return view.job(
            self.id,
            self.holds,
            self.waiting,
            self.results,
            queued=min(queued, default=0.0),
            now=time.time(),
        )


def add(board: Board, app: FastAPI) -> None:
    """Add the pages, their sections and tables."""

    async def parts(request: Id) -> Sequence[view.PartRow]:
        """What a job took, part by part, in the order in which they began."""
        return (await _Read(board, request).all()).job.rows

    async def events(request: Id) -> Sequence[EventRow]:
        """What happened to a request and its leases, oldest first."""
        return view.log((await _Read(board, request).all()).events)

    async def outputs(viewer: Who, request: Id) -> Sequence[OutputRow]:
        """What was printed last under its leases, where the caller may read it: its own."""
        return await outputs_of(board, viewer, request_id=request)

    async def section(query: dict[str, str], viewer: Viewer) -> str:
        if board.mirror.farm is None:
            return render("sections/job.html", job=None)
        read = await _Read(board, query.get("id", "")).all()
        emulated = emulated_ids(board.snapshot)
        digests = {one.id: one.bundle_digest for one in read.results}
        conditions = {one.id: view.condition_text(one.timing) for one in read.results}
        return render(
            "sections/job.html",
            job=read.job,
            width=view.WIDTH,
            waiting=queue_row(read.waiting) if read.waiting is not None else None,
            holds=[(one, iso(moment_of(one.lease, "granted_at"))) for one in read.holds],
            emulated=emulated,
            results=[result_row(one, emulated) for one in read.results],
            digests=digests,
            conditions=conditions,
            log=view.log(read.events),
            viewer=viewer,
        )

    async def jobs(query: dict[str, str], viewer: Viewer) -> str:
        if board.mirror.farm is None:
            return render("sections/jobs.html", past=None)
        past = await board.farm().past_leases(limit=SHOWN)
        return render(
            "sections/jobs.html",
            waiting=[queue_row(one) for one in board.snapshot.queue[:SHOWN]],
            live=board.snapshot.leases[:SHOWN],
            granted={one.id: iso(moment_of(one, "granted_at")) for one in board.snapshot.leases},
            past=[past_lease_row(one) for one in past],
        )

    board.navigation.append(Entry("Jobs", "/jobs"))
    board.section("job", section, needs=("queue", "leases", "results", "users"), varies="name")
    board.section("jobs", jobs, needs=("queue", "leases"))
    board.table(app, "job-parts", view.PartRow, parts)
    board.table(app, "job-events", EventRow, events)
    board.table(app, "job-output", OutputRow, outputs)

    @app.get("/jobs", response_class=HTMLResponse, include_in_schema=False)
    async def list_page(viewer: Who) -> HTMLResponse:
        """The latest jobs."""
        return await board.page("jobs.html", viewer, "Jobs", jobs=await board.part("jobs", viewer))

    @app.get("/jobs/{request_id:path}", response_class=HTMLResponse, include_in_schema=False)
    async def page(viewer: Who, request_id: str) -> HTMLResponse:
        """One job."""
        part = await board.part("job", viewer, {"id": request_id})
        return await board.page(
            "job.html",
            viewer,
            f"Job {request_id[:8]}",
            section="Jobs",
            job=part,
            outputs=await outputs_of(board, viewer, request_id=request_id),
            output_table=f"job-output?request={quote(request_id, safe='')}",
        )
