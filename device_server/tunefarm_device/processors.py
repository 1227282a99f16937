"""Processors and their features by LLVM's names: tables, and plain code over what the system says.

Sources: /proc/cpuinfo's flags (arch/x86/include/asm/cpufeatures.h), the AT_HWCAP bits of each
architecture (asm/hwcap.h), Arm's part numbers, and LLVM's lists of processors and features.
"""

from collections.abc import Mapping

# Linux flag -> LLVM feature, where the names differ.
_X86_RENAMED = {
    "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "pclmulqdq": "pclmul", "abm": "lzcnt",
    "bmi1": "bmi", "rdrand": "rdrnd", "sha_ni": "sha", "lahf_lm": "sahf", "fpu": "x87",
    "3dnowprefetch": "prfchw", "avx512_vbmi2": "avx512vbmi2", "avx512_vnni": "avx512vnni",
    "avx512_bitalg": "avx512bitalg", "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx512_bf16": "avx512bf16", "avx512_fp16": "avx512fp16",
    "avx512_vp2intersect": "avx512vp2intersect", "avx_vnni": "avxvnni", "amx_tile": "amx-tile",
    "amx_int8": "amx-int8", "amx_bf16": "amx-bf16", "amx_fp16": "amx-fp16",
    "ospke": "pku", "lm": "64bit",
}  # fmt: skip
_X86_SAME = frozenset((
    "adx", "aes", "avx", "avx2", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512ifma",
    "avx512vbmi", "avx512vl", "bmi2", "cldemote", "clflushopt", "clwb", "clzero", "cmov", "cx16",
    "cx8", "f16c", "fma", "fma4", "fsgsbase", "fxsr", "gfni", "invpcid", "mmx", "movbe",
    "movdir64b", "movdiri", "popcnt", "rdpid", "rdseed", "rtm", "serialize", "sse", "sse2",
    "sse4a", "ssse3", "tbm", "vaes", "vpclmulqdq", "waitpkg", "wbnoinvd", "xop", "xsave",
    "xsavec", "xsaveopt", "xsaves",
))  # fmt: skip
_INTEL_MODELS = {
    "nehalem": (0x1A, 0x1E, 0x1F, 0x2E), "westmere": (0x25, 0x2C, 0x2F),
    "sandybridge": (0x2A, 0x2D), "ivybridge": (0x3A, 0x3E), "haswell": (0x3C, 0x3F, 0x45, 0x46),
    "broadwell": (0x3D, 0x47, 0x4F, 0x56), "skylake": (0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6),
    "skylake-avx512": (0x55,), "icelake-client": (0x7D, 0x7E), "icelake-server": (0x6A, 0x6C),
    "tigerlake": (0x8C, 0x8D), "rocketlake": (0xA7,), "alderlake": (0x97, 0x9A),
    "raptorlake": (0xB7, 0xBA, 0xBF), "sapphirerapids": (0x8F,), "emeraldrapids": (0xCF,),
    "graniterapids": (0xAD,),
}  # fmt: skip
_V2 = frozenset(("cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3"))
_V3 = _V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
_AVX512_CPUS = frozenset((
    "znver4", "znver5", "skylake-avx512", "cascadelake", "cooperlake", "icelake-client",
    "icelake-server", "tigerlake", "rocketlake", "sapphirerapids", "emeraldrapids",
    "graniterapids",
))  # fmt: skip
_ARM_PARTS = {
    0xC05: "cortex-a5", 0xC07: "cortex-a7", 0xC08: "cortex-a8", 0xC09: "cortex-a9",
    0xC0D: "cortex-a17", 0xC0F: "cortex-a15", 0xC0E: "cortex-a17", 0xD02: "cortex-a34",
    0xD03: "cortex-a53", 0xD04: "cortex-a35", 0xD05: "cortex-a55", 0xD07: "cortex-a57",
    0xD08: "cortex-a72", 0xD09: "cortex-a73", 0xD0A: "cortex-a75", 0xD0B: "cortex-a76",
    0xD0C: "neoverse-n1", 0xD0D: "cortex-a77", 0xD40: "neoverse-v1", 0xD41: "cortex-a78",
    0xD44: "cortex-x1", 0xD46: "cortex-a510", 0xD47: "cortex-a710", 0xD48: "cortex-x2",
    0xD49: "neoverse-n2", 0xD4D: "cortex-a715", 0xD4E: "cortex-x3", 0xD4F: "neoverse-v2",
}  # fmt: skip
# Architecture -> (bit, which of AT_HWCAP and AT_HWCAP2) -> LLVM features.
_HWCAPS: dict[str, dict[tuple[int, int], tuple[str, ...]]] = {
    "aarch64": {
        (0, 0): ("fp-armv8",), (1, 0): ("neon",), (4, 0): ("aes",), (6, 0): ("sha2",),
        (7, 0): ("crc",), (8, 0): ("lse",), (10, 0): ("fullfp16",), (12, 0): ("rdm",),
        (13, 0): ("jsconv",), (14, 0): ("complxnum",), (15, 0): ("rcpc",), (17, 0): ("sha3",),
        (20, 0): ("dotprod",), (22, 0): ("sve",), (23, 0): ("fp16fml",), (1, 1): ("sve2",),
        (13, 1): ("i8mm",), (14, 1): ("bf16",),
    },
    "armv7": {
        (6, 0): ("vfp2",), (12, 0): ("neon",), (13, 0): ("vfp3", "vfp3d16"), (14, 0): ("vfp3d16",),
        (16, 0): ("vfp4", "vfp4d16", "fp16"), (17, 0): ("hwdiv-arm",), (18, 0): ("hwdiv",),
        (19, 0): ("d32",), (23, 0): ("fullfp16",), (24, 0): ("dotprod",), (0, 1): ("aes",),
        (3, 1): ("sha2",), (4, 1): ("crc",),
    },
    "riscv64": {(ord(letter) - ord("a"), 0): (letter,) for letter in "acdfmv"},
}  # fmt: skip


def x86_features(flags: frozenset[str]) -> set[str]:
    """LLVM's names for the flags of /proc/cpuinfo."""
    found = {_X86_RENAMED.get(flag, flag) for flag in flags if flag in _X86_RENAMED}
    found |= flags & _X86_SAME
    if "sse4_2" in flags:
        found.add("crc32")
    return found


def x86_cpu(vendor: str, family: int, model: int, features: set[str]) -> str:
    """LLVM's name; where the processor is not known, or a hypervisor hides half, its level."""
    name = ""
    if vendor == "AuthenticAMD":
        name = _amd(family, model)
    elif vendor == "GenuineIntel" and family == 6:
        name = next((cpu for cpu, models in _INTEL_MODELS.items() if model in models), "")
        if name == "skylake-avx512" and "avx512vnni" in features:
            name = "cooperlake" if "avx512bf16" in features else "cascadelake"
    if name in _AVX512_CPUS and not features >= _V4:
        name = ""
    return name or x86_level(features)


def _amd(family: int, model: int) -> str:
    if family == 0x17:
        return "znver1" if model < 0x30 else "znver2"
    if family == 0x19:
        fourth = 0x10 <= model <= 0x1F or 0x60 <= model <= 0x7F or 0xA0 <= model <= 0xAF
        return "znver4" if fourth else "znver3"
    return "znver5" if family == 0x1A else ""


def x86_level(features: set[str]) -> str:
    """The highest micro-architecture level that the features reach."""
    levels = (("x86-64-v4", _V4), ("x86-64-v3", _V3), ("x86-64-v2", _V2))
    return next((name for name, needs in levels if features >= needs), "x86-64")


def hwcap_features(arch: str, hwcap: int, hwcap2: int) -> set[str]:
    """LLVM's names for the bits that the kernel hands to every process."""
    words = (hwcap, hwcap2)
    return {
        name
        for (bit, word), names in _HWCAPS.get(arch, {}).items()
        if words[word] >> bit & 1
        for name in names
    }


def arm_cpu(info: Mapping[str, str]) -> str:
    """LLVM's name from /proc/cpuinfo's "CPU implementer" and "CPU part", "" where not known."""
    try:
        part = int(info.get("CPU part", ""), 16)
    except ValueError:
        return ""
    arm = info.get("CPU implementer", "").lower() in ("0x41", "0x4d")
    return _ARM_PARTS.get(part, "") if arm else ""
