"""A GPU that is none: the backend `cuda` over a driver which runs PTX on this processor.

For tests, and to try what a GPU box does without one: everything but the speed. TUNEFARM_NULL_GPUS
says how many there are (one) and of which compute capability (8.0), as in "2:9.0".
"""

import importlib.util
import os

from tunefarm_device import backend
from tunefarm_device.backend import Description
from tunefarm_device.cuda import fake
from tunefarm_device.cuda.device import Device
from tunefarm_device.cuda.facts import describe, too_old

SETTING = "TUNEFARM_NULL_GPUS"


def _setting() -> tuple[int, int, int]:
    """How many, and major and minor of their compute capability. Raises: ValueError."""
    count, _, capability = os.environ.get(SETTING, "1").partition(":")
    major, _, minor = (capability or "8.0").partition(".")
    return int(count), int(major), int(minor or 0)


class Backend(backend.Backend):
    """Null GPUs."""

    alone = True
    exclusive = False

    def lacking(self) -> str:
        if importlib.util.find_spec("numpy") is None:
            return "numpy is not installed; `pip install numpy` installs it"
        try:
            count, major, minor = _setting()
        except ValueError:
            count = 0
        if count < 1:
            return f"{SETTING} is {os.environ[SETTING]!r}, and is to be as in 2:9.0"
        return too_old(fake.gpu(major, minor))

    def units(self) -> list[str]:
        return [str(number) for number in range(_setting()[0])]

    def describe(self) -> Description:
        _, major, minor = _setting()
        return describe(fake.gpu(major, minor), "none", {}, emulator="ptx machine")

    def prepare(self) -> None:
        fake.ptx()

    def open(self) -> Device:
        _, major, minor = _setting()
        return Device(fake.FakeDriver((major, minor)))
