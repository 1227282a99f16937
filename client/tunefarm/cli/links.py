"""Where the dashboard shows what the command line has started."""

import os
import sys
from collections.abc import Mapping
from urllib.parse import quote

from tunefarm_proto import rpc
from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc

from tunefarm.channel import HELLO_TIMEOUT_S, named_errors
from tunefarm.cli.output import is_terminal, paint
from tunefarm.tracker import Tracker, tracker_unreachable

VARIABLE = "TUNEFARM_DASHBOARD"
# The dashboard's stable addresses.
PAGES = {
    "farm": "/",
    "device": "/devices/{}",
    "result": "/results/{}",
    "job": "/jobs/{}",
    "tuning": "/tunings/{}",
}


def hello(tracker: Tracker) -> pb.HelloResponse:
    """What the tracker says of itself. Raises: TrackerUnreachableError."""
    with named_errors(tracker_unreachable(tracker.address)):
        return pb_grpc.HelloServiceStub(tracker.channel).Hello(
            pb.HelloRequest(peer=rpc.this_peer("client")),
            timeout=HELLO_TIMEOUT_S,
            metadata=rpc.call_metadata(),
        )


def dashboard_of(tracker: Tracker) -> str:
    """The farm's dashboard: as TUNEFARM_DASHBOARD says, else as the tracker does; "" for none."""
    return (os.environ.get(VARIABLE) or hello(tracker).dashboard).rstrip("/")


def link(dashboard: str, page: str, name: str = "") -> str:
    """The address of one page, as in link(..., "result", "3f2a"); "" without a dashboard."""
    return dashboard + PAGES[page].format(quote(name, safe="")) if dashboard and name else dashboard


def page_of(address: str | None, page: str, name: str) -> str:
    """`link` by a tracker's address; "" too where that does not answer: the work is done."""
    try:
        with Tracker(address) as tracker:
            return link(dashboard_of(tracker), page, name)
    except TunefarmError:
        return ""


def show(links: Mapping[str, str]) -> None:
    """Tell people where to look, beside what is printed: "result  http://..."."""
    for what, url in links.items():
        if url:
            said = f"{what}: {url}"
            print(paint(said, "dim") if is_terminal(sys.stderr) else said, file=sys.stderr)
