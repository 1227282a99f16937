"""Where values of a tile are read and written, and under which conditions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tunefarm_compiler.bounds import Ranges, position
from tunefarm_compiler.emit import Emitter, lanes_mask


@dataclass(frozen=True)
class Access:
    """Where a load or store goes: a base and how far each axis moves it, in elements.

    `strides` hold inside the register tile, `outer` between tiles: in packed panels they differ.
    """

    base: str
    strides: Mapping[str, int]
    outer: Mapping[str, int]
    dtype: str = "float32"
    packed: bool = False
    flip: int = 0  # each byte was xored with it when it was packed
    aligned: int = 1  # elements that the base, and every step from it, is a multiple of
    at: int = 0  # elements from the base, which others may share, to where this one begins

    def standing(self, emit: Emitter, ranges: Ranges) -> str:
        """Address where the loops stand: the base moved by every axis's offset."""
        return emit.pointer(self.base, position(emit, self.outer.items(), ranges), self.dtype)


@dataclass(frozen=True)
class Guard:
    """What must hold for lanes to be read: a condition for all, a mask ("" where there is none)."""

    every: str = ""
    mask: str = ""


WHOLE = Guard()


@dataclass(frozen=True)
class Piece:
    """One vector of a tile: a point of the other axes, a start along the vectors, its lanes.

    Lanes from `valid` on hold nothing: they are neither read nor written.
    """

    point: tuple[int, ...]
    start: int
    lanes: int
    valid: int

    @cached_property
    def guard(self) -> Guard:
        """That of the lanes that hold something."""
        if self.valid == self.lanes:
            return WHOLE
        return Guard(mask=lanes_mask([lane < self.valid for lane in range(self.lanes)]))

    @cached_property
    def _hash(self) -> int:
        return hash((self.point, self.start, self.lanes, self.valid))

    def __hash__(self) -> int:  # they are looked up far more often than made
        return self._hash
