"""Operators built, checked and tuned through real processes, whatever their dtype."""

import json

import pytest


@pytest.mark.parametrize(
    "workload",
    [
        "conv2d:c=8,h=14,w=14,k=16,r=3,s=3,pad=1,act=relu",
        "softmax:m=16,n=100",
        "matmul:m=17,n=33,k=29,dtype=int8",
        "matmul:m=17,n=33,k=29,dtype=float16",
        "matmul:m=17,n=33,k=29,dtype=bfloat16",
    ],
)
def test_a_workload_is_right(farm, workload):
    found = farm.json("bench", workload, "--device", "one")
    assert found["correct"] is True
    assert found["workload"].startswith(workload.partition(":")[0])


def test_a_workload_on_threads_is_right(farm):
    given = ("bench", "matmul:m=61,n=67,k=29", "--device", "one")
    found = farm.json(*given, "--threads", "3")
    assert found["correct"] is True
    assert json.loads(found["schedule"])["threads"] == 3
    again = farm.json(*given, "--schedule", found["schedule"])
    assert again["correct"] is True
    assert again["bundle_digest"] == found["bundle_digest"]
    for threads, word in (("65", "2 to 64"), ("0", "--threads")):
        failed = farm.run(*given, "--threads", threads)
        assert failed.returncode == 2
        assert word in failed.stderr and len(failed.stderr.splitlines()) == 1


def test_a_convolution_is_tuned(farm, tmp_path):
    records = str(tmp_path / "records.jsonl")
    workload = "conv2d:c=8,h=14,w=14,k=16,r=3,s=3,pad=1"
    given = ("tune", workload, "--device", "one", "--trials", "6", "--records", records)
    found = farm.json(*given)
    assert (found["trials"], found["tasks"][0]["failed"]) == (6, 0)
