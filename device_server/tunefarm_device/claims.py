"""What one device server of a host has and no other: processors to time on, sets of them, units.

A claim is an abstract socket's name, which the system takes back with our last breath. The
environment's TUNEFARM_CLAIMS, where it is set, makes the names a world of their own: for tests.
"""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterable

from tunefarm_proto.errors import InvalidRequestError

MOST_NAME = 80  # the system takes 107 bytes with what stands before it


class Claims:
    """The names that this server holds."""

    def __init__(self) -> None:
        self._held: dict[str, socket.socket] = {}

    def take(self, name: str) -> bool:
        """Whether it is ours now. Taking it twice is fine."""
        if name in self._held:
            return True
        whole = os.environ.get("TUNEFARM_CLAIMS", "") + name
        if len(whole) > MOST_NAME:
            whole = hashlib.sha256(whole.encode()).hexdigest()
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0tunefarm-{whole}")
        except OSError:
            claim.close()
            return False
        self._held[name] = claim
        return True

    def drop(self, name: str) -> None:
        """Let others have it."""
        if name in self._held:
            self._held.pop(name).close()

    def close(self) -> None:
        """Let others have all. Doing it twice is fine."""
        for name in list(self._held):
            self.drop(name)

    def cores(self, cpus: Iterable[int]) -> None:
        """A set of processors for one device alone. Raises: InvalidRequestError."""
        for cpu in sorted(cpus):
            if not self.take(f"cores-{cpu}"):
                raise InvalidRequestError(
                    f"another device server of this host has processor {cpu}", "give other cores"
                )

    def timing_cpu(self, cpus: Iterable[int]) -> int | None:
        """The highest processor on which no other device server times; None without one.

        Those in another server's sets are passed over.
        """
        for cpu in sorted(cpus, reverse=True):
            ours = f"cores-{cpu}" in self._held
            free = self.take(f"cores-{cpu}")
            if free and not ours:
                self.drop(f"cores-{cpu}")
            if free and self.take(f"cpu-{cpu}"):
                return cpu
        return None


def keep_off(given: Iterable[int], timing: Iterable[int]) -> None:
    """Leave processors to the kernels, for this process and those that it starts.

    Those given to devices, or, where there are no others, those timed on, or else none.
    """
    allowed = os.sched_getaffinity(0)
    timing = set(timing)
    for others in (allowed - set(given) - timing, allowed - timing):
        if others:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, others)
            return
