"""Where loops stand, and which conditions that decides."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tunefarm_compiler.emit import Emitter, Value
from tunefarm_compiler.te import Index

# Iterations that leave a condition open are written out one by one, up to so many in a row.
PEEL = 16


@dataclass(frozen=True)
class Range:
    """What a loop leaves of an axis: `extent` indices from `at`, which lies in low ... high."""

    at: Value
    low: int
    high: int
    extent: int

    @classmethod
    def whole(cls, extent: int) -> "Range":
        """An axis outside every loop."""
        return cls(0, 0, 0, extent)

    def part(self, at: Value, start: int, last: int, extent: int) -> "Range":
        """A block of it that begins between start and last, which count from its beginning."""
        return Range(at, self.low + start, self.high + last, extent)

    def point(self) -> "Range":
        """Its first index alone."""
        return Range(self.at, self.low, self.high, 1)


Ranges = Mapping[str, Range]


def interval(index: Index, ranges: Ranges) -> tuple[int, int]:
    """The smallest and largest value of an affine form."""
    low = high = index.offset
    for axis, coefficient in index.terms:
        where = ranges[axis]
        ends = (coefficient * where.low, coefficient * (where.high + where.extent - 1))
        low, high = low + min(ends), high + max(ends)
    return low, high


def points(ranges: Ranges) -> dict[str, Range]:
    """The first index of every axis alone."""
    return {axis: where.point() for axis, where in ranges.items()}


def position(
    emit: Emitter, terms: Iterable[tuple[str, int]], ranges: Ranges, offset: int = 0
) -> Value:
    """An affine form where the loops stand."""
    total: Value = offset
    for axis, coefficient in terms:
        total = emit.add(total, emit.multiply(ranges[axis].at, coefficient))
    return total


def decide(test: Index, ranges: Ranges) -> bool | None:
    """Whether test >= 0: surely, surely not, or None where it depends."""
    low, high = interval(test, ranges)
    return True if low >= 0 else False if high < 0 else None


@dataclass(frozen=True)
class Segment:
    """Iterations `start` ... `start + rounds` of a loop, decided alike or to be written out."""

    start: int
    rounds: int


def segments(
    tests: Sequence[Index], ranges: Ranges, axis: str, rounds: int, block: int
) -> Iterator[Segment]:
    """Cut the blocks of an axis where a condition that it moves becomes certain.

    What stays open is cut into single iterations where these are few.
    """
    moving = [t for t in tests if axis in dict(t.terms) and decide(t, ranges) is None]

    def states(number: int) -> list[bool | None]:
        where = ranges[axis].part(0, number * block, number * block, block)
        return [decide(test, {**ranges, axis: where}) for test in moving]

    start = 0
    while start < rounds:
        here = states(start)

        # A condition is monotone along a loop: once it changes, it does not come back.
        def changed(number: int, here: list[bool | None] = here) -> bool:
            return states(number) != here

        end = bisect_left(range(rounds), True, start + 1, key=changed)
        if None in here and end - start <= PEEL:
            yield from (Segment(number, 1) for number in range(start, end))
        else:
            yield Segment(start, end - start)
        start = end
