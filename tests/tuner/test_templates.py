"""Templates: knobs as AutoTVM's users know them."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunefarm_compiler import build, targets, workload
from tunefarm_compiler.building import Kernel, compile_many
from tunefarm_compiler.schedule import Schedule
from tunefarm_proto.bundle import Library, pack
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_tuner.tasks import Custom
from tunefarm_tuner.templates import Config, TemplateSpace
from tunefarm_tuner.tune import tune

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


def constant(made):
    def same(cfg):
        return made

    return same


def nameless(bundle):
    """The same, of a workload that nobody knows, as one compiled from C is."""
    manifest = bpb.BundleManifest.FromString(bundle.manifest.SerializeToString())
    manifest.functions[0].workload = ""
    (library,) = manifest.libraries
    code = Library(library.target, bundle.library(library), dict(library.schedules))
    return pack(manifest, [code])


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


SMALL = ["matmul:m=16,n=32,k=8", "add:n=16"]


def fails(cfg):
    raise OverflowError("too far\nfrom here")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Schedule((), 4), r"template \w+ returns a schedule .* of which workload .*Custom.of\("),
        (None, r"returns NoneType, which is no bundle .give a Custom, with .* reference"),
        (compile_many([Kernel(text) for text in SMALL], SPEC), r"has 2 functions .give a Custom"),
        (nameless(build(SMALL[0], SPEC)), r"of template \w+ does not say what is right"),
        (fails, r"template fails fails for its first candidate \{\}: OverflowError: too far"),
    ],
)  # fmt: skip
def test_a_space_alone_is_tuned_where_it_says_what_is_right(tmp_path, made, said):
    space = TemplateSpace(made if made is fails else constant(made), {})
    with pytest.raises(InvalidRequestError, match=said) as caught:
        tune(space, "any", trials=1, records=tmp_path / "r", tracker="127.0.0.1:1")
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "r").exists()


def test_what_is_nothing_to_tune_is_one_error(tmp_path):
    for tasks, said in ((matmul, r"function .* TemplateSpace\("), (3, "int is nothing to tune")):
        for asked in (tasks, [tasks]):
            with pytest.raises(InvalidRequestError, match=said):
                tune(asked, "any", trials=1, records=tmp_path / "r", tracker="127.0.0.1:1")


def test_a_template_over_a_workload_is_one_task_however_it_is_given():
    alone = Custom.from_space(TemplateSpace(matmul), weight=2)
    named = Custom.of(str(PARSED), matmul)
    assert alone.name == named.name == f"{PARSED} by matmul" and alone.weight == 2
    assert alone.signature == named.signature and alone.space.default() == named.space.default()
    space = TemplateSpace(matmul)
    assert Custom.of(str(PARSED), space).space is space
    with pytest.raises(InvalidRequestError, match="matmul has its knobs"):
        Custom.of(str(PARSED), space, {"unroll": [1]})


def test_knobs_that_change_between_calls_are_noticed():
    sizes = iter(([1, 2], [3, 4]))
    space = TemplateSpace(lambda cfg: cfg.define_knob("a", next(sizes)).val)
    with pytest.raises(InvalidRequestError, match=r"none of its options .define the same knobs"):
        space.build('{"a":2}')
