"""Results, comparisons, jobs and tuning runs: the data of their pages, and what these say."""

import asyncio
import re
import sys
from math import inf, isnan, nan

import httpx
import pytest
from fake_tracker import FakeTracker, ago, anchor, device, result
from hypothesis import given
from hypothesis import strategies as st
from measured import EVIL, MATMUL, job_of, noisy, rounds, run_of
from tunefarm.comparison import Verdict, judge_apart
from tunefarm_dashboard import listings
from tunefarm_dashboard.views import compare, job, roofline, tuning
from tunefarm_dashboard.views import result as view
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

DEVICE = device("d0", "k")
TIMES = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=200)


def get(url: str, path: str) -> str:
    answer = httpx.get(url + path, timeout=60)
    assert answer.status_code == 200, answer.text
    return re.sub(r"\s+", " ", answer.text)


# What the pages show, as data.


def test_samples_are_in_the_order_measured_with_those_measured_again():
    timing = pb.Timing(samples_s=noisy(20, 1e-3), number=8)
    rounds(timing)
    rows = view.sample_rows(timing)
    assert [row.number for row in rows] == list(range(1, 31))
    assert [row.round for row in rows] == [1] * 10 + [2] * 10 + [3] * 10
    assert [row.seconds for row in rows if not row.discarded] == list(timing.samples_s)
    assert [row.seconds for row in rows if row.discarded] == list(timing.discarded_s)
    assert {row.disturbed for row in rows[10:20]} == {"stolen time 8%"}
    assert all(row.throttled for row in rows[20:]) and not rows[0].throttled
    assert rows[29].temperature_c == 52


def test_what_held_a_gpus_clocks_down_is_shown():
    timing = pb.Timing(samples_s=noisy(10, 1e-3), number=8)
    timing.after.throttle_reasons.append("software power cap")
    timing.after.power_watts = 349.6
    timing.rounds.add(samples=10, after=timing.after)
    assert all(row.throttled for row in view.sample_rows(timing))
    pairs = view.condition_pairs(timing)
    assert ("Throttled by", "", "software power cap") in pairs and ("Power", "", "350 W") in pairs
    marks = view.marks(tpb.Result(timing=timing), emulated=False)
    assert any(m.word == "throttled" and "in 1 of the rounds" in m.why for m in marks)


@pytest.mark.parametrize("samples", [[], [nan], [inf, -1.0, 0.0], [1e-3, nan]])
def test_what_is_no_time_is_never_drawn(samples):
    timing = pb.Timing(samples_s=samples, number=1, median_low_s=nan, median_high_s=-1)
    timing.rounds.add(samples=4_000_000_000)
    rows = view.sample_rows(timing)
    assert [row.seconds for row in rows] == [one for one in samples if one == 1e-3]
    made = tpb.Result(timing=timing)
    assert bool(view.facts(made)) == bool(rows)
    view.marks(made, emulated=False)
    for plot in (view.sample_plot(rows, None), view.ecdf_plot([row.seconds for row in rows])):
        values = [*plot["x"], *(v for one in plot["series"] for v in one["values"] if v)]
        assert not any(isnan(value) for value in values)


@given(TIMES)
def test_a_histogram_counts_every_sample_and_an_ecdf_reaches_all_of_them(samples):
    edges, counts = view.histogram(samples)
    assert sum(counts) == len(samples)
    assert len(edges) == len(counts) + 1 <= view.MOST_BINS + 1
    assert edges[0] <= min(samples) <= max(samples) <= edges[-1] * (1 + 1e-9)
    plot = view.ecdf_plot(samples)
    shares = plot["series"][0]["values"]
    assert plot["x"] == sorted(set(plot["x"])) and shares == sorted(shares)
    assert shares[-1] == 100


def test_marks_say_what_speaks_against_a_number():
    made = result("r", DEVICE, MATMUL, noisy(20, 1e-3), correct=False)
    rounds(made.timing)
    made.timing.unconverged = True
    made.timing.cache = "cold"
    made.timing.before.time_together = True
    words = [mark.word for mark in view.marks(made, emulated=True)]
    assert words == [
        "emulated", "wrong answer", "unconverged", "throttled", "timed beside others", "cold cache"
    ]  # fmt: skip
    good = result("r", DEVICE, MATMUL, noisy(20, 1e-3), correct=True)
    assert view.marks(good, emulated=False) == []
    good.timing.median_low_s, good.timing.median_high_s = 0.5e-3, 1.5e-3
    assert [mark.word for mark in view.marks(good, emulated=False)] == ["imprecise"]


def test_runs_apart_are_judged_by_their_samples_and_a_wide_margin():
    base = noisy(40, 1e-3)
    for factor, verdict in ((1.0, "same"), (1.02, "same"), (1.3, "slower"), (0.7, "faster")):
        found = judge_apart(base, [one * factor for one in base], 0.05)
        assert found.verdict == verdict
        assert found.low <= found.ratio <= found.high
        assert found.ratio == pytest.approx(factor, rel=0.01)
    assert judge_apart([1.0, 9.0] * 9, [1.1, 8.0] * 9, 0.05).verdict is Verdict.UNDECIDED
    swapped = judge_apart([1.3 * one for one in base], base, 0.05)
    assert swapped.verdict is Verdict.FASTER


def test_results_beside_the_first_say_how_far_they_were_apart():
    other = device("d1", "k", emulated=True)
    base = result("a", DEVICE, MATMUL, noisy(20, 1e-3), lease_id="l1")
    slow = result("b", DEVICE, MATMUL, noisy(20, 2e-3), lease_id="l1")
    pi = result("c", other, MATMUL, noisy(20, 9e-3))
    odd = result("d", DEVICE, "add:n=8", noisy(20, 1e-6))
    few = result("e", DEVICE, MATMUL, [1e-3, 1e-3])
    wrong = result("f", DEVICE, MATMUL, noisy(20, 1e-3), correct=False)
    failed = result("g", DEVICE, MATMUL, [])
    rows = compare.compare_rows([base, slow, pi, odd, few, wrong, failed], frozenset({"d1"}))
    assert [row.how for row in rows[:2]] == ["the base", "one after the other in one lease"]
    assert (rows[1].verdict, round(rows[1].ratio, 2)) == ("slower", 2.0)
    assert rows[2].verdict == "" and "emulated" in rows[2].how
    assert [row.how for row in rows[3:]] == [
        "another workload", "fewer than 5 samples: no verdict", "a wrong answer", "no timing"
    ]  # fmt: skip
    assert [row.ratio is None for row in rows[3:]] == [True, False, True, True]
    picked = compare.pick_per_device([slow, base, pi, wrong], best=False)
    assert [one.id for one in picked] == ["b", "c"]  # the emulated one last
    assert compare.pick_per_device([slow, base, pi], best=True)[0].id == "a"


def test_a_roofline_says_which_roof_is_measured():
    memory = anchor(DEVICE, 1e-2, 60)
    memory.argument_bytes = 10**8  # 10 GB/s
    peak = result("p", DEVICE, "peak", [1e-3], operations=10**8)  # 100 GFLOPS
    made = result("r", DEVICE, MATMUL, [1e-3], operations=4 * 10**7)  # 40 GFLOPS
    made.argument_bytes = 10**7
    roofs = roofline.roofs([memory], [peak], [made])
    assert roofs == roofline.Roofs(10.0, pytest.approx(100), True)
    (row,) = roofline.roof_rows([made], {"d0": roofs}, frozenset())
    assert (row.intensity, row.bound_by) == (4.0, "memory")
    assert row.roof_gflops == pytest.approx(40) and row.share == pytest.approx(1)
    assert len(roofline.roof_plot([row])["series"]) == 2
    assert roofline.roofs([], [], [made]) == roofline.Roofs(None, pytest.approx(40), False)
    made.argument_bytes = 0
    (row,) = roofline.roof_rows([made], {}, frozenset())
    assert (row.intensity, row.roof_gflops, row.share, row.compute_from) == (None, None, None, "")


def test_a_jobs_parts_lie_where_they_were_though_the_clients_clock_is_wrong():
    fake = FakeTracker(0)
    fake.devices = [DEVICE]
    made = job_of(fake)
    holds = job.held(fake.past, [])
    found = job.job("req-1", holds, None, [made], queued=0.0, now=2e9)
    parts = {bar.row.what: bar for bar in found.bars}
    assert [row.what for row in found.rows] == [
        "build", "wait", "queue", "lease", "upload", "time"
    ]  # fmt: skip
    assert found.state == "over" and 45 < found.total_s < 55  # not an hour
    begun = parts["lease"].x
    assert parts["wait"].x + parts["wait"].width == pytest.approx(begun, abs=3)
    assert begun - 3 <= parts["upload"].x <= parts["time"].x
    for bar in found.bars:
        assert bar.x >= 0 and bar.x + bar.width <= job.WIDTH + 3
    del made.phases[:]
    told = job.job("req-1", holds, None, [made], queued=0.0, now=2e9).rows[-1]
    assert (told.seconds, told.note) == (None, "its client did not tell")


def test_the_best_so_far_only_rises():
    run = run_of()
    plot = tuning.best_plot(run)
    (series,) = plot["series"]
    assert series["values"] == sorted(series["values"]) and series["unit"] == "GFLOPS"
    assert plot["x"][-1] == pytest.approx(20, abs=1)  # until now, though nothing was better
    run.tasks[0].operations = 0
    assert tuning.best_plot(run)["series"][0]["values"][-1] == pytest.approx(4)
    (task,) = tuning.task_rows(run)
    assert task.gain == pytest.approx(4) and not task.final
    run.tasks[0].default_s = 1.5e-5  # the winner was timed in turns with the default
    (task,) = tuning.task_rows(run)
    assert task.gain == pytest.approx(1.5) and task.final
    assert [(one.error, one.share) for one in tuning.error_rows(run)] == [
        ("KernelCrashedError", 0.1), ("BuildFailedError", pytest.approx(1 / 30))
    ]  # fmt: skip
    assert tuning.device_rows(run)[0].share == 0.5
    assert tuning.run_row(run).workloads == MATMUL and task.trials_wanted == 100
    for name in ("add:n=1", "mul:n=1"):
        run.tasks.add(workload=name, trials_wanted=100)
    assert tuning.run_row(run).workloads == f"{MATMUL}; add:n=1; 1 more"
    assert tuning.task_rows(run)[0].trials_wanted is None  # they share 100
    del run.tasks[1:]
    run.tasks[0].points[0].best_s = nan
    run.state = 99
    assert tuning.run_row(run).state == "unknown (99)"
    assert len(tuning.best_plot(run)["series"]) == 1


# Kernels made to be read.


def _texts(made: tpb.Result, *command: str, timeout_s: float = 60.0) -> dict[str, str]:
    async def ask() -> dict[str, str]:
        own = listings.Listings(command, timeout_s) if command else listings.Listings()
        return dict(await own.of(made))

    return asyncio.run(ask())


def test_a_kernel_is_made_anew_to_be_read():
    target = pb.Target(triple="x86_64-unknown-linux-gnu", cpu="znver4", features=["avx2", "fma"])
    made = tpb.Result(workload=MATMUL, target=target)
    texts = _texts(made)
    assert "tile of C" in texts["loops"] and "define i32 @matmul" in texts["llvm"]
    assert "vfmadd" in texts["assembly"] and len(texts["digest"]) == 64
    made.target.triple = "pdp11"
    assert "no code can be made" in _texts(made)["error"]


def test_a_compiler_that_dies_or_hangs_is_said_in_one_line():
    program = "import os, sys; sys.stdin.read(); os.abort()"
    assert "ended with status -6" in _texts(tpb.Result(), sys.executable, "-c", program)["error"]
    hangs = "import time; time.sleep(600)"
    said = _texts(tpb.Result(), sys.executable, "-c", hangs, timeout_s=0.3)
    assert "took over 0.3 s" in said["error"]


# What the pages say.


def test_the_pages_of_a_result(tracker: FakeTracker, url, monkeypatch):
    made = job_of(tracker)
    page = get(url, "/results/res-1")
    for words in ("throttled", "correct", "95 % interval", "stolen time 8%", 'href="/jobs/req-1"'):
        assert words in page
    table = httpx.get(f"{url}/api/result-samples?result=res-1").json()
    assert table["total"] == 30 and table["rows"][10]["discarded"] is True
    assert httpx.get(f"{url}/results/nobody").status_code == 404
    assert "There is no result nobody" in httpx.get(f"{url}/results/nobody").text
    made.target.triple, made.target.cpu = "x86_64-unknown-linux-gnu", "znver4"
    made.target.features[:] = ["avx2", "fma"]
    text = httpx.get(f"{url}/api/result-code?result=res-1&what=assembly", timeout=60)
    assert text.headers["content-type"].startswith("text/plain") and "vfmadd" in text.text
    assert "Not the very bundle that ran" in get(url, "/results/res-1/code/loops")
    made.target.triple = "pdp11"
    assert httpx.get(f"{url}/api/result-code?result=res-1").status_code == 502
    assert "It could not be made: no code" in get(url, "/results/res-1/code/llvm")
    monkeypatch.setattr(listings, "installed", lambda: False)
    for path in ("/results/res-1", "/results/res-1/code/llvm"):
        assert "the compiler is not installed beside the dashboard" in get(url, path)
    assert httpx.get(f"{url}/api/result-code?result=res-1").status_code == 404
    assert httpx.get(f"{url}/results/res-1/code/nonsense").status_code == 422


def test_a_comparison_says_that_it_is_weak(tracker: FakeTracker, url):
    made = job_of(tracker)
    other = tpb.Result()
    other.CopyFrom(made)
    other.id, other.device_id = "res-2", "local2-ab12cd"
    other.timing.samples_s[:] = [2 * one for one in made.timing.samples_s]
    tracker.results.insert(0, other)
    page = get(url, "/compare?result=res-1&result=res-2")
    assert '<b class="verdict">slower</b> <span class="badge">weak</span>' in page
    assert "no two of these runs were taken in turns" in page
    assert "two devices of one target" in page
    rows = httpx.get(f"{url}/api/compare?workload={MATMUL}").json()["rows"]
    assert [row["id"] for row in rows] == ["res-1", "res-2"]  # the fastest device first
    assert "not measured" in get(url, f"/compare?workload={MATMUL}")  # no reading of the memory
    assert "Choose a workload" in get(url, "/compare")


def test_a_job_that_waits_that_holds_and_that_is_over(tracker: FakeTracker, url):
    job_of(tracker)
    over = get(url, "/jobs/req-1")
    for words in ("released", "upload", "queued to ada", "ab" * 8, "Attempts: 1 lease"):
        assert words in over
    parts = httpx.get(f"{url}/api/job-parts?request=req-1").json()["rows"]
    assert {row["what"]: row["seconds"] for row in parts}["build"] == 8.0
    assert "all 1 local are held" in get(url, "/jobs/r1")
    assert "Nothing is known of a request" in get(url, "/jobs/nobody")
    listed = get(url, "/jobs")
    assert "/jobs/req-1" in listed and "/jobs/r1" in listed and "tune matmul" in listed


def test_tuning_runs_are_shown(tracker: FakeTracker, url):
    tracker.tunings = [run_of()]
    limit = 100
    while "run-1" not in get(url, "/tunings") and limit:
        limit -= 1
    page = get(url, "/tunings/run-1")
    for words in ("30 of 100 trials", "KernelCrashedError", "50 %", "4.00", "about 28 s more"):
        assert words in page
    assert "No such run is known" in get(url, "/tunings/nobody")
    assert httpx.get(f"{url}/api/tuning-tasks?run=nobody").status_code == 404
    assert httpx.get(f"{url}/api/tuning-errors?run=run-1").json()["total"] == 2


def test_hostile_words_are_escaped_on_every_page(tracker: FakeTracker, url):
    made = job_of(tracker)
    made.workload = made.user = made.schedule = made.bundle_digest = EVIL
    made.phases[0].name = EVIL
    made.timing.rounds[0].disturbed = EVIL
    made.timing.rounds[0].counters[EVIL] = 1.0
    for past in tracker.past:
        past.lease.purpose = past.lease.holder = past.outcome = EVIL
    for told in tracker.events["req-1"]:
        told.action = told.detail = EVIL
    run = run_of()
    run.user = run.detail = run.strategy = run.tasks[0].workload = EVIL
    run.tasks[0].best_schedule = run.devices[0].id = EVIL
    run.errors[EVIL] = 9
    tracker.tunings = [run]
    tracker.past[-1].ended_at.CopyFrom(ago(1))
    shown = 0
    limit = 100
    while "run-1" not in get(url, "/tunings") and limit:
        limit -= 1
    for path in (
        "/results/res-1", "/results/res-1/code/llvm", "/compare?result=res-1", "/compare",
        "/jobs", "/jobs/req-1", "/tunings", "/tunings/run-1", "/results",
    ):  # fmt: skip
        page = get(url, path)
        assert "<script>window" not in page and "<img src=x" not in page, path
        shown += page.count("&lt;script&gt;window")
    assert shown > 15
