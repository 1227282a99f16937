"""Strategies: nothing twice, the same for a seed, none the worse for an earlier run's records."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunefarm_compiler import Schedule, default_schedule, targets, workload
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_tuner.search import (
    STRATEGIES,
    Experience,
    Guided,
    Observation,
    Patience,
    ScheduleSpace,
    WarmStart,
    model,
    strategy,
    warm_start,
)
from tunefarm_tuner.search.model import CostModel, Group, relevance, speeds, thinned
from tunefarm_tuner.search.sampler import OptunaSearch
from tunefarm_tuner.templates import TemplateSpace

INFINITE = float("inf")


def knobs():
    """A space of 8 x 8 x 4 candidates."""
    return TemplateSpace(lambda cfg: None, {"x": range(8), "y": range(8), "z": [1, 2, 4, 8]})


def cost(candidate):
    """Least at x = 5, y = 2, z = 4, and infinite where x is y."""
    at = json.loads(candidate)
    if at["x"] == at["y"]:
        return INFINITE
    return 1 + (at["x"] - 5) ** 2 + (at["y"] - 2) ** 2 + abs(math.log2(at["z"] / 4))


def told(candidates):
    return [
        Observation(one, cost(one), "" if math.isfinite(cost(one)) else "KernelCrashedError")
        for one in candidates
    ]


def walked(search, batches, size=8):
    found = []
    for _ in range(batches):
        batch = search.propose(size)
        found += batch
        search.observe(told(batch))
    return found


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from(STRATEGIES), st.integers(0, 99), st.lists(st.integers(0, 20), max_size=12))
def test_nothing_is_proposed_twice_whatever_is_told_and_when(name, seed, sizes):
    search, seen, waiting = strategy(name, knobs(), seed), set(), []
    rng = random.Random(seed)
    for size in sizes:
        batch = search.propose(size)
        assert len(batch) <= size and len(set(batch)) == len(batch)
        assert not seen & set(batch)
        seen |= set(batch)
        waiting += batch
        rng.shuffle(waiting)
        kept = rng.randint(0, len(waiting))
        search.observe(told(waiting[:kept]))
        waiting = waiting[kept:]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_small_space_is_tried_whole_and_then_the_search_is_through(name):
    space = knobs()
    search = strategy(name, space, 1)
    assert set(walked(search, 8, 64)) == set(space.candidates())
    assert search.propose(4) == []


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_gives_the_same_candidates(name):
    runs = [walked(strategy(name, knobs(), seed), 8) for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert name == "grid" or runs[0] != runs[2]
    assert runs[0][0] == knobs().default()


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_resumed_search_goes_on_where_its_records_end(name):
    before = walked(strategy(name, knobs(), 5), 6)
    resumed = strategy(name, knobs(), 5)
    resumed.observe(told(before))
    after = walked(resumed, 4)
    assert len(after) == 32 and not set(before) & set(after)
    # Records that no longer fit, of another version, do no harm.
    odd = strategy(name, knobs(), 5)
    odd.observe([Observation('{"w":1}', 0.001), Observation("", 0.002, ""), *told(before)])
    assert len(walked(odd, 4)) == 32


@pytest.mark.parametrize(("name", "most"), [("evolution", 0.9), ("model", 0.6)])
def test_what_was_learnt_leads_to_faster_candidates(name, most):
    def mean(which, seed):
        found = walked(strategy(which, knobs(), seed), 8)[32:]
        return sum(min(cost(one), 60) for one in found) / len(found)

    def all_of(which):
        return sum(mean(which, seed) for seed in range(3))

    assert all_of(name) < most * all_of("random")


def test_seeds_come_after_the_default():
    seeds = ('{"x":5,"y":2,"z":4}', '{"x":4,"y":2,"z":4}')
    search = strategy("model", knobs(), 0, WarmStart((), seeds))
    assert search.propose(3) == [knobs().default(), *seeds]


def test_an_unknown_strategy_is_named():
    with pytest.raises(InvalidRequestError, match=r"no strategy 'best' .known are model, evol"):
        strategy("best", knobs())


def test_without_lightgbm_it_is_plain_evolution_and_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    search = Guided(knobs(), 2)
    assert "needs LightGBM" in search.note and "evolution" in search.note
    assert walked(search, 8) == walked(strategy("evolution", knobs(), 2), 8)


def test_levels_and_speeds_of_costs():
    assert relevance([1.0, 2.0, INFINITE, 100.0]) == [31, 8, 0, 1]
    assert speeds([2.0, 4.0, INFINITE]) == [1.0, 0.5, 0.0]
    assert relevance([INFINITE, INFINITE]) == [0, 0]


def test_the_model_learns_an_order_and_carries_it_over():
    rng = random.Random(0)
    rows = [[rng.random() for _ in range(6)] for _ in range(200)]
    costs = [1 + 3 * row[0] + row[1] for row in rows]
    costs[:10] = [INFINITE] * 10
    learned = CostModel(0)
    assert learned.scores(rows[:2]) == [0.0, 0.0] and not learned.trained
    # Another device, ten times slower, says the same.
    learned = CostModel(0, [Group(rows[:150], [10 * one for one in costs[:150]])])
    scores = learned.scores(rows[150:])
    order = sorted(range(50), key=lambda n: -scores[n])
    best = sorted(costs[150:])
    assert sum(costs[150 + n] for n in order[:10]) < 1.15 * sum(best[:10])
    again = CostModel(0, [Group(rows[:150], [10 * one for one in costs[:150]])])
    assert again.scores(rows[150:]) == scores


def test_a_model_bears_nothing_but_failures_and_very_many_results():
    rows = [[float(n), n % 7.0] for n in range(12_000)]
    learned = CostModel(0)
    learned.train(Group(rows[:40], [INFINITE] * 40))
    assert all(map(math.isfinite, learned.scores(rows[:3])))
    many = Group(rows, [1.0 + n for n in range(12_000)])
    kept = thinned(many)
    assert len(kept.costs_s) == 1024 and max(kept.costs_s) > 11_900
    assert kept.costs_s[:512] == many.costs_s[:512] and thinned(kept) is kept
    learned.train(many)
    assert learned.scores(rows[:1])[0] > learned.scores(rows[-1:])[0]


def test_patience_ends_when_nothing_gets_better():
    patience = Patience(3, gain=0.1)
    patience.observe([Observation("a", INFINITE, "KernelCrashedError"), Observation("b", 1.0)])
    assert not patience.through
    patience.observe([Observation(c, s) for c, s in (("c", 0.95), ("d", 2.0))])
    assert not patience.through
    patience.observe([Observation("e", 0.5)])
    assert patience.idle == 0 and patience.best_s == 0.5
    patience.observe([Observation(str(n), 0.5) for n in range(3)])
    assert patience.through
    assert not Patience(0).through


def rate(candidate, target):
    """Seconds that a made-up machine takes: it likes full registers and hates strides."""
    space = ScheduleSpace(workload.parse(target), targets.resolve("znver4"))
    numbers = dict(zip(__import__("tunefarm_compiler.features").features.NAMES,
                       space.features(candidate), strict=True))  # fmt: skip
    return 1 + 2 * numbers["loads for each product"] + 0.2 * numbers["innermost stride"]


def test_records_of_other_shapes_give_seeds_and_groups():
    spec = targets.resolve("znver4")
    text = "matmul:m=512,n=512,k=512"
    other = ScheduleSpace(workload.parse(text), spec)
    rng = random.Random(0)
    measured = [other.sample(rng) for _ in range(60)]
    records = [Experience(other.workload, spec, one, rate(one, text), "board") for one in measured]
    records.append(Experience(other.workload, spec, '{"loops":[["zz",1]],"lanes":1}', 0.1, "board"))
    records += [
        Experience(workload.parse("softmax:m=8,n=64"), spec, one, 1.0, "board")
        for one in ("{}", "x")
    ]
    space = ScheduleSpace(workload.parse("matmul:m=256,n=320,k=768"), spec)
    start = warm_start(space, records, most=6)
    assert len(start.seeds) == 6 and all(space.valid(one) for one in start.seeds)
    assert [len(group.costs_s) for group in start.groups] == [60]
    assert warm_start(space, records, most=6) == start
    here = [rate(one, str(space.workload)) for one in start.seeds]
    usual = [rate(space.sample(rng), str(space.workload)) for _ in range(40)]
    assert sum(here) / len(here) < sum(usual) / len(usual)
    search = strategy("model", space, 0, start)
    first = search.propose(16)
    assert first[1:7] == list(start.seeds)
    # From the first batch on the model chooses: what is left of it is better than samples too.
    chosen = [rate(one, str(space.workload)) for one in first[7:]]
    assert sum(chosen) / len(chosen) < sum(usual) / len(usual)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_on_threads_begins_with_all_of_them_and_with_one(name):
    spec, parsed = targets.resolve("znver4"), workload.parse("matmul:m=64,n=64,k=64")
    space = ScheduleSpace(parsed, spec, 4)

    def found():
        search, all_ = strategy(name, space, 3, warm_start(space, [])), []
        for _ in range(3):
            all_ += (batch := search.propose(8))
            search.observe([Observation(one, 1.0 + len(one)) for one in batch])
        return all_

    first = found()
    assert first == found() and len({*first}) == 24 and all(map(space.valid, first))
    assert first[:2] == [default_schedule(parsed, spec, n).to_json() for n in (4, 1)]
    assert {Schedule.from_json(one).most_threads for one in first} == {1, 2, 4}
    assert not warm_start(ScheduleSpace(parsed, spec), []).seeds


def test_a_sampler_of_optunas_plugs_in():
    optuna = pytest.importorskip("optuna")

    def found(seed):
        search = OptunaSearch(knobs(), optuna.samplers.TPESampler(seed=seed), seed)
        return walked(search, 3)

    first = found(1)
    assert len(first) == len(set(first)) == 24
    assert first == found(1)


def test_optuna_walks_schedules():
    optuna = pytest.importorskip("optuna")
    space = ScheduleSpace(workload.parse("matmul:m=64,n=64,k=64"), targets.resolve("znver4"))
    search = OptunaSearch(space, optuna.samplers.RandomSampler(seed=0))
    batch = search.propose(12)
    assert len(set(batch)) == 12 and all(space.valid(one) for one in batch)
    search.observe([Observation(one, 1.0 + len(one)) for one in batch])
    assert len(search.propose(4)) == 4


def test_missing_says_nothing_where_the_library_is_there():
    assert model.missing() == ""
