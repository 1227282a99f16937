"""What devices said of their temperature and frequency lately, for as long as we have watched."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

READINGS = 200_000  # of all devices together
MOST = 720  # of one
LAST_MOMENT = 253_402_300_800  # the year 10000


@dataclass(frozen=True, slots=True)
class Reading:
    """A device's condition at a moment: seconds since 1970, degrees Celsius, MHz, load."""

    at: float
    temperature: float | None
    frequency: float | None
    load: float | None


class History:
    """The last readings of each device; of a large fleet fewer."""

    def __init__(self) -> None:
        self._of: dict[str, deque[Reading]] = {}

    def add(self, devices: Iterable[tpb.Device]) -> None:
        """Keep what each device says now, where it is new."""
        known = list(devices)
        most = max(min(MOST, READINGS // max(len(known), 1)), 10)
        for device in known:
            reading = _reading(device.conditions)
            if reading is None:
                continue
            kept = self._of.get(device.id)
            if kept is None or kept.maxlen != most:
                kept = self._of[device.id] = deque(kept or (), most)
            if not kept or kept[-1].at < reading.at:
                kept.append(reading)
        for gone in self._of.keys() - {device.id for device in known}:
            del self._of[gone]

    def of(self, device_id: str) -> list[Reading]:
        """Oldest first."""
        return list(self._of.get(device_id, ()))


def _reading(now: pb.Conditions) -> Reading | None:
    if not (now.HasField("read_at") and 0 < now.read_at.seconds < LAST_MOMENT):
        return None
    warm, load = now.temperature_celsius, now.load_average
    return Reading(
        at=now.read_at.seconds + now.read_at.nanos / 1e9,
        temperature=warm if now.HasField("temperature_celsius") and isfinite(warm) else None,
        frequency=now.frequency_hz / 1e6 if now.HasField("frequency_hz") else None,
        load=load if now.HasField("load_average") and isfinite(load) else None,
    )
