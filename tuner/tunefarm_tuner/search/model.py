"""The learned cost model: which candidates are likely fast, from features of measured ones."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
LEVELS = 31  # relevance of the fastest of a group; a failure has 0
MIN_ROWS = 8
SHARED: dict[str, Any] = {
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "num_leaves": 8,
    "max_bin": 63,
    "min_data_in_leaf": 3,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
# Ranks the candidates of the search itself: what is best of many that are nearly so.
RANKING = SHARED | {
    "objective": "lambdarank",
    "label_gain": [float(level) ** 2 for level in range(LEVELS + 1)],
    "lambdarank_truncation_level": 100,
    "learning_rate": 0.15,
}
RANKING_TREES = 40
# Rates candidates by their speed, 1 for the fastest of each search: what carries over.
RATING = SHARED | {"objective": "regression", "learning_rate": 0.1}
RATING_TREES = 60
CARRIED_TREES = 120
MOST_ROWS = 1024  # of the search itself, and of all others together: time counts too
HALF_TRUST = 64  # own results at which ranks count half as much as they ever do
BELIEF = 16  # own results that say as much about what carries over as was believed before


@dataclass(frozen=True)
class Group:
    """Measurements that can be compared: of one workload on one device. Failed ones cost inf."""

    features: Sequence[Sequence[float]]
    costs_s: Sequence[float]


def missing() -> str:
    """Why there can be no model; "" where there can."""
    try:
        import lightgbm  # noqa: F401
    except (ImportError, OSError) as error:
        said = str(error).splitlines()[0]
        return (
            f"the cost model needs LightGBM ({said}): pip install lightgbm; "
            "searching by plain evolution instead"
        )
    return ""


def relevance(costs_s: Sequence[float]) -> list[int]:
    """Levels from costs: the fastest has the highest, half its speed about half, a failure 0."""
    best = min((cost for cost in costs_s if math.isfinite(cost)), default=1.0)
    return [
        max(1, round(LEVELS * (best / cost) ** 2)) if math.isfinite(cost) else 0 for cost in costs_s
    ]


def thinned(group: Group, most: int = MOST_ROWS) -> Group:
    """A group of bearable size: the faster half of what is kept, and the others evenly."""
    count = len(group.costs_s)
    if count <= most:
        return group
    order = sorted(range(count), key=lambda n: group.costs_s[n])
    rest, half = order[most // 2 :], most // 2
    kept = order[:half] + [rest[n * len(rest) // half] for n in range(half)]
    return Group([group.features[n] for n in kept], [group.costs_s[n] for n in kept])


def speeds(costs_s: Sequence[float]) -> list[float]:
    """Shares of the speed of the fastest; 0 for a failure."""
    best = min((cost for cost in costs_s if math.isfinite(cost)), default=1.0)
    return [best / cost if math.isfinite(cost) else 0.0 for cost in costs_s]


class CostModel:
    """Gradient-boosted trees that say which candidates are likely faster. Untrained, all are equal.

    Rows of the search itself may have more columns than those of others, after these.
    What other searches, `prior`, say of speed is learnt once. Results of the search itself correct
    it: by trees that rate its candidates by what is left of their speed, and by trees that rank
    them, by the lambdarank objective, which count for more the more results there are.
    """

    def __init__(self, seed: int = 0, prior: Sequence[Group] = ()) -> None:
        self._seed = seed
        self._carried: Any = None
        self._rating: Any = None
        self._ranking: Any = None
        self._trust = 0.0
        self._slope, self._mean = 1.0, (0.0, 0.0)
        if sum(len(group.costs_s) for group in prior) >= MIN_ROWS:
            kept = [thinned(group, max(MOST_ROWS // len(prior), 2)) for group in prior]
            labels = np.array([speed for group in kept for speed in speeds(group.costs_s)])
            rows = np.array([row for group in kept for row in group.features], np.float64)
            self._carried = self._fit(RATING, CARRIED_TREES, rows, labels)

    @property
    def trained(self) -> bool:
        """Whether it knows anything."""
        return self._carried is not None or self._rating is not None

    def train(self, own: Group) -> None:
        """Learn anew from the search itself; too few results change nothing."""
        own = thinned(own)
        count = len(own.costs_s)
        if count < MIN_ROWS:
            return
        rows, labels = np.array(own.features, np.float64), np.array(speeds(own.costs_s))
        self._believe(rows, labels)
        first = self._first(rows)
        self._rating = self._fit(RATING, RATING_TREES, rows, labels, init_score=first)
        ranks = np.array(relevance(own.costs_s))
        self._ranking = self._fit(RANKING, RANKING_TREES, rows, ranks, group=[count])
        self._trust = count / (count + HALF_TRUST)

    def _believe(self, rows: Array, labels: Array) -> None:
        """How much of what carries over holds here: 1 at first, then by how well it did."""
        if self._carried is None:
            self._slope, self._mean = 0.0, (0.0, float(labels.mean()))
            return
        said = self._said(rows)
        self._mean = float(said.mean()), float(labels.mean())
        off, seen = said - said.mean(), labels - labels.mean()
        before = BELIEF * float((off * off).mean()) or 1.0
        self._slope = (float(off @ seen) + before) / (float(off @ off) + before)
        self._slope = min(max(self._slope, 0.0), 1.0)

    def _first(self, rows: Array) -> Array:
        """Speeds by what carries over alone."""
        found = np.full(len(rows), self._mean[1])
        if self._carried is not None and self._slope:
            found = found + self._slope * (self._said(rows) - self._mean[0])
        return found

    def _said(self, rows: Array) -> Array:
        shared = np.ascontiguousarray(rows[:, : self._carried.num_feature()])
        found: Array = self._carried.predict(shared, num_threads=1)
        return found

    def _fit(
        self, parameters: dict[str, Any], trees: int, rows: Array, labels: Array, **more: Any
    ) -> Any:
        import lightgbm

        data = lightgbm.Dataset(rows, labels, **more)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = {**parameters, "seed": self._seed}
            return lightgbm.train(given, data, trees, keep_training_booster=True)

    def scores(self, features: Sequence[Sequence[float]]) -> list[float]:
        """A number for each, larger for those that are likely faster."""
        if not self.trained or not features:
            return [0.0] * len(features)
        rows = np.array(features, np.float64)
        total = self._first(rows)
        if self._rating is not None:
            total = total + self._rating.predict(rows, num_threads=1)
            # On the scale of speeds: a rank's whole range counts as much as a part of theirs.
            ranks = self._ranking.predict(rows, num_threads=1)
            spread = float(np.std(ranks)) or 1.0
            total = total + self._trust * float(np.std(total)) * ranks / spread
        return [float(one) for one in total]
