"""The device server: its parts put together, started and stopped."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
from tunefarm_proto import security, serving
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.listener import Listener
from tunefarm_proto.security import Access, Credentials
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_device.anchor import INTERVAL_S, Anchor, ended
from tunefarm_device.backend import Backend, UnknownBackendError, find
from tunefarm_device.blobs import BlobCache
from tunefarm_device.conditions import ConditionsReader
from tunefarm_device.facts import find_facts
from tunefarm_device.lanes import LaneServer
from tunefarm_device.lease import LeaseGate
from tunefarm_device.lease_log import LeaseLog
from tunefarm_device.processes import ProcessHost
from tunefarm_device.service import DeviceService, add_to_server
from tunefarm_device.session import Workbench
from tunefarm_device.state import StateDir
from tunefarm_device.tracker_link import TrackerLink, local_address

_log = logging.getLogger(__name__)
MAXIMUM_CALLS = 256  # one holder's calls; the rest is somebody knocking
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ANYWHERE = ("0.0.0.0", "::", "[::]", "")  # noqa: S104 (compared with, not bound to)


class RunningDevice:
    """A device server that serves.

    Attributes: `device_id`, `key`, `port` it listens on, `addresses` it tells the tracker.
    """

    def __init__(self, key: str, state: StateDir, gate: LeaseGate, bench: Workbench) -> None:
        self.key = key
        self.device_id = state.device_id(key)
        self.port = 0
        self.addresses: list[str] = []
        self._state = state
        self._gate = gate
        self._bench = bench
        logging.getLogger("tunefarm_device").addHandler(bench.log)
        self._lanes = LaneServer()
        self._listener: Listener | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def lease_id(self) -> str:
        """The lease being served, "" where there is none."""
        return self._gate.lease_id

    async def open(
        self,
        tracker: str,
        host: str,
        port: int,
        advertise: str | None,
        *,
        labels: Mapping[str, str],
        access: Access,
        anchor_interval_s: float,
    ) -> None:
        """Listen, and dial out. Raises: InvalidRequestError, InternalError."""
        access.credentials.check_tracker(tracker)
        facts = self._bench.facts
        facts.isolation.extend(await self._bench.host.start())
        self._listener = Listener(serving.Guard(maximum_calls=MAXIMUM_CALLS), self._fill)
        # Each call shows its lease's token, so callers are known.
        self.port = await self._listener.start(
            host, port, tls=access.tls, guarded=True, insecure=access.insecure
        )
        try:
            await self._lanes.start(host, access.tls)
        except OSError as error:
            _log.warning("no lanes, calls take longer: %s", error)
        reached = local_address(tracker) if host in _ANYWHERE else host
        self.addresses = [advertise or f"{reached}:{self.port}"]
        presence = tpb.SynchronizeRequest(
            device_id=self.device_id,
            key=self.key,
            addresses=self.addresses,
            facts=facts,
            labels=labels,
        )
        link = TrackerLink(
            tracker,
            presence,
            self._gate,
            self._bench.conditions,
            self._clean,
            credentials=access.credentials,
        )
        self._tasks = [asyncio.create_task(link.run())]
        if anchor_interval_s > 0:
            anchor = Anchor(self._bench, lambda: not self.lease_id, link.tell, anchor_interval_s)
            self._tasks.append(asyncio.create_task(anchor.run()))

    def _fill(self, server: grpc.aio.Server) -> None:
        serving.add_hello(server, "device")
        service = DeviceService(self._gate, self._bench, self._lanes)
        add_to_server(service, server)

    async def _clean(self) -> None:
        """Nothing that a lease started outlives it."""
        await self._bench.host.kill_all()
        self._state.clean()
        self._bench.log.clear()

    async def stop(self) -> None:
        """End everything; no process is left. Doing it twice is fine."""
        for task in self._tasks:
            await ended(task)
        self._gate.shut()
        logging.getLogger("tunefarm_device").removeHandler(self._bench.log)
        await self._bench.host.stop()
        await self._lanes.stop()
        if self._listener is not None:
            await self._listener.stop(1.0)
        self._state.close()


def keep_off(cpu: int) -> None:
    """Leave a processor to the kernels, for this process and those that it starts."""
    others = os.sched_getaffinity(0) - {cpu}
    if others:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, others)


def claim_cpu(allowed: set[int]) -> tuple[int | None, socket.socket | None]:
    """A processor to time on that no other device server of this host times on.

    The claim is an abstract socket's name, which the system takes back with our last breath.
    Without a second processor there is nothing to choose.
    """
    if len(allowed) < 2:
        return None, None
    for cpu in sorted(allowed, reverse=True):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0tunefarm-cpu-{cpu}")
        except OSError:
            claim.close()
        else:
            return cpu, claim
    return None, None


def choose_backend(name: str) -> Backend:
    """The backend of that name or file. Raises: InvalidRequestError where it cannot work here."""
    try:
        backend = find(name)
    except UnknownBackendError as error:
        raise InvalidRequestError(f"there is no backend {name!r}", str(error)) from None
    except Exception as error:  # whatever a file of the user's own raises
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InvalidRequestError(f"backend {name!r} cannot be read: {said}") from None
    if lacking := backend.lacking():
        raise InvalidRequestError(f"backend {name!r} does not work here: {lacking}")
    return backend


async def start(  # noqa: PLR0917 (all but the key are optional)
    key: str,
    tracker: str = "127.0.0.1:9190",
    host: str = "127.0.0.1",
    port: int = 0,
    advertise: str | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    *,
    emulated: str | None = None,
    cpu: str | None = None,
    timing_cpu: int | None = None,
    labels: Mapping[str, str] | None = None,
    isolation: str = "full",
    backend: str = "native",
    anchor_interval_s: float = INTERVAL_S,
    access: Access | None = None,
) -> RunningDevice:
    """Start a device server in this process, which must not fork.

    `emulated` names the emulator and `cpu` the LLVM processor where they are not to be found out.
    Kernels are timed on processor `timing_cpu`, off which this process then keeps; without one,
    wherever they run. `labels` are the operator's own words on the device, to be asked for.
    `isolation` "basic" leaves out seccomp, Landlock and namespaces. `backend` is the kind of
    device: a name, or the path of a file that defines one. The anchors are timed every
    `anchor_interval_s` seconds or so while nobody has the device, never where it is 0.
    `access` is how it shows itself: else credentials of the environment, and no TLS of its own,
    with which it listens on loopback only.
    Raises: InvalidRequestError, InternalError.
    """
    if not re.fullmatch(r".+:\d{1,5}", tracker):
        raise InvalidRequestError(f"{tracker!r} is no address of a tracker", "give HOST:PORT")
    if not _KEY.fullmatch(key):
        raise InvalidRequestError(
            f"{key!r} is no device key", "use letters, digits, dots and dashes, as in rasp3b"
        )
    kind = choose_backend(backend)
    state = StateDir.open(key, Path(state_dir) if state_dir is not None else None)
    try:
        bench = Workbench(
            host=ProcessHost(state.scratch, isolation, backend, kind.ends_runaways),
            blobs=BlobCache(state.path),
            facts=find_facts(emulator=emulated, cpu=cpu, description=kind.describe()),
            conditions=ConditionsReader(timing_cpu),
            timing=asyncio.Lock(),
            scratch=state.scratch,
            log=LeaseLog(),
            timing_cpu=timing_cpu,
        )
        if timing_cpu is not None:
            keep_off(timing_cpu)
        device = RunningDevice(key, state, LeaseGate(state.fence, state.keep_fence), bench)
    except BaseException:
        state.close()
        raise
    try:
        await device.open(
            tracker,
            host,
            port,
            advertise,
            labels=labels or {},
            access=access or Access(Credentials.from_environment()),
            anchor_interval_s=anchor_interval_s,
        )
    except BaseException:
        await device.stop()
        raise
    return device


def serve(  # noqa: PLR0917 (all but the key are optional)
    key: str,
    tracker: str = "127.0.0.1:9190",
    host: str = "127.0.0.1",
    port: int = 0,
    advertise: str | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    *,
    emulated: str | None = None,
    cpu: str | None = None,
    timing_cpu: int | None = None,
    labels: Mapping[str, str] | None = None,
    isolation: str = "full",
    backend: str = "native",
    anchor_interval_s: float = INTERVAL_S,
    access: Access | None = None,
    on_ready: Callable[[RunningDevice], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; arguments as for `start`.

    Times on a processor of its own where there are several.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    access = access or Access(Credentials.from_environment())
    os.environ.pop(security.TOKEN, None)  # kernels get what is left of the environment
    claim: socket.socket | None = None
    if timing_cpu is None:
        timing_cpu, claim = claim_cpu(os.sched_getaffinity(0))

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        device = await start(
            key, tracker, host, port, advertise, state_dir,
            emulated=emulated, cpu=cpu, timing_cpu=timing_cpu, labels=labels, access=access,
            isolation=isolation, backend=backend, anchor_interval_s=anchor_interval_s,
        )  # fmt: skip
        try:
            where = ", ".join(device.addresses)
            _log.info("device %s serves on %s, tracker %s", device.device_id, where, tracker)
            if on_ready is not None:
                on_ready(device)
            await stop.wait()
        finally:
            await device.stop()

    try:
        asyncio.run(main())
    finally:
        if claim is not None:
            claim.close()
