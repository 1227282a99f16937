"""What the device server logs under one lease, for its holder. Bounded."""

import collections
import logging
from contextvars import ContextVar

MOST_LINES = 1000
MOST_LINE = 500

# The log of the device for which something is done; none: of the server itself, which all may see.
WHOSE: "ContextVar[LeaseLog | None]" = ContextVar("WHOSE", default=None)


class LeaseLog(logging.Handler):
    """Keeps the last lines; to be cleared when a lease has ended, before the next begins."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._lines: collections.deque[str] = collections.deque(maxlen=MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line of it: what follows, a traceback say, is the operator's.

        What is done for another device is none of this one's.
        """
        if WHOSE.get() not in (None, self):
            return
        record = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        lines = self.format(record).splitlines() or [""]
        self._lines.append(lines[0][:MOST_LINE])

    def clear(self) -> None:
        """Forget all."""
        self._lines.clear()

    def text(self) -> str:
        """What was kept, a line each."""
        return "".join(f"{line}\n" for line in list(self._lines))
