"""A space and a strategy without any idea: the compiler's grid, in a random order."""

import random
from collections.abc import Iterator, Sequence

from tunefarm_compiler import default_schedule
from tunefarm_compiler import space as grid
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload

from tunefarm_tuner.search.base import Candidate, Observation, Space


class GridSpace:
    """The compiler's grid of a workload."""

    def __init__(self, workload: Workload, spec: TargetSpec) -> None:
        self._default = default_schedule(workload, spec).to_json()
        self._all = [one.to_json() for one in grid(workload, spec)]

    def default(self) -> Candidate | None:
        """The default schedule."""
        return self._default

    def candidates(self) -> Iterator[Candidate]:
        """All."""
        return iter(self._all)

    def sample(self, rng: random.Random) -> Candidate:
        """Any."""
        return rng.choice(self._all)

    def mutate(self, candidate: Candidate, rng: random.Random) -> Candidate:
        """Any other."""
        return self.sample(rng)

    def cross(self, one: Candidate, other: Candidate, rng: random.Random) -> Candidate:
        """One of them."""
        return rng.choice((one, other))

    def features(self, candidate: Candidate) -> Sequence[float]:
        """None."""
        return ()


class Shuffled:
    """The default first, then all others in a random order."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        first = space.default()
        rest = [one for one in space.candidates() if one != first]
        random.Random(seed).shuffle(rest)  # noqa: S311 (an order, not a secret)
        self._left = [*([first] if first is not None else []), *rest]
        self._known: set[Candidate] = set()

    def propose(self, count: int) -> list[Candidate]:
        """The next ones."""
        found: list[Candidate] = []
        while self._left and len(found) < count:
            one = self._left.pop(0)
            if one not in self._known:
                found.append(one)
        return found

    def observe(self, results: Sequence[Observation]) -> None:
        """Those are known."""
        self._known.update(result.candidate for result in results)
