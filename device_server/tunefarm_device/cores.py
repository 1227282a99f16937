"""Which processor each thread of a kernel runs on. Standard library alone: runners load this.

A library with threads exports `tunefarm_cores`: how many processors it may use, then for each
thread, the caller's first, the processor's number plus one, or 0 for any.
"""

import ctypes
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

MOST = 64
BINDABLE = 1024  # processors of higher numbers have no place in a library's mask
_CPU = Path("/sys/devices/system/cpu")


def physical(cpu: int, root: Path = _CPU) -> str:
    """What is the same for processors of one physical core, and for no others."""
    try:
        return (root / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return f"cpu{cpu}"


def spread(first: int, others: Iterable[int], core: Callable[[int], str] = physical) -> list[int]:
    """Processors from `first` on: one of each physical core before the second of any."""
    seen = Counter([core(first)])
    ranked = []
    for cpu in sorted(set(others) - {first}):
        ranked.append((seen[core(cpu)], cpu))
        seen[core(cpu)] += 1
    return [first, *(cpu for _, cpu in sorted(ranked))]


class Cores:
    """Tells a library its threads' processors: where the caller is, and `others`.

    Raises: ValueError for a library without threads.
    """

    def __init__(self, library: ctypes.CDLL, others: Iterable[int]) -> None:
        self._told = (ctypes.c_int32 * (MOST + 1)).in_dll(library, "tunefarm_cores")
        self._others = frozenset(others)
        self._caller: set[int] = set()

    def tell(self) -> None:
        """Before a call. Threads are bound only where the caller is, to one processor."""
        here = os.sched_getaffinity(0)
        if here == self._caller:
            return
        self._caller = here
        words = [0] * len(here)
        if len(here) == 1:
            order = spread(min(here), self._others)
            words = [cpu + 1 if cpu < BINDABLE else 0 for cpu in order]
        words = words[:MOST]
        self._told[: len(words) + 1] = [len(words), *words]
