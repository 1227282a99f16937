"""The device server: one process that holds everything together."""

import asyncio
import fcntl
import logging
import os
import re
import secrets
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc
from tunefarm_proto import serving
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc

from tunefarm_device.cache import BlobCache
from tunefarm_device.facts import find_facts
from tunefarm_device.runners import RunnerPool
from tunefarm_device.service import DeviceService
from tunefarm_device.synchronizer import Synchronizer

_log = logging.getLogger(__name__)


@dataclass
class RunningDevice:
    """A device server in this process."""

    device_id: str
    port: int
    _server: grpc.aio.Server
    _runners: RunnerPool
    _task: "asyncio.Task[None]"
    _lock: IO[str]

    async def stop(self) -> None:
        """End the sessions, the runners and the server."""
        self._task.cancel()
        await self._server.stop(0.2)
        await self._runners.close()
        self._lock.close()


def _state_home() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "tunefarm" / "devices"


def take_state(key: str, given: Path | None) -> tuple[Path, IO[str]]:
    """The state folder, locked for this process: the one given, else the key's first free one.

    Raises: InvalidRequestError where the one given is in use.
    """
    tries = [given] if given else [_state_home() / f"{key}-{n}" for n in range(1, 1000)]
    for folder in tries:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return folder, lock
    raise InvalidRequestError(
        f"another device server uses {given or _state_home()}", "name another by --state DIR"
    )


def device_name(key: str, folder: Path) -> str:
    """The device's id, made at its first start and kept with its state."""
    path = folder / "device-id"
    if path.exists():
        return path.read_text().strip()
    name = f"{key}-{secrets.token_hex(3)}"
    path.write_text(name + "\n")
    return name


def _own_address(host: str, tracker: str) -> str:
    """Where clients reach us: the host that we listen on, or the interface towards the tracker."""
    if host not in ("0.0.0.0", "::", "[::]"):  # noqa: S104 (compared, not bound)
        return host
    target = tracker.rpartition(":")[0].strip("[]")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        return str(probe.getsockname()[0])


async def start(
    key: str,
    tracker: str = "127.0.0.1:9190",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    advertise: str | None = None,
    state_dir: Path | None = None,
) -> RunningDevice:
    """Start a device server in the running loop. Raises: InvalidRequestError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", key):
        raise InvalidRequestError(
            f"{key!r} is no device key", "write letters, digits, dot, dash and underscore"
        )
    folder, lock = take_state(key, state_dir)
    facts, runners = find_facts(), RunnerPool()
    server = serving.new_server()
    serving.add_hello(server, "device")
    bound = serving.bind(server, host, port)
    address = advertise or f"{_own_address(host, tracker)}:{bound}"
    name = device_name(key, folder)
    synchronizer = Synchronizer(tracker, name, key, [address], facts)
    service = DeviceService(synchronizer.gate, BlobCache(folder / "cache"), runners, facts)
    dpb_grpc.add_DeviceServiceServicer_to_server(service, server)
    await server.start()
    task = asyncio.create_task(synchronizer.run())
    _log.info("device %s (%s) listens on %s:%s", name, facts.target.triple, host, bound)
    return RunningDevice(name, bound, server, runners, task, lock)


def serve(
    key: str,
    tracker: str = "127.0.0.1:9190",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    advertise: str | None = None,
    state_dir: Path | None = None,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Run a device server until SIGTERM or SIGINT; leaves no process behind."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        running = await start(
            key, tracker, host=host, port=port, advertise=advertise, state_dir=state_dir
        )
        if on_ready is not None:
            on_ready(running.port)
        await stop.wait()
        await running.stop()

    asyncio.run(run())
