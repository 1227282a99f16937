"""Which processors share what, and so which devices of one server take turns at timing."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunefarm_device.conditions import read_text

MOST_PROCESSORS = 1 << 16
_CPU = "sys/devices/system/cpu"


def parse_cpus(text: str, separator: str = ",") -> frozenset[int]:
    """Processors as the system writes them, "0-3,8". Raises: ValueError."""
    found: set[int] = set()
    for part in text.split(separator):
        numbers = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part, re.ASCII)
        if numbers is None:
            raise ValueError(f"{part!r} is no processor and no range of them")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not first <= last < MOST_PROCESSORS:
            raise ValueError(f"{part} is an empty range")
        found.update(range(first, last + 1))
    return frozenset(found)


def spell_cpus(cpus: Iterable[int], separator: str = ",") -> str:
    """As `parse_cpus` reads it: {0, 1, 2, 8} is "0-2,8"."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return separator.join(f"{a}-{b}" if a < b else f"{a}" for a, b in runs)


@dataclass(frozen=True)
class Topology:
    """Of each processor those that it shares a core with, and those with its last-level cache.

    Each counts itself. One that is not there is one that the system says nothing of.
    """

    siblings: Mapping[int, frozenset[int]]
    caches: Mapping[int, frozenset[int]]


def read_topology(cpus: Iterable[int], root: Path = Path("/")) -> Topology:
    """What the system says of these processors."""
    siblings, caches = {}, {}
    for cpu in cpus:
        folder = root / _CPU / f"cpu{cpu}"
        with contextlib.suppress(ValueError):
            siblings[cpu] = parse_cpus(read_text(folder / "topology/thread_siblings_list")) | {cpu}
        with contextlib.suppress(ValueError):
            last = max(folder.glob("cache/index*"), key=_level, default=folder)
            caches[cpu] = parse_cpus(read_text(last / "shared_cpu_list")) | {cpu}
    return Topology(siblings, caches)


def _level(cache: Path) -> int:
    text = read_text(cache / "level")
    return int(text) if text.isdigit() else 0


def groups(cpus: Iterable[int], shared: Sequence[Mapping[int, frozenset[int]]]) -> dict[int, int]:
    """The group of each processor, named by its lowest one: what is shared links them."""
    group: dict[int, int] = {}
    for links in shared:
        for cpu in cpus:
            linked = links[cpu] | {cpu}
            names = {group.get(one, one) for one in linked}
            joined = {one for one, name in group.items() if name in names} | linked
            group.update(dict.fromkeys(joined, min(names)))
    return group


def turns(
    devices: Sequence[frozenset[int]],
    topology: Topology,
    together: bool = False,
    apart: Collection[int] = (),
) -> list[tuple[int, ...]]:
    """The locks under which each device times, in the order in which they are taken.

    `devices` are their processors. Devices with a lock in common take turns: there is one for each
    group of processors that share a last-level cache or a core; with `together` one for each core
    alone. One that nobody else takes is left out where there is another. Where the system does not
    say what is shared, there is one for all. The devices at the places `apart` are no part of a
    processor, GPUs: they take turns with processors, and not with each other.
    """
    order = _shared_locks(devices, topology, together)
    hosts = {name for n, names in enumerate(order) if n not in apart for name in names}
    return [
        tuple(name for name in names if name in hosts) or (-1 - n,) if n in apart else names
        for n, names in enumerate(order)
    ]


def _shared_locks(
    devices: Sequence[frozenset[int]], topology: Topology, together: bool
) -> list[tuple[int, ...]]:
    used = sorted(frozenset[int]().union(*devices))
    shared = [topology.siblings] if together else [topology.siblings, topology.caches]
    if any(cpu not in links for links in shared for cpu in used):
        return [(0,)] * len(devices)
    group = groups(used, shared)
    order = [sorted({group[cpu] for cpu in device}) for device in devices]
    takers = Counter(name for names in order for name in names)
    return [tuple(n for n in names if takers[n] > 1) or (names[0],) for names in order]


class Turn:
    """Holds several locks at once, as an asynchronous context.

    Whoever takes them in ascending order of the same names never waits for one who waits for it.
    """

    def __init__(self, locks: Sequence[asyncio.Lock]) -> None:
        self._locks = locks

    async def __aenter__(self) -> None:
        """Wait for all of them."""
        taken: list[asyncio.Lock] = []
        try:
            for lock in self._locks:
                await lock.acquire()
                taken.append(lock)
        except BaseException:
            for lock in taken:
                lock.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        """Let the next one."""
        for lock in self._locks:
            lock.release()
