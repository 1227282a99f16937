"""What we compile for."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from tunefarm_proto.bundle import architecture
from tunefarm_proto.errors import UnknownTargetError
from tunefarm_proto.v1 import common_pb2 as pb

_V2 = frozenset(("popcnt", "sse4.1", "sse4.2", "ssse3"))
_V3 = _V2 | {"avx", "avx2", "f16c", "fma"}
_V4 = _V3 | {"avx512bw", "avx512dq", "avx512f", "avx512vl"}
_VNNI = _V4 | {"avx512vnni"}
_ICELAKE = _VNNI | {"avx512vpopcntdq"}
_BF16 = _ICELAKE | {"avx512bf16"}
_NEON = frozenset(("neon",))
_ARMV82 = _NEON | {"dotprod", "fullfp16"}
_FHM = _ARMV82 | {"fp16fml"}
_VFP4 = _NEON | {"vfp4"}
_RV64GC = frozenset("acdfm")
# Compute capabilities; a GPU of one runs the code of all before it.
GPU_LEVELS = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_120")
_GPUS = {name: frozenset(GPU_LEVELS[: n + 1]) for n, name in enumerate(GPU_LEVELS)}
# With instructions of that capability alone.
_GPUS |= {f"{name}a": _GPUS[name] | {f"{name}a"} for name in ("sm_90", "sm_100", "sm_120")}
# Those of them that kernels here use: a device that has them gets code for them.
_OWN_USED = {"sm_90": "sm_90a"}
# Bytes of shared memory that a block may have, from that level on.
_SHARED = {
    "sm_75": 64, "sm_80": 163, "sm_86": 99, "sm_87": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227,
    "sm_120": 99,
}  # fmt: skip

# Features that our code may use, by architecture. The rest of a processor's features neither helps
# kernels nor is known to every device, so bundles do not ask for them.
USED_FEATURES: dict[str, frozenset[str]] = {
    "x86_64": _BF16,
    "aarch64": _FHM,
    "armv7": _VFP4,
    "riscv64": _RV64GC | {"v"},
    "wasm32": frozenset(("bulk-memory", "simd128")),
    # Machine code, unlike PTX, is for one generation: "cubin_8".
    "nvptx64": frozenset().union(*_GPUS.values(), (f"cubin_{n}" for n in (7, 8, 9, 10, 12))),
}
# The processors that we know, by LLVM's names, and those of their features. LLVM takes an unknown
# name in silence, so only these are passed on.
CPUS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {
        "x86-64": frozenset(), "x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4,
        "nehalem": _V2, "westmere": _V2, "sandybridge": _V2 | {"avx"},
        "ivybridge": _V2 | {"avx", "f16c"},
        **dict.fromkeys((
            "haswell", "broadwell", "skylake", "alderlake", "raptorlake", "znver1", "znver2",
            "znver3",
        ), _V3),
        "skylake-avx512": _V4, "cascadelake": _VNNI, "cooperlake": _VNNI | {"avx512bf16"},
        **dict.fromkeys(("icelake-client", "icelake-server", "tigerlake", "rocketlake"), _ICELAKE),
        **dict.fromkeys((
            "sapphirerapids", "emeraldrapids", "graniterapids", "znver4", "znver5",
        ), _BF16),
    },
    "aarch64": {
        **dict.fromkeys((
            "generic", "cortex-a34", "cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72",
            "cortex-a73",
        ), _NEON),
        **dict.fromkeys((
            "cortex-a55", "cortex-a75", "cortex-a76", "cortex-a77", "cortex-a78", "cortex-x1",
            "neoverse-n1",
        ), _ARMV82),
        **dict.fromkeys((
            "cortex-a510", "cortex-a710", "cortex-a715", "cortex-x2", "cortex-x3", "neoverse-n2",
            "neoverse-v1", "neoverse-v2", "apple-m1", "apple-m2",
        ), _FHM),
    },
    "armv7": {
        **dict.fromkeys(("generic", "cortex-a5", "cortex-a8", "cortex-a9"), _NEON),
        **dict.fromkeys((
            "cortex-a7", "cortex-a15", "cortex-a17", "cortex-a53", "cortex-a72",
        ), _VFP4),
    },
    "riscv64": {
        "generic-rv64": _RV64GC, "sifive-u74": _RV64GC,
        "sifive-x280": _RV64GC | {"v"}, "spacemit-x60": _RV64GC | {"v"},
    },
    "wasm32": {"generic": USED_FEATURES["wasm32"]},
    "nvptx64": _GPUS,
}  # fmt: skip
BASELINE = {
    "x86_64": "x86-64",
    "aarch64": "generic",
    "armv7": "generic",
    "riscv64": "generic-rv64",
    "wasm32": "generic",
    "nvptx64": "sm_75",
}
TRIPLES = {
    "x86_64": "x86_64-unknown-linux-gnu",
    "aarch64": "aarch64-unknown-linux-gnu",
    "armv7": "armv7-unknown-linux-gnueabihf",
    "riscv64": "riscv64-unknown-linux-gnu",
    "wasm32": "wasm32-unknown-unknown",
    "nvptx64": "nvptx64-nvidia-cuda",
}


@dataclass(frozen=True)
class TargetSpec:
    """A processor: LLVM triple, CPU to schedule for, features that code may use (sorted)."""

    triple: str
    cpu: str
    features: tuple[str, ...]

    @property
    def arch(self) -> str:
        """The processor family, as in "aarch64"."""
        return architecture(self.triple)

    @property
    def gpu(self) -> bool:
        """Whether kernels run on a GPU."""
        return self.arch == "nvptx64"

    @property
    def shared_bytes(self) -> int:
        """Shared memory that a block of a GPU may have; 0 for processors."""
        return _SHARED[self.cpu.removesuffix("a")] << 10 if self.gpu else 0

    @property
    def lanes(self) -> int:
        """float32 values in the widest vector register; of a GPU, in the widest access."""
        if self.gpu:
            return 4
        if self.arch == "x86_64":
            return 16 if "avx512f" in self.features else 8 if "avx2" in self.features else 4
        return 4 if {"neon", "simd128", "v"} & set(self.features) else 1

    @property
    def vector_registers(self) -> int:
        """Vector registers that a kernel can name."""
        if self.arch == "x86_64":
            return 32 if "avx512f" in self.features else 16
        # WebAssembly has no registers; those of x86-64, where it mostly runs, are the fewest.
        return 16 if self.arch in ("armv7", "wasm32") else 32

    @property
    def halves(self) -> bool:
        """Whether float16 is converted by an instruction."""
        neon = "vfp4" if self.arch == "armv7" else "neon"
        return self.gpu or bool({"avx512f", "f16c", neon} & set(self.features))

    @property
    def fused(self) -> bool:
        """Whether a multiplication and an addition are one instruction; a call of each, if not."""
        needs = {"x86_64": "fma", "armv7": "vfp4", "wasm32": "relaxed-simd"}.get(self.arch)
        return needs is None or needs in self.features

    @property
    def masks(self) -> bool:
        """Whether a vector can be read and written in part."""
        return "avx512f" in self.features

    @property
    def index(self) -> str:
        """LLVM type of indices: i32 on 32-bit processors, and on GPUs, which add slowly in 64."""
        return "i32" if self.arch in ("armv7", "wasm32", "nvptx64") else "i64"

    @property
    def abi(self) -> str:
        """Name of the calling convention where LLVM needs to be told."""
        return "lp64d" if self.arch == "riscv64" else ""

    def to_proto(self) -> pb.Target:
        """As a bundle's manifest states it."""
        return pb.Target(triple=self.triple, cpu=self.cpu, features=self.features)


def _spec(arch: str, cpu: str, features: set[str]) -> TargetSpec:
    known = cpu if cpu in CPUS[arch] else BASELINE[arch]
    used = features & USED_FEATURES[arch]
    if arch == "nvptx64":  # a newer GPU runs the code of the newest that we know
        known = (
            known
            if cpu in _GPUS
            else next((one for one in reversed(GPU_LEVELS) if one in features), known)
        )
        own = _OWN_USED.get(known, "")
        known = own if own in features else known
        used &= _GPUS[known]
    if arch == "aarch64":
        used.add("neon")  # part of every armv8-a
    return TargetSpec(TRIPLES[arch], known, tuple(sorted(used)))


@cache
def _local() -> TargetSpec:
    import llvmlite.binding as llvm

    arch = architecture(llvm.get_process_triple())
    if arch not in TRIPLES:
        raise UnknownTargetError(
            f"this machine's processor, {arch}, is no known target",
            f"known are {', '.join(TRIPLES)}",
        )
    features = {name for name, has in llvm.get_host_cpu_features().items() if has}
    return _spec(arch, llvm.get_host_cpu_name(), features)


@dataclass(frozen=True)
class Named:
    """An entry of the registry: an architecture's CPU, features beyond or instead of its own."""

    arch: str
    cpu: str
    about: str = ""
    features: frozenset[str] | None = None


# Boards and machines by the names that people use; every CPU of 64 bits has its own name as well.
_BOARDS = {
    "rasp3b": Named("aarch64", "cortex-a53", "Raspberry Pi 3B, 64-bit system"),
    "rasp4b": Named("aarch64", "cortex-a72", "Raspberry Pi 4B"),
    "rasp5": Named("aarch64", "cortex-a76", "Raspberry Pi 5"),
    "rasp3b-32": Named("armv7", "cortex-a53", "Raspberry Pi 3B, 32-bit system"),
    "rasp4b-32": Named("armv7", "cortex-a72", "Raspberry Pi 4B, 32-bit system"),
    "rasp2b": Named("armv7", "cortex-a7", "Raspberry Pi 2B"),
    "beaglebone": Named("armv7", "cortex-a8", "BeagleBone Black"),
    "jetson-nano": Named("aarch64", "cortex-a57", "Jetson Nano's processor"),
    "jetson-orin": Named("aarch64", "cortex-a78", "Jetson Orin's processor"),
    "rock5b": Named("aarch64", "cortex-a76", "Rock 5B"),
    "graviton2": Named("aarch64", "neoverse-n1", "AWS Graviton2, Ampere Altra"),
    "graviton3": Named("aarch64", "neoverse-v1", "AWS Graviton3"),
    "graviton4": Named("aarch64", "neoverse-v2", "AWS Graviton4, Grace"),
    "aarch64": Named("aarch64", "generic", "any 64-bit Arm"),
    "armv7": Named("armv7", "generic", "any 32-bit Arm with NEON"),
    "riscv64": Named("riscv64", "generic-rv64", "RV64GC, scalar"),
    "riscv64-v": Named("riscv64", "generic-rv64", "RV64GC with V of 128 bits or more",
                       _RV64GC | {"v"}),
    "visionfive2": Named("riscv64", "sifive-u74", "VisionFive 2"),
    "bananapi-f3": Named("riscv64", "spacemit-x60", "Banana Pi F3"),
    "wasm": Named("wasm32", "generic", "WebAssembly with 128-bit SIMD"),
    "t4": Named("nvptx64", "sm_75", "NVIDIA T4"),
    "a100": Named("nvptx64", "sm_80", "NVIDIA A100"),
    "rtx3090": Named("nvptx64", "sm_86", "NVIDIA GeForce RTX 3090"),
    "jetson-orin-gpu": Named("nvptx64", "sm_87", "Jetson Orin's GPU"),
    "rtx4090": Named("nvptx64", "sm_89", "NVIDIA GeForce RTX 4090"),
    "l40": Named("nvptx64", "sm_89", "NVIDIA L40"),
    "h100": Named("nvptx64", "sm_90a", "NVIDIA H100"),
    "h200": Named("nvptx64", "sm_90a", "NVIDIA H200"),
    "b200": Named("nvptx64", "sm_100", "NVIDIA B200"),
    "rtx5090": Named("nvptx64", "sm_120", "NVIDIA GeForce RTX 5090"),
}  # fmt: skip
_LEVELS = {"x86-64-v2": "SSE4.2", "x86-64-v3": "AVX2, FMA", "x86-64-v4": "AVX-512"}
REGISTRY: dict[str, Named] = _BOARDS | {
    cpu: Named(arch, cpu, _LEVELS.get(cpu, ""))
    for arch in ("x86_64", "aarch64", "riscv64", "nvptx64")
    for cpu in CPUS[arch]
    if not cpu.startswith("generic")
}
NAMES = ("local", *REGISTRY)


def resolve(name: str) -> TargetSpec:
    """The target of that name, as in "rasp5", or "rasp5+nodotprod" with a feature more or less.

    Raises: UnknownTargetError, which names the nearest ones.
    """
    plain, *changes = name.split("+")
    if plain == "local":
        spec = _local()
    elif plain in REGISTRY:
        entry = REGISTRY[plain]
        own = CPUS[entry.arch][entry.cpu] if entry.features is None else entry.features
        spec = _spec(entry.arch, entry.cpu, set(own))
    else:
        raise UnknownTargetError(f"no target {plain!r}", _nearest(plain, NAMES))
    features = set(spec.features)
    if changes and spec.gpu:
        raise UnknownTargetError(
            f"target {name}: a GPU's instructions are those of its level",
            f"name an earlier one, as in {GPU_LEVELS[1]}",
        )
    for change in changes:
        off = change not in USED_FEATURES[spec.arch] and change.startswith("no")
        feature = change.removeprefix("no") if off else change
        if feature not in USED_FEATURES[spec.arch]:
            raise UnknownTargetError(
                f"target {plain} has no feature {feature!r} that kernels use",
                _nearest(feature, sorted(USED_FEATURES[spec.arch])),
            )
        features = features - {feature} if off else features | {feature}
    return replace(spec, features=tuple(sorted(features)))


def _nearest(name: str, known: Sequence[str]) -> str:
    """The few names that are most like it; where none is, some that there are."""
    close = difflib.get_close_matches(name, known, 3, 0.5)
    close = close or [one for one in known if name and (name in one or one in name)][:3]
    shown = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known[:12])}"
    return f"{shown}; `tunefarm targets` lists all"


def from_device(reported: pb.Target) -> TargetSpec:
    """The target for what a device reports of itself. Raises: UnknownTargetError."""
    arch = architecture(reported.triple)
    if arch not in TRIPLES:
        raise UnknownTargetError(
            f"no code can be made for {reported.triple!r}", f"known are {', '.join(TRIPLES)}"
        )
    return _spec(arch, reported.cpu, set(reported.features))
