"""Deadlines that move often: at most a few entries of a heap for each, mended when they come up."""

import heapq
from collections.abc import Iterator
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]


class Timers:
    """Deadlines by key. Moving one later costs a dictionary write."""

    def __init__(self) -> None:
        self._wanted: dict[Key, float] = {}
        self._queued: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []

    def __contains__(self, key: Key) -> bool:
        return key in self._wanted

    def set(self, key: Key, when: float) -> None:
        """Set or move a deadline."""
        self._wanted[key] = when
        if when < self._queued.get(key, float("inf")):
            self._queued[key] = when
            heapq.heappush(self._heap, (when, key))

    def clear(self, key: Key) -> None:
        """Forget a deadline."""
        self._wanted.pop(key, None)

    def next(self) -> float | None:
        """When to look again; may be early, never late."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Key]:
        """Take the deadlines that have passed, earliest first.

        What is set while they are carried out is for the next time, so this always ends.
        """
        passed = []
        while self._heap and self._heap[0][0] <= now:
            when, key = heapq.heappop(self._heap)
            if self._queued.get(key) == when:  # else moved earlier since, and gone already
                del self._queued[key]
                passed.append((self._wanted.get(key), key))
        for wanted, key in passed:
            if wanted is None or self._wanted.get(key) != wanted:
                continue  # cleared or set anew: that has an entry of its own
            if wanted > now:
                self.set(key, wanted)
                continue
            del self._wanted[key]
            yield key
