"""What we compile for."""

import difflib
from dataclasses import dataclass
from functools import cache

from tunefarm_proto.bundle import architecture
from tunefarm_proto.errors import UnknownTargetError
from tunefarm_proto.v1 import common_pb2 as pb

# Features that our code may use, by architecture. The rest of a processor's features neither helps
# float kernels nor is known to every device, so bundles do not ask for them.
USED_FEATURES: dict[str, tuple[str, ...]] = {
    "x86_64": (
        "avx", "avx2", "avx512bw", "avx512dq", "avx512f", "avx512vl", "avx512vnni",
        "avx512vpopcntdq", "f16c", "fma",
    ),
    "aarch64": ("dotprod", "fullfp16", "neon"),
    "armv7": ("neon", "vfp4"),
    "riscv64": ("a", "c", "d", "f", "m"),
    "wasm32": ("bulk-memory", "simd128"),
}  # fmt: skip
# LLVM takes an unknown CPU name in silence, so only these are passed on.
KNOWN_CPUS: dict[str, frozenset[str]] = {
    "x86_64": frozenset((
        "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "znver1", "znver2", "znver3", "znver4",
        "znver5", "haswell", "broadwell", "skylake", "skylake-avx512", "cascadelake", "cooperlake",
        "icelake-client", "icelake-server", "tigerlake", "rocketlake", "alderlake", "raptorlake",
        "sapphirerapids", "emeraldrapids", "graniterapids",
    )),
    "aarch64": frozenset((
        "generic", "cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a73",
        "cortex-a75", "cortex-a76", "cortex-a77", "cortex-a78", "cortex-x1", "neoverse-n1",
        "neoverse-n2", "neoverse-v1", "neoverse-v2", "apple-m1",
    )),
    "armv7": frozenset((
        "generic", "cortex-a7", "cortex-a8", "cortex-a9", "cortex-a15", "cortex-a53", "cortex-a72",
    )),
    "riscv64": frozenset(("generic-rv64", "sifive-u74")),
    "wasm32": frozenset(("generic",)),
}  # fmt: skip
BASELINE = {
    "x86_64": "x86-64",
    "aarch64": "generic",
    "armv7": "generic",
    "riscv64": "generic-rv64",
    "wasm32": "generic",
}
TRIPLES = {
    "x86_64": "x86_64-unknown-linux-gnu",
    "aarch64": "aarch64-unknown-linux-gnu",
    "armv7": "armv7-unknown-linux-gnueabihf",
    "riscv64": "riscv64-unknown-linux-gnu",
    "wasm32": "wasm32-unknown-unknown",
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
    def lanes(self) -> int:
        """float32 values in the widest vector register."""
        if self.arch == "x86_64":
            return 16 if "avx512f" in self.features else 8 if "avx2" in self.features else 4
        return 4 if {"neon", "simd128"} & set(self.features) else 1

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
        return bool({"avx512f", "f16c", "neon"} & set(self.features))

    @property
    def masks(self) -> bool:
        """Whether a vector can be read and written in part."""
        return "avx512f" in self.features

    @property
    def index(self) -> str:
        """LLVM type of indices: i32 on 32-bit processors."""
        return "i32" if self.arch in ("armv7", "wasm32") else "i64"

    @property
    def abi(self) -> str:
        """Name of the calling convention where LLVM needs to be told."""
        return "lp64d" if self.arch == "riscv64" else ""

    def to_proto(self) -> pb.Target:
        """As a bundle's manifest states it."""
        return pb.Target(triple=self.triple, cpu=self.cpu, features=self.features)


def _spec(arch: str, cpu: str, features: set[str]) -> TargetSpec:
    known = cpu if cpu in KNOWN_CPUS[arch] else BASELINE[arch]
    used = features & set(USED_FEATURES[arch])
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


_V3 = {"avx", "avx2", "f16c", "fma"}
_V4 = _V3 | {"avx512bw", "avx512dq", "avx512f", "avx512vl"}
_NAMED = {
    "rasp3b": ("aarch64", "cortex-a53", {"neon"}),
    "rasp4b": ("aarch64", "cortex-a72", {"neon"}),
    "rasp5": ("aarch64", "cortex-a76", {"dotprod", "fullfp16", "neon"}),
    "rasp3b-32": ("armv7", "cortex-a53", {"neon", "vfp4"}),
    "jetson-orin": ("aarch64", "cortex-a78", {"dotprod", "fullfp16", "neon"}),
    "neoverse-n1": ("aarch64", "neoverse-n1", {"dotprod", "fullfp16", "neon"}),
    "riscv64": ("riscv64", "generic-rv64", {"m", "a", "f", "d", "c"}),
    "x86-64-v2": ("x86_64", "x86-64-v2", set()),
    "x86-64-v3": ("x86_64", "x86-64-v3", _V3),
    "x86-64-v4": ("x86_64", "x86-64-v4", _V4),
    "skylake-avx512": ("x86_64", "skylake-avx512", _V4),
    "znver3": ("x86_64", "znver3", _V3),
    "znver4": ("x86_64", "znver4", _V4 | {"avx512vnni", "avx512vpopcntdq"}),
    "wasm": ("wasm32", "generic", {"bulk-memory", "simd128"}),
}
NAMES = ("local", *_NAMED)


def resolve(name: str) -> TargetSpec:
    """The target of that name. Raises: UnknownTargetError, which lists those there are."""
    if name == "local":
        return _local()
    if name not in _NAMED:
        near = difflib.get_close_matches(name, NAMES, 3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownTargetError(f"no target {name!r}", f"{hint}known are {', '.join(NAMES)}")
    return _spec(*_NAMED[name])


def from_device(reported: pb.Target) -> TargetSpec:
    """The target for what a device reports of itself. Raises: UnknownTargetError."""
    arch = architecture(reported.triple)
    if arch not in TRIPLES:
        raise UnknownTargetError(
            f"no code can be made for {reported.triple!r}", f"known are {', '.join(TRIPLES)}"
        )
    return _spec(arch, reported.cpu, set(reported.features))
