"""Sizes of caches that a search takes into account, by processor. They need not be exact."""

from dataclasses import dataclass

from tunefarm_compiler.targets import TargetSpec

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Caches:
    """Bytes of the first, second and last cache that one core sees, and of a line."""

    first: int
    second: int
    last: int
    line: int = 64

    @property
    def levels(self) -> tuple[int, int, int]:
        """From the nearest."""
        return self.first, self.second, self.last


_KNOWN = {
    "znver2": Caches(32 * KIB, 512 * KIB, 16 * MIB),
    "znver3": Caches(32 * KIB, 512 * KIB, 32 * MIB),
    "znver4": Caches(32 * KIB, 1 * MIB, 32 * MIB),
    "znver5": Caches(48 * KIB, 1 * MIB, 32 * MIB),
    "haswell": Caches(32 * KIB, 256 * KIB, 8 * MIB),
    "skylake": Caches(32 * KIB, 256 * KIB, 8 * MIB),
    "skylake-avx512": Caches(32 * KIB, 1 * MIB, 24 * MIB),
    "cascadelake": Caches(32 * KIB, 1 * MIB, 24 * MIB),
    "icelake-server": Caches(48 * KIB, 1280 * KIB, 32 * MIB),
    "sapphirerapids": Caches(48 * KIB, 2 * MIB, 64 * MIB),
    "cortex-a53": Caches(32 * KIB, 512 * KIB, 512 * KIB),
    "cortex-a55": Caches(32 * KIB, 256 * KIB, 1 * MIB),
    "cortex-a72": Caches(32 * KIB, 1 * MIB, 1 * MIB),
    "cortex-a76": Caches(64 * KIB, 512 * KIB, 2 * MIB),
    "cortex-a78": Caches(64 * KIB, 256 * KIB, 2 * MIB),
    "neoverse-n1": Caches(64 * KIB, 1 * MIB, 32 * MIB),
    "neoverse-n2": Caches(64 * KIB, 1 * MIB, 32 * MIB),
    "neoverse-v1": Caches(64 * KIB, 1 * MIB, 32 * MIB),
    "neoverse-v2": Caches(64 * KIB, 2 * MIB, 64 * MIB),
    "sifive-u74": Caches(32 * KIB, 2 * MIB, 2 * MIB),
}
_ARCHITECTURES = {
    "x86_64": Caches(32 * KIB, 512 * KIB, 16 * MIB),
    "aarch64": Caches(32 * KIB, 512 * KIB, 1 * MIB),
    "armv7": Caches(32 * KIB, 512 * KIB, 512 * KIB),
    "wasm32": Caches(32 * KIB, 512 * KIB, 16 * MIB),
}
_SMALL = Caches(32 * KIB, 256 * KIB, 1 * MIB)


def caches(spec: TargetSpec) -> Caches:
    """Those of a target's processor, or what is usual where it is not known."""
    return _KNOWN.get(spec.cpu) or _ARCHITECTURES.get(spec.arch, _SMALL)
