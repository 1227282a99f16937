"""What a GPU is, as a device of the farm tells it. Pure."""

from collections.abc import Mapping
from typing import Any

from tunefarm_device.backend import Description
from tunefarm_device.cuda.anchors import copied_bytes

TRIPLE = "nvptx64-nvidia-cuda"
LEVELS = (75, 80, 86, 87, 89, 90, 100, 120)  # of compute capability, that bundles are made for
OLDEST = LEVELS[0]
TEGRA = (87,)
# KiB of shared memory that a block may have where its kernel asks for it, by level.
SHARED_KIB = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 120: 99}


def level(major: int, minor: int) -> int:
    """The last of LEVELS that a GPU of that compute capability runs: 100 of 10.3. The oldest of
    those that are too old."""
    return max((one for one in LEVELS if one <= 10 * major + minor), default=OLDEST)


def shared_bytes(major: int, minor: int) -> int:
    """Shared memory that a block may have, of a GPU of that compute capability."""
    return SHARED_KIB[level(major, minor)] << 10


def features(major: int, minor: int, cubins: bool = True) -> tuple[str, ...]:
    """What a GPU of that compute capability runs.

    PTX of every level up to its own; a cubin of its major version, on a Tegra of itself alone; from
    9.0 on, PTX of just its own architecture ("sm_90a").
    """
    own = 10 * major + minor
    found = [f"sm_{one}" for one in LEVELS if one <= own]
    if cubins:
        found.append(f"cubin_{own}" if own in TEGRA else f"cubin_{major}")
    if own >= 90:
        found.append(f"sm_{own}a")
    return tuple(found)


def describe(
    gpu: Mapping[str, Any], cuda: str, more: Mapping[str, str], *, emulator: str = ""
) -> Description:
    """A GPU that the driver told of (see `probe.py`); `more` are facts by name."""
    major, minor = gpu["major"], gpu["minor"]
    told = {
        "gpu": gpu["name"],
        "gpu_uuid": gpu["uuid"],
        "gpu_pci": gpu["pci"],
        "compute_capability": f"{major}.{minor}",
        "multiprocessors": str(gpu["multiprocessors"]),
        "l2_bytes": str(gpu["cache_bytes"]),
        "shared_bytes": str(gpu["shared_bytes"]),
        "memory_clock_hz": str(1000 * gpu["memory_clock_khz"]),
        "memory_bus_bits": str(gpu["memory_bus_bits"]),
        "ecc": "on" if gpu["ecc"] else "off",
        "cuda": cuda,
        **more,
    }
    return Description(
        triple=TRIPLE,
        cpu=f"sm_{level(major, minor)}",
        features=features(major, minor, cubins=not emulator),
        name=gpu["name"],
        memory_bytes=gpu["memory_bytes"],
        max_frequency_hz=1000 * gpu["clock_khz"],
        moved_bytes=2 * copied_bytes(gpu["cache_bytes"]),
        emulator=emulator,
        facts=told,
    )


def too_old(gpu: Mapping[str, Any]) -> str:
    """Why nothing can be compiled for it; "" where it can."""
    own = 10 * gpu["major"] + gpu["minor"]
    if own >= OLDEST:
        return ""
    return f"{gpu['name']} has compute capability {own / 10:g}, and {OLDEST / 10:g} is the oldest"
