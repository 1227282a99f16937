"""How a function of a GPU library runs: launches, as plain data. Standard library alone."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Launch:
    """One launch: its kernel's symbol, sizes as (x, y, z), dynamic shared memory.

    `arguments` are the parameters: places among the function's arguments, then its scratch.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Launches in their order, and the sizes of the scratch memory that they share."""

    launches: tuple[Launch, ...]
    scratch_bytes: tuple[int, ...] = ()

    def data(self) -> list[Any]:
        """For a frame: what `plan_of` reads."""
        launches = [
            [one.kernel, one.grid, one.block, one.shared_bytes, one.arguments]
            for one in self.launches
        ]
        return [launches, self.scratch_bytes]


def plan_of(data: list[Any]) -> Plan:
    """What `Plan.data` gave."""
    launches = tuple(
        Launch(kernel, tuple(grid), tuple(block), shared, tuple(arguments))
        for kernel, grid, block, shared, arguments in data[0]
    )
    return Plan(launches, tuple(data[1]))
