"""When a search has gone on for long enough without finding anything better."""

import math
from collections.abc import Sequence

from tunefarm_tuner.search.base import Observation


class Patience:
    """Through after `trials` results in a row none of which is better by the share `gain`.

    `trials` of 0: never through. Failed candidates count too.
    """

    def __init__(self, trials: int, gain: float = 0.005) -> None:
        self.trials, self.gain = trials, gain
        self.best_s = math.inf
        self.idle = 0

    def observe(self, results: Sequence[Observation]) -> None:
        """Take note of results."""
        for result in results:
            if result.cost_s < self.best_s * (1 - self.gain):
                self.best_s, self.idle = result.cost_s, 0
            else:
                self.idle += 1

    @property
    def through(self) -> bool:
        """Whether to stop."""
        return bool(self.trials) and self.idle >= self.trials
