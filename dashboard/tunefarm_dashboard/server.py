"""The dashboard: the farm in a browser, live."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tunefarm.channel import tracker_address
from tunefarm_proto.errors import InvalidRequestError

from tunefarm_dashboard import pages, view
from tunefarm_dashboard.live import Live
from tunefarm_dashboard.mirror import Mirror

# Browsers ask again after a stream that is silent for three of these.
TICK_S = 5.0
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Dashboard:
    """What the routes share: the mirror of the farm and the live channels."""

    def __init__(self, tracker: str) -> None:
        self.live = Live(self.sections)
        self.mirror = Mirror(tracker, self.live.publish)

    async def sections(self, device_id: str) -> Mapping[str, str]:
        """The sections of a device's page, or of the first page for ""."""
        if not device_id:
            return pages.farm_sections(self.mirror.snapshot)
        results = await self.mirror.results_of(device_id)
        snapshot = self.mirror.snapshot
        for device in snapshot.devices:
            if device.id == device_id:
                return pages.device_sections(snapshot, device, results)
        return pages.gone_sections(snapshot)

    async def tick(self) -> None:
        """Show the viewers that the dashboard lives, until cancelled."""
        while True:
            self.live.tick(_now_ms())
            await asyncio.sleep(TICK_S)

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Follow the tracker while the application runs."""
        tasks = [asyncio.create_task(self.mirror.run()), asyncio.create_task(self.tick())]
        try:
            yield
        finally:
            self.live.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def create_app(tracker: str) -> FastAPI:
    """The dashboard of the farm of the tracker at HOST:PORT. Raises: InvalidRequestError."""
    dashboard = Dashboard(tracker_address(tracker))
    app = FastAPI(
        title="tunefarm dashboard",
        lifespan=dashboard.running,
        docs_url=None,  # the framework's own pages load their scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.dashboard = dashboard
    app.mount("/static", StaticFiles(directory=Path(__file__).with_name("static")), name="static")
    app.add_middleware(_Secure)
    _add_routes(app, dashboard)
    return app


def _add_routes(app: FastAPI, dashboard: Dashboard) -> None:
    mirror, live = dashboard.mirror, dashboard.live

    @app.get("/", response_class=HTMLResponse)
    async def farm() -> HTMLResponse:
        """The farm."""
        await mirror.ready()
        return HTMLResponse(pages.farm_page(mirror.snapshot, datetime.now(UTC)))

    @app.get("/devices/{device_id:path}", response_class=HTMLResponse)
    async def device(device_id: str) -> HTMLResponse:
        """One device: its facts and results."""
        await mirror.ready()
        sections = dict(await dashboard.sections(device_id))
        if "facts" not in sections and mirror.snapshot.connected:
            raise HTTPException(404, f"no device {device_id}")
        now = datetime.now(UTC)
        return HTMLResponse(pages.device_page(mirror.snapshot, now, device_id, sections))

    @app.get("/events")
    async def events(device: str = "") -> StreamingResponse:
        """Sections as they change, as server-sent events; of a device's page where one is named."""
        return StreamingResponse(live.follow(device), media_type="text/event-stream")

    @app.get("/api/status")
    async def status() -> dict[str, Any]:
        """The farm as JSON."""
        await mirror.ready()
        return view.as_json(mirror.snapshot)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        what = error.detail if error.detail != "Not Found" else f"no page {request.url.path}"
        page = pages.not_found_page(mirror.snapshot, datetime.now(UTC), what)
        return HTMLResponse(page, error.status_code, error.headers)


class _Secure:
    """Adds the headers to every answer, without touching its body: streams stay plain."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                static = scope["path"].startswith("/static/")
                headers["Cache-Control"] = "no-cache" if static else "no-store"
            await send(message)

        await self._app(scope, receive, with_headers)


class _Server(uvicorn.Server):
    """Ends the live streams before it waits for the connections to end."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server and nothing else: `serve` returns."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)


def serve(
    tracker: str = "127.0.0.1:9190",
    host: str = "127.0.0.1",
    port: int = 9191,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Serve the dashboard until SIGTERM or SIGINT. `on_ready` is told the port; 0 takes a free one.

    Raises: InvalidRequestError where the address cannot be listened on.
    """
    app = create_app(tracker)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise InvalidRequestError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                "is the port in use? try another with --port",
            ) from None
        listener.listen(128)
        if on_ready is not None:
            on_ready(listener.getsockname()[1])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        _Server(config, app.state.dashboard.live.close).run(sockets=[listener])
