"""The last of what the runners of one lease printed, to be told when it has ended."""

from collections.abc import Callable

from tunefarm_proto.plain import TAIL_BYTES, plain_tail

Output = Callable[[], bytes]


class LeaseOutput:
    """Sessions open theirs and close it; what is still open at the lease's end is taken with it.

    So whatever a session does after its lease has ended is nobody's: it is not told with the next.
    """

    def __init__(self) -> None:
        self._open: dict[object, Output] = {}
        self._said = b""

    def open(self, whose: object, output: Output) -> None:
        """A session begins; `output` gives the last of what it printed."""
        self._open[whose] = output

    def close(self, whose: object) -> None:
        """A session ends. Doing it twice is fine."""
        output = self._open.pop(whose, None)
        if output is not None:
            self._said = (self._said + output())[-TAIL_BYTES:]

    def take(self) -> str:
        """What was printed under the lease that has ended, as plain text; forgets it."""
        for whose in list(self._open):
            self.close(whose)
        said, self._said = self._said, b""
        return plain_tail(said)
