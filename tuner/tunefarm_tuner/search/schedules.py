"""The space of a workload's schedules on a target, as text."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from tunefarm_compiler.choices import Choose
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.spaces import default_schedule, rules_of
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload
from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_tuner.search.base import Candidate

_read = lru_cache(4096)(Schedule.from_json)


def words(schedule: Schedule) -> dict[str, float]:
    """What a schedule says itself, in numbers: those of its axes and tensors, 0 where not named.

    Loops of an axis and their places are counted from the innermost one.
    """
    found: dict[str, float] = {"lanes": schedule.lanes, "unroll": math.log2(schedule.unroll)}
    seen: dict[str, int] = {}
    for place, (axis, size) in enumerate(reversed(schedule.loops), 1):
        seen[axis] = seen.get(axis, 0) + 1
        found[f"size {axis} {seen[axis]}"] = math.log2(size) + 1
        found[f"place {axis} {seen[axis]}"] = place
    for place, axis in enumerate(schedule.order, 1):
        found[f"order {axis}"] = place
    for pack in schedule.packs:
        found[f"pack {pack.tensor}"] = len(schedule.loops) - pack.depth + 1
    for prefetch in schedule.prefetches:
        name = f"{prefetch.tensor} {prefetch.cache}"
        found[f"prefetch {name}"] = math.log2(prefetch.ahead) + 1
        found[f"prefetch {name} along {prefetch.axis}"] = 1
    for attach in schedule.stages:
        found[f"{attach.stage} at"] = attach.depth + 1
        inner = words(attach.schedule)
        found |= {f"{attach.stage} {name}": value for name, value in inner.items()}
    return found


class ScheduleSpace:
    """Every schedule of a workload on a target, on so many threads or fewer, worth building."""

    def __init__(self, workload: Workload, spec: TargetSpec, threads: int = 1) -> None:
        self.workload, self.spec, self.threads = workload, spec, threads
        self.rules = rules_of(workload, spec, threads)

    def default(self) -> Candidate:
        """The schedule of the compiler's own rules."""
        return self.rules.default.to_json()

    def alone(self) -> list[Candidate]:
        """The default on one thread, where there are several: it is the best of what is small."""
        if self.rules.threads == 1:
            return []
        made = default_schedule(self.workload, self.spec)
        return [] if self.rules.fault(made) else [made.to_json()]

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

    def words(self, candidate: Candidate) -> Mapping[str, float]:
        """What it says itself, for a model of this space alone. Raises: InvalidScheduleError."""
        return words(_read(candidate))

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
