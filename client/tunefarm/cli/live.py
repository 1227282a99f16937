"""What is shown again and again: a screen on a terminal, elsewhere changes as text or JSON."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tunefarm_proto.errors import ConnectionFailedError

from tunefarm.cli.output import is_terminal, paint, print_json
from tunefarm.tracker import Tracker

# The other screen, and no cursor; then back.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_FROM_TOP, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """Where texts replace each other. A context manager; the terminal is given back as it was."""

    def __init__(self, title: str, *, json: bool = False) -> None:
        self._title = title
        self._json = json
        self._drawn = is_terminal(sys.stdout) and not json
        self._last: object = None

    def __enter__(self) -> "Screen":
        if self._drawn:
            print(_ENTER, end="", flush=True)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn:
            with suppress(OSError):
                print(_LEAVE, end="", flush=True)

    def show(self, value: Any, text: str, note: str = "") -> None:
        """Show the text, or the value it is made of. Elsewhere than on a terminal: what is new."""
        if self._drawn:
            head = f"{self._title}  {time.strftime('%H:%M:%S')}  {note}".rstrip()
            lines = [paint(head, "bold"), *text.splitlines()]
            body = "".join(f"{line}{_REST_OF_LINE}\n" for line in lines)
            print(_FROM_TOP + body + _REST, end="", flush=True)
            return
        new = (value, note)
        if new == self._last:
            return
        self._last = new
        if self._json:
            print_json(value if not note else {"error": note}, line=True)
        else:
            print(f"{note}\n{text}" if note else f"{text}\n", flush=True)


def repeat(
    address: str | None,
    screen: Screen,
    every_s: float,
    read: Callable[[Tracker], Any],
    write: Callable[[Any], str],
    *,
    count: int | None = None,
) -> None:
    """Read from the tracker and show, `count` times, or until interrupted.

    A tracker that goes away is told, and asked again. Raises: TrackerUnreachableError where it does
    not answer at first.
    """
    tracker: Tracker | None = Tracker(address)
    value: Any = None
    shown = 0
    with screen:
        try:
            while True:
                note = ""
                try:
                    tracker = tracker or Tracker(address)
                    value = read(tracker)
                    shown += 1
                except ConnectionFailedError as error:
                    note = f"{error.message}; asking again"
                    if tracker is not None:
                        tracker.close()
                        tracker = None
                screen.show(value, write(value) if value is not None else "", note)
                if count is not None and shown >= count:
                    return
                time.sleep(every_s)
        finally:
            if tracker is not None:
                tracker.close()
