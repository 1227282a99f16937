"""Searches of GPU schedules: every strategy, warm starts, pruning by what the assembler says."""

import json
import math
import random
import sqlite3

import pytest
from tunefarm_compiler import targets, workload
from tunefarm_compiler.gpu.features import NAMES
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_tuner import recording, records, resources
from tunefarm_tuner.search import (
    STRATEGIES,
    Experience,
    Observation,
    ScheduleSpace,
    model,
    strategy,
    warm_start,
)


def space(text="softmax:m=512,n=1024", target="sm_80"):
    return ScheduleSpace(workload.parse(text), targets.resolve(target))


def cost(own, candidate):
    """A GPU of one's own making: time by transactions, and by how full it is."""
    told = dict(zip(NAMES, own.features(candidate), strict=True))
    busy = min(1.0, told["occupancy"] * 2) * min(1.0, 2 ** told["blocks"] / 108)
    return 2 ** told["bytes for each operation"] / told["worst use of an access"] / (0.05 + busy)


def best(own, name, trials, seed):
    """The least cost that a strategy comes to."""
    search, found = strategy(name, own, seed), dict[str, float]()
    while len(found) < trials:
        batch = search.propose(8)
        if not batch:
            break
        new = {one: cost(own, one) for one in batch}
        assert not set(new) & set(found)
        found |= new
        search.observe([Observation(one, seconds) for one, seconds in new.items()])
    return min(found.values())


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize(
    "text", ["matmul:m=256,n=256,k=256,dtype=float16", "layer_norm:m=64,n=512"]
)
def test_every_strategy_proposes_schedules_that_are_new_and_valid(name, text):
    own = space(text)
    search, seen = strategy(name, own, 1), []
    for _ in range(3):
        batch = search.propose(6)
        assert batch and all(own.valid(one) for one in batch if one != own.default())
        search.observe([Observation(one, 1.0 + len(seen)) for one in batch])
        seen += batch
    assert seen[0] == own.default() and len(set(seen)) == len(seen)


@pytest.mark.skipif(bool(model.missing()), reason="needs LightGBM")
def test_the_model_finds_more_than_chance():
    own = space("matmul:m=512,n=512,k=512,dtype=float16")
    led = [best(own, "model", 40, seed) for seed in (1, 2)]
    chance = [best(own, "random", 40, seed) for seed in (1, 2)]
    assert math.prod(led) < math.prod(chance)


def test_a_search_learns_of_other_shapes_and_gpus_and_not_of_processors():
    here, rng = space("softmax:m=100,n=2048", "h100"), random.Random(0)
    experience = []
    for other in (space(), space(target="znver4")):
        for _ in range(12):
            one = other.sample(rng)
            experience.append(Experience(other.workload, other.spec, one, rng.random(), "d"))
    start = warm_start(here, experience)
    assert len(start.groups) == 1 and len(start.groups[0].features[0]) == len(NAMES)
    assert start.seeds and all(here.valid(one) for one in start.seeds)


def bundle(spilled, grid=1):
    plan = bpb.LaunchPlan()
    plan.launches.add(
        kernel="f", grid=[grid, 1, 1], block=[128, 1, 1], arguments=[0], shared_bytes=64,
        resources=bpb.KernelResources(registers=255, spill_store_bytes=spilled, spill_load_bytes=8),
    )  # fmt: skip
    library = bundle_file.Library(
        targets.resolve("sm_80").to_proto(), b".version 7.8", launches={"f": plan}
    )
    return bundle_file.pack(bpb.BundleManifest(), [library])


def test_what_spills_is_told_apart_and_what_a_kernel_takes_is_told():
    assert resources.fault(bundle(0)) == "" == resources.fault(bundle(8))
    assert resources.fault(bundle(88)) == (
        "f spills 88 bytes of each thread: 255 registers are not enough"
    )
    (one,) = resources.resources(bundle(88))
    assert one == {
        "kernel": "f", "grid": [1, 1, 1], "block": [128, 1, 1], "shared_bytes": 64,
        "registers": 255, "spill_store_bytes": 88, "spill_load_bytes": 8, "stack_bytes": 0,
        "static_shared_bytes": 0,
    }  # fmt: skip
    processor = bundle_file.pack(
        bpb.BundleManifest(), [(targets.resolve("rasp4b").to_proto(), b"\x7fELF")]
    )
    assert resources.resources(processor) == [] and resources.fault(processor) == ""


def test_the_same_code_launched_otherwise_is_no_twin():
    assert recording.object_digest(bundle(0)) == recording.object_digest(bundle(0))
    assert recording.object_digest(bundle(0)) != recording.object_digest(bundle(0, grid=2))


def test_a_table_of_an_older_version_is_made_again(tmp_path):
    path = tmp_path / "r.jsonl"
    record = records.Record("w", "t", "d", "k", False, "{}", resources=[{"registers": 40}])
    records.append(path, record)
    table = sqlite3.connect(f"{path}.sqlite")
    table.execute("ALTER TABLE trials DROP COLUMN resources")
    table.close()
    records.append(path, records.Record("w", "t", "d", "k", False, '{"lanes":1}'))
    table = sqlite3.connect(f"{path}.sqlite")
    rows = [json.loads(row[0]) for row in table.execute("SELECT resources FROM trials")]
    table.close()
    assert sorted(rows, key=len) == [[], [{"registers": 40}]]
