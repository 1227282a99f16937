"""How the device is at this moment: frequency, temperature, load, steal, throttling."""

import contextlib
import math
import os
import time
from pathlib import Path

from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_device.backend import Reading, Sensor

_CPU = "sys/devices/system/cpu"
OWN = (
    "frequency_hz", "memory_frequency_hz", "temperature_celsius", "power_watts", "memory_free_bytes"
)  # fmt: skip
_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def read_text(path: Path) -> str:
    """A file's text without trailing zeros and newline; "" where it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes().rstrip(b"\0\n").decode(errors="replace")
    return ""


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that new arrays may take; without bound where the system does not say."""
    for line in read_text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def frequency_hz(cpu: int, root: Path = Path("/")) -> int | None:
    """Frequency of one processor now."""
    for name in ("scaling_cur_freq", "cpuinfo_cur_freq"):
        if (text := read_text(root / _CPU / f"cpu{cpu}/cpufreq" / name)).isdigit():
            return int(text) * 1000
    here = False
    for line in read_text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "processor":
            here = value.strip() == str(cpu)
        elif here and name.strip() == "cpu MHz":
            return round(float(value) * 1e6)
    return None


def temperature_celsius(root: Path = Path("/")) -> float | None:
    """The hottest thermal zone."""
    found: list[float] = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        with contextlib.suppress(ValueError):
            found.append(int(read_text(zone)) / 1000)
    return max(found, default=None)


class ConditionsReader:
    """Reads conditions; remembers the last reading for what is a difference of two.

    `together`: other devices of this server may time at the same moment. A reading holds for
    `fresh_s` seconds: to read takes as long as many short timings. `sensor` reads a device that is
    not this processor; load and steal are the processor's even so.
    """

    def __init__(
        self,
        cpu: int | None = None,
        root: Path = Path("/"),
        together: bool = False,
        *,
        fresh_s: float = 0.0,
        sensor: Sensor | None = None,
    ) -> None:
        self._fresh_s = fresh_s
        self._sensor = sensor
        self._last = pb.Conditions()
        self._read_at = -math.inf
        self._together = together
        self._cpu = min(os.sched_getaffinity(0)) if cpu is None else cpu
        self._root = root
        self._ticks = self._read_ticks()

    def _read_ticks(self) -> tuple[int, int]:
        """Stolen and all ticks since the start."""
        words = read_text(self._root / "proc/stat").partition("\n")[0].split()[1:9]
        ticks = [int(word) for word in words]
        return (ticks[7], sum(ticks)) if len(ticks) == 8 else (0, 0)

    def read(self) -> pb.Conditions:
        """Every reading that this device has. Not to be changed."""
        if time.monotonic() - self._read_at >= self._fresh_s:
            self._last = self._read()
            self._read_at = time.monotonic()
        return self._last

    def _read(self) -> pb.Conditions:
        now = pb.Conditions(time_together=self._together)
        now.read_at.GetCurrentTime()
        if (frequency := frequency_hz(self._cpu, self._root)) is not None:
            now.frequency_hz = frequency
        if (temperature := temperature_celsius(self._root)) is not None:
            now.temperature_celsius = temperature
        with contextlib.suppress(ValueError, IndexError):
            now.load_average = float(read_text(self._root / "proc/loadavg").split()[0])
        stolen, ticks = self._read_ticks()
        if ticks > self._ticks[1]:
            now.steal_fraction = (stolen - self._ticks[0]) / (ticks - self._ticks[1])
            self._ticks = stolen, ticks
        with contextlib.suppress(ValueError):
            now.throttle_bits = int(read_text(self._root / _THROTTLED), 16)
        if self._sensor is not None:
            fill(now, self._sensor.read())
        return now

    def free_memory(self) -> int:
        """Bytes of the device's own memory that new arrays may take.

        Without bound where it does not say: then the runner is told when there is none.
        """
        if self._sensor is None:
            return 1 << 62
        now = self.read()
        return now.memory_free_bytes if now.HasField("memory_free_bytes") else 1 << 62


def fill(now: pb.Conditions, reading: Reading) -> None:
    """Put what a device's own sensor told in the place of the processor's."""
    for name in ("frequency_hz", "temperature_celsius", "throttle_bits"):
        now.ClearField(name)
    for name in OWN:
        if (value := getattr(reading, name)) is not None:
            setattr(now, name, value)
    now.throttle_reasons.extend(reading.throttled)
