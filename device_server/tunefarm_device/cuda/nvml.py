"""What NVML tells of a GPU: clocks, temperature, power, what holds its clocks down. `nvidia-ml-py`.

For the device server's process: a runner is shut in without it. Each reading is there or is not: a
card, a driver or a MIG instance that does not know one says so, and it is left out.
"""

import contextlib
import functools
from typing import Any

from tunefarm_device.backend import POWER_CAP, Reading, Sensor

# NVML's clock event reasons that hold clocks down. The others say what was asked for, or that the
# card is idle.
REASONS = {
    0x04: POWER_CAP,
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
# Of its performance policies, whose times only grow: what happened since the last reading.
POLICIES = {
    "NVML_PERF_POLICY_POWER": POWER_CAP,
    "NVML_PERF_POLICY_THERMAL": "hardware thermal slowdown",
    "NVML_PERF_POLICY_BOARD_LIMIT": "board limit",
    "NVML_PERF_POLICY_RELIABILITY": "reliability limit",
}


@functools.cache
def library() -> Any:
    """`pynvml`, begun; None where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, or one that does not answer
        return None
    return pynvml


def driver_version() -> str:
    """The driver's own, as in "580.82"; "" where NVML does not tell."""
    nvml = library()
    if nvml is None:
        return ""
    with contextlib.suppress(nvml.NVMLError):
        return _text(nvml.nvmlSystemGetDriverVersion())
    return ""


class Card:
    """A GPU by its UUID, as the CUDA driver tells it."""

    def __init__(self, uuid: str, nvml: Any = None) -> None:
        self._nvml = nvml or library()
        self._handle: Any = None
        if self._nvml is None:
            return
        with contextlib.suppress(self._nvml.NVMLError):
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            return
        with contextlib.suppress(self._nvml.NVMLError):  # clocks and power are the whole card's
            part = self._nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
            self._handle = self._nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)

    @property
    def there(self) -> bool:
        """Whether NVML knows it."""
        return self._handle is not None

    def ask(self, name: str, *arguments: Any) -> Any:
        """What a function of NVML says of it; None where it does not say."""
        if self._handle is None:
            return None
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError, TypeError):
            return None

    def clock_hz(self, which: str, most: bool = False) -> int | None:
        """Of "SM" or "MEM"; `most`: the highest that it has."""
        name = "nvmlDeviceGetMaxClockInfo" if most else "nvmlDeviceGetClockInfo"
        found = self.ask(name, getattr(self._nvml, f"NVML_CLOCK_{which}", None))
        return None if found is None else int(found) * 1_000_000

    def facts(self) -> dict[str, str]:
        """What does not change, or seldom: driver, power limit, modes."""
        told: dict[str, str] = {}
        if self._nvml is None:
            return told
        with contextlib.suppress(self._nvml.NVMLError):
            told["gpu_driver"] = _text(self._nvml.nvmlSystemGetDriverVersion())
        limit = self.ask("nvmlDeviceGetEnforcedPowerLimit")
        if limit is not None:
            told["power_limit_w"] = f"{limit / 1000:g}"
        for name, function in (
            ("mig", "nvmlDeviceGetMigMode"),
            ("persistence", "nvmlDeviceGetPersistenceMode"),
        ):
            mode = self.ask(function)
            if mode is not None:
                told[name] = "on" if (mode[0] if isinstance(mode, list) else mode) else "off"
        for name, which in (("gpu_clock_hz", "SM"), ("gpu_memory_clock_hz", "MEM")):
            if (most := self.clock_hz(which, most=True)) is not None:
                told[f"max_{name}"] = str(most)
        return told


class CardSensor(Sensor):
    """Reads one GPU."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._times = self._policies()

    def _policies(self) -> dict[str, int]:
        """Nanoseconds of each policy so far."""
        times = {}
        for policy, name in POLICIES.items():
            told = self._card.ask(
                "nvmlDeviceGetViolationStatus", getattr(self._card._nvml, policy, None)
            )
            if told is not None:
                times[name] = int(told.violationTime)
        return times

    def _throttled(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        bits = None
        for name in (
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        ):
            if bits is None:
                bits = self._card.ask(name)
        for bit, name in REASONS.items():
            if (bits or 0) & bit:
                found[name] = None
        before, self._times = self._times, self._policies()
        for name, time in self._times.items():
            if time > before.get(name, time):
                found[name] = None
        return tuple(found)

    def read(self) -> Reading:
        ask = self._card.ask
        gpu = getattr(self._card._nvml, "NVML_TEMPERATURE_GPU", None)
        power = ask("nvmlDeviceGetPowerUsage")
        memory = ask("nvmlDeviceGetMemoryInfo")
        temperature = ask("nvmlDeviceGetTemperature", gpu)
        return Reading(
            frequency_hz=self._card.clock_hz("SM"),
            memory_frequency_hz=self._card.clock_hz("MEM"),
            temperature_celsius=_float(temperature),
            power_watts=None if power is None else power / 1000,
            memory_free_bytes=None if memory is None else int(memory.free),
            throttled=self._throttled(),
        )


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
