"""What tuning runs tell of themselves: kept, replaced, bounded, watched, given up."""

import asyncio

import pytest
from tunefarm_proto import errors
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_tracker import tunings
from tunefarm_tracker.tunings import Tunings


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run_of(name: str, trials: int = 0, started: int = 0, **more) -> tpb.TuningRun:
    run = tpb.TuningRun(id=name, trials=trials, state=tpb.TUNING_STATE_RUNNING, **more)
    run.started_at.FromSeconds(started)
    return run


def test_a_report_replaces_the_one_before_and_latest_runs_come_first():
    async def test() -> None:
        held = Tunings(Clock())
        await held.report(run_of("a", 1, 5), "ann")
        await held.report(run_of("b", 1, 6), "bob")
        await held.report(run_of("a", 2, 5), "ann")
        assert [(run.id, run.trials, run.user) for run in held.runs()] == [
            ("b", 1, "bob"), ("a", 2, "ann"),
        ]  # fmt: skip
        assert [run.id for run in held.runs("a")] == ["a"]
        assert held.runs()[0].updated_at.seconds == 1000

    asyncio.run(test())


def test_what_is_kept_is_bounded():
    async def test() -> None:
        held = Tunings(Clock())
        for index in range(tunings.KEPT + 5):
            await held.report(run_of(str(index), started=index), "")
        assert len(held.runs()) == tunings.KEPT and not held.runs("0")
        long = run_of("long", detail="x" * tunings.MOST_BYTES)
        many = run_of("many", tasks=[tpb.TuningTask()] * (tunings.MOST_PARTS + 1))
        for bad in (long, many, run_of(""), tpb.TuningRun(id="no state")):
            with pytest.raises(errors.InvalidRequestError):
                await held.report(bad, "")

    asyncio.run(test())


def test_nobody_reports_for_somebody_else():
    async def test() -> None:
        held = Tunings(Clock())
        await held.report(run_of("a"), "ann")
        with pytest.raises(errors.PermissionDeniedError, match="ann"):
            await held.report(run_of("a"), "bob")

    asyncio.run(test())


def test_a_run_that_falls_silent_is_lost_and_comes_back():
    async def test() -> None:
        clock = Clock()
        held = Tunings(clock)
        await held.report(run_of("a"), "")
        finished = run_of("b")
        finished.state = tpb.TUNING_STATE_FINISHED
        await held.report(finished, "")
        clock.now += tunings.LOST_S + 1
        assert held.runs("a")[0].state == tpb.TUNING_STATE_LOST
        assert held.runs("b")[0].state == tpb.TUNING_STATE_FINISHED
        await held.report(run_of("a"), "")
        assert held.runs("a")[0].state == tpb.TUNING_STATE_RUNNING

    asyncio.run(test())


def test_watchers_get_every_run_and_each_last_state():
    async def test() -> None:
        held = Tunings(Clock())
        await held.report(run_of("a", 1), "")
        await held.report(run_of("b", 1), "")
        watched = held.watch()
        first = [await anext(watched) for _ in range(2)]
        assert {run.id for run in first} == {"a", "b"}
        for trials in range(2, 6):  # changes while nobody reads: the last one comes
            await held.report(run_of("a", trials), "")
        assert (await anext(watched)).trials == 5
        waiting = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0)
        assert not waiting.done()
        await held.report(run_of("b", 9), "")
        assert ((await waiting).id, (await held.watch("b").__anext__()).trials) == ("b", 9)

    asyncio.run(asyncio.wait_for(test(), 10))
