"""Who gets which trial: slow boards hold nobody up, boards that are refused are asked for again."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from test_ledger import Listed, ask, built, record_of, task
from tunefarm_proto import errors
from tunefarm_tuner.ledger import Ledger, Trial
from tunefarm_tuner.pipeline import Hooks, Pipeline, Screen, Wish
from tunefarm_tuner.seats import MOST_WINDOW, Left, Seat


def seat(key: str = "k", turn_s: float = 0.1, device: Any = True) -> Any:
    made = SimpleNamespace(key=key, turn_s=turn_s, device=device, flying=deque(), started=0)
    made.final, made.unreachable = None, False

    def start() -> None:
        made.started += 1

    made.start = start
    return made


def pipeline(ledger: Ledger, seats: list[Any], **wish: Any) -> Pipeline:
    nothing: Any = None
    made = Pipeline(
        ledger, nothing, nothing, choose=lambda lines: lines[0], wish=Wish(**wish), hooks=Hooks()
    )
    made.seats = seats
    return made


def give(one: Any, *trials: Trial) -> None:
    one.flying.extend(SimpleNamespace(trial=trial) for trial in trials)


def test_at_the_end_an_idle_board_takes_what_a_slow_one_has_not_begun():
    ledger = Ledger()
    ledger.add(task(), Listed(["a", "b", "c"]), 3, [])
    one, two, three = ask(ledger, 3)
    slow, fast, foreign = seat(turn_s=5.0), seat(), seat(key="other")
    shell = pipeline(ledger, [slow, fast, foreign])
    give(slow, one, two, three)
    assert shell._steal(fast) is three
    assert shell._steal(foreign) is None
    give(fast, three)
    assert shell._steal(fast) is two  # never one that it has, nor one that two have
    for trial in (three, two):
        ledger.done(trial, record_of(trial))
    assert shell._steal(fast) is one


def test_nothing_is_measured_twice_while_there_is_other_work():
    ledger = Ledger()
    ledger.add(task(), Listed(["a", "b"]), 2, [])
    (one,) = ask(ledger, 1)
    slow, fast = seat(turn_s=5.0), seat()
    give(slow, one)
    assert pipeline(ledger, [slow, fast])._steal(fast) is None


def test_a_slow_board_has_few_trials_before_it_and_a_fast_one_many():
    def window(turn_s: float, most: int = MOST_WINDOW) -> int:
        one = SimpleNamespace(turn_s=turn_s, _most=most)
        return Seat.window.fget(one)  # type: ignore[attr-defined]

    assert window(0.0) == window(5.0) == 2
    assert window(0.1) == 4 and window(0.001) == MOST_WINDOW
    assert window(0.0, most=1) == window(0.001, most=1) == 1


def test_a_refused_request_ends_a_run_only_where_no_board_works():
    error = errors.RequestTimeoutError("waited long enough")
    waiting, working = seat(device=None), seat()
    shell = pipeline(Ledger(), [waiting, working])
    shell._left(Left(waiting, error, had=False))
    shell._give_up_on_devices()
    assert waiting.started == 1
    alone = pipeline(Ledger(), [waiting])
    alone._left(Left(waiting, error, had=False))
    with pytest.raises(errors.RequestTimeoutError):
        alone._give_up_on_devices()
    lost = pipeline(Ledger(), [waiting])
    lost._left(Left(waiting, errors.DeviceLostError("gone"), had=True))
    lost._left(Left(waiting, error, had=False))  # it had one a moment ago
    lost._give_up_on_devices()
    assert waiting.started == 2


def test_what_a_lost_board_had_goes_to_the_next_one():
    ledger = Ledger()
    ledger.add(task(), Listed(["a", "b"]), 2, [])
    trials = ask(ledger, 2)
    for trial in trials:
        built(ledger, trial)
        ledger.take("k", "t")
    lost = seat()
    give(lost, *trials)
    pipeline(ledger, [lost])._left(Left(lost, errors.DeviceLostError("gone"), had=True))
    assert not lost.flying and [ledger.take("k", "t") for _ in trials] == trials
    assert [trial.faults for trial in trials] == [1, 0]


def test_screening_gives_up_beside_the_best_alone():
    assert Screen().options(0.0).abandon_above_s == 0.0
    assert Screen(abandon=3.0).options(0.5).abandon_above_s == 1.5
    # First calls of a kernel of a microsecond take longer, whatever they call.
    assert Screen().options(1e-6).abandon_above_s == 2e-5
    assert Screen().options(1e-6, threads=2).abandon_above_s == 1e-3
    assert Screen(abandon=0.0).options(1e-6, threads=2).abandon_above_s == 0.0
