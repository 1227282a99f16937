"""Evolution led by the cost model: many children are bred, the likely fastest are measured."""

from collections.abc import Mapping, Sequence

from tunefarm_tuner.search import model
from tunefarm_tuner.search.base import Candidate, Space, Wordy
from tunefarm_tuner.search.model import CostModel, Group
from tunefarm_tuner.search.strategies import Evolution

POOL = 256  # candidates that are kept from one batch to the next
CHILDREN = 12  # bred for each that is asked for
SAMPLES = 12  # drawn by chance for each
CHANCE, NEAR = 0.6, 0.3  # of a batch: the likely fastest of those by chance, of those nearby
SIBLINGS = 3  # proposals of one batch that may look alike to the model
NEWS = 8  # results, at least, after which the model is trained anew,
SHARE = 8  # and at least one for so many that it knows


class Guided(Evolution):
    """Breeds by the model's scores, measures the best of them and `epsilon` by chance.

    What was bred and not measured stays, and is bred from, in the batches that follow. `prior` are
    groups of other workloads, targets or devices: with them the model knows something from the
    first batch on. Where LightGBM is missing it is plain evolution, and `note` says so.
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
        self.pool = pool
        self._prior = prior
        self._model: CostModel | None = None
        self._rows: dict[Candidate, tuple[Sequence[float], Mapping[str, float]]] = {}
        self._names: list[str] = []  # words that the model knows
        self._scores: dict[Candidate, float] = {}  # of the pool
        self._steps: dict[Candidate, int] = {}  # 0: by chance; 1: from a measured one; 2: by scores
        self._known = 0  # results that the model learnt from

    def _read(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            if candidate not in self._rows:
                words = self.space.words(candidate) if isinstance(self.space, Wordy) else {}
                self._rows[candidate] = self.space.features(candidate), words

    def _table(self, candidates: Sequence[Candidate]) -> list[list[float]]:
        """Features, then what they say in the words that the model knows."""
        self._read(candidates)
        rows = (self._rows[candidate] for candidate in candidates)
        names = self._names
        return [[*row, *(words.get(name, 0.0) for name in names)] for row, words in rows]

    def _learnt(self) -> CostModel:
        """The model, trained anew where enough results came."""
        if self._model is None:
            self._model = CostModel(self._seed, self._prior)
        news = len(self.results) - self._known
        if news >= max(NEWS, self._known // SHARE):
            self._known = len(self.results)
            own = [one for one in self.results.values() if self.usable(one.candidate)]
            measured = [one.candidate for one in own]
            self._read(measured)
            self._names = sorted({name for one in measured for name in self._rows[one][1]})
            self._model.train(Group(self._table(measured), [one.cost_s for one in own]))
            self._score(list(self._scores), self._model)
        return self._model

    def _score(self, candidates: Sequence[Candidate], learnt: CostModel) -> None:
        found = learnt.scores(self._table(candidates))
        self._scores.update(zip(candidates, found, strict=True))

    def _fresh(self, count: int) -> list[Candidate]:
        if self.note:
            return super()._fresh(count)
        few = len(self.results) < self.start and not self._prior
        if few or not (learnt := self._learnt()).trained:
            return self._samples(count)
        random = sum(self._chance() for _ in range(count))
        found = self._bred(count - random, learnt)
        return [*found, *self._samples(count - len(found))]

    def _bred(self, count: int, learnt: CostModel) -> list[Candidate]:
        """The likely fastest of the pool, not too many alike."""
        ranked = self.ranked(self.elite)
        for one in [one for one in self._scores if one in self.seen]:
            del self._scores[one]
        first = not self._scores
        children = CHILDREN * max(count, 1) // 2
        self._join(self._samples(self.pool // 2 if first else SAMPLES * count), learnt, 0)
        if ranked:
            self._join([self.child(ranked) for _ in range(children)], learnt, 1)
        for _ in range(2):
            best = self._order()[: self.elite]
            parents = [*best, *ranked[: self.elite // 2]]
            if parents:
                self._join([self.child(parents) for _ in range(children // 2)], learnt, 2)
        order = self._order()
        chosen: list[Candidate] = []
        # What is bred by scores from what was bred by scores has the model's errors in it: shares
        # of a batch are for what came by chance, and for what is a step from what was measured.
        for steps, share in ((0, CHANCE), (1, NEAR)):
            part = [one for one in order if self._steps[one] <= steps and one not in chosen]
            chosen += _unlike(part, self._scores, self._share(count * share))
        rest = [one for one in order if one not in chosen]
        chosen += _unlike(rest, self._scores, count - len(chosen))
        self._keep(order[: self.pool])
        return chosen[:count]

    def _share(self, exact: float) -> int:
        """A whole number, so in the mean."""
        return int(exact + self.rng.random())

    def _join(self, made: Sequence[Candidate], learnt: CostModel, steps: int) -> None:
        """Put what is new into the pool."""
        made = [one for one in dict.fromkeys(made) if one not in self.seen]
        self._score([one for one in made if one not in self._scores], learnt)
        for one in made:
            self._steps[one] = min(steps, self._steps.get(one, steps))

    def _order(self) -> list[Candidate]:
        return sorted(self._scores, key=lambda one: (-self._scores[one], one))

    def _keep(self, kept: Sequence[Candidate]) -> None:
        """Forget the others; rows of what was measured stay."""
        self._scores = {one: self._scores[one] for one in kept}
        self._steps = {one: self._steps[one] for one in kept}
        self._rows = {
            one: row
            for one, row in self._rows.items()
            if one in self._scores or one in self.results
        }


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
