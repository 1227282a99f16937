"""The space of a workload's schedules on a target, as text."""

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

from tunefarm_compiler.choices import Choose
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.spaces import rules_of
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload
from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_tuner.search.base import Candidate

_read = lru_cache(4096)(Schedule.from_json)


class ScheduleSpace:
    """Every schedule of a workload on a target, on so many threads, that is worth building."""

    def __init__(self, workload: Workload, spec: TargetSpec, threads: int = 1) -> None:
        self.workload, self.spec, self.threads = workload, spec, threads
        self.rules = rules_of(workload, spec, threads)

    def default(self) -> Candidate:
        """The schedule of the compiler's own rules."""
        return self.rules.default.to_json()

    def candidates(self) -> Iterator[Candidate]:
        """All of them, the default first."""
        return (schedule.to_json() for schedule in self.rules.every())

    def sample(self, rng: random.Random) -> Candidate:
        """Any of them."""
        return self.rules.sample(rng).to_json()

    def mutate(self, candidate: Candidate, rng: random.Random) -> Candidate:
        """One decision taken anew. Raises: InvalidScheduleError."""
        return self.rules.mutate(_read(candidate), rng).to_json()

    def cross(self, one: Candidate, other: Candidate, rng: random.Random) -> Candidate:
        """Each decision of one or the other. Raises: InvalidScheduleError."""
        return self.rules.cross(_read(one), _read(other), rng).to_json()

    def features(self, candidate: Candidate) -> Sequence[float]:
        """`features.NAMES` of it, of GPUs those of `gpu.features`. Raises: InvalidScheduleError."""
        schedule = _read(candidate)
        if said := self.rules.broken(schedule):
            raise InvalidScheduleError(said)
        return self.rules.features(schedule)

    def draw(self, choose: Choose) -> Candidate:
        """A schedule by decisions that `choose` takes; it may have a fault, see `valid`."""
        return self.rules.draw(choose).to_json()

    def valid(self, candidate: Candidate) -> bool:
        """Whether it is a schedule of this space."""
        try:
            return not self.rules.fault(_read(candidate))
        except InvalidScheduleError:
            return False

    def adapt(self, candidate: Candidate, source: "ScheduleSpace") -> Candidate | None:
        """The nearest candidate here to one of the same operator's other sizes or target."""
        try:
            found = self.rules.adapt(_read(candidate), source.rules)
        except InvalidScheduleError:
            return None
        return found.to_json() if found is not None else None
