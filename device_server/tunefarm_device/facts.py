"""What this device is, found by itself from /proc, /sys and the C library."""

import ctypes
import os
import platform
import re
import struct
from collections.abc import Collection, Iterable
from pathlib import Path

from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_device import processors
from tunefarm_device.backend import Description
from tunefarm_device.conditions import read_text
from tunefarm_device.topology import spell_cpus

AT_HWCAP = 16
AT_HWCAP2 = 26
_TRIPLES = {
    "x86_64": "x86_64-unknown-linux-gnu",
    "aarch64": "aarch64-unknown-linux-gnu",
    "armv7": "armv7-unknown-linux-gnueabihf",
    "riscv64": "riscv64-unknown-linux-gnu",
}


def architecture(machine: str, pointer_bytes: int) -> str:
    """Our own architecture: a 32-bit process on a 64-bit kernel is told by its pointers."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())
    if machine.startswith(("arm", "aarch64")):
        return "aarch64" if pointer_bytes == 8 else "armv7"
    return machine


def first_processor(cpuinfo: str, cpu: int | None = None) -> dict[str, str]:
    """The fields of /proc/cpuinfo; of those that repeat, those of `cpu`, or else the first."""
    info: dict[str, str] = {}
    blocks = cpuinfo.split("\n\n")
    own = [block for block in blocks if re.match(rf"processor\s*: {cpu}$", block, re.MULTILINE)]
    for line in "\n".join([*own, cpuinfo]).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            info.setdefault(name.strip(), value.strip())
    return info


def _hwcaps() -> tuple[int, int]:
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return 0, 0
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return getauxval(AT_HWCAP), getauxval(AT_HWCAP2)


def find_emulator(arch: str, info: dict[str, str], root: Path = Path("/")) -> str:
    """What emulates this process's processor, "" where nothing does.

    qemu-user leaves its own name in comm, and, unless it is new, the real machine's cpuinfo.
    """
    foreign = "vendor_id" in info and arch not in ("x86_64", "i686")
    own_name = read_text(root / "proc/self/comm").startswith("qemu-")
    return "qemu-user" if foreign or own_name else ""


def find_target(arch: str, info: dict[str, str], emulator: str) -> pb.Target:
    """Triple, CPU and features. TUNEFARM_CPU overrides the CPU's name."""
    if arch == "x86_64":
        features = processors.x86_features(frozenset(info.get("flags", "").split()))
        family, model = (int(info.get(name, "0")) for name in ("cpu family", "model"))
        cpu = processors.x86_cpu(info.get("vendor_id", ""), family, model, features)
    else:
        features = processors.hwcap_features(arch, *_hwcaps())
        cpu = "" if emulator else processors.arm_cpu(info)
    return pb.Target(
        triple=_TRIPLES.get(arch, f"{arch}-unknown-linux-gnu"), cpu=cpu, features=sorted(features)
    )


def _os_name(root: Path) -> str:
    for line in read_text(root / "etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    return platform.system()


def _memory_bytes(root: Path) -> int:
    words = read_text(root / "proc/meminfo").partition("\n")[0].split()
    return int(words[1]) * 1024 if len(words) > 1 else 0


def _machine_model(root: Path) -> str:
    if model := read_text(root / "proc/device-tree/model"):
        return model
    names = (read_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return " ".join(name.strip() for name in names if name.strip())


def find_facts(
    *,
    emulator: str | None = None,
    cpu: str | None = None,
    isolation: Iterable[str] = (),
    description: Description | None = None,
    cores: Collection[int] = (),
    root: Path = Path("/"),
) -> pb.DeviceFacts:
    """Everything that can be found out. `emulator` and `cpu` override what would be found;

    so do the environment's TUNEFARM_EMULATED and TUNEFARM_CPU. `description` is of a backend that
    runs other code than this processor's. `cores` are its own processors; without, all.
    """
    arch = architecture(platform.machine(), struct.calcsize("P"))
    first = min(cores, default=0)
    info = first_processor(read_text(root / "proc/cpuinfo"), first if cores else None)
    stated = emulator if emulator is not None else os.environ.get("TUNEFARM_EMULATED")
    found = find_emulator(arch, info, root) if stated is None else stated
    if description is not None and description.emulator:
        found = description.emulator
    target = find_target(arch, info, found)
    target.cpu = cpu or os.environ.get("TUNEFARM_CPU") or target.cpu
    cpufreq = root / f"sys/devices/system/cpu/cpu{first}/cpufreq"
    frequency = read_text(cpufreq / "cpuinfo_max_freq")
    name = info.get("model name") or info.get("Processor") or info.get("uarch") or ""
    board = "" if found else _machine_model(root)
    fastest = int(frequency) * 1000 if frequency.isdigit() else 0
    memory, governor = _memory_bytes(root), read_text(cpufreq / "scaling_governor")
    model = f"{target.cpu} emulated on {name}".strip() if found else name or target.cpu
    if description is not None:
        target = pb.Target(
            triple=description.triple, cpu=description.cpu, features=sorted(description.features)
        )
        model = f"{description.name} on {model}"
        if description.memory_bytes:  # it has its own, and a clock
            memory, fastest, governor = description.memory_bytes, description.max_frequency_hz, ""
    return pb.DeviceFacts(
        target=target,
        cpu_model=model,
        cpu_count=len(cores or os.sched_getaffinity(0)),
        memory_bytes=memory,
        os=_os_name(root),
        kernel=platform.release(),
        max_frequency_hz=fastest,
        governor=governor,
        machine_model=board,
        emulated=bool(found),
        emulator=found,
        isolation=sorted(isolation),
        cores=spell_cpus(cores),
        extra=description.facts if description is not None else None,
    )
