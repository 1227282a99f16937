"""The tracker as a process: its state folder, its server, its start and its end."""

import asyncio
import contextlib
import fcntl
import gc
import itertools
import logging
import os
import resource
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc
from tunefarm_proto import rpc, serving
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.listener import Listener
from tunefarm_proto.security import ServerTls
from tunefarm_proto.supervisor import Supervisor
from tunefarm_proto.v1 import account_pb2_grpc as apb_grpc
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

from tunefarm_tracker.access import Authorizer
from tunefarm_tracker.account_service import AccountService
from tunefarm_tracker.accounts import Accounts
from tunefarm_tracker.core import Config, Scheduler, restore
from tunefarm_tracker.hub import Clock, Hub
from tunefarm_tracker.logs import log_events, set_up
from tunefarm_tracker.metrics import Metrics
from tunefarm_tracker.operations import Operations, Operator
from tunefarm_tracker.service import TrackerService
from tunefarm_tracker.sqlite import SqliteStore
from tunefarm_tracker.tokens import Tokens, read_secret

_log = logging.getLogger(__name__)
DEFAULT_PORT = 9190
COLLECT_S = 1.0
COLLECT_ALL_SHARE = 0.002  # of the time goes into full ones; 0.7 s each with 10,000 devices
LEAST_COLLECT_ALL_S = 10.0
SWEEP_S = 1.0  # streams of a token that ended otherwise than by our own service go on so long


@dataclass
class RunningTracker:
    """A tracker in the running loop."""

    port: int
    hub: Hub
    accounts: Accounts
    _listener: Listener
    _store: SqliteStore
    _lock: IO[str]
    _sweeper: "asyncio.Task[None]"
    _operator: Operator
    metrics: Metrics | None = None

    async def stop(self) -> None:
        """End all streams, finish what is being written, and leave."""
        self._sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        self.hub.close()
        await self._operator.stop()
        if self.metrics is not None:
            await asyncio.to_thread(self.metrics.close)
        await self._listener.stop(0.1)
        await asyncio.to_thread(self._store.close)
        await asyncio.to_thread(self.accounts.close)
        self._lock.close()


def default_state_dir() -> Path:
    """Where a tracker keeps its state if it is not told."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "tunefarm" / "tracker"


def _take_folder(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise InvalidRequestError(
            f"{folder} cannot hold the tracker's state: {error.strerror}",
            "name another folder by --state",
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InvalidRequestError(
            f"another tracker is running on the state in {folder}",
            "stop it, or name another folder by --state",
        ) from None
    return lock


def lease_ids() -> Callable[[], str]:
    """New ids, never the same again: this start's random part, and a number."""
    start, numbers = secrets.token_hex(6), itertools.count(1)
    return lambda: f"{start}{next(numbers):04x}"


async def _collect_garbage() -> None:
    """Collect garbage by the clock instead of by Python's counts.

    Records that replace others do not count, so what is young would grow for minutes, and then one
    collection stop everybody for 0.2 s with 10,000 devices. Taken often it is a few ms.
    """
    gc.disable()
    try:
        next_full = time.monotonic() + LEAST_COLLECT_ALL_S
        while True:
            await asyncio.sleep(COLLECT_S)
            began = time.monotonic()
            if began < next_full:
                gc.collect(0)
                continue
            gc.collect()
            took = time.monotonic() - began
            next_full = began + max(LEAST_COLLECT_ALL_S, took / COLLECT_ALL_SHARE)
    finally:
        gc.enable()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (extra "speed"): about 10% more grants a second."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _sweep(authorizer: Authorizer, guard: serving.Guard) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            authorizer.sweep(guard)
        except Exception:  # the file may be busy; the next round is a second away
            _log.exception("the tokens could not be looked through")


async def start(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    state_dir: Path | None = None,
    *,
    config: Config | None = None,
    tls: ServerTls | None = None,
    insecure: bool = False,
    require_tokens: bool = False,
    operations: Operations | None = None,
    metrics: tuple[str, int] | None = None,
    dashboard: str = "",
) -> RunningTracker:
    """Start a tracker in the running loop; port 0 takes a free one.

    It wants a token from every caller once there is one, or if it has to `require_tokens`. Beyond
    loopback it listens with TLS and tokens only, unless `insecure`. `metrics` is where to answer
    Prometheus; `dashboard` is its URL, which clients are told.
    Raises: InvalidRequestError where the state folder or the address cannot be used.
    """
    operations = operations or Operations()
    folder, config = state_dir or default_state_dir(), operations.apply_to(config or Config())
    lock = _take_folder(folder)
    store: SqliteStore | None = None
    accounts: Accounts | None = None
    try:
        accounts = Accounts(folder)
        authorizer = Authorizer(accounts, required=require_tokens)
        guard = serving.Guard(authorizer)
        store = SqliteStore(folder / "state.sqlite")
        clock = Clock()
        state = restore(store.load(), clock(), config)
        hub = Hub(Scheduler(state, config, lease_ids()), store, clock)
        service = TrackerService(hub, Tokens(read_secret(folder / "secret")), accounts)
        account_service = AccountService(accounts, lambda: authorizer.sweep(guard))

        def fill(server: grpc.aio.Server) -> None:
            serving.add_hello(server, "tracker", dashboard)
            tpb_grpc.add_TrackerServiceServicer_to_server(service, server)
            apb_grpc.add_AccountServiceServicer_to_server(account_service, server)

        log_events(hub)
        listener = Listener(guard, fill, rpc.TRACKER_OPTIONS)
        bound = await listener.start(host, port, tls=tls, guarded=authorizer.on, insecure=insecure)
        try:
            numbers = Metrics(hub, *metrics) if metrics is not None else None
        except BaseException:
            await listener.stop(0)
            raise
    except BaseException:
        if accounts is not None:
            accounts.close()
        if store is not None:
            store.close()
        lock.close()
        raise
    _log.info(
        "tracker listens on %s:%s, state in %s: %s devices, %s waiting, %s leased",
        host, bound, folder, len(state.devices), len(state.queue(clock())), len(state.leases),
    )  # fmt: skip
    _log.info(
        "callers need %s; the connection is %s",
        "a token" if authorizer.on else "no token: each is an operator",
        "TLS" if tls is not None else "plaintext",
    )
    sweeper = asyncio.create_task(_sweep(authorizer, guard))
    operator = Operator(hub, operations)
    return RunningTracker(bound, hub, accounts, listener, store, lock, sweeper, operator, numbers)


def serve(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    state_dir: Path | None = None,
    *,
    tls: ServerTls | None = None,
    insecure: bool = False,
    require_tokens: bool = False,
    operations: Operations | None = None,
    metrics: tuple[str, int] | None = None,
    log_format: str = "text",
    log_level: str = "info",
    dashboard: str = "",
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Run a tracker until SIGTERM or SIGINT; arguments as for `start`.

    Raises: InvalidRequestError as `start` does; InternalError where its state cannot be kept.
    """
    set_up(log_format, log_level)
    supervisor = Supervisor()
    # Each device and client is a connection; the usual soft limit is 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run() -> None:
        collector = asyncio.create_task(_collect_garbage())
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        running = await start(
            host, port, state_dir, tls=tls, insecure=insecure, require_tokens=require_tokens,
            operations=operations, metrics=metrics, dashboard=dashboard,
        )  # fmt: skip
        if on_ready is not None:
            on_ready(running.port)
        stopped = asyncio.create_task(stop.wait())
        with supervisor.watching(f"listens on {host}:{running.port}"):
            await asyncio.wait((stopped, running.hub.failed), return_when=asyncio.FIRST_COMPLETED)
        await running.stop()
        collector.cancel()
        if running.hub.failed.done():
            await running.hub.failed

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run())
