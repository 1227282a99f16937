"""What a launch did, in numbers by which schedules are judged."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from .kinds import Array
from .syntax import Instruction

SECTOR = 32
BANKS = 32


@dataclass
class Access:
    """What one instruction asked of memory, over the whole launch.

    A request is one instruction of one warp. `transactions` are sectors of 32 bytes of global
    memory and wavefronts of shared memory; `ideal` is how many lanes side by side would need.
    """

    line: int
    text: str
    space: str
    requests: int = 0
    bytes: int = 0
    transactions: int = 0
    ideal: int = 0

    @property
    def per_request(self) -> float:
        """Sectors, or wavefronts, of one request."""
        return self.transactions / self.requests if self.requests else 0.0

    @property
    def conflicts(self) -> int:
        """Shared memory: wavefronts beyond those that no bank conflict would need."""
        return max(0, self.transactions - self.ideal)


@dataclass
class Statistics:
    """A launch in numbers. Instructions are counted per warp, those predicated off too.

    `accesses` is empty unless the launch was asked for them.
    """

    blocks: int = 0
    threads: int = 0
    barriers: int = 0
    seconds: float = 0.0
    instructions: Counter[str] = field(default_factory=Counter)
    accesses: list[Access] = field(default_factory=list)

    def total(self, space: str) -> Access:
        """All accesses to a space ("global", "shared") as one."""
        total = Access(0, "total", space)
        for access in self.accesses:
            if access.space == space:
                total.requests += access.requests
                total.bytes += access.bytes
                total.transactions += access.transactions
                total.ideal += access.ideal
        return total

    @property
    def bank_conflicts(self) -> int:
        """Wavefronts that bank conflicts cost."""
        return sum(a.conflicts for a in self.accesses if a.space == "shared")

    def report(self) -> str:
        """A table to be read."""
        lines = [
            f"{self.blocks} blocks of {self.threads} threads, {self.barriers} barriers of a warp, "
            f"{sum(self.instructions.values())} instructions of a warp in {self.seconds:.3f} s"
        ]
        lines += [f"  {count:>12} {name}" for name, count in self.instructions.most_common()]
        if self.accesses:
            lines.append("  requests  sectors/wavefronts  per request  ideal  line  instruction")
        for a in self.accesses:
            ideal = a.ideal / a.requests if a.requests else 0.0
            lines.append(
                f"  {a.requests:>8}  {a.transactions:>18}  {a.per_request:>11.2f}  {ideal:>5.2f}"
                f"  {a.line:>4}  {a.text}"
            )
        return "\n".join(lines)


class Recorder:
    """Counts sectors and wavefronts while a launch runs; a block takes `padded` lanes."""

    def __init__(self, padded: int) -> None:
        self.padded = padded
        self.accesses: dict[tuple[int, str], Access] = {}

    def _access(self, at: Instruction | None, space: str) -> Access:
        line, text = (at.line, at.text) if at else (0, "")
        key = (line, text + space)
        if key not in self.accesses:
            self.accesses[key] = Access(line, text, space)
        return self.accesses[key]

    def in_global(self, at: Instruction | None, lanes: Array, addresses: Array, size: int) -> None:
        """Lanes that ask for `size` bytes each, at these addresses (or all at the one)."""
        access = self._access(at, "global")
        warps = lanes >> 5
        counts = np.bincount(warps)
        requests = int(np.count_nonzero(counts))
        access.requests += requests
        access.bytes += len(lanes) * size
        access.ideal += int((-(-counts * size // SECTOR)).sum())
        if len(addresses) == 1:
            access.transactions += requests
            return
        keys = (warps.astype(np.uint64) << np.uint64(43)) | (addresses >> np.uint64(5))
        access.transactions += len(_distinct(keys))

    def in_shared(self, at: Instruction | None, lanes: Array, addresses: Array, size: int) -> None:
        """Lanes that ask for `size` bytes each; wider accesses go by half and quarter warps."""
        access = self._access(at, "shared")
        times = 1
        count = len(lanes) // self.padded
        if count > 1 and count * self.padded == int(lanes[-1] - lanes[0]) + 1 == len(lanes):
            rows = addresses.reshape(count, self.padded)
            if (rows == rows[0]).all():
                # All blocks ask for the same places, as they do in most kernels.
                times, lanes, addresses = count, lanes[: self.padded], rows[0]
        words = max(1, size // 4)
        phases = lanes // (32 // words)
        access.requests += times * int(np.count_nonzero(np.bincount(lanes >> 5)))
        access.bytes += times * len(lanes) * size
        first = addresses.astype(np.int64) >> 2
        asked = first[:, None] + np.arange(words) if words > 1 else first[:, None]
        keys = _distinct((phases[:, None].astype(np.int64) << 32) | asked)
        phase, bank = keys >> 32, keys & (BANKS - 1)
        places = BANKS * (int(phase.max()) + 1)
        per_bank = np.bincount(phase * BANKS + bank, minlength=places)
        worst = per_bank.reshape(-1, BANKS).max(1)
        access.transactions += times * int(worst.sum())
        access.ideal += times * int(np.count_nonzero(worst))


def _distinct(keys: Array) -> Array:
    """Every key once, in order."""
    ordered = np.sort(keys, axis=None)
    fresh = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    return ordered[fresh]
