"""What `tunefarm compare` builds of a side."""

import json

import pytest
from tunefarm_compiler import targets
from tunefarm_compiler.pool import BuildPool
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_tuner import records
from tunefarm_tuner.compare import Side


def _records(path, *lines):
    """Of a workload, a tier, seconds and an unroll each, which tells which one was chosen."""
    for name, tier, seconds, unroll in lines:
        schedule = json.dumps({"loops": [["i", 16]], "lanes": 16, "unroll": unroll})
        text, taken = f"{name}:n=64,dtype=float32", [seconds]
        record = records.Record(text, "t", "d", "k", False, schedule, taken, tier=tier)
        records.append(path, record)
    return str(path)


def test_the_winner_of_records_is_that_of_the_finals(tmp_path):
    lucky = ("add", "screen", 1e-6, 1)
    path = _records(tmp_path / "r.jsonl", lucky, ("add", "full", 3e-6, 2), ("add", "full", 2e-6, 3))
    assert Side.read(path).schedule.unroll == 3
    assert Side.read(f"{path}:1").schedule.unroll == 1
    assert Side.read(_records(tmp_path / "s.jsonl", lucky)).schedule.unroll == 1


def test_records_of_several_workloads_have_no_one_winner(tmp_path):
    path = _records(tmp_path / "r.jsonl", ("add", "full", 1e-6, 1), ("mul", "full", 2e-6, 2))
    with pytest.raises(InvalidRequestError, match=r"2 workloads: add:n=64.*mul:n=64.*--of"):
        Side.read(path)
    assert Side.read(path, "mul:n=64").schedule.unroll == 2
    with pytest.raises(InvalidRequestError, match="none of them a good one of relu"):
        Side.read(path, "relu:n=64")


def test_what_was_built_before_is_not_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEFARM_BUILD_CACHE", str(tmp_path))
    side = Side.read("default", "add:n=37")
    first = side.build(targets.resolve("local").to_proto())
    monkeypatch.setattr(BuildPool, "_enqueue", None)
    again = Side.read("default", "add:n=37").build(targets.resolve("local").to_proto())
    assert again.digest == first.digest
