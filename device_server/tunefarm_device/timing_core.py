"""When a runner is on the timing core, and how it waits there. Standard library."""

import contextlib
import os
import select
import socket
import time

SPIN_S = 300e-6
IDLE_S = 1e-3


class TimingCore:
    """Runs this process on the timing core while it calls kernels, and only then.

    Loads and copies must not disturb what others time. Moving costs 20 us and more, so it stays
    there between calls that follow each other on `connection`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._before: set[int] | None = None
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def enter(self, cpu: int | None) -> None:
        """Go there, where there is one. A kernel that moved is moved back."""
        if cpu is None:
            return
        if self._before is None:
            self._before = os.sched_getaffinity(0)
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {cpu})

    def leave(self) -> None:
        """Go back."""
        if self._before is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._before)
            self._before = None

    def await_next(self) -> None:
        """Wait for a frame, at first without sleeping; leave where none comes within 1 ms.

        To be woken takes longer than a short call, and on the timing core nobody else wants to run.
        """
        if self._before is None:
            return
        limit = time.perf_counter() + SPIN_S
        while time.perf_counter() < limit:
            if self._poll.poll(0):
                return
        if not self._poll.poll(IDLE_S * 1e3):
            self.leave()
