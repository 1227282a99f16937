"""Blocks, threads and shared memory of a launch: read from words, and what a GPU has of them."""

import math
from dataclasses import dataclass

from tunefarm_proto.errors import InvalidRequestError

from tunefarm_compiler.targets import TargetSpec

MOST_GRID = (2**31 - 1, 65535, 65535)
MOST_BLOCK = (1024, 1024, 64)
MOST_THREADS = 1024
WARP = 32


@dataclass(frozen=True)
class Card:
    """What a multiprocessor has: bytes of shared memory, threads, blocks, registers."""

    shared: int
    threads: int
    blocks: int
    registers: int = 65536

    def blocks_at_once(self, threads: int, registers: int, shared: int) -> int:
        """Blocks of so many threads, registers of a thread and bytes that fit at a time."""
        warps = -(-threads // WARP)
        # Registers are given out to a warp, 256 at a time.
        of_warp = -(-max(registers, 1) * WARP // 256) * 256
        fitting = [self.threads // (warps * WARP), self.blocks, self.registers // of_warp // warps]
        if shared:
            fitting.append(self.shared // (shared + 1024))
        return min(fitting)


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
CARDS = {
    "sm_75": Card(64 << 10, 1024, 16),
    "sm_80": Card(164 << 10, 2048, 32),
    "sm_86": Card(100 << 10, 1536, 16),
    "sm_87": Card(164 << 10, 1536, 16),
    "sm_89": Card(100 << 10, 1536, 24),
    "sm_90": Card(228 << 10, 2048, 32),
    "sm_100": Card(228 << 10, 2048, 32),
    "sm_120": Card(100 << 10, 1536, 24),
}


def card(cpu: str) -> Card:
    """Of a level as in "sm_80" or "sm_90a"; of one that is not known, the least there is."""
    return CARDS.get(cpu.rstrip("af"), CARDS["sm_75"])


@dataclass(frozen=True)
class Geometry:
    """Blocks of the grid, threads of a block (x, y, z) and bytes of dynamic shared memory."""

    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int = 0

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return math.prod(self.block)


def sides(text: str, option: str) -> tuple[int, ...]:
    """1 to 3 numbers, as in "8" or "64,64,2". Raises: InvalidRequestError."""
    words = text.replace("x", ",").split(",")
    if not 1 <= len(words) <= 3 or not all(word.strip().isdecimal() for word in words):
        raise InvalidRequestError(
            f"--{option} {text[:40]!r}", f"give one to three numbers, as in --{option} 8 or 64,64"
        )
    return tuple(int(word) for word in words)


def check(geometry: Geometry, spec: TargetSpec) -> None:
    """Whether a GPU of that target can run it. Raises: InvalidRequestError."""
    _check_sides("grid", geometry.grid, MOST_GRID)
    _check_sides("block", geometry.block, MOST_BLOCK)
    if geometry.threads > MOST_THREADS:
        raise InvalidRequestError(
            f"a block of {geometry.threads} threads",
            f"a GPU runs blocks of up to {MOST_THREADS} threads",
        )
    if not 0 <= geometry.shared <= spec.shared_bytes:
        raise InvalidRequestError(
            f"{geometry.shared} bytes of shared memory for a block",
            f"{spec.cpu} has up to {spec.shared_bytes} for one",
        )


def _check_sides(option: str, given: tuple[int, ...], most: tuple[int, ...]) -> None:
    fits = 1 <= len(given) <= 3 and all(
        1 <= side <= limit for side, limit in zip(given, most, strict=False)
    )
    if not fits:
        raise InvalidRequestError(
            f"--{option} {','.join(map(str, given))}",
            f"give one to three numbers from 1 to {', '.join(map(str, most))}",
        )
