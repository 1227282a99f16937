"""What a board finds out about itself, and how it is just now. Standard library only."""

import ctypes
import os
import platform
import struct
from pathlib import Path

from tunefarm_proto.v1 import common_pb2 as pb

CPU_VARIABLE = "TUNEFARM_CPU"
EMULATED_VARIABLE = "TUNEFARM_EMULATED"
_AT_HWCAP = 16
# Linux's HWCAP bits (arch/*/include/uapi/asm/hwcap.h) by LLVM's feature names.
_AARCH64_BITS = {0: "fp-armv8", 1: "neon", 7: "crc", 10: "fullfp16", 20: "dotprod", 22: "sve"}
_ARMV7_BITS = {12: "neon", 13: "vfp3", 16: "vfp4", 19: "d32"}
_X86_NAMES = {
    "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "abm": "lzcnt",
    "avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16", "avx_vnni": "avxvnni",
}  # fmt: skip
_X86_SAME = frozenset((
    "sse", "sse2", "ssse3", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "popcnt", "avx512f",
    "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi",
))  # fmt: skip
_ARM_PARTS = {
    0xC07: "cortex-a7", 0xC08: "cortex-a8", 0xC09: "cortex-a9", 0xC0F: "cortex-a15",
    0xD03: "cortex-a53", 0xD05: "cortex-a55", 0xD07: "cortex-a57", 0xD08: "cortex-a72",
    0xD09: "cortex-a73", 0xD0A: "cortex-a75", 0xD0B: "cortex-a76", 0xD0C: "neoverse-n1",
    0xD0D: "cortex-a77", 0xD40: "neoverse-v1", 0xD41: "cortex-a78", 0xD49: "neoverse-n2",
    0xD4F: "neoverse-v2",
}  # fmt: skip
_AMD_FAMILIES = {(0x17, 0x00): "znver1", (0x17, 0x30): "znver2", (0x1A, 0x00): "znver5"}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _read(path)
    return int(text) if text.lstrip("-").isdigit() else 0


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields, in lower case."""
    fields: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def machine() -> str:
    """The architecture that this process runs as: "x86_64", "aarch64", "armv7", "riscv64"."""
    name = platform.machine().lower()
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)
    # A 32-bit process on a 64-bit kernel is told the kernel's name.
    if name.startswith(("arm", "aarch64")) and struct.calcsize("P") == 4:
        return "armv7"
    return name


_TRIPLES = {
    "armv7": "armv7-unknown-linux-gnueabihf",
}


def _hwcap() -> int:
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return 0
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return int(getauxval(_AT_HWCAP))


def _features(arch: str, cpuinfo: dict[str, str]) -> list[str]:
    if arch == "x86_64":
        flags = cpuinfo.get("flags", "").split()
        return sorted(
            {
                _X86_NAMES.get(flag, flag)
                for flag in flags
                if flag in _X86_SAME or flag in _X86_NAMES
            }
        )
    if arch == "riscv64":
        return sorted(letter for letter in "acdfmv" if _hwcap() >> (ord(letter) - ord("a")) & 1)
    bits = {"aarch64": _AARCH64_BITS, "armv7": _ARMV7_BITS}.get(arch, {})
    return sorted(name for bit, name in bits.items() if _hwcap() >> bit & 1)


def _amd(cpuinfo: dict[str, str]) -> str:
    family, model = int(cpuinfo.get("cpu family", 0)), int(cpuinfo.get("model", 0))
    if family == 0x19:
        zen4 = 0x10 <= model <= 0x1F or 0x60 <= model <= 0x7F or 0xA0 <= model <= 0xAF
        return "znver4" if zen4 else "znver3"
    found = [n for (f, least), n in _AMD_FAMILIES.items() if f == family and model >= least]
    return found[-1] if found else ""


def _cpu(arch: str, cpuinfo: dict[str, str], features: list[str]) -> str:
    if given := os.environ.get(CPU_VARIABLE):
        return given
    if arch in ("aarch64", "armv7"):
        try:
            return _ARM_PARTS.get(int(cpuinfo.get("cpu part", "0"), 16), "")
        except ValueError:
            return ""
    if arch != "x86_64":
        return ""
    if cpuinfo.get("vendor_id") == "AuthenticAMD" and (name := _amd(cpuinfo)):
        return name
    if {"avx512f", "avx512bw", "avx512vl"} <= set(features):
        return "x86-64-v4"
    return "x86-64-v3" if {"avx2", "fma"} <= set(features) else "x86-64-v2"


def _emulator(arch: str) -> str:
    """What emulates the processor: stated by the environment, or seen in foreign kernel files."""
    if stated := os.environ.get(EMULATED_VARIABLE):
        return stated
    kernel_is_x86 = "vendor_id" in _cpuinfo()
    return "qemu-user" if kernel_is_x86 != (arch == "x86_64") and kernel_is_x86 else ""


def _os_name() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def find_facts() -> pb.DeviceFacts:
    """What this machine is."""
    arch, cpuinfo = machine(), _cpuinfo()
    features = _features(arch, cpuinfo)
    emulator = _emulator(arch)
    frequency = "/sys/devices/system/cpu/cpu0/cpufreq"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pb.DeviceFacts(
        target=pb.Target(
            triple=_TRIPLES.get(arch, f"{arch}-unknown-linux-gnu"),
            cpu=_cpu(arch, cpuinfo, features),
            features=features,
        ),
        cpu_model=cpuinfo.get("model name", "") if not emulator else "",
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=max(memory, 0),
        os=_os_name(),
        kernel=platform.release(),
        max_frequency_hz=1000 * _number(f"{frequency}/cpuinfo_max_freq"),
        governor=_read(f"{frequency}/scaling_governor"),
        machine_model=_read("/proc/device-tree/model") or _read("/sys/class/dmi/id/product_name"),
        emulated=bool(emulator),
        emulator=emulator,
        isolation=["process", "no_new_privs", "parent_death_signal"],
    )


def read_conditions() -> pb.Conditions:
    """How the machine is now. What it cannot tell is absent."""
    found = pb.Conditions()
    found.read_at.GetCurrentTime()
    if hz := _number("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"):
        found.frequency_hz = 1000 * hz
    if millidegrees := _number("/sys/class/thermal/thermal_zone0/temp"):
        found.temperature_celsius = millidegrees / 1000
    try:
        found.load_average = os.getloadavg()[0]
    except OSError:
        pass
    bits = _read("/sys/devices/platform/soc/soc:firmware/get_throttled")
    if bits:
        found.throttle_bits = int(bits, 16)
    return found
