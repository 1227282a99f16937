"""Optuna's samplers as strategies. Optuna is no dependency: whoever has a sampler has it."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from tunefarm_compiler.choices import Choose

from tunefarm_tuner.search.base import Candidate, Observation, Space
from tunefarm_tuner.search.strategies import Walk

TRIES = 16


class Drawable(Space, Protocol):
    """A space that can be walked by decisions, each named and with its options."""

    def draw(self, choose: Choose) -> Candidate:
        """A candidate; it may be one that is not `valid`."""

    def valid(self, candidate: Candidate) -> bool:
        """Whether a candidate is one of the space."""


class OptunaSearch(Walk):
    """Asks an Optuna sampler for every decision, and tells it what became of the candidates.

    Candidates that cannot be built, and known ones, are told as failed and asked for again.
    """

    def __init__(
        self, space: Drawable, sampler: Any, seed: int = 0, seeds: Sequence[Candidate] = ()
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(space, seed, seeds)
        self._drawable = space
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._failed = optuna.trial.TrialState.FAIL
        self._trials: dict[Candidate, Any] = {}

    def observe(self, results: Sequence[Observation]) -> None:
        """Learn."""
        super().observe(results)
        for result in results:
            trial = self._trials.pop(result.candidate, None)
            if trial is None:
                continue
            if math.isfinite(result.cost_s):
                self._study.tell(trial, math.log(result.cost_s))
            else:
                self._study.tell(trial, state=self._failed)

    def _fresh(self, count: int) -> list[Candidate]:
        found: list[Candidate] = []
        for _ in range(TRIES * count):
            if len(found) == count:
                break
            trial = self._study.ask()

            def choose(name: str, options: Sequence[Any], weights: Sequence[float]) -> Any:
                # A distribution has one set of options under one name.
                key = f"{name} of {', '.join(map(str, options))}"
                return trial.suggest_categorical(key, list(options))  # noqa: B023

            candidate = self._drawable.draw(choose)
            if candidate in self.seen or candidate in found or not self._drawable.valid(candidate):
                self._study.tell(trial, state=self._failed)
                continue
            self._trials[candidate] = trial
            found.append(candidate)
        return found
