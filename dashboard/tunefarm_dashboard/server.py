"""The dashboard: the farm in a browser, live."""

import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import ModuleType

import uvicorn
from fastapi import FastAPI
from tunefarm.channel import tracker_address
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.security import Credentials, is_loopback

from tunefarm_dashboard import answers
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.guard import LOCAL_NAMES, Guard, Headed
from tunefarm_dashboard.pages import (
    compare,
    device,
    fleet,
    job,
    login,
    people,
    queue,
    result,
    results,
    streams,
    tuning,
    utilisation,
)

# In the order of the navigation. A group of pages is added by its module's name here.
GROUPS: tuple[ModuleType, ...] = (
    fleet,
    device,
    queue,
    job,
    results,
    result,
    compare,
    tuning,
    utilisation,
    people,
    login,
    streams,
)


def create_app(
    tracker: str, credentials: Credentials | None = None, names: Collection[str] = ()
) -> FastAPI:
    """The dashboard of the farm of the tracker at HOST:PORT.

    `credentials`: with which it reads; else as the environment says. `names`: the hosts that it
    answers for, empty for any. Raises: InvalidRequestError.
    """
    board = Board(tracker_address(tracker), credentials or Credentials.from_environment())
    app = FastAPI(
        title="tunefarm dashboard",
        description="Every table of the pages as JSON and CSV, and what may be done.",
        lifespan=board.running,
        docs_url=None,  # the framework's own pages load their scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.board = board
    for group in GROUPS:
        group.add(board, app)
    answers.add(board, app)
    app.add_middleware(Guard, names=names)
    app.add_middleware(Headed)
    return app


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
    *,
    credentials: Credentials | None = None,
    names: Collection[str] = (),
) -> None:
    """Serve the dashboard until SIGTERM or SIGINT. `on_ready` is told the port; 0 takes a free one.

    `names`: what a proxy in front of one on loopback is called, besides the names of loopback.
    Raises: InvalidRequestError where the address cannot be listened on.
    """
    answered = {*LOCAL_NAMES, host, *names} if is_loopback(host) else ()
    app = create_app(tracker, credentials, answered)
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
        listener.listen(1024)
        if on_ready is not None:
            on_ready(listener.getsockname()[1])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        _Server(config, app.state.board.live.close).run(sockets=[listener])
