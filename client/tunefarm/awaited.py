"""Devices that a tracker knows of and has yet to hear of, since it was started a moment ago."""

from collections.abc import Iterable

from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

# Device servers dial again after 7.5 s at most; a busy farm takes a little longer.
COME_BACK_S = 15.0


def uptime(said: pb.HelloResponse) -> float:
    """Seconds since a server was started; infinite where it does not tell."""
    if not said.HasField("started_at"):
        return float("inf")
    return (said.at.ToNanoseconds() - said.started_at.ToNanoseconds()) * 1e-9


def unheard(devices: Iterable[tpb.Device]) -> int:
    """How many devices are offline, and were not heard of since the tracker was started."""
    return sum(
        one.state == tpb.DEVICE_STATE_OFFLINE
        and one.health != tpb.DEVICE_HEALTH_RETIRED
        and not one.HasField("last_seen")
        for one in devices
    )
