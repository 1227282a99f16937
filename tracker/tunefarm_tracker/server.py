"""The tracker as a process."""

import asyncio
import fcntl
import logging
import os
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc
from tunefarm_proto import serving
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

from tunefarm_tracker.core.model import Config
from tunefarm_tracker.hub import Hub
from tunefarm_tracker.service import TrackerService
from tunefarm_tracker.store import SqliteStore

_log = logging.getLogger(__name__)


@dataclass
class RunningTracker:
    """A tracker in this process."""

    port: int
    hub: Hub
    _server: grpc.aio.Server
    _lock: IO[str]

    async def stop(self) -> None:
        """End every stream, make everything durable."""
        await self._server.stop(0.2)
        await self.hub.stop()
        self._lock.close()


def default_state() -> Path:
    """Where the tracker keeps its memory unless told otherwise."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "tunefarm" / "tracker"


def _take_state(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InvalidRequestError(
            f"another tracker uses {folder}", "stop it, or name another folder by --state"
        ) from None
    return lock


def _secret(folder: Path) -> bytes:
    path = folder / "secret"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()


async def start(
    host: str = "127.0.0.1",
    port: int = 9190,
    state_dir: Path | None = None,
    config: Config | None = None,
) -> RunningTracker:
    """Start a tracker in the running loop; port 0 takes a free one. Raises: InvalidRequestError."""
    folder = state_dir or default_state()
    lock = _take_state(folder)
    server = serving.new_server()
    serving.add_hello(server, "tracker")
    try:
        bound = serving.bind(server, host, port)
    except InvalidRequestError:
        lock.close()
        raise
    hub = Hub(SqliteStore(folder / "tracker.sqlite"), _secret(folder), config)
    tpb_grpc.add_TrackerServiceServicer_to_server(TrackerService(hub), server)
    hub.start()
    await server.start()
    _log.info("tracker listens on %s:%s, state in %s", host, bound, folder)
    return RunningTracker(bound, hub, server, lock)


def serve(
    host: str = "127.0.0.1",
    port: int = 9190,
    state_dir: Path | None = None,
    *,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Run a tracker until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        running = await start(host, port, state_dir)
        if on_ready is not None:
            on_ready(running.port)
        await stop.wait()
        await running.stop()

    asyncio.run(run())
