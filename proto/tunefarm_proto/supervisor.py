"""What a server tells systemd: that it is ready, that it lives, that it ends. Standard library."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

SOCKET, PERIOD = "NOTIFY_SOCKET", "WATCHDOG_USEC"
BEATS = 3.0  # in each period of the watchdog, so that one may be late


class Supervisor:
    """Whoever started this server and watches it; nobody where the environment names none.

    It takes its variables out of the environment, which kernels and commands inherit a part of.
    Source: sd_notify(3).
    """

    def __init__(self) -> None:
        self._address = os.environ.pop(SOCKET, "")
        period = os.environ.pop(PERIOD, "")
        os.environ.pop("WATCHDOG_PID", None)
        self._period_s = int(period) * 1e-6 if period.isdecimal() else 0.0

    def tell(self, *words: str) -> None:
        """Say it, as in "READY=1". What cannot be said is left out: nobody may be listening."""
        if not self._address:
            return
        where = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto("\n".join(words).encode(), where)

    async def _beat(self) -> None:
        while True:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._period_s / BEATS)

    @contextlib.contextmanager
    def watching(self, status: str) -> Iterator[None]:
        """Ready now, with a line of `status`; then alive as long as the running loop turns."""
        self.tell("READY=1", f"STATUS={status}")
        beat = asyncio.create_task(self._beat()) if self._period_s > 0 else None
        try:
            yield
        finally:
            self.tell("STOPPING=1")
            if beat is not None:
                beat.cancel()
