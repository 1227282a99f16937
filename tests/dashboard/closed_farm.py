"""A real tracker that wants tokens, simulated devices, a dashboard with a viewer's token."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fake_tracker import app_at, run, serving_dashboard
from tunefarm_dashboard.board import Board
from tunefarm_proto import security
from tunefarm_proto.identity import Role
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc
from tunefarm_tracker.core import Config
from tunefarm_tracker.server import RunningTracker, start
from tunefarm_tracker.testing import SimulatedClient, SimulatedDevice

# Simulated devices report when something changes and not otherwise.
PATIENT = Config(min_silence=600.0)
NAMES = {"vera": Role.VIEWER, "ulla": Role.USER, "uwe": Role.USER, "olga": Role.OPERATOR}


@dataclass
class ClosedFarm:
    """Devices d1 (held by ulla, as request "held") and d2 of the key k. uwe waits for d1."""

    tracker: RunningTracker
    address: str
    tokens: dict[str, str]
    stubs: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    board: Board | None = None

    @contextmanager
    def login(self, name: str) -> Iterator[httpx.Client]:
        """A browser in which somebody has logged in; what acts need is in its headers."""
        with httpx.Client(base_url=self.url, follow_redirects=True) as client:
            page = client.post("/login", data={"token": self.tokens[name]})
            assert page.status_code == 200, page.text
            client.headers["x-csrf-token"] = csrf_of(page.text)
            yield client

    def waiting(self) -> dict[str, int]:
        """The priority of each request that waits."""
        state = self.tracker.hub.scheduler.state
        return {one.id: one.wish.priority for one in state.queue(self.tracker.hub.clock())}

    def health(self, device: str) -> str:
        """How a device is."""
        return self.tracker.hub.scheduler.state.devices[device].health.value


def csrf_of(html: str) -> str:
    """The secret that a page of ours sends with every act."""
    return html.partition('"X-CSRF-Token": "')[2].partition('"')[0]


async def _begin(folder: Path, stack: AsyncExitStack) -> ClosedFarm:
    tracker = await start(port=0, state_dir=folder, config=PATIENT)
    stack.push_async_callback(tracker.stop)
    tokens = {}
    for name, role in sorted(NAMES.items()):  # olga comes before those that need an operator
        made = await asyncio.wrap_future(tracker.accounts.create(name, role))
        tokens[name] = made[1]
    device = await asyncio.wrap_future(tracker.accounts.create("d1", Role.DEVICE))
    tokens["d1"] = device[1]
    farm = ClosedFarm(tracker, f"127.0.0.1:{tracker.port}", tokens)
    for name in ("ulla", "uwe", "olga"):
        credentials = Credentials(token=tokens[name])
        channel = security.aio_tracker_channel(farm.address, credentials)
        stack.push_async_callback(channel.close)
        farm.stubs[name] = tpb_grpc.TrackerServiceStub(channel)
    for name in ("d1", "d2"):
        await stack.enter_async_context(SimulatedDevice(farm.stubs["olga"], name, name))
    for name, request in (("ulla", "held"), ("uwe", "waits")):
        wish = tpb.DeviceRequest(request_id=request, key="d1", purpose=f"work of {name}")
        wish.ttl.seconds = 600
        client = await stack.enter_async_context(SimulatedClient(farm.stubs[name], wish))
        await (client.granted() if name == "ulla" else client.queued())
    return farm


@contextmanager
def closed_farm(folder: Path) -> Iterator[ClosedFarm]:
    """The farm and its dashboard."""
    stack = AsyncExitStack()
    farm = run(_begin(folder, stack))
    try:
        credentials = Credentials(token=farm.tokens["vera"])
        with serving_dashboard(farm.address, credentials=credentials) as url:
            farm.url, farm.board = url, app_at(url).state.board
            yield farm
    finally:
        run(stack.aclose())
