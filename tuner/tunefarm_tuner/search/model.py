"""The learned cost model: which candidates are likely fast, from features of measured ones."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVELS = 31  # relevance of the fastest of a group; a failure has 0
MIN_ROWS = 8
SHARED: dict[str, Any] = {
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
# Ranks the candidates of the search itself: what is best of many that are nearly so.
RANKING = SHARED | {
    "objective": "lambdarank",
    "label_gain": [float(level) ** 2 for level in range(LEVELS + 1)],
    "lambdarank_truncation_level": 400,
    "num_leaves": 15,
    "min_data_in_leaf": 3,
    "learning_rate": 0.1,
}
RANKING_TREES = 80
# Rates candidates of all searches by their speed, 1 for the fastest of each: what carries over.
RATING = SHARED | {
    "objective": "regression",
    "num_leaves": 31,
    "min_data_in_leaf": 2,
    "learning_rate": 0.06,
}
RATING_TREES = 120
MOST_ROWS = 4096  # of a group: LightGBM ranks up to 10,000, and time counts too
HALF_TRUST = 64  # own results at which ranks count half as much as they ever do


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
            f"the cost model needs LightGBM ({said}): pip install 'tunefarm[host]'; "
            "searching by plain evolution instead"
        )
    return ""


def relevance(costs_s: Sequence[float]) -> list[int]:
    """Levels from costs: the fastest has the highest, half its speed about half, a failure 0."""
    best = min((cost for cost in costs_s if math.isfinite(cost)), default=1.0)
    return [
        max(1, round(LEVELS * (best / cost) ** 2)) if math.isfinite(cost) else 0 for cost in costs_s
    ]


def thinned(group: Group) -> Group:
    """A group of bearable size: the faster half of what is kept, and the others evenly."""
    count = len(group.costs_s)
    if count <= MOST_ROWS:
        return group
    order = sorted(range(count), key=lambda n: group.costs_s[n])
    rest, half = order[MOST_ROWS // 2 :], MOST_ROWS // 2
    kept = order[:half] + [rest[n * len(rest) // half] for n in range(half)]
    return Group([group.features[n] for n in kept], [group.costs_s[n] for n in kept])


def speeds(costs_s: Sequence[float]) -> list[float]:
    """Shares of the speed of the fastest; 0 for a failure."""
    best = min((cost for cost in costs_s if math.isfinite(cost)), default=1.0)
    return [best / cost if math.isfinite(cost) else 0.0 for cost in costs_s]


class CostModel:
    """Gradient-boosted trees that say which candidates are likely faster, of two kinds.

    One rates candidates of all groups by their speed. One ranks those of the search itself, by the
    lambdarank objective, and counts for more the more of them there are. Untrained, all are equal.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._rating: Any = None
        self._ranking: Any = None
        self._trust = 0.0

    @property
    def trained(self) -> bool:
        """Whether it knows anything."""
        return self._rating is not None

    def train(self, prior: Sequence[Group], own: Group | None = None) -> None:
        """Learn anew from other searches and from the search itself; too few change nothing."""
        mine = thinned(own) if own is not None and len(own.costs_s) > 1 else None
        groups = [*prior, *([mine] if mine else [])]
        if sum(len(group.costs_s) for group in groups) < MIN_ROWS:
            return
        count = len(mine.costs_s) if mine else 0
        # What other searches say counts for less the more is known of this one.
        weights = [
            1.0 if group is mine else 1 / (1 + count / 32)
            for group in groups
            for _ in group.costs_s
        ]
        labels = [speed for group in groups for speed in speeds(group.costs_s)]
        self._rating = self._fit(RATING, RATING_TREES, groups, labels, weight=weights)
        if mine is not None and count >= MIN_ROWS:
            ranks = relevance(mine.costs_s)
            self._ranking = self._fit(RANKING, RANKING_TREES, [mine], ranks, group=[count])
            self._trust = count / (count + HALF_TRUST)

    def _fit(
        self,
        parameters: dict[str, Any],
        trees: int,
        groups: Sequence[Group],
        labels: Sequence[float],
        **more: Any,
    ) -> Any:
        import lightgbm

        rows = np.array([row for group in groups for row in group.features], np.float64)
        data = lightgbm.Dataset(rows, np.array(labels), **more)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return lightgbm.train({**parameters, "seed": self._seed}, data, trees)

    def scores(self, features: Sequence[Sequence[float]]) -> list[float]:
        """A number for each, larger for those that are likely faster."""
        if self._rating is None or not features:
            return [0.0] * len(features)
        rows = np.array(features, np.float64)
        total = self._rating.predict(rows, num_threads=1)
        if self._ranking is not None:
            # On the scale of speeds: a rank's whole range counts as much as a part of theirs.
            ranks = self._ranking.predict(rows, num_threads=1)
            spread = float(np.std(ranks)) or 1.0
            total = total + self._trust * float(np.std(total)) * ranks / spread
        return [float(one) for one in total]
