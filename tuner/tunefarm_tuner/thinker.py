"""Where strategies are asked: on a thread of its own, since a model may take its time."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tunefarm_tuner.ledger import Ledger, Line
from tunefarm_tuner.search.base import Candidate, Observation
from tunefarm_tuner.seats import now

SLOWEST_LATELY = 0.8


@dataclass(frozen=True)
class Proposed:
    """A strategy's answer."""

    line: Line
    asked: int
    found: list[Candidate]


class Thinker:
    """Asks one strategy after another, and has the references computed meanwhile.

    `post` is told what they propose, and what they raise. `seconds` is how long they take at most.
    """

    def __init__(self, ledger: Ledger, post: Callable[[Proposed | BaseException], None]) -> None:
        self.seconds = 0.0
        self._ledger = ledger
        self._post = post
        self._asked: queue.SimpleQueue[tuple[Line, int, list[Observation]] | None] = (
            queue.SimpleQueue()
        )

    def start(self) -> None:
        """Begin."""
        for work in (self._think, self._expect):
            name = f"tunefarm{work.__name__.replace('_', '-')}"
            threading.Thread(target=self._guarded, args=[work], name=name, daemon=True).start()

    def ask(self, line: Line, count: int) -> None:
        """Have a line's strategy propose so many, knowing all that is known by now."""
        news, line.news = line.news, []
        self._asked.put((line, count, news))

    def stop(self) -> None:
        """End, when the answer under way has come. Does not wait."""
        self._asked.put(None)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # it ends the run, there
            self._post(error)

    def _think(self) -> None:
        while (asked := self._asked.get()) is not None:
            line, count, news = asked
            began = now()
            if news:
                line.strategy.observe(news)
            found = line.strategy.propose(count)
            # A model is trained now and then: that it was quick once says little.
            self.seconds = max(now() - began, SLOWEST_LATELY * self.seconds)
            self._post(Proposed(line, count, found))

    def _expect(self) -> None:
        for line in list(self._ledger.lines):
            line.task.expected()
