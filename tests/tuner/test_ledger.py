"""Where trials are: each gets one record, whatever devices, builds and twins do."""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tunefarm import Bundle
from tunefarm_tuner.ledger import MOST_FAULTS, Ledger, Line, Trial
from tunefarm_tuner.records import FULL, Record
from tunefarm_tuner.search.base import Observation

NAME = ("w", "k", "t")


@dataclass
class Listed:
    """Proposes what it is given, in order."""

    left: list[str]
    told: list[Observation] = field(default_factory=list)

    def propose(self, count: int) -> list[str]:
        found, self.left = self.left[:count], self.left[count:]
        return found

    def observe(self, results: Any) -> None:
        self.told += results


def task(name: tuple[str, str, str] = NAME) -> Any:
    workload, key, target = name
    return SimpleNamespace(name=name, workload=workload, key=key, target=target, threads=1)


def record_of(trial: Trial, error: str = "", seconds: float = 1.0, **more: Any) -> Record:
    workload, key, target = trial.line.task.name
    return Record(
        workload=workload,
        target=target,
        device="d",
        device_key=key,
        emulated=False,
        schedule=trial.candidate,
        samples_s=[] if error else [seconds],
        error=error,
        id=trial.id,
        object_digest=trial.object_digest,
        **more,
    )


def first(lines: Any) -> Line:
    return lines[0]


def ask(ledger: Ledger, count: int) -> list[Trial]:
    trials = []
    for index, asked in ledger.next_lines(count, first).items():
        line = ledger.lines[index]
        trials += ledger.proposed(line, asked, line.strategy.propose(asked))
    return trials


def built(ledger: Ledger, trial: Trial, code: str = "") -> Trial | None:
    return ledger.built(trial, Bundle(b""), code or trial.candidate)


def test_a_trial_is_proposed_built_taken_and_done():
    ledger = Ledger()
    line = ledger.add(task(), Listed(["a", "b", "c"]), 2, [])
    one, two = ask(ledger, 5)
    assert line.missing == 0 and not ledger.over
    built(ledger, one)
    assert ledger.take("k", "t") is one
    assert ledger.take("k", "t") is None and ledger.take("other", "t") is None
    ledger.done(one, record_of(one, seconds=3.0))
    ledger.done(two, record_of(two, error="BuildFailedError"))
    assert ledger.over and (line.trials, line.failed) == (2, 1)
    assert line.best is not None and line.best.schedule == "a"
    assert [(o.candidate, o.cost_s) for o in line.news] == [("a", 3.0), ("b", float("inf"))]


def test_records_of_earlier_runs_count_and_are_not_tried_again():
    ledger = Ledger()
    old = Ledger()
    old.add(task(), Listed(["a", "b"]), 2, [])
    held = [record_of(trial) for trial in ask(old, 2)]
    final = Record(**{**record_of(Trial("x", old.lines[0], "z")).__dict__, "tier": FULL})
    line = ledger.add(task(), Listed(["a", "b", "c", "d"]), 4, [*held, final])
    assert line.trials == 2 and line.missing == 2
    assert [trial.candidate for trial in ask(ledger, 2)] == []  # a and b again
    assert [trial.candidate for trial in ask(ledger, 2)] == ["c", "d"]
    other = ledger.add(task(("w2", "k", "t")), Listed([]), 4, held)
    assert other.trials == 0


def test_twins_wait_for_the_first_of_their_code_and_are_no_trials():
    ledger = Ledger()
    line = ledger.add(task(), Listed(["a", "b", "c", "d"]), 2, [])
    one, two = ask(ledger, 2)
    assert built(ledger, one, "same") is None and built(ledger, two, "same") is None
    assert ledger.take("k", "t") is one and ledger.take("k", "t") is None
    assert line.missing == 1  # the twin is none of the two
    assert ledger.done(one, record_of(one)) == [two]
    ledger.done(two, record_of(two, duplicate_of=one.id))
    assert (line.trials, line.twins) == (1, 1)
    (three,) = ask(ledger, 4)
    assert built(ledger, three, "same") is three  # its twin is done: it needs no device


def test_what_a_lost_device_had_goes_back_to_the_front_and_not_for_ever():
    ledger = Ledger()
    ledger.add(task(), Listed(["a", "b", "c"]), 3, [])
    trials = ask(ledger, 3)
    for trial in trials:
        built(ledger, trial)
    held = [ledger.take("k", "t"), ledger.take("k", "t")]
    assert ledger.back([one for one in held if one], trials[0]) == []
    assert [ledger.take("k", "t") for _ in range(3)] == trials
    for _ in range(MOST_FAULTS - 2):
        assert ledger.back([trials[0]], trials[0]) == []
        assert ledger.take("k", "t") is trials[0]
    assert ledger.back([trials[0]], trials[0]) == [trials[0]]


def test_a_strategy_that_finds_nothing_more_ends_its_task():
    ledger = Ledger()
    line = ledger.add(task(), Listed(["a"]), 5, [])
    (one,) = ask(ledger, 5)
    assert ask(ledger, 5) == [] and line.through and not ledger.over
    ledger.done(one, record_of(one))
    assert ledger.over


def test_a_strategy_that_says_the_same_for_ever_ends_its_task():
    ledger = Ledger()
    line = ledger.add(task(), Listed(["a"] * 1000), 5, [])
    (one,) = ask(ledger, 5)
    while not line.through:
        assert ask(ledger, 1) == []
    assert len(line.strategy.left) > 800
    ledger.done(one, record_of(one))
    assert ledger.over


def test_tasks_take_turns_on_a_device():
    ledger = Ledger()
    for name in ("w1", "w2"):
        ledger.add(task((name, "k", "t")), Listed([name + c for c in "ab"]), 2, [])
    for trial in ask(ledger, 4):
        built(ledger, trial)
    taken = [ledger.take("k", "t") for _ in range(4)]
    assert [one.line.task.workload for one in taken if one] == ["w1", "w2", "w1", "w2"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 6))
def test_every_trial_gets_one_record_whatever_happens(seed, wanted, codes):
    """Builds end in any order, devices take, answer and are lost; a run is killed and resumed."""
    rng = random.Random(seed)
    names = [f"c{i}" for i in range(30)]
    kept: list[Record] = []
    for run in range(3):  # the last one goes on to its end
        ledger = Ledger()
        line = ledger.add(task(), Listed(list(names)), wanted, kept)
        building: list[Trial] = []
        flying: list[Trial] = []

        def done(
            trial: Trial, original: Record | None = None, error: str = "", ledger: Ledger = ledger
        ) -> None:
            name = (original.duplicate_of or original.trial) if original else ""
            kept.append(record_of(trial, error=error, duplicate_of=name))
            for twin in ledger.done(trial, kept[-1]):
                done(twin, kept[-1])

        for _ in range(rng.randrange(40) if run < 2 else 10_000):
            building += ask(ledger, rng.randrange(1, 4))
            if building and rng.random() < 0.7:
                trial = building.pop(rng.randrange(len(building)))
                code = str(int(trial.candidate[1:]) % (codes * 4))
                if built(ledger, trial, code) is not None:
                    done(trial, line.records[line.by_object[code]])
            if (taken := ledger.take("k", "t")) is not None:
                flying.append(taken)
            if flying and rng.random() < 0.2:
                for trial in ledger.back(flying, flying[0]):
                    done(trial, error="DeviceLostError")
                flying = []
            elif flying:
                done(flying.pop(0))
            if ledger.over:
                break
    assert ledger.over
    assert len({record.trial for record in kept}) == len(kept)
    originals = [record for record in kept if not record.duplicate_of]
    assert len({record.object_digest for record in originals}) == len(originals)
    assert len(originals) == min(wanted, len({int(n[1:]) % (codes * 4) for n in names}))
