"""The fleet: which devices a filter finds, a page of them, and how many are in which state."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunefarm_dashboard.views.rows import DeviceRow

STATES = ("idle", "leased", "cleaning", "draining", "offline")
HEALTHS = ("good", "suspect", "quarantined", "retired")
PAGE = 96


@dataclass(frozen=True)
class Filter:
    """Which devices. Every word of `q` stands somewhere in what a device says of itself."""

    q: str = ""
    key: str = ""
    state: str = ""
    health: str = ""

    @property
    def query(self) -> dict[str, str]:
        """As it stands in an address, without what is empty."""
        return {name: value for name, value in vars(self).items() if value}

    def find(self, rows: Sequence[DeviceRow]) -> list[DeviceRow]:
        """The devices that it lets through, in their order."""
        words = self.q.lower().split()
        return [
            row
            for row in rows
            if (not self.state or row.state == self.state)
            and (not self.health or row.health == self.health)
            and (not self.key or row.key == self.key)
            and (not words or _has(row, words))
        ]


def _has(row: DeviceRow, words: Sequence[str]) -> bool:
    text = "\n".join(
        (row.id, row.key, row.holder, row.purpose, row.target, row.labels, row.health_reason)
    ).lower()
    return all(word in text for word in words)


@dataclass(frozen=True)
class FleetPage:
    """A part of the devices that a filter found. `number` counts from 1."""

    rows: Sequence[DeviceRow]
    found: int
    number: int
    pages: int
    first: int
    last: int


def page_of(rows: Sequence[DeviceRow], number: int, size: int = PAGE) -> FleetPage:
    """The page of that number, or the nearest that there is."""
    pages = max(-(-len(rows) // size), 1)
    number = min(max(number, 1), pages)
    start = (number - 1) * size
    shown = rows[start : start + size]
    return FleetPage(shown, len(rows), number, pages, start + 1 if shown else 0, start + len(shown))


@dataclass(frozen=True)
class Tally:
    """How many devices are in which state and health; only those rows and columns with any."""

    total: int
    states: Sequence[str]
    healths: Sequence[str]
    counts: Mapping[tuple[str, str], int]
    of_state: Mapping[str, int]
    of_health: Mapping[str, int]
    keys: Sequence[tuple[str, int]]


def tally(rows: Sequence[DeviceRow]) -> Tally:
    """Count."""
    counts = Counter((row.state, row.health) for row in rows)
    of_state = Counter(row.state for row in rows)
    of_health = Counter(row.health for row in rows)
    return Tally(
        total=len(rows),
        states=[one for one in STATES if of_state[one]] + sorted(of_state.keys() - set(STATES)),
        healths=[one for one in HEALTHS if of_health[one]] + sorted(of_health.keys() - {*HEALTHS}),
        counts=counts,
        of_state=of_state,
        of_health=of_health,
        keys=sorted(Counter(row.key for row in rows).items()),
    )
