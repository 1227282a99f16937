"""Who is served next of those who wait for one key.

Higher priority first. Within a priority the user who holds the fewest devices of the key goes
first, then who has used it least lately, then who came first. A user's own requests keep their
order; each one ahead counts like a device held, so that users take turns.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import TypeAlias

# Of a user: devices of the key held now, device seconds of it used lately.
Share: TypeAlias = Callable[[str], tuple[int, float]]


class Queue:
    """The waiting requests of one key."""

    def __init__(self) -> None:
        self._of: dict[int, dict[str, list[tuple[int, str]]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, priority: int, user: str, seq: int, request_id: str) -> None:
        """A request starts to wait."""
        insort(self._of.setdefault(priority, {}).setdefault(user, []), (seq, request_id))
        self._count += 1

    def remove(self, priority: int, user: str, seq: int, request_id: str) -> None:
        """A request waits no longer."""
        users = self._of[priority]
        own = users[user]
        del own[bisect_left(own, (seq, request_id))]
        self._count -= 1
        if not own:
            del users[user]
        if not users:
            del self._of[priority]

    def priorities(self) -> list[int]:
        """Those that somebody waits with, highest first."""
        return sorted(self._of, reverse=True)

    def order(self, priority: int, share: Share) -> Iterator[str]:
        """The requests of one priority, next first. Lazy: the queue must not change meanwhile."""
        users = self._of.get(priority, {})
        heap = []
        for user, own in users.items():
            held, used = share(user)
            heap.append((held, used, *own[0], user, 0))
        heapq.heapify(heap)
        while heap:
            held, used, _, request_id, user, index = heap[0]
            own = users[user]
            if index + 1 < len(own):
                heapq.heapreplace(heap, (held + 1, used, *own[index + 1], user, index + 1))
            else:
                heapq.heappop(heap)
            yield request_id

    def position(self, priority: int, user: str, seq: int, request_id: str, share: Share) -> int:
        """The place of a request in the order, 1 is next, without walking through it."""
        own = self._of[priority][user]
        held, used = share(user)
        mine = held + bisect_left(own, (seq, request_id))
        ahead = 0
        for other, theirs in self._of[priority].items():
            if other == user:
                ahead += mine - held
                continue
            their_held, their_used = share(other)
            level = mine - their_held  # of theirs so many are surely ahead, one more may be
            count = min(max(level, 0), len(theirs))
            tied = 0 <= level < len(theirs)
            if tied and (their_used, theirs[level]) < (used, (seq, request_id)):
                count += 1
            ahead += count
        above = sum(
            len(own) for p, users in self._of.items() if p > priority for own in users.values()
        )
        return above + ahead + 1
