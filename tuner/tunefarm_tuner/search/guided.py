"""Evolution led by the cost model: many children are bred, the likely fastest are measured."""

from collections.abc import Sequence

from tunefarm_tuner.search import model
from tunefarm_tuner.search.base import Candidate, Observation, Space
from tunefarm_tuner.search.model import CostModel, Group
from tunefarm_tuner.search.strategies import Evolution

POOL = 160  # candidates of one generation
GENERATIONS = 3
SIBLINGS = 3  # proposals of one batch that may look alike to the model


class Guided(Evolution):
    """Breeds by the model's scores, measures the best of them and `epsilon` by chance.

    `prior` are groups of other workloads, targets or devices: with them the model knows something
    from the first batch on. Where LightGBM is missing it is plain evolution, and `note` says so.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        seeds: Sequence[Candidate] = (),
        *,
        prior: Sequence[Group] = (),
        epsilon: float = 0.1,
        start: int = 16,
        elite: int = 32,
        pool: int = POOL,
    ) -> None:
        super().__init__(space, seed, seeds, epsilon=epsilon, start=start, elite=elite)
        self.note = model.missing()
        self.model = CostModel(seed)
        self.pool = pool
        self._prior = list(prior)
        self._rows: dict[Candidate, Sequence[float]] = {}
        self._stale = True

    def observe(self, results: Sequence[Observation]) -> None:
        """Learn."""
        super().observe(results)
        self._stale = True

    def _features(self, candidates: Sequence[Candidate]) -> list[Sequence[float]]:
        for candidate in candidates:
            if candidate not in self._rows:
                self._rows[candidate] = self.space.features(candidate)
        return [self._rows[candidate] for candidate in candidates]

    def _train(self) -> None:
        if not self._stale:
            return
        self._stale = False
        own = [one for one in self.results.values() if self.usable(one.candidate)]
        rows = self._features([one.candidate for one in own])
        self._rows = {one.candidate: row for one, row in zip(own, rows, strict=True)}
        self.model.train(self._prior, Group(rows, [one.cost_s for one in own]))

    def _fresh(self, count: int) -> list[Candidate]:
        if self.note:
            return super()._fresh(count)
        self._train()
        few = len(self.results) < self.start and not self._prior
        if few or not self.model.trained:
            return self._samples(count)
        random = sum(self._chance() for _ in range(count))
        found = self._bred(count - random)
        return [*found, *self._samples(count - len(found))]

    def _bred(self, count: int) -> list[Candidate]:
        """The likely fastest of some generations, not too many alike, half of them of the first."""
        ranked = self.ranked(self.elite)
        pool = dict.fromkeys(self._samples(self.pool // 2 if ranked else self.pool))
        parents = ranked or list(pool)
        scores: dict[Candidate, float] = {}
        near: set[Candidate] = set()
        for generation in range(GENERATIONS):
            if generation == 1 and ranked:
                near = set(pool)
            for _ in range(self.pool):
                child = self.child(parents)
                if child not in self.seen:
                    pool[child] = None
            new = [one for one in pool if one not in scores]
            scores.update(zip(new, self.model.scores(self._features(new)), strict=True))
            best = sorted(pool, key=lambda one: (-scores[one], one))[: self.elite]
            parents = [*best, *ranked[: self.elite // 2]]
        # Half of them close to what was measured: far from it the model may be wrong.
        order = sorted(pool, key=lambda one: (-scores[one], one))
        chosen = _unlike([one for one in order if one in near], scores, count // 2)
        rest = [one for one in order if one not in chosen]
        return [*chosen, *_unlike(rest, scores, count - len(chosen))]


def _unlike(
    order: Sequence[Candidate], scores: dict[Candidate, float], count: int
) -> list[Candidate]:
    """The first ones, of which no more than a few look alike to the model."""
    chosen: list[Candidate] = []
    alike: dict[float, int] = {}
    for one in order:
        if len(chosen) == count:
            break
        look = round(scores[one], 6)
        alike[look] = alike.get(look, 0) + 1
        if alike[look] <= SIBLINGS:
            chosen.append(one)
    return chosen
