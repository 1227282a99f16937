"""The database of best schedules: what is looked up, what is kept, what travels."""

import random
from dataclasses import replace
from threading import Thread

import pytest
from tunefarm_compiler import Schedule, build, targets, workload
from tunefarm_compiler.cache import BuildCache
from tunefarm_compiler.database import Database, Entry
from tunefarm_compiler.pool import BuildPool
from tunefarm_compiler.spaces import ScheduleRules, default_schedule
from tunefarm_proto.errors import InvalidRequestError

ZEN4, SKYLAKE = targets.resolve("znver4"), targets.resolve("skylake-avx512")
PI = targets.resolve("rasp3b")
CUBE = workload.parse("matmul:m=512,n=512,k=512")


def schedule(seed, parsed=CUBE, spec=ZEN4):
    return ScheduleRules(parsed, spec).sample(random.Random(seed))


def entry(seed, seconds, parsed=CUBE, spec=ZEN4):
    return Entry.of(parsed, spec, schedule(seed, parsed, spec).to_json(), seconds)


def test_the_fastest_of_a_workload_and_target_is_kept():
    found = Database()
    assert found.add(entry(1, 0.5)) and not found.add(entry(2, 0.6)) and found.add(entry(3, 0.4))
    assert found.add(entry(4, 9.0, spec=PI)) and len(found) == 2
    assert found.schedule(CUBE, ZEN4) == schedule(3)
    # The same schedule measured again: the newer figure holds, also where it is worse.
    assert found.add(entry(3, 0.45))
    assert found.lookup(CUBE, ZEN4).entry.seconds == 0.45


def test_the_same_target_comes_before_one_like_it_before_a_near_shape():
    near = workload.parse("matmul:m=512,n=768,k=512")
    found = Database([entry(5, 0.5, near)])
    assert found.lookup(CUBE, ZEN4).how == "shape"
    found.add(entry(6, 0.1, spec=SKYLAKE))
    assert found.lookup(CUBE, ZEN4).how == "target"
    assert found.schedule(CUBE, ZEN4) == schedule(6, spec=SKYLAKE)
    found.add(entry(7, 0.9))
    assert found.lookup(CUBE, ZEN4).how == "exact"
    assert found.lookup(CUBE, PI) is None
    for far in (
        "matmul:m=512,n=1,k=2",
        "softmax:m=512,n=512",
        "matmul:m=512,n=512,k=512,dtype=int8",
    ):
        assert found.lookup(workload.parse(far), ZEN4) is None


def test_a_near_shape_gives_a_schedule_that_suits():
    odd = workload.parse("matmul:m=500,n=510,k=300")
    found = Database([entry(seed, 0.5) for seed in (8,)])
    made = found.schedule(odd, ZEN4)
    assert made is not None and not ScheduleRules(odd, ZEN4).fault(made)


def test_it_is_what_default_schedules_ask():
    found = Database([entry(9, 0.5)])
    assert default_schedule(CUBE, ZEN4, tuned=found) == schedule(9) != default_schedule(CUBE, ZEN4)
    assert default_schedule(CUBE, PI, tuned=found) == default_schedule(CUBE, PI)
    # What was tuned for one thread says nothing of four, and the other way round.
    assert default_schedule(CUBE, ZEN4, 4, found) == default_schedule(CUBE, ZEN4, 4)
    many = replace(schedule(8), threads=4)
    assert found.add(Entry.of(CUBE, ZEN4, many.to_json(), 0.2)) and len(found) == 2
    assert default_schedule(CUBE, ZEN4, 4, found) == many
    assert default_schedule(CUBE, ZEN4, tuned=found) == schedule(9)


@pytest.mark.parametrize("taken", [1, 2])
def test_the_best_on_so_many_threads_may_take_fewer(tmp_path, taken):
    few = replace(schedule(8), threads=taken)
    found = Database([entry(9, 0.1), Entry.of(CUBE, ZEN4, few.to_json(), 0.2, 4)])
    found.write(tmp_path / "best.jsonl")
    again = Database.read(tmp_path / "best.jsonl")
    assert [*again] == [*found] and [one.threads for one in again] == [1, 4]
    assert (tmp_path / "best.jsonl").read_text().count('"threads": 4') == 1
    assert default_schedule(CUBE, ZEN4, 4, again) == few
    assert default_schedule(CUBE, ZEN4, 1, again) == schedule(9)
    assert default_schedule(CUBE, ZEN4, 2, again) == default_schedule(CUBE, ZEN4, 2)
    # One that takes all four says so itself, as lines of older versions do.
    line = Entry.of(CUBE, ZEN4, replace(few, threads=4).to_json(), 0.2, 4).to_json()
    assert line.count("threads") == 1 and Entry.from_json(line).threads == 4


def test_a_larger_shape_gets_as_many_threads_more():
    small, spec = workload.parse("matmul:m=64,n=64,k=64"), ZEN4
    rules = ScheduleRules(small, spec, 8)
    plain = replace(schedule(8, small), parallel="")
    for taken, more, expected in ((1, 1, 1), (1, 2, 2), (1, 5, 4), (2, 4, 8), (8, 4, 8), (2, 8, 8)):
        one = rules.dealt_out(plain, taken)
        assert rules.count(one) == taken
        here = ScheduleRules(workload.parse(f"matmul:m={64 * more},n=64,k=64"), spec, 8)
        made = here.adapt(one, rules)
        assert made is not None and made.most_threads == expected


def test_a_schedule_that_can_no_longer_be_applied_is_passed_over():
    old = replace(entry(1, 0.1), schedule='{"lanes":16,"loops":[["gone",4]],"packs":[],"unroll":1}')
    found = Database([old])
    assert found.lookup(CUBE, ZEN4) is None
    assert found.lookup(workload.parse("matmul:m=512,n=512,k=500"), ZEN4) is None
    assert Database([replace(entry(1, 0.1), workload="gone:m=1")]).lookup(CUBE, ZEN4) is None


def test_files_are_read_as_they_were_written(tmp_path):
    full = replace(entry(1, 0.5), device="a", device_key="k", trials=64, recorded_at="2026-11-21")
    found = Database([full, entry(2, 1.5, spec=PI)])
    found.write(tmp_path / "deep" / "best.jsonl")
    text = (tmp_path / "deep" / "best.jsonl").read_text()
    assert [*Database.read(tmp_path / "deep" / "best.jsonl")] == [*found]
    assert '"schedule": {' in text and len(text.splitlines()) == 2
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["best.jsonl"]
    assert len(Database.read(tmp_path / "none.jsonl")) == 0
    part = found.select(cpu=PI.cpu)
    assert len(part) == 1 and len(found.select("conv2d")) == 0
    assert Database([entry(3, 1.0)]).merge(found) == 2


def test_a_bundle_is_built_by_the_best_known(tmp_path):
    small = workload.parse("matmul:m=64,n=64,k=64")
    best = schedule(7, small)
    known = Database([Entry.of(small, ZEN4, best.to_json(), 0.1)])
    bundle = build("matmul:m=64,n=64,k=64", [ZEN4, PI], tuned=known)
    held = [Schedule.from_json(one.schedules["matmul"]) for one in bundle.manifest.libraries]
    assert held == [best, default_schedule(small, PI)]
    given = default_schedule(small, ZEN4)
    bundle = build("matmul:m=64,n=64,k=64", ZEN4, given, tuned=known)
    assert Schedule.from_json(bundle.manifest.schedule) == given


def test_what_is_built_without_a_schedule_takes_the_users_best(tmp_path, monkeypatch):
    path = tmp_path / "best.jsonl"
    monkeypatch.setenv("TUNEFARM_BEST", str(path))
    text, small = "matmul:m=64,n=64,k=64", workload.parse("matmul:m=64,n=64,k=64")
    best, plain = schedule(7, small), default_schedule(small, ZEN4)

    def built(**options):
        return Schedule.from_json(build(text, ZEN4, **options).manifest.schedule)

    assert built() == plain != best  # there is none yet
    Database.put(path, [Entry.of(small, ZEN4, best.to_json(), 0.1)])
    assert built() == best and built(schedule=plain) == plain
    assert built(tuned=False) == built(tuned=None) == built(tuned=Database()) == plain
    faster = schedule(8, small)
    assert faster != best
    Database.put(path, [Entry.of(small, ZEN4, faster.to_json(), 0.05)])
    assert built() == faster  # it is read again
    path.write_text("nonsense\n")
    with pytest.raises(InvalidRequestError, match=r"best.jsonl:1 is no tuned schedule"):
        built()
    assert built(tuned=False) == plain


def test_the_build_cache_knows_tuned_and_untuned_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEFARM_BEST", str(tmp_path / "best.jsonl"))
    text, small = "matmul:m=64,n=64,k=64", workload.parse("matmul:m=64,n=64,k=64")
    best, cache = schedule(7, small), BuildCache(tmp_path / "cache")
    with BuildPool(workers=1, cache=cache) as pool:
        plain = pool.submit(text, ZEN4).result()
        Database.put(tmp_path / "best.jsonl", [Entry.of(small, ZEN4, best.to_json(), 0.1)])
        tuned = pool.submit(text, ZEN4).result()
        assert Schedule.from_json(tuned.manifest.schedule) == best
        assert pool.submit(text, ZEN4, tuned=False).result().digest == plain.digest
        assert pool.submit(text, ZEN4, best, tuned=False).result().digest == tuned.digest
        assert (cache.hits, cache.misses) == (2, 2)


def test_what_two_searches_add_at_once_is_all_kept(tmp_path):
    path = tmp_path / "deep" / "best.jsonl"
    shapes = [workload.parse(f"matmul:m={n},n=64,k=64") for n in range(64, 72)]
    found = [[entry(1, 1.0, parsed)] for parsed in shapes]
    threads = [Thread(target=Database.put, args=(path, one)) for one in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Database.read(path)) == 8
    assert [one.name for one in path.parent.iterdir()] == ["best.jsonl"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "{}", '{"workload":1}', "null",
     '{"workload":"m","triple":"t","cpu":"c","features":[],"schedule":{"loops":[],"lanes":1},"seconds":0}',
     '{"workload":5,"triple":"t","cpu":"c","features":[],"schedule":{"loops":[],"lanes":1},"seconds":1}',
     '{"workload":"m","triple":"t","cpu":"c","features":5,"schedule":{"loops":[],"lanes":1},"seconds":1}',
     '{"workload":"m","triple":"t","cpu":"c","features":[],"schedule":{"loops":[["i",1e400]],"lanes":1},"seconds":1}',
     '{"workload":"m","triple":"t","cpu":"c","features":[],"schedule":{"loops":[],"lanes":1},"seconds":"1"}',
     '{"workload":"m","triple":"t","cpu":"c","features":[],"schedule":{"loops":[],"lanes":1},"seconds":1,"threads":"2"}',
     '{"workload":"m","triple":"t","cpu":"c","features":[],"schedule":{"loops":[],"lanes":1},"seconds":1,"threads":65}',
     '{"version":1e400}', "\udcff",
     '{"version":2,"workload":"m"}'],
)  # fmt: skip
def test_other_files_are_refused_by_their_line(tmp_path, line):
    path = tmp_path / "x.jsonl"
    text = entry(1, 0.5).to_json() + "\n\n" + line + "\n"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(InvalidRequestError, match=r"x\.jsonl:3 is no tuned schedule"):
        Database.read(path)
