"""How the loops of a schedule lie on a GPU, as plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tunefarm_compiler.contract import Contract

BINDS = ("block", "thread", "")
WARP = 32
MOST_THREADS = 1024


@dataclass(frozen=True)
class Gpu:
    """`binds` say of each loop of the schedule who runs its blocks, each its own one.

    "block": the blocks of the grid; "thread": the threads of a block; "": one thread, one block
    after the other. Of loops that are bound alike the last one varies fastest. The scratch of a
    stage in shared memory has rows that are `pad` elements longer than what they hold. A sum of
    products may have a `contract` instead of loops and binds.
    """

    binds: tuple[str, ...] = ()
    pad: int = 0
    contract: Contract | None = None

    def data(self) -> dict[str, Any]:
        """As JSON has it; what says nothing is left out."""
        return {name: value for name, value in asdict(self).items() if value or name == "binds"}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "Gpu":
        """Of what `data` gave. Raises: ValueError, TypeError, KeyError."""
        if not isinstance(data, Mapping):
            raise ValueError(f"{str(data)[:40]!r} is where gpu is to be an object")
        if unknown := set(data) - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown field {min(unknown)!r} of gpu")
        contract = data.get("contract")
        return cls(
            tuple(str(bind) for bind in data["binds"]),
            int(data.get("pad", 0)),
            None if contract is None else Contract.read(contract),
        )
