"""What a search is made of: a space of candidates, and a strategy that walks it.

A candidate is canonical text: a schedule's JSON, or a template's knobs as JSON with sorted keys.
Equal candidates have equal text: sets of them, records and resumed runs need nothing more.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Candidate = str


@dataclass(frozen=True)
class Observation:
    """What became of a candidate: seconds of one call, infinite where it failed for `error`.

    `error` is the name of a class of `tunefarm.errors`, "" where it worked.
    """

    candidate: Candidate
    cost_s: float
    error: str = ""


class Space(Protocol):
    """All candidates of one workload on one target."""

    def default(self) -> Candidate | None:
        """What is built where nothing was tuned."""

    def candidates(self) -> Iterator[Candidate]:
        """All of them, in an order that is always the same; may be very many."""

    def sample(self, rng: random.Random) -> Candidate:
        """Any of them."""

    def mutate(self, candidate: Candidate, rng: random.Random) -> Candidate:
        """A neighbour: one decision taken anew."""

    def cross(self, one: Candidate, other: Candidate, rng: random.Random) -> Candidate:
        """A child: each decision of one parent or of the other."""

    def features(self, candidate: Candidate) -> Sequence[float]:
        """Numbers for a cost model, as many for each candidate, and of the same meaning for other
        workloads and targets."""


@runtime_checkable
class Wordy(Protocol):
    """A space whose candidates say more than their features: numbers of this space alone."""

    def words(self, candidate: Candidate) -> Mapping[str, float]:
        """By name; 0 where a name is missing."""


class Strategy(Protocol):
    """Decides what to try. Told of results in any order and number, also of ones it never proposed
    (records of an earlier run)."""

    def propose(self, count: int) -> list[Candidate]:
        """Up to `count` candidates, none proposed or told of before; none at all: it is through."""

    def observe(self, results: Sequence[Observation]) -> None:
        """Learn."""
