"""Templates: knobs as AutoTVM's users know them."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunefarm_compiler import build, targets, workload
from tunefarm_compiler.schedule import Schedule
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_tuner.templates import Config, TemplateSpace

SPEC, PARSED = targets.resolve("local"), workload.parse("matmul:m=48,n=64,k=32")


def matmul(cfg):
    """A template that returns a bundle."""
    cfg.define_split("tile_y", 48, num_outputs=2, filter=lambda size: size[-1] <= 6)
    cfg.define_split("tile_x", 64, num_outputs=2, policy="power2", max_factor=32)
    cfg.define_reorder("order", ["y", "x"])
    cfg.define_knob("unroll", [1, 2, 4])
    cfg.add_flop(PARSED.operations)
    loops = [("i", cfg["tile_y"].size[-1]), ("j", cfg["tile_x"].size[-1])]
    return build(PARSED, SPEC, Schedule(tuple(cfg["order"].order(loops)), SPEC.lanes,
                                        cfg["unroll"].val))  # fmt: skip


def test_a_template_makes_bundles_of_its_candidates():
    space = TemplateSpace(matmul)
    assert len(space) == 5 * 6 * 2 * 3 == len(set(space.candidates()))
    assert space.flop == PARSED.operations
    text = '{"order":[1,0],"tile_x":[2,32],"tile_y":[12,4],"unroll":2}'
    assert space.valid(text) and text in set(space.candidates())
    made = Schedule.from_json(space.build(text).manifest.schedule)
    assert made.loops == (("j", 32), ("i", 4)) and made.unroll == 2
    assert space.build(text).digest == space.build(text).digest


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_samples_mutants_and_children_are_candidates(seed):
    space, rng = SPACE, random.Random(seed)
    one, other = space.sample(rng), space.sample(rng)
    mutant, child = space.mutate(one, rng), space.cross(one, other, rng)
    assert mutant != one and all(space.valid(text) for text in (one, other, mutant, child))
    changed = [k for k, v in json.loads(mutant).items() if v != json.loads(one)[k]]
    assert len(changed) == 1
    assert all(
        v in (json.loads(one)[k], json.loads(other)[k]) for k, v in json.loads(child).items()
    )
    assert len(space.features(one)) == len(space.features(child))


SPACE = TemplateSpace(
    lambda cfg: None,
    {"split": [[8, 1], [4, 2], [1, 8]], "unroll": [1, 2, 4], "mode": ["plain", "tiled"]},
)


def test_splits_by_policy():
    cfg = Config()
    assert cfg.define_split("a", 12, num_outputs=2).size == [12, 1]
    assert [s[1] for s in cfg.options["a"]] == [1, 2, 3, 4, 6, 12]
    cfg.define_split("b", 12, policy="power2")
    assert cfg.options["b"] == [[12, 1], [6, 2], [3, 4], [2, 8]]
    cfg.define_split("c", 12, policy="verbose", max_factor=4)
    assert [s[1] for s in cfg.options["c"]] == [1, 2, 3, 4]
    cfg.define_split("d", 8, num_outputs=3)
    assert len(cfg.options["d"]) == 10 and all(x * y * z == 8 for x, y, z in cfg.options["d"])
    cfg.define_split("e", 8, candidate=[[2, 4]])
    cfg.define_reorder("r", "yxk")
    cfg.define_annotate("n", "yx", "try_unroll_vec")
    assert (len(cfg.options["r"]), len(cfg.options["n"])) == (6, 9)
    assert cfg["r"].order("yxk") == ["y", "x", "k"]


@pytest.mark.parametrize(
    ("define", "said"),
    [
        (lambda cfg: cfg.define_knob("a", []), "knob 'a' has 0 options .give it 1"),
        (
            lambda cfg: (cfg.define_knob("a", [1]), cfg.define_knob("a", [1])),
            "'a' is defined twice",
        ),
        (
            lambda cfg: cfg.define_split("s", 8, policy="halves"),
            "split 's' of 8 .* factors, power2",
        ),
        (lambda cfg: cfg.define_split("s", 8, filter=lambda _: False), "knob 's' has 0 options"),
        (lambda cfg: cfg.define_reorder("r", "xy", candidate=[[0, 0]]), "reorder 'r' of 2 axes"),
        (lambda cfg: cfg["t"], "no knob 't' .defined are none"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(define, said):
    with pytest.raises(InvalidRequestError, match=said):
        TemplateSpace(define)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"unroll":1}', '{"mode":"x","split":[8,1],"unroll":1}']
)
def test_other_texts_are_no_candidates(text):
    assert not SPACE.valid(text)
    with pytest.raises(InvalidRequestError, match="its knobs are mode, split, unroll"):
        SPACE.build(text)


def test_knobs_that_change_between_calls_are_noticed():
    sizes = iter(([1, 2], [3, 4]))
    space = TemplateSpace(lambda cfg: cfg.define_knob("a", next(sizes)).val)
    with pytest.raises(InvalidRequestError, match=r"none of its options .define the same knobs"):
        space.build('{"a":2}')
