"""Finding fast candidates: spaces, strategies, cost model, transfer, tasks. No I/O, no clock."""

from tunefarm_proto.errors import InvalidRequestError

from tunefarm_tuner.search.base import Candidate, Observation, Space, Strategy
from tunefarm_tuner.search.guided import Guided
from tunefarm_tuner.search.model import Group
from tunefarm_tuner.search.schedules import ScheduleSpace
from tunefarm_tuner.search.stopping import Patience
from tunefarm_tuner.search.strategies import Evolution, GridSearch, RandomSearch
from tunefarm_tuner.search.tasks import RoundRobin, Task, TaskScheduler
from tunefarm_tuner.search.transfer import Experience, WarmStart, warm_start

STRATEGIES = ("model", "evolution", "random", "grid")


def strategy(name: str, space: Space, seed: int = 0, start: WarmStart | None = None) -> Strategy:
    """The strategy of that name, one of `STRATEGIES`. Raises: InvalidRequestError."""
    begin = start or WarmStart()
    match name:
        case "model":
            return Guided(space, seed, begin.seeds, prior=begin.groups)
        case "evolution":
            return Evolution(space, seed, begin.seeds)
        case "random":
            return RandomSearch(space, seed, begin.seeds)
        case "grid":
            return GridSearch(space, seed, begin.seeds)
    raise InvalidRequestError(f"no strategy {name!r}", f"known are {', '.join(STRATEGIES)}")


__all__ = [
    "STRATEGIES", "Candidate", "Evolution", "Experience", "GridSearch", "Group", "Guided",
    "Observation", "Patience", "RandomSearch", "RoundRobin", "ScheduleSpace", "Space", "Strategy",
    "Task", "TaskScheduler", "WarmStart", "strategy", "warm_start",
]  # fmt: skip
