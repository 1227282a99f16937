"""The loop that keeps every board busy: proposals -> builds -> uploads -> timings -> records.

One thread, the caller's, moves trials about in the ledger. It waits for events alone: a thinker
that asks strategies, builds that are done, devices that joined, answered or were lost. While a
batch is measured the next one is built, and the one after that is thought of.
"""

import math
import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from tunefarm import Bundle, Device
from tunefarm_compiler.pool import Build, BuildPool
from tunefarm_proto import errors
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_tuner import recording, resources
from tunefarm_tuner.finals import Final, Finalist
from tunefarm_tuner.ledger import Ledger, Line, Trial
from tunefarm_tuner.records import Record, RecordFile
from tunefarm_tuner.seats import (
    HOPELESS,
    REFUSED,
    Answered,
    Event,
    Finished,
    Job,
    Joined,
    Left,
    Seat,
    is_infrastructure,
    now,
)
from tunefarm_tuner.tasks import WorkloadTask
from tunefarm_tuner.thinker import Proposed, Thinker

TICK_S = 0.5
SWITCH_S = 0.0005
STOP_S, CUT_S = 5.0, 0.2
PATIENCE_S = 120.0  # without any device, before the run gives up
MOST_MEANWHILE = 16  # candidates more in flight for a slow thinker
FIRST_S, FIRST_ON_THREADS_S = 2e-5, 1e-3  # of a first call: caches filled, threads begun
FINALISTS = 5
FINAL_TRIES = 3
OTHER_WORKLOAD = (errors.UnknownWorkloadError, errors.OperatorInvalidError)


@dataclass(frozen=True)
class Screen:
    """How a candidate is timed at first: quickly. Samples of at least `min_repeat_ms`.

    What is slower than `abandon` times the best is given up after two calls; 0: never. Not where
    these were over in less than first calls may take of any kernel.
    """

    repeat: int = 5
    min_repeat_ms: float = 2.0
    warmup_ms: float = 0.0
    abandon: float = 2.0
    timeout_s: float = 30.0

    def options(self, best_s: float, threads: int = 1) -> pb.TimingOptions:
        """As the device takes them; `best_s` is 0 where there is none yet."""
        worth_s = self.abandon * best_s
        if worth_s > 0:
            worth_s = max(worth_s, FIRST_S if threads == 1 else FIRST_ON_THREADS_S)
        options = pb.TimingOptions(repeat=self.repeat, abandon_above_s=worth_s)
        options.min_repeat.FromNanoseconds(round(self.min_repeat_ms * 1e6))
        options.warmup.FromNanoseconds(round(self.warmup_ms * 1e6))
        return options


@dataclass(frozen=True)
class Built:
    """A build is over."""

    trial: Trial
    build: Build
    object_digest: str


@dataclass
class Account:
    """What a device did in this run, by its own clock."""

    id: str
    key: str
    trials: int = 0
    busy_s: float = 0.0
    held_s: float = 0.0
    began_s: float | None = None

    @property
    def use(self) -> float:
        """The share of its time in which it ran kernels: first calls, checks, warm-ups, samples."""
        return self.busy_s / self.held_s if self.held_s else 0.0


@dataclass
class Hooks:
    """Whom to tell. Called on the pipeline's thread."""

    on_record: Callable[[Record], None] = lambda record: None
    on_tick: Callable[["Pipeline"], None] = lambda pipeline: None
    on_winner: Callable[[Line, list[Finalist], Device], None] = lambda line, found, device: None
    on_join: Callable[[Device], None] = lambda device: None


@dataclass
class Wish:
    """What a run is to be: see `tune`."""

    screen: Screen = field(default_factory=Screen)
    workers: int = 2
    finals: bool = True
    finalists: int = FINALISTS
    patience_s: float = PATIENCE_S
    run: str = ""
    seed: int = 0


class Pipeline:
    """One run. `run` returns when every trial has its record and the finalists are timed."""

    def __init__(
        self,
        ledger: Ledger,
        pool: BuildPool,
        file: RecordFile,
        *,
        choose: Callable[[Sequence[Line]], Line],
        wish: Wish,
        hooks: Hooks,
    ) -> None:
        self.ledger = ledger
        self.keys: frozenset[str] = frozenset()  # of which there must be tasks
        self.wish = wish
        self.seats: list[Seat] = []
        self.accounts: dict[str, Account] = {}
        self.began = now()
        self.seconds = 0.0
        self._pool = pool
        self._file = file
        self._choose = choose
        self._hooks = hooks
        self._events: queue.SimpleQueue[Event | Proposed | Built | BaseException] = (
            queue.SimpleQueue()
        )
        self._thinker = Thinker(ledger, self._events.put)
        self._building = 0
        self._finals: dict[int, list[Final]] = {}  # by line: [] once it is asked for
        self._final_builds: dict[Trial, Final] = {}
        self._tries: dict[int, int] = {}
        self._last_device = now()
        self._had: dict[str, float] = {}  # by key, when a device of it was last given up
        self._hopeless: errors.TunefarmError | None = None
        self._ticked = 0.0
        self._facts: dict[str, recording.Device] = {}
        self._build_s = 0.0  # of late

    def post(self, event: Event) -> None:
        """Told by seats, on threads of theirs."""
        self._events.put(event)

    def interrupt(self) -> None:
        """End the run between two events, so that no trial is half over. For signal handlers."""
        self._events.put(KeyboardInterrupt())

    def run(self, seats: Sequence[Seat]) -> None:
        """Until all is done. Raises what ends the run; its records are kept in any case."""
        self.seats = list(seats)
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)  # a model thinks in Python: others must get their turn
        self._thinker.start()
        try:
            while True:
                self._ask()
                self._dispatch()
                if not self._owed_finals() and self._over:
                    break
                self._take_events()
                self._give_up_on_devices()
        finally:
            self._thinker.stop()
            sys.setswitchinterval(before)
            for seat in self.seats:
                seat.stop()
            for seat in self.seats:
                seat.join(CUT_S if seat.flying or seat.device is None else STOP_S)
            self.seconds = now() - self.began
            self._hooks.on_tick(self)

    @property
    def _over(self) -> bool:
        return self.ledger.over and self.keys <= {line.task.key for line in self.ledger.lines}

    # What is thought of.

    def _ask(self) -> None:
        """Have strategies think of as many candidates as there is room for."""
        held = [seat for seat in self.seats if seat.device is not None]
        rate = sum(1 / seat.turn_s for seat in held if seat.turn_s)
        # While a candidate is built, and while others are thought of, the devices go on. More than
        # that in flight is worse: what becomes of it is learnt later.
        building = 2 * self.wish.workers
        if rate and self._build_s:
            building = min(building, 1 + math.ceil(self._build_s * rate))
        meanwhile = min(math.ceil(self._thinker.seconds * rate), MOST_MEANWHILE)
        depth = sum(seat.window for seat in held) + building + meanwhile
        room = depth - self.ledger.under_way
        thinking = any(line.asked for line in self.ledger.lines)
        if thinking or room < max(1, depth // 4):
            return
        for index, count in self.ledger.next_lines(room, self._choose).items():
            self._thinker.ask(self.ledger.lines[index], count)

    # What is built.

    def _build(self, trial: Trial) -> None:
        self._building += 1
        future = trial.line.task.submit(self._pool, trial.candidate)

        def over(done: "Future[Bundle]") -> None:
            if done.cancelled():  # the run is over
                return
            digest = "" if done.exception() is not None else recording.object_digest(done.result())
            assert isinstance(done, Build)  # noqa: S101 (as `submit` makes them)
            self._events.put(Built(trial, done, digest))

        future.add_done_callback(over)

    def _built(self, event: Built) -> None:
        self._building -= 1
        trial, error = event.trial, event.build.exception()
        trial.build_s, trial.built_at = event.build.seconds, now()
        self._build_s += 0.2 * (trial.build_s - self._build_s)
        if isinstance(error, OTHER_WORKLOAD) and isinstance(trial.line.task, WorkloadTask):
            raise error  # a user's operator was edited meanwhile: no fault of the candidate
        if trial in self._final_builds:
            final = self._final_builds.pop(trial)
            if error is None:
                final.entries.append((trial.candidate, event.build.result()))
            return
        if error is not None:
            if not isinstance(error, errors.TunefarmError):
                raise error
            self._record(trial, recording.failed(trial, error, self.wish))
            return
        bundle = event.build.result()
        if said := resources.fault(bundle):
            trial.bundle, trial.object_digest = bundle, event.object_digest
            spills = errors.BuildFailedError(said)
            self._record(trial, recording.failed(trial, spills, self.wish))
            return
        first = self.ledger.built(trial, bundle, event.object_digest)
        if first is not None:
            original = trial.line.records[trial.line.by_object[event.object_digest]]
            self._record(trial, recording.twin(trial, original, self.wish))

    def _record(self, trial: Trial, record: Record) -> None:
        """The trial is over: its line is in the file before anything else learns of it."""
        if trial.done:
            return
        self._file.add([record])
        twins = self.ledger.done(trial, record)
        line = trial.line
        if line.best is record:
            line.points.append((line.trials, record.median_s, now() - self.began))
        self._hooks.on_record(record)
        for one in twins:
            self._record(one, recording.twin(one, record, self.wish))

    # What is measured.

    def _dispatch(self) -> None:
        for seat in self.seats:
            if seat.device is None or seat.final is not None:
                continue
            target = recording.target_text(seat.device.target)
            while len(seat.flying) < seat.window:
                trial = self.ledger.take(seat.key, target) or self._steal(seat)
                if trial is None:
                    break
                seat.send(self._job(trial))
            if not seat.flying:
                self._send_final(seat, target)

    def _steal(self, seat: Seat) -> Trial | None:
        """At the end, what a slower device has not begun: the first answer counts."""
        lines = [one for one in self.ledger.lines if one.task.key == seat.key]
        if any(self.ledger.missing(line) or line.asked for line in lines) or self._building:
            return None
        mine = {job.trial for job in seat.flying}
        others = [one for one in self.seats if one is not seat and one.key == seat.key]
        for other in sorted(others, key=lambda one: len(one.flying) * one.turn_s, reverse=True):
            for job in reversed(other.flying):
                held = [one for one in self.seats if any(j.trial is job.trial for j in one.flying)]
                if not job.trial.done and job.trial not in mine and len(held) == 1:
                    return job.trial
        return None

    def _job(self, trial: Trial) -> Job:
        task, wish = trial.line.task, self.wish.screen
        assert trial.bundle is not None  # noqa: S101 (it was built)
        best = trial.line.best
        request = dpb.MeasureRequest(
            bundle_digest=trial.bundle.digest,
            function=task.function,
            arguments=task.arguments(),
            options=wish.options(best.median_s if best is not None else 0.0, task.threads),
            return_outputs=True,
            repeatable=True,
            known_outputs=task.known_outputs(),
        )
        request.timeout.FromNanoseconds(round(wish.timeout_s * 1e9))
        return Job(trial, trial.bundle, request)

    def _answered(self, event: Answered) -> None:
        seat, trial, answer = event.seat, event.job.trial, event.answer
        if event.job in seat.flying:
            seat.flying.remove(event.job)
        if answer.HasField("error"):
            error = errors.from_proto(answer.error)
            if is_infrastructure(error):
                self._back([event.job], event.job, error)
                return
        use = answer.use
        account = self.accounts[event.device.id]
        if use.turn_ended_s:
            seat.took(use.turn_ended_s - use.turn_began_s)
            began = use.turn_began_s if account.began_s is None else account.began_s
            account.held_s += max(use.turn_ended_s - began, 0.0)
            account.began_s = use.turn_ended_s
            account.busy_s += use.busy_s
        account.trials += 1
        if not trial.done:
            device = self._facts[event.device.id]
            self._record(trial, recording.measured(event, device, self.wish))

    def _back(self, jobs: Sequence[Job], head: Job | None, error: errors.TunefarmError) -> None:
        """A fault that is no candidate's: its trials are measured again, elsewhere if can be."""
        first = head.trial if head is not None else None
        for trial in self.ledger.back([job.trial for job in jobs], first):
            self._record(trial, recording.failed(trial, error, self.wish))

    def _joined(self, event: Joined) -> None:
        seat, device = event.seat, event.device
        seat.device = device
        self._facts[device.id] = recording.Device.of(device)
        account = self.accounts.setdefault(device.id, Account(device.id, device.key))
        account.began_s = None  # another stream, another clock
        self._hooks.on_join(device)

    def _left(self, event: Left) -> None:
        seat = event.seat
        seat.device = None
        jobs, final = list(seat.flying), seat.final
        seat.flying.clear()
        seat.final = None
        error = event.error or errors.DeviceLostError("the device was given back")
        if jobs:
            self._back(jobs, jobs[0], error)
        if final is not None:
            self._again(final)
        if event.had:
            self._had[seat.key] = now()
        elif isinstance(event.error, HOPELESS):
            self._hopeless = event.error
        elif isinstance(event.error, REFUSED):
            self._refused(seat, event.error)

    def _refused(self, seat: Seat, error: errors.TunefarmError) -> None:
        """It waited for long enough: again, where others of the key work, or one did lately."""
        others = any(one.device is not None for one in self.seats if one.key == seat.key)
        lately = now() - self._had.get(seat.key, -self.wish.patience_s) < self.wish.patience_s
        if others or lately:
            seat.start()
        else:
            self._hopeless = error

    # What is timed again at the end.

    def _owed_finals(self) -> bool:
        """Whether any task's finalists are still to be timed; asks for their bundles."""
        if not self.wish.finals:
            return False
        for index, line in enumerate(self.ledger.lines):
            if index not in self._finals and self.ledger.ended(line):
                self._finals[index] = []
                self._enter(index, line)
        sent = any(seat.final is not None for seat in self.seats)
        return sent or any(self._finals.values()) or len(self._finals) < len(self.ledger.lines)

    def _enter(self, index: int, line: Line) -> None:
        """Build the finalists: the best by screening, and what is built without tuning."""
        good = [r for r in line.records.values() if r.samples_s and not r.duplicate_of]
        best = sorted(good, key=lambda record: record.median_s)[: self.wish.finalists]
        chosen = [record.schedule for record in best]
        chosen += [one for one in line.task.untuned() if one not in chosen]
        final = Final(line.task)
        if best:
            self._finals[index] = [final]
        for candidate in chosen if best else []:
            trial = Trial("", line, candidate)
            self._final_builds[trial] = final
            self._build(trial)

    def _send_final(self, seat: Seat, target: str) -> None:
        for index, waiting in self._finals.items():
            task = self.ledger.lines[index].task
            if not waiting or (task.key, task.target) != (seat.key, target):
                continue
            if waiting[0] not in self._final_builds.values():
                seat.send(waiting.pop())
                return

    def _again(self, final: Final) -> None:
        index = next(i for i, line in enumerate(self.ledger.lines) if line.task is final.task)
        self._tries[index] = self._tries.get(index, 0) + 1
        if self._tries[index] < FINAL_TRIES:
            self._finals[index] = [final]

    def _finished(self, event: Finished) -> None:
        event.seat.final = None
        line = next(one for one in self.ledger.lines if one.task is event.final.task)
        device = self._facts[event.device.id]
        self._file.add(recording.finals(line, event.found, device, self.wish))
        self._hooks.on_winner(line, event.found, event.device)

    # What happens.

    def _take_events(self) -> None:
        """Wait for something to happen, and take in all that did."""
        try:
            event = self._events.get(timeout=TICK_S)
            while True:
                self._take(event)
                event = self._events.get_nowait()
        except queue.Empty:
            pass
        if now() - self._ticked >= TICK_S:
            self._ticked = now()
            self._hooks.on_tick(self)

    def _take(self, event: Event | Proposed | Built | BaseException) -> None:
        match event:
            case Proposed(line, asked, found):
                for trial in self.ledger.proposed(line, asked, found):
                    self._build(trial)
            case Built():
                self._built(event)
            case Answered():
                self._answered(event)
            case Joined():
                self._joined(event)
            case Left():
                self._left(event)
            case Finished():
                self._finished(event)
            case BaseException():
                raise event

    def _give_up_on_devices(self) -> None:
        """End a run that nobody can go on with."""
        if any(seat.device is not None for seat in self.seats):
            self._last_device = now()
        if self._hopeless is not None:
            raise self._hopeless
        waited = now() - self._last_device
        if self._lost_tracker() and waited > self.wish.patience_s:
            raise errors.TrackerUnreachableError(
                f"no tracker has answered for {waited:.0f} s",
                "the records are kept: run it again when the tracker is back",
            )

    def _lost_tracker(self) -> bool:
        return all(seat.unreachable for seat in self.seats) if self.seats else True
