"""NVIDIA GPUs by the CUDA driver: `pip install 'tunefarm[cuda]'`. Each GPU is a unit, "0", "1", ...

What stands behind it is in `tunefarm_device.cuda`.
"""

import glob
import os
from collections.abc import Sequence

from tunefarm_device import backend
from tunefarm_device.backend import Description
from tunefarm_device.cuda import nvml, probe
from tunefarm_device.cuda.bindings import Bindings, driver_module
from tunefarm_device.cuda.device import Device
from tunefarm_device.cuda.driver import DriverError
from tunefarm_device.cuda.facts import describe, too_old

# Those of graphics cards, of Jetsons, of WSL.
NODES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/nvgpu", "/dev/nvsciipc", "/dev/dxg")
READABLE = (
    "/proc/driver/nvidia", "/proc/driver/nvidia-uvm",
    "/proc/devices", "/proc/modules", "/proc/version", "/proc/filesystems",
    "/proc/sys/vm", "/proc/sys/kernel", "/sys/bus/pci", "/sys/class", "/sys/module/nvidia",
    "/sys/module/nvidia_uvm", "/etc/nvidia", "/run/opengl-driver", "/etc/nv_tegra_release",
    "/etc/alternatives",  # where Debian's libcuda.so.1 leads to
)  # fmt: skip


class Backend(backend.Backend):
    """A GPU."""

    # A copy of another session would share the GPU's memory and its time with what is timed.
    alone = True
    driver = True

    def lacking(self) -> str:
        told = probe.found()
        if "lacking" in told:
            return str(told["lacking"])
        return "" if self.units() else "; ".join(map(too_old, told["gpus"]))

    def units(self) -> list[str]:
        gpus = probe.found().get("gpus", [])
        return [str(number) for number, gpu in enumerate(gpus) if not too_old(gpu)]

    def _gpu(self) -> dict[str, object]:
        gpus: list[dict[str, object]] = probe.found()["gpus"]
        return gpus[int(self.unit or 0)]

    def _card(self) -> nvml.Card:
        return nvml.Card(str(self._gpu()["uuid"]))

    def describe(self) -> Description:
        return describe(self._gpu(), probe.found()["cuda"], self._card().facts())

    def sensor(self) -> backend.Sensor | None:
        card = self._card()
        return nvml.CardSensor(card) if card.there else None

    def devices(self) -> Sequence[str]:
        return [path for pattern in NODES for path in sorted(glob.glob(pattern))]  # noqa: PTH207

    def readable(self) -> Sequence[str]:
        buses = glob.glob("/sys/devices/pci*")  # noqa: PTH207
        own = os.environ.get("LD_LIBRARY_PATH", "").split(":")
        return [*READABLE, *buses, *(path for path in own if path.startswith("/"))]

    def prepare(self) -> None:
        try:
            driver_module()  # the library itself is loaded by its first call, in a runner
        except DriverError:
            return  # each runner says so

    def open(self) -> Device:
        return Device(Bindings(self.unit))
