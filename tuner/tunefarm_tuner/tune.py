"""tune: the fastest schedules of some workloads, by trials on some devices."""

import contextlib
import os
import signal
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from types import FrameType

from tunefarm import Device, Tracker, request_device
from tunefarm.request import Where, current_user
from tunefarm_compiler import targets, workload
from tunefarm_compiler.cache import default_cache
from tunefarm_compiler.database import Database
from tunefarm_compiler.pool import BuildPool
from tunefarm_proto import errors
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_tuner.bench import target_of_key
from tunefarm_tuner.experience import entries_of, experience_of
from tunefarm_tuner.ledger import Ledger, Line
from tunefarm_tuner.pipeline import Hooks, Pipeline, Screen, Wish
from tunefarm_tuner.plan import (
    DEFAULT_STRATEGY,
    SCHEDULERS,
    THINKING,
    Asked,
    MakeStrategy,
    Plan,
)
from tunefarm_tuner.progress import Progress, Reporter
from tunefarm_tuner.proposer import Proposer, Search
from tunefarm_tuner.recording import target_text
from tunefarm_tuner.records import Record, RecordFile, read
from tunefarm_tuner.result import DeviceUse, TuneResult
from tunefarm_tuner.search import (
    Patience,
    ScheduleSpace,
    Space,
    Strategy,
    WarmStart,
    warm_start,
)
from tunefarm_tuner.search import Task as Scheduled
from tunefarm_tuner.search import strategy as strategy_of
from tunefarm_tuner.seats import MOST_WINDOW, Seat
from tunefarm_tuner.tasks import Custom, CustomTask, Task, WorkloadTask
from tunefarm_tuner.wanted import Tuned, Wanted, keys_of, listed, once, there
from tunefarm_tuner.winners import Winners

ANY = 1 << 40


def tune(
    tasks: Wanted | Sequence[Wanted],
    devices: str | Sequence[str] | Mapping[str, int],
    *,
    trials: int,
    records: str | os.PathLike[str],
    strategy: str | MakeStrategy = DEFAULT_STRATEGY,
    scheduler: str = "gradient",
    patience: int = 0,
    transfer: Sequence[str | os.PathLike[str]] = (),
    best: str | os.PathLike[str] | None = None,
    seed: int = 0,
    screen: Screen | None = None,
    finals: bool = True,
    workers: int | None = None,
    executor: Executor | None = None,
    threads: int = 1,
    tracker: str | None = None,
    priority: int = 0,
    timeout: float | None = None,
    wait_for_key: bool = False,
    where: Where | None = None,
    on_record: Callable[[int, Record], None] | None = None,
    on_progress: Callable[[tpb.TuningRun], None] | None = None,
) -> TuneResult:
    """Measure up to `trials` candidates of each task, those already in `records` counted in.

    `tasks` are workloads, as in "matmul:m=512,n=512,k=512", `Custom` ones, or a `TemplateSpace`
    whose template returns bundles of a workload; `devices` are keys, each with how many boards of
    it to use at once, as in {"rasp4b": 3}. Each workload is tuned for each key. Every candidate
    leaves a record, a failure with its reason; candidates whose code is that of an earlier one are
    recorded and not measured. At the end the best and the default of each task are timed in turns
    by the full protocol, so that the winner is no lucky sample (`finals`).

    `strategy` is one of `STRATEGIES`, or makes a `Strategy` of a space, a seed and a `WarmStart`.
    Of several tasks, "gradient" gives the trials of all to those where most is to be gained for the
    whole, "round-robin" as many to each. A task ends early after `patience` trials without gain (0:
    never). The model begins with what `records`, and the files in `transfer`, say of other shapes
    and targets. The winners go into the database `best`.

    Loops are dealt out to so many `threads` at most: each number is a search of its own. An
    `executor`, a cluster's say, builds the candidates in place of `workers` processes of this
    machine.

    Devices may come, go and die meanwhile. A run that was ended in any way goes on from its
    records. Ctrl-C ends it: the result is then `interrupted`. `on_record` is told the number of
    trials done and each record, `on_progress` of the whole, about twice a second.

    Raises: InvalidRequestError, UnknownWorkloadError, UnknownKeyError, TrackerUnreachableError,
    OSError for a file that cannot be read, and what else `request_device` raises; never an error
    of a candidate.
    """
    keys = keys_of(devices)
    plan = Plan(once(listed(tasks)), keys, trials, strategy, scheduler, patience, threads)
    plan.check()
    wish = _wish(screen, workers, finals, seed)
    known = [one for other in transfer for one in experience_of(read(there(other)))]
    if best is not None:
        Database.put(best, [])  # what is wrong with it is said now, not at the end
    with (
        RecordFile(Path(records)) as file,
        BuildPool(workers=wish.workers, cache=default_cache(), executor=executor) as pool,
        Proposer() as proposer,
    ):
        if plan.thinks:
            proposer.start()
        asked = Asked(tracker, priority, timeout, wait_for_key, where)
        run = Run(file, pool, proposer, plan, wish=wish, asked=asked)
        run.on_record, run.on_progress = on_record, on_progress
        run.known += known
        result = run.go()
        if best is not None:
            Database.put(best, entries_of(file.records))
        return result


def _wish(screen: Screen | None, workers: int | None, finals: bool, seed: int) -> Wish:
    """What a run is called, and how it works. Raises: InvalidRequestError."""
    if seed < 0 or seed >= 1 << 63 or (workers is not None and workers < 1):
        raise errors.InvalidRequestError(
            f"seed {seed}, {workers} workers", "a seed is 0 or more, workers are 1 or more"
        )
    return Wish(
        screen=screen or Screen(),
        workers=workers or max(1, len(os.sched_getaffinity(0)) - 1),
        finals=finals,
        run=uuid.uuid4().hex[:12],
        seed=seed,
    )


class Run:
    """One call of `tune`."""

    def __init__(
        self,
        file: RecordFile,
        pool: BuildPool,
        proposer: Proposer,
        plan: Plan,
        *,
        wish: Wish,
        asked: Asked,
    ) -> None:
        self.on_record: Callable[[int, Record], None] | None = None
        self.on_progress: Callable[[tpb.TuningRun], None] | None = None
        self._file, self._pool, self._proposer = file, pool, proposer
        self._plan, self._wanted, self._keys = plan, plan.wanted, plan.keys
        self._wish, self._asked = wish, asked
        self.known = experience_of(file.records)
        self._tasks = SCHEDULERS[plan.scheduler]([])
        self._ledger = Ledger()
        self._winners = Winners(asked.tracker)
        self._progress = Progress(wish.run, current_user(), plan.strategy_name)
        self._known: set[tuple[str, str]] = set()
        self._notes: set[str] = set()
        self._report: Callable[[tpb.TuningRun], None] = lambda run: None

    def go(self) -> TuneResult:
        """Until it is over."""
        with Tracker(self._asked.tracker) as connection:
            for key in self._keys:
                target = target_of_key(connection, key)
                if target is not None:
                    self._add_tasks(key, target)
            pipeline = self._pipeline()
            reporter = Reporter(self._asked.tracker)
            self._report = reporter.put
            state, detail = tpb.TUNING_STATE_FAILED, ""
            try:
                with interrupting(pipeline):
                    pipeline.run([self._seat(key, pipeline) for key in self._seats()])
                state = tpb.TUNING_STATE_FINISHED
            except KeyboardInterrupt:
                state = tpb.TUNING_STATE_INTERRUPTED
            except BaseException as error:
                detail = f"{type(error).__name__}: {error}"[:500]
                raise
            finally:
                last = self._progress.run(pipeline)
                for line, told in zip(self._ledger.lines, last.tasks, strict=True):
                    self._winners.name(line, told)
                last.state, last.detail = state, detail
                reporter.close(last)
            self._winners.warn_of_untold()
            return self._result(pipeline, state == tpb.TUNING_STATE_INTERRUPTED)

    def _pipeline(self) -> Pipeline:
        hooks = Hooks(self._recorded, self._tick, self._winners.add, self._join)
        pipeline = Pipeline(
            self._ledger, self._pool, self._file,
            hooks=hooks, choose=self._choose, wish=self._wish,
        )  # fmt: skip
        pipeline.keys = frozenset(self._keys)
        return pipeline

    def _seats(self) -> list[str]:
        return [key for key, count in self._keys.items() for _ in range(count)]

    def _seat(self, key: str, pipeline: Pipeline) -> Seat:
        asked = self._asked

        def request() -> Device:
            return request_device(
                key,
                where=asked.where,
                tracker=asked.tracker,
                priority=asked.priority,
                timeout=asked.timeout,
                wait_for_key=asked.wait_for_key,
                purpose=f"tune {', '.join(one.name for one in self._wanted)}"[:200],
            )

        # What loads meanwhile would take the cores of threads that are timed.
        return Seat(key, request, pipeline.post, MOST_WINDOW if self._plan.threads == 1 else 1)

    def _add_tasks(self, key: str, target: pb.Target) -> None:
        """The tasks of a key's devices of a target, with the records that there are of them."""
        text = target_text(target)
        if (key, text) in self._known:
            return
        self._known.add((key, text))
        spec = targets.from_device(target)
        for one in self._wanted:
            task, found = self._task(one, spec, key, text)
            self._add(task, found, alike=one.name.partition(":")[0])

    def _task(
        self, one: Tuned | Custom, spec: targets.TargetSpec, key: str, target: str
    ) -> tuple[Task, Strategy]:
        seed = self._wish.seed
        if isinstance(one, Custom):
            custom = CustomTask(one, spec, key=key, target=target, seed=seed)
            return custom, self._strategy(custom.space, WarmStart())
        parsed = workload.parse(one.workload)
        space = ScheduleSpace(parsed, spec, self._threads(spec))
        task = WorkloadTask(
            parsed, spec, space,
            key=key, target=target, weight=one.weight, seed=seed, threads=space.threads,
        )  # fmt: skip
        return task, self._search(task, space)

    def _threads(self, spec: targets.TargetSpec) -> int:
        if self._plan.threads > 1 and (spec.gpu or spec.arch == "wasm32"):
            raise errors.InvalidRequestError(
                f"{self._plan.threads} threads, and {spec.cpu} {spec.arch} has none to deal out to",
                "leave threads out",
            )
        return self._plan.threads

    def _search(self, task: Task, space: ScheduleSpace) -> Strategy:
        """The strategy of a workload, in the process beside this one where it thinks much."""
        # The records of its own task are told to the strategy.
        here = (space.workload, space.spec, space.threads)
        known = [one for one in self.known if (one.workload, one.spec, one.threads) != here]
        name, seed = self._plan.strategy, self._wish.seed
        if name not in THINKING:
            return self._strategy(space, warm_start(space, known, seed=seed))
        assert isinstance(name, str)  # noqa: S101 (one of those)
        return self._proposer.strategy(
            Search(task.workload, space.spec, name, seed, known, space.threads)
        )

    def _strategy(self, space: Space, start: WarmStart) -> Strategy:
        make, seed = self._plan.strategy, self._wish.seed
        if isinstance(make, str):
            return strategy_of(make, space, seed, start)
        return make(space, seed, start)

    def _add(self, task: Task, found: Strategy, alike: str) -> None:
        plan = self._plan
        shared = plan.scheduler == "gradient"
        line = self._ledger.add(
            task,
            found,
            ANY if shared else plan.trials,
            self._file.records,
            Patience(plan.patience),
        )
        if shared:
            pot = self._ledger.pots
            pot[task.key] = pot.get(task.key, 0) + plan.trials
        name = name_of(line)
        operations = float(task.operations)
        self._tasks.tasks[name] = Scheduled(name, task.weight, operations, alike=alike)
        self._tasks._turns[name] = 0
        if line.records:
            self._tasks.observe(name, [one.median_s for one in line.records.values()])

    def _choose(self, lines: Sequence[Line]) -> Line:
        names = {name_of(line): line for line in lines}
        for name, task in self._tasks.tasks.items():
            task.ended = name not in names
        chosen = self._tasks.next()
        return names[chosen] if chosen is not None else lines[0]

    def _join(self, device: Device) -> None:
        self._add_tasks(device.key, device.target)

    def _recorded(self, record: Record) -> None:
        name = " ".join(record.task)
        if not record.duplicate_of:
            self._tasks.observe(name, [record.median_s])
        if self.on_record is not None:
            self.on_record(sum(line.trials for line in self._ledger.lines), record)

    def _tick(self, pipeline: Pipeline) -> None:
        for line in self._ledger.lines:
            note = getattr(line.strategy, "note", "")
            if note and note not in self._notes:
                self._notes.add(note)
                warnings.warn(note, RuntimeWarning, stacklevel=2)
        run = self._progress.run(pipeline)
        self._report(run)
        if self.on_progress is not None:
            self.on_progress(run)

    def _result(self, pipeline: Pipeline, interrupted: bool) -> TuneResult:
        return TuneResult(
            tasks=[self._winners.summed(line) for line in self._ledger.lines],
            devices=[
                DeviceUse(one.id, one.key, one.trials, one.busy_s, one.held_s)
                for one in pipeline.accounts.values()
            ],
            seconds=pipeline.seconds,
            interrupted=interrupted,
        )


@contextlib.contextmanager
def interrupting(pipeline: Pipeline) -> Iterator[None]:
    """The first Ctrl-C ends the run where nothing is half done; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        pipeline.interrupt()

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def name_of(line: Line) -> str:
    """A task's name among those of the scheduler."""
    return " ".join(line.task.name)


__all__ = ["DEFAULT_STRATEGY", "Asked", "MakeStrategy", "Tuned", "Wanted", "tune"]
