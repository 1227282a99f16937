"""The task scheduler: trials go where the whole gains most."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunefarm_tuner.search import RoundRobin, Task, TaskScheduler


def run(scheduler, curves, batches, size=16):
    """Batches by task, where `curves` say the best seconds after so many trials."""
    counts = dict.fromkeys(curves, 0)
    for _ in range(batches):
        name = scheduler.next()
        if name is None:
            break
        counts[name] += 1
        trials = scheduler.tasks[name].trials
        scheduler.observe(name, [curves[name](trials + n + 1) for n in range(size)])
    return counts


def test_every_task_has_its_turn_first_then_the_heavy_and_unfinished_ones():
    curves = {
        "light": lambda n: 0.01 + 0.01 / n,
        "heavy": lambda n: 1.0 + 1.0 / n,
        "flat": lambda n: 0.3,
    }
    scheduler = TaskScheduler([Task(name) for name in curves])
    assert [run(scheduler, curves, 1) for _ in range(3)] == [
        {"light": 1, "heavy": 0, "flat": 0},
        {"light": 0, "heavy": 1, "flat": 0},
        {"light": 0, "heavy": 0, "flat": 1},
    ]
    counts = run(scheduler, curves, 30)
    assert counts["heavy"] > counts["flat"] >= counts["light"]
    assert scheduler.total_s == pytest.approx(sum(task.best_s for task in scheduler.tasks.values()))


def test_weights_count():
    curves = {"a": lambda n: 1 + 1 / n, "b": lambda n: 1 + 1 / n}
    counts = run(TaskScheduler([Task("a"), Task("b", weight=10)]), curves, 40)
    assert counts["b"] > 2 * counts["a"] > 0


def test_a_task_far_behind_one_like_it_is_worth_more():
    scheduler = TaskScheduler(
        [Task("near", 1, 1e9, "conv"), Task("far", 1, 1e9, "conv"), Task("best", 1, 1e9, "conv")]
    )
    for name, best in (("near", 1.05), ("far", 2.0), ("best", 1.0)):
        scheduler.observe(name, [best] * 64)
    tasks = scheduler.tasks
    assert scheduler.gain(tasks["far"]) > scheduler.gain(tasks["near"])


def test_ended_tasks_get_no_turn_and_busy_ones_only_when_no_other_is_left():
    for kind in (TaskScheduler, RoundRobin):
        scheduler = kind([Task("a"), Task("b")])
        assert {scheduler.next(), scheduler.next()} == {"a", "b"}
        assert scheduler.next(busy=["a"]) == "b"
        assert scheduler.next(busy=["b"]) == "a"
        assert scheduler.next(busy=["a", "b"]) in ("a", "b")
        scheduler.end("a", "through")
        assert scheduler.next(busy=["b"]) == "b"
        scheduler.end("b")
        assert scheduler.next() is None and scheduler.tasks["a"].why == "through"


def test_round_robin_goes_round():
    curves = {name: lambda n: 1.0 for name in "abc"}
    assert run(RoundRobin([Task(name) for name in "abc"]), curves, 9) == {"a": 3, "b": 3, "c": 3}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.floats(1e-6, 1) | st.just(math.inf), max_size=5)),
        max_size=30,
    )
)
def test_any_results_leave_gains_that_are_numbers(events):
    scheduler = TaskScheduler([Task(str(n), n, 1e6, "x" if n % 2 else "") for n in range(4)])
    for number, costs in events:
        scheduler.observe(str(number), costs)
        gains = [scheduler.gain(task) for task in scheduler.tasks.values()]
        assert all(math.isfinite(gain) and gain >= 0 for gain in gains)
        assert scheduler.next() in scheduler.tasks


def test_two_tasks_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name"):
        TaskScheduler([Task("a"), Task("a")])
