"""The device server: its devices behind one port, started and stopped."""

import asyncio
import logging
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

import grpc
from tunefarm_proto import rpc, security, serving
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.listener import Listener
from tunefarm_proto.security import Access, Credentials
from tunefarm_proto.supervisor import Supervisor
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc

from tunefarm_device.building import Builder, Options
from tunefarm_device.device import RunningDevice
from tunefarm_device.service import add_to_server
from tunefarm_device.switchboard import Switchboard
from tunefarm_device.tracker_link import local_address

_log = logging.getLogger(__name__)
MAXIMUM_CALLS = 256  # one holder's calls; the rest is somebody knocking
_ANYWHERE = ("0.0.0.0", "::", "[::]", "")  # noqa: S104 (compared with, not bound to)


class RunningServer:
    """A device server that serves.

    Attributes: `devices`, `port` it listens on, `addresses` it tells the tracker.
    """

    def __init__(self, builder: Builder, anchor_interval_s: float) -> None:
        self.devices: Sequence[RunningDevice] = builder.devices
        self.port = 0
        self.addresses: list[str] = []
        self._builder = builder
        self._anchor_interval_s = anchor_interval_s
        self._listener: Listener | None = None

    async def open(
        self, tracker: str, host: str, port: int, advertise: str | None, access: Access
    ) -> None:
        """Listen, and dial out. Raises: InvalidRequestError, InternalError."""
        access.credentials.check_tracker(tracker)
        await asyncio.gather(*(device.prepare() for device in self.devices))
        guard = serving.Guard(maximum_calls=MAXIMUM_CALLS * len(self.devices))
        self._listener = Listener(guard, self._fill, rpc.PATIENT)
        # Each call shows its lease's token, so callers are known.
        self.port = await self._listener.start(
            host, port, tls=access.tls, guarded=True, insecure=access.insecure
        )
        try:
            await self._builder.lanes.start(host, access.tls)
        except OSError as error:
            _log.warning("no lanes, calls take longer: %s", error)
        reached = local_address(tracker) if host in _ANYWHERE else host
        self.addresses = [advertise or f"{reached}:{self.port}"]
        for device in self.devices:
            device.dial(tracker, self.addresses, access.credentials, self._anchor_interval_s)

    def _fill(self, server: grpc.aio.Server) -> None:
        serving.add_hello(server, "device")
        if len(self.devices) == 1:
            service: dpb_grpc.DeviceServiceServicer = self.devices[0].service
        else:
            service = Switchboard([(device.gate, device.service) for device in self.devices])
        add_to_server(service, server)

    async def stop(self) -> None:
        """End everything; no process is left. Doing it twice is fine."""
        await asyncio.gather(*(device.stop() for device in self.devices))
        await self._builder.lanes.stop()
        if self._listener is not None:
            await self._listener.stop(1.0)
        self._builder.close()


async def start(
    keys: str | Sequence[str],
    tracker: str = "127.0.0.1:9190",
    host: str = "127.0.0.1",
    port: int = 0,
    advertise: str | None = None,
    *,
    options: Options | None = None,
    access: Access | None = None,
) -> RunningServer:
    """Start a device server in this process, which must not fork.

    A device for each of `keys`, NAME[:OPTION=VALUE[,...]] as `keys.parse_key` reads them, or one
    for each unit of its backend. This process keeps off the processors that are timed on.
    `access` is how it shows itself: else credentials of the environment, and no TLS of its own,
    with which it listens on loopback only.
    Raises: InvalidRequestError, InternalError.
    """
    if not re.fullmatch(r".+:\d{1,5}", tracker):
        raise InvalidRequestError(f"{tracker!r} is no address of a tracker", "give HOST:PORT")
    options = options or Options()
    builder = Builder(options)
    try:
        builder.build([keys] if isinstance(keys, str) else keys)
    except BaseException:
        builder.close()
        raise
    server = RunningServer(builder, options.anchor_interval_s)
    try:
        access = access or Access(Credentials.from_environment())
        await server.open(tracker, host, port, advertise, access)
    except BaseException:
        await server.stop()
        raise
    return server


def serve(
    keys: str | Sequence[str],
    tracker: str = "127.0.0.1:9190",
    host: str = "127.0.0.1",
    port: int = 0,
    advertise: str | None = None,
    *,
    options: Options | None = None,
    access: Access | None = None,
    on_ready: Callable[[RunningServer], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; arguments as for `start`. `on_ready` is told when it serves.

    Times on a processor of its own where there are several.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    access = access or Access(Credentials.from_environment())
    os.environ.pop(security.TOKEN, None)  # kernels get what is left of the environment
    options = replace(options or Options(), claim_cpu=True)
    supervisor = Supervisor()

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        server = await start(keys, tracker, host, port, advertise, options=options, access=access)
        try:
            where = ", ".join(server.addresses)
            for device in server.devices:
                _log.info("device %s serves on %s, tracker %s", device.device_id, where, tracker)
            if on_ready is not None:
                on_ready(server)
            with supervisor.watching(f"serves on {where}, tracker {tracker}"):
                await stop.wait()
        finally:
            await server.stop()

    asyncio.run(main())
