"""The learned cost model: which candidates are likely fast, from features of measured ones."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVELS = 31  # relevance of the fastest of a group; a failure has 0
MIN_ROWS = 8
PARAMETERS: dict[str, Any] = {
    "objective": "lambdarank",
    "label_gain": [float(level) ** 2 for level in range(LEVELS + 1)],
    "lambdarank_truncation_level": 60,
    "num_leaves": 15,
    "min_data_in_leaf": 3,
    "learning_rate": 0.1,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
TREES = 80


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


class CostModel:
    """Gradient-boosted trees that rank candidates. Untrained, it knows nothing: all are equal."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._booster: Any = None

    @property
    def trained(self) -> bool:
        """Whether it knows anything."""
        return self._booster is not None

    def train(self, groups: Sequence[Group]) -> None:
        """Learn anew from all of these; too few change nothing."""
        kept = [group for group in groups if len(group.costs_s) > 1]
        if sum(len(group.costs_s) for group in kept) < MIN_ROWS:
            return
        import lightgbm

        rows = np.array([row for group in kept for row in group.features], np.float64)
        labels = [label for group in kept for label in relevance(group.costs_s)]
        data = lightgbm.Dataset(rows, labels, group=[len(group.costs_s) for group in kept])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._booster = lightgbm.train({**PARAMETERS, "seed": self._seed}, data, TREES)

    def scores(self, features: Sequence[Sequence[float]]) -> list[float]:
        """A number for each, larger for those that are likely faster."""
        if self._booster is None or not features:
            return [0.0] * len(features)
        found = self._booster.predict(np.array(features, np.float64), num_threads=1)
        return [float(one) for one in found]
