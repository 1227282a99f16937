"""How a GPU cuts up a sum of products of two tensors: plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tunefarm_proto.errors import InvalidScheduleError

MMA = ("", "f16", "bf16", "tf32", "s8", "wgmma")
LAYOUTS = ("xor", "pad", "plain")
WARP = 32
MOST_THREADS = 1024
RANGES = {"stages": (2, 8), "split": (1, 256), "group": (1, 1 << 16), "resident": (1, 16)}
MOST_ACCUMULATORS = 256


@dataclass(frozen=True)
class Contract:
    """Blocks of (m, n, k) in shared memory, dealt out to `warps` along m and n.

    With `mma` a warp computes by tensor cores of that kind ("tf32" rounds float32 inputs to 10 bits
    of fraction: it is never taken unless it is asked for; "wgmma" are those of sm_90a, which four
    warps along m share). Without, `lanes` of a warp lie along m
    and n, and each thread has a register tile of multiply-adds. `stages` blocks of k are in shared
    memory at once; `vector` is the most bytes that a thread copies at a time; `layout` says how
    lines lie against bank conflicts; k is cut into `split` parts that a second kernel adds up;
    `group` blocks along m run side by side, so that they share what they read. Registers are kept
    so few that `resident` blocks of threads fit in a multiprocessor.
    """

    block: tuple[int, int, int]
    warps: tuple[int, int]
    lanes: tuple[int, int] = (4, 8)
    mma: str = ""
    stages: int = 2
    vector: int = 16
    layout: str = "xor"
    split: int = 1
    group: int = 8
    resident: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.warps[0] * self.warps[1]

    @property
    def tile(self) -> tuple[int, int]:
        """What a warp computes: rows and columns."""
        return self.block[0] // self.warps[0], self.block[1] // self.warps[1]

    @property
    def accumulators(self) -> int:
        """Sums that a thread holds in registers."""
        return self.block[0] * self.block[1] // self.threads

    def data(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "Contract":
        """What `data` gave. Raises: KeyError, TypeError, ValueError for what is none."""
        if unknown := set(data) - set(cls.__dataclass_fields__):
            raise ValueError(f"unknown field {min(unknown)!r}")
        m, n, k = (int(side) for side in data["block"])
        down, across = (int(side) for side in data["warps"])
        tall, wide = (int(side) for side in data.get("lanes", (4, 8)))
        words = {name: str(data[name]) for name in ("mma", "layout") if name in data}
        numbers = {name: int(data[name]) for name in (*RANGES, "vector") if name in data}
        return cls((m, n, k), (down, across), (tall, wide), **words, **numbers)  # type: ignore[arg-type]

    def check(self) -> None:
        """Whether it makes sense for any shapes. Raises: InvalidScheduleError."""
        sides = (*self.block, *self.warps, *self.lanes, self.vector)
        if any(side < 1 or side & (side - 1) for side in sides):
            raise _bad("a side that is no power of two", "block, warps, lanes, vector are")
        if self.mma not in MMA or self.layout not in LAYOUTS:
            raise _bad(
                f"mma={self.mma!r}, layout={self.layout!r}",
                f"mma is one of {', '.join(map(repr, MMA))}; layout of {', '.join(LAYOUTS)}",
            )
        if self.lanes[0] * self.lanes[1] != WARP:
            raise _bad(f"lanes {self.lanes}", f"their product is {WARP}")
        if self.threads > MOST_THREADS:
            raise _bad(f"{self.threads} threads", f"{MOST_THREADS} at most")
        if self.mma == "wgmma" and (
            self.warps[0] % 4 or self.tile[1] > 256 or self.stages < 3 or self.layout != "xor"
        ):
            raise _bad(
                f"wgmma of warps {self.warps}, tiles of {self.tile}, {self.stages} stages, "
                f"layout {self.layout!r}",
                "four warps along m, at most 256 columns, 3 stages or more, layout xor",
            )
        rows, columns = (16, 8) if self.mma else self.lanes
        if self.tile[0] < rows or self.tile[1] < columns:
            raise _bad(f"tiles of a warp of {self.tile}", f"at least {rows} by {columns}")
        if self.accumulators > MOST_ACCUMULATORS:
            raise _bad(f"{self.accumulators} sums in a thread", f"{MOST_ACCUMULATORS} at most")
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise _bad(f"{name}={getattr(self, name)}", f"{low} to {high}")
        if self.vector > 16:
            raise _bad(f"vector={self.vector}", "1 to 16 bytes")


def _bad(what: str, right: str) -> InvalidScheduleError:
    return InvalidScheduleError(f"contraction: {what}", right)
