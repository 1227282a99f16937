"""What a run of `tune` is for: how many trials of what, by which strategy, and on whose boards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tunefarm.request import Where
from tunefarm_compiler.threads import MOST_THREADS
from tunefarm_proto.errors import InvalidRequestError

from tunefarm_tuner.search import (
    STRATEGIES,
    RoundRobin,
    Space,
    Strategy,
    TaskScheduler,
    WarmStart,
)
from tunefarm_tuner.tasks import Custom
from tunefarm_tuner.wanted import Tuned

DEFAULT_STRATEGY = "model"
THINKING = ("model", "evolution")  # strategies that get a process of their own
SCHEDULERS = {"gradient": TaskScheduler, "round-robin": RoundRobin}
MOST_TRIALS = 1 << 24


# Of a space, a seed and what other searches know.
MakeStrategy: TypeAlias = Callable[[Space, int, WarmStart], Strategy]


@dataclass(frozen=True)
class Asked:
    """How devices are requested: as for `request_device`."""

    tracker: str | None = None
    priority: int = 0
    timeout: float | None = None
    wait_for_key: bool = False
    where: Where | None = None


@dataclass(frozen=True)
class Plan:
    """What a run is for."""

    wanted: Sequence[Tuned | Custom]
    keys: dict[str, int]
    trials: int
    strategy: str | MakeStrategy
    scheduler: str
    patience: int
    threads: int = 1

    def check(self) -> None:
        """Raises: InvalidRequestError for what makes no sense."""
        if not 1 <= self.trials <= MOST_TRIALS or not self.keys or not self.wanted:
            raise InvalidRequestError(
                f"{self.trials} trials of {len(self.wanted)} workloads on {len(self.keys)} keys",
                f"give 1 or more, and at most {MOST_TRIALS} trials",
            )
        if not 1 <= self.threads <= MOST_THREADS:
            raise InvalidRequestError(f"{self.threads} threads", f"give 1 to {MOST_THREADS}")
        if isinstance(self.strategy, str) and self.strategy not in STRATEGIES:
            raise InvalidRequestError(
                f"no strategy {self.strategy!r}", f"known are {', '.join(STRATEGIES)}"
            )
        if self.scheduler not in SCHEDULERS:
            raise InvalidRequestError(
                f"no scheduler {self.scheduler!r}", f"known are {', '.join(SCHEDULERS)}"
            )
        if self.patience < 0:
            raise InvalidRequestError(f"a patience of {self.patience} trials", "give 0 or more")

    @property
    def strategy_name(self) -> str:
        """For those who look on."""
        given = self.strategy
        return given if isinstance(given, str) else getattr(given, "__name__", "custom")

    @property
    def thinks(self) -> bool:
        """Whether any of its searches is thought of in a process of its own."""
        return self.strategy in THINKING and any(isinstance(one, Tuned) for one in self.wanted)
