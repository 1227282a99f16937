"""Tuning on a farm of real processes: many tasks and boards, bad kernels, duplicates, winners."""

import json
import os
import sys
import threading
import time

import pytest
from faulty_kernels import build_libraries, expected_error, kernels
from tunefarm import Bundle, Tracker
from tunefarm.cli import main
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_compiler import (
    Schedule,
    build,
    default_schedule,
    targets,
    use_operators,
    workload,
)
from tunefarm_compiler.database import Database
from tunefarm_proto.errors import (
    InvalidRequestError,
    TrackerUnreachableError,
    UnknownKeyError,
    UnknownWorkloadError,
)
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_tuner import finals
from tunefarm_tuner import tune as tuning
from tunefarm_tuner.records import FULL, SCREEN, read
from tunefarm_tuner.search import RandomSearch
from tunefarm_tuner.tasks import Custom
from tunefarm_tuner.templates import TemplateSpace
from tunefarm_tuner.tune import Tuned, tune


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("farm")
    address = f"127.0.0.1:{free_port(0)}"
    with LocalFarm(folder) as processes:
        words = ("--port", address.split(":")[1], "--state", str(folder / "t"))
        processes.start("tracker", "tracker", *words)
        processes.wait_for_tracker(address)
        for name, key in (("a", "pair"), ("b", "pair"), ("c", "other")):
            more = ("--tracker", address, "--state", str(folder / name))
            processes.start(name, "device", "--key", key, *more)
        processes.wait_for_devices(address, ("pair", "other"))
        yield address


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(finals, "ROUNDS", 2)


def test_several_tasks_on_several_boards(farm, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEFARM_BUILD_CACHE", str(tmp_path / "cache"))
    seen, states = [], []
    result = tune(
        ["matmul:m=32,n=32,k=32", Tuned("matmul:m=48,n=32,k=16", weight=3)],
        {"pair": 2, "other": 1},
        trials=8,
        records=tmp_path / "r.jsonl",
        best=tmp_path / "best.jsonl",
        tracker=farm,
        workers=2,
        on_record=lambda done, record: seen.append(record),
        on_progress=states.append,
    )
    assert [task.device_key for task in result.tasks] == ["pair"] * 2 + ["other"] * 2
    assert sum(task.trials for task in result.tasks) == result.trials == 2 * 8 * 2
    assert all(task.best and task.gain > 0 for task in result.tasks)
    assert {one.key for one in result.devices} == {"pair", "other"}
    assert all(0 < one.use <= 1 for one in result.devices if one.trials)
    records = list(read(tmp_path / "r.jsonl"))
    assert len([one for one in records if one.tier == SCREEN]) == len(seen)
    assert {one.task for one in records if one.tier == FULL} == {one.task for one in seen}
    assert all(one.device_facts["cpu_count"] for one in seen)
    # What was built for one key comes from the cache for the other.
    assert any(one.build_s > 0 for one in seen)
    built = {(one.workload, one.schedule) for one in records}
    assert len([*(tmp_path / "cache").glob("*.bundle")]) == len(built)
    assert "matmul:m=48" in str(result) and "<table>" in result._repr_html_()
    assert states[-1].trials == 32 and states[-1].tasks[1].weight == 3
    assert len((tmp_path / "best.jsonl").read_text().splitlines()) == 2
    with Tracker(farm) as tracker:
        (told,) = [run for run in tracker.tunings() if run.trials == 32]
        assert told.state == tpb.TUNING_STATE_FINISHED and told.tasks[0].points
        assert [(task.best_s, task.best_schedule, task.default_s) for task in told.tasks] == [
            (task.best_s, task.best, task.default_s) for task in result.tasks
        ]


OUTER = """
import numpy as np
from tunefarm_compiler import operator, te
@operator(
    operations=lambda m, n: m * n, reference=lambda x, **_: np.outer(*x), terms=lambda **_: 1
)
def outer(m: int, n: int) -> te.Tensor:
    a, b = te.placeholder("A", (m,)), te.placeholder("B", (n,))
    return te.compute("C", (("i", m), ("j", n)), lambda i, j: a[i] * b[j])
"""


def test_an_operator_of_a_users_own(farm, tmp_path, monkeypatch):
    file, best = tmp_path / "own.py", tmp_path / "best.jsonl"
    file.write_text(OUTER)
    monkeypatch.setenv("TUNEFARM_OPERATORS", "")  # to be put back
    use_operators(file)
    words = {"records": tmp_path / "r.jsonl", "tracker": farm, "best": best}
    result = tune("outer:m=40,n=48", "pair", trials=5, finals=False, **words)
    words["strategy"] = "random"
    assert all(task.best and not task.failed for task in result.tasks)
    parsed = workload.parse("outer:m=40,n=48")
    assert result.tasks[0].workload == str(parsed)
    spec = targets.resolve("local")
    known = Database.read(best)
    assert known.lookup(parsed, spec).how == "exact"
    assert known.lookup(workload.parse("outer:m=40,n=56"), spec).how == "shape"

    def edit(done, record):
        file.write_text(
            OUTER.replace("a[i] * b[j]", "a[i] + b[j]").replace("np.outer", "np.add.outer")
        )

    with pytest.raises(UnknownWorkloadError, match=r"own.py it is source=.*edited"):
        tune("outer:m=64,n=64", "pair", trials=200, on_record=edit, workers=1, **words)
    assert all(not one.error for one in read(tmp_path / "r.jsonl"))
    assert known.lookup(workload.parse("outer:m=40,n=48"), spec) is None  # another one now
    (task,) = tune("outer:m=40,n=48", "pair", trials=4, finals=False, **words).tasks
    assert task.trials == 4 and task.best and not task.failed


def test_bad_kernels_are_records_and_same_code_is_measured_once(farm, tmp_path):
    build_libraries(tmp_path)
    result = tune(
        kernels(tmp_path, 60), "pair", trials=24, records=tmp_path / "r.jsonl",
        strategy="random", tracker=farm,
    )  # fmt: skip
    records = [one for one in read(tmp_path / "r.jsonl") if one.tier == SCREEN]
    assert all(one.error == expected_error(one.schedule) for one in records)
    twins = [one for one in records if one.duplicate_of]
    by_id = {one.id: one for one in records}
    assert len(records) - len(twins) == 24 == result.trials and twins
    for one in twins:
        first = by_id[one.duplicate_of]
        assert not first.duplicate_of and one.object_digest == first.object_digest
        assert (one.samples_s, one.error) == (first.samples_s, first.error)
    again = tune(
        kernels(tmp_path, 60), "pair", trials=24, records=tmp_path / "r.jsonl",
        strategy=lambda space, seed, start: RandomSearch(space, seed, start.seeds),
        tracker=farm, finals=False,
    )  # fmt: skip
    assert again.trials == 24  # all of them were there
    assert len([one for one in read(tmp_path / "r.jsonl") if one.tier == SCREEN]) == len(records)


def test_ctrl_c_keeps_all_and_the_same_call_goes_on(farm, tmp_path):
    def interrupt():
        path = tmp_path / "r.jsonl"
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), 2)

    threading.Thread(target=interrupt, daemon=True).start()
    words = {"records": tmp_path / "r.jsonl", "tracker": farm, "finals": False, "workers": 1}
    result = tune("matmul:m=64,n=64,k=64", "pair", trials=300, **words)
    assert result.interrupted and 3 <= result.trials < 300
    held = len(list(read(tmp_path / "r.jsonl")))
    more = tune("matmul:m=64,n=64,k=64", "pair", trials=result.trials + 2, **words)
    assert not more.interrupted and more.trials == result.trials + 2
    assert len(list(read(tmp_path / "r.jsonl"))) >= held + 2


def test_what_makes_no_sense_is_one_error(farm, tmp_path):
    for trials, keys in ((0, "pair"), (1 << 40, "pair"), (1, {}), (1, {"pair": 0})):
        with pytest.raises(InvalidRequestError):
            tune("add:n=16", keys, trials=trials, records=tmp_path / "r", tracker=farm)
    for more in (
        {"threads": 0},
        {"threads": 65},
        {"seed": -1},
        {"workers": -1},
        {"workers": 0},
        {"patience": -1},
    ):
        with pytest.raises(InvalidRequestError):
            tune("add:n=16", "pair", trials=1, records=tmp_path / "r", tracker=farm, **more)
    with pytest.raises(InvalidRequestError, match="0 is no weight"):
        tune(Tuned("add:n=16", 0), "pair", trials=1, records=tmp_path / "r", tracker=farm)
    with pytest.raises(InvalidRequestError, match="model"):
        tune("add:n=16", "pair", trials=1, records=tmp_path / "r", strategy="no", tracker=farm)
    with pytest.raises(InvalidRequestError, match="--transfer"):
        tune(
            "add:n=16", "pair", trials=1, records=tmp_path / "r", tracker=farm,
            transfer=[tmp_path / "nosuch"],
        )  # fmt: skip
    with pytest.raises(UnknownKeyError):
        tune("add:n=16", "nosuch", trials=1, records=tmp_path / "r", tracker=farm)


def test_a_workload_named_twice_is_one_task_of_both_weights(farm, tmp_path):
    words = {"records": tmp_path / "r.jsonl", "tracker": farm, "finals": False, "workers": 1}
    twice = ["add:n=16", Tuned("add:n=16,dtype=float32", weight=2)]
    (task,) = tune(twice, "pair", trials=2, strategy="random", **words).tasks
    assert (task.weight, task.trials) == (3, 2)
    ids = [one.id for one in read(tmp_path / "r.jsonl")]
    assert len(set(ids)) == len(ids)


def test_loops_are_dealt_out_to_threads_by_a_search_of_their_own(farm, tmp_path):
    words = {"records": tmp_path / "r.jsonl", "tracker": farm, "finals": False, "trials": 3}
    text, best = "matmul:m=64,n=64,k=64", tmp_path / "best.jsonl"
    tune(text, "pair", best=best, **words)
    words |= {"threads": 2, "trials": 8}
    (task,) = tune(text, "pair", best=best, **words).tasks
    assert task.trials == 8 and task.best
    held = list(read(tmp_path / "r.jsonl"))
    (again,) = tune(text, "pair", best=best, **words).tasks
    assert again.trials == 8 and list(read(tmp_path / "r.jsonl")) == held
    assert {one.threads for one in held} == {1, 2} and not any(one.error for one in held)
    assert len({one.id for one in held}) == len(held)
    # Two are the most: the default has both, others do with one, and all are of one search.
    tried = [Schedule.from_json(one.schedule) for one in held if one.threads == 2]
    assert {one.most_threads for one in tried} == {1, 2}
    parsed, spec = workload.parse(text), targets.resolve("local")
    assert {default_schedule(parsed, spec, n) for n in (1, 2)} <= {*tried}
    known = Database.read(best)
    assert {one.threads for one in known} == {1, 2}
    assert default_schedule(parsed, spec, 2, tuned=known).to_json() == task.best


def test_files_are_looked_at_before_anything_is_measured(farm, tmp_path):
    words = {"trials": 1, "records": tmp_path / "r", "tracker": farm}
    (tmp_path / "bad").write_text("nonsense\n")
    with pytest.raises(InvalidRequestError, match="bad:1"):
        tune("add:n=16", "pair", best=tmp_path / "bad", **words)
    with pytest.raises(InvalidRequestError, match="bad:1"):
        tune("add:n=16", "pair", transfer=[tmp_path / "bad"], **words)
    with pytest.raises(OSError, match="bad"):
        tune("add:n=16", "pair", best=tmp_path / "bad" / "best", **words)
    with pytest.raises(InvalidRequestError, match="--transfer"):
        tune("add:n=16", "pair", transfer=[tmp_path / "nosuch"], **words)
    assert not (tmp_path / "r").exists()


class Says:
    """Proposes the same for ever."""

    def __init__(self, *candidates):
        self.candidates = list(candidates)

    def propose(self, count):
        return self.candidates[:count]

    def observe(self, results):
        pass


@pytest.mark.parametrize("made", [lambda: None, lambda: Bundle(b"junk"), sys.exit])
def test_what_builds_no_bundle_is_a_record(farm, tmp_path, made):
    space = TemplateSpace(lambda cfg: None, {"a": [1, 2]})
    signature = workload.parse("add:n=16").signature()
    custom = Custom("mine", space, lambda candidate, spec: made(), signature, lambda x: [x[0]])
    words = {"records": tmp_path / "r.jsonl", "tracker": farm, "strategy": "grid"}
    result = tune(custom, "pair", trials=2, **words)
    assert result.tasks[0].failed == 2 and result.tasks[0].best is None


def test_a_candidate_that_is_no_schedule_is_a_record(farm, tmp_path):
    words = {"records": tmp_path / "r.jsonl", "tracker": farm, "finals": False}
    strange = Says("junk", "{}")
    result = tune("add:n=16", "pair", trials=3, strategy=lambda *_: strange, **words)
    assert result.tasks[0].errors == {"InvalidScheduleError": 2}


def test_a_template_over_a_workload_needs_no_more_than_its_knobs(farm, tmp_path):
    def tiled(cfg):
        cfg.define_split("tile", 32, num_outputs=2, filter=lambda size: size[-1] in (16, 32))
        cfg.define_knob("rows", [2, 4])
        return Schedule((("j", cfg["tile"].size[-1]), ("i", cfg["rows"].val)), 4)

    custom = Custom.of("matmul:m=16,n=32,k=8", tiled, weight=2)
    words = {"records": tmp_path / "r.jsonl", "tracker": farm, "workers": 1, "finals": False}
    result = tune(custom, "pair", trials=6, strategy="grid", **words)
    (task,) = result.tasks
    assert task.workload == "matmul:m=16,n=32,k=8,dtype=float32 by tiled" and task.weight == 2
    assert set(json.loads(task.best)) == {"rows", "tile"} and task.operations == 2 * 16 * 32 * 8
    held = {one.schedule: one.error for one in read(tmp_path / "r.jsonl")}
    assert len(held) == 4 and not any(held.values())
    # A bundle does as well, and what is right is the workload's.
    turned = build("matmul:m=16,n=32,k=8,tb=1", "local")
    wrong = Custom.of("matmul:m=16,n=32,k=8", lambda cfg: turned, {})
    result = tune(wrong, "pair", trials=1, **words | {"records": tmp_path / "w.jsonl"})
    assert result.tasks[0].best is None and set(result.tasks[0].errors) == {"WrongAnswerError"}


def test_a_space_of_a_template_that_makes_bundles_is_tuned_as_it_is(farm, tmp_path):
    def rows(cfg):
        cfg.define_knob("rows", [2, 4, 100])
        if cfg["rows"].val > 16:
            raise ValueError("too many")
        return build("matmul:m=16,n=32,k=8", "local", Schedule((("i", cfg["rows"].val),), 4))

    words = {"records": tmp_path / "r.jsonl", "tracker": farm, "strategy": "grid", "finals": False}
    (task,) = tune(TemplateSpace(rows), "pair", trials=6, **words).tasks
    assert task.workload == "matmul:m=16,n=32,k=8,dtype=float32 by rows"
    assert task.best and task.operations == 2 * 16 * 32 * 8
    assert (task.trials, task.errors) == (3, {"BuildFailedError": 1})
    again = tune(
        [TemplateSpace(rows), "add:n=16"], "pair", trials=3, scheduler="round-robin", **words
    )
    assert [one.trials for one in again.tasks] == [3, 3] and again.tasks[0].best


def test_a_reference_that_fails_on_a_seat_ends_the_run(farm, tmp_path):
    space = TemplateSpace(lambda cfg: None, {"a": [1, 2]})
    parsed = workload.parse("add:n=16")
    custom = Custom(
        "mine", space, lambda candidate, spec: build("add:n=16", spec), parsed.signature(),
        lambda inputs: [object()],
    )  # fmt: skip
    with pytest.raises(Exception, match="object"):
        tune(custom, "pair", trials=2, records=tmp_path / "r.jsonl", tracker=farm)


def test_the_best_is_shown_shipped_and_built(farm, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TUNEFARM_BEST", str(tmp_path / "best.jsonl"))

    def run(*words, code=0):
        found = main(words)
        told = capsys.readouterr()
        assert found == code, told.err
        return told.out

    assert "nothing" in run("best", code=1)
    words = ("--device", "pair=2", "--device", "other", "--trials", "4", "--tracker", farm)
    words += ("--strategy", "random", "--workers", "1")
    records = str(tmp_path / "r.jsonl")
    found = json.loads(
        run("tune", "matmul:m=40,n=40,k=8@2", *words, "--records", records, "--json")
    )
    assert len(found["tasks"]) == 2 and found["tasks"][0]["weight"] == 2
    (entry,) = json.loads(run("best", "--json"))
    shipped = str(tmp_path / "shipped.jsonl")
    run("best", "m=40", "--export", shipped)
    (tmp_path / "best.jsonl").unlink()
    assert "1 added" in run("best", "--import", shipped)
    bundle = str(tmp_path / "x.tf")
    made = json.loads(run("build", "matmul:m=40,n=40,k=8", "-o", bundle, "--json"))
    assert made["schedule"] == entry["schedule"]
    made = json.loads(run("build", "matmul:m=40,n=40,k=8", "-o", bundle, "--json", "--untuned"))
    parsed = workload.parse("matmul:m=40,n=40,k=8")
    plain = default_schedule(parsed, targets.resolve("local")).to_json()
    assert made["schedule"] == plain
    words = ("bench", str(parsed), "--device", "pair", "--tracker", farm, "--json")
    words += ("--repeat", "1", "--min-repeat-ms", "1")
    assert json.loads(run(*words))["schedule"] == entry["schedule"]
    assert json.loads(run(*words, "--untuned"))["schedule"] == plain


def test_the_workloads_of_another_tuners_log_are_tuned(farm, tmp_path, capsys):
    def line(task, shapes, seconds):
        tensors = [["TENSOR", shape, "float32"] for shape in shapes]
        given = ["llvm", task, [*tensors, None, "float32"], {}]
        return json.dumps({"input": given, "config": {}, "result": [[seconds], 0, 1.0, 1.0]})

    dense = [line("dense_nopack.x86", [[m, 8], [16, 8]], 0.001 * m) for m in (8, 16)]
    (tmp_path / "auto.log").write_text("\n".join([*dense, line("mine", [], 1.0)]) + "\n")
    words = ["tune", "matmul:m=8,n=16,k=8,tb=1@3", "--tasks-from", str(tmp_path / "auto.log")]
    words += ["--device", "pair", "--trials", "2", "--tracker", farm, "--quick"]
    words += ["--strategy", "random", "--workers", "1", "--records", str(tmp_path / "r.jsonl")]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "mine []" not in told.out and "left out" in told.err and "mine" in told.err
    heads, first, second, *_ = told.out[told.out.index("workload ") :].splitlines()
    assert "theirs" in heads and "  8 ms (" in first and "  16 ms (" in second
    assert main([*words, "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    assert [(one["weight"], one["theirs_s"]) for one in tasks] == [(3.0, 0.008), (1.0, 0.016)]


def test_a_winner_that_the_tracker_did_not_take_is_told_of(farm, tmp_path, monkeypatch):
    def gone(tracker, result):
        raise TrackerUnreachableError("no tracker answers")

    monkeypatch.setattr(Tracker, "record", gone)
    monkeypatch.setattr(finals, "ROUNDS", 2)
    with pytest.warns(RuntimeWarning, match="add:n=64.*in the records alone"):
        tune("add:n=64", "pair", trials=1, records=tmp_path / "r", tracker=farm)


def test_a_board_is_held_from_the_first_trial_to_the_last_final(farm, tmp_path, monkeypatch):
    """Given back between finals it would be the next user's, and the rest would wait for that."""
    monkeypatch.setattr(finals, "ROUNDS", 2)
    requested = []
    request = tuning.request_device
    monkeypatch.setattr(
        tuning,
        "request_device",
        lambda key, **words: (requested.append(key), request(key, **words))[1],
    )
    words = ["add:n=64", "mul:n=64", "relu:n=64"]
    result = tune(words, "other", trials=2, records=tmp_path / "r", tracker=farm)
    assert all(task.best for task in result.tasks) and requested == ["other"]
