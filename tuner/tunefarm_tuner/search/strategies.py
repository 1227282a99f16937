"""Strategies that need no model: random, grid, evolution. Each is the same for the same seed."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence

from tunefarm_proto.errors import TunefarmError

from tunefarm_tuner.search.base import Candidate, Observation, Space

MISSES = 200  # samples in a row that were all known: the space is small, and is walked instead


class Walk:
    """What all strategies share: nothing is proposed twice, the default comes first, then seeds.

    A subclass gives `_fresh(count)`, new candidates by its own idea; it may give known ones, and
    fewer than asked for.
    """

    def __init__(self, space: Space, seed: int = 0, seeds: Sequence[Candidate] = ()) -> None:
        self.space = space
        self._seed = seed
        self.rng = random.Random(seed)  # noqa: S311 (a search, not a secret)
        self.seen: set[Candidate] = set()
        self.results: dict[Candidate, Observation] = {}
        first = space.default()
        self._seeds = [*([] if first is None else [first]), *seeds]
        self._rest: Iterator[Candidate] | None = None
        self._usable: dict[Candidate, bool] = {}

    def propose(self, count: int) -> list[Candidate]:
        """Up to `count` candidates, none proposed or told of before; none at all: it is through."""
        batch: list[Candidate] = []
        while self._seeds and len(batch) < count:
            self._take(self._seeds.pop(0), batch)
        while len(batch) < count:
            before = len(batch)
            for candidate in self._fresh(count - len(batch)):
                if len(batch) < count:
                    self._take(candidate, batch)
            if len(batch) == before:
                self._walk(count, batch)
                break
        return batch

    def observe(self, results: Sequence[Observation]) -> None:
        """Learn; what is told again replaces what was told before.

        Candidates that it never proposed are of an earlier run of the same seed: from there on
        chance has to take another way than it took then.
        """
        before = len(self.seen)
        for result in results:
            self.seen.add(result.candidate)
            self.results[result.candidate] = result
        if len(self.seen) > before:
            self.rng.seed(f"{self._seed} {len(self.seen)}")

    def ranked(self, most: int) -> list[Candidate]:
        """What worked and is of this space, the fastest first."""
        good = [one for one in self.results.values() if math.isfinite(one.cost_s)]
        order = sorted(good, key=lambda one: (one.cost_s, one.candidate))
        usable = (one.candidate for one in order if self.usable(one.candidate))
        return list(itertools.islice(usable, most))

    def usable(self, candidate: Candidate) -> bool:
        """Whether it is of this space: records may hold what older versions made."""
        if candidate not in self._usable:
            try:
                self.space.features(candidate)
                self._usable[candidate] = True
            except TunefarmError:
                self._usable[candidate] = False
        return self._usable[candidate]

    def _fresh(self, count: int) -> list[Candidate]:
        raise NotImplementedError

    def _take(self, candidate: Candidate, batch: list[Candidate]) -> bool:
        if candidate in self.seen:
            return False
        self.seen.add(candidate)
        batch.append(candidate)
        return True

    def _walk(self, count: int, batch: list[Candidate]) -> None:
        """What is left of a small space, in its order."""
        if self._rest is None:
            self._rest = self.space.candidates()
        for candidate in self._rest:
            self._take(candidate, batch)
            if len(batch) == count:
                return

    def _samples(self, count: int) -> list[Candidate]:
        """Unknown samples; fewer where they are hard to come by."""
        found: dict[Candidate, None] = {}
        for _ in range(MISSES + 4 * count):
            if len(found) == count:
                break
            candidate = self.space.sample(self.rng)
            if candidate not in self.seen:
                found[candidate] = None
        return list(found)


class RandomSearch(Walk):
    """Any candidates."""

    def _fresh(self, count: int) -> list[Candidate]:
        return self._samples(count)


class GridSearch(Walk):
    """All candidates in the space's order."""

    def _fresh(self, count: int) -> list[Candidate]:
        return []


class Evolution(Walk):
    """Neighbours and children of the fastest, and a few by chance.

    `epsilon` is the share of random candidates, `start` how many before there are parents, `elite`
    how many of the fastest may be parents: the faster, the likelier.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        seeds: Sequence[Candidate] = (),
        *,
        epsilon: float = 0.1,
        start: int = 16,
        elite: int = 32,
        crossing: float = 0.3,
    ) -> None:
        super().__init__(space, seed, seeds)
        self.epsilon, self.start, self.elite, self.crossing = epsilon, start, elite, crossing

    def _fresh(self, count: int) -> list[Candidate]:
        parents = self.ranked(self.elite)
        if len(self.results) < self.start or not parents:
            return self._samples(count)
        found: dict[Candidate, None] = {}
        for _ in range(8 * count):
            if len(found) == count:
                break
            made = self.space.sample(self.rng) if self._chance() else self.child(parents)
            if made not in self.seen:
                found[made] = None
        return list(found) or self._samples(count)

    def _chance(self) -> bool:
        return self.rng.random() < self.epsilon

    def parent(self, parents: Sequence[Candidate]) -> Candidate:
        """One of those, the first ones likelier."""
        place = int(self.rng.expovariate(4 / len(parents)))
        return parents[min(place, len(parents) - 1)]

    def child(self, parents: Sequence[Candidate]) -> Candidate:
        """A neighbour of one, or a child of two."""
        one = self.parent(parents)
        if len(parents) > 1 and self.rng.random() < self.crossing:
            return self.space.cross(one, self.parent(parents), self.rng)
        return self.space.mutate(one, self.rng)
