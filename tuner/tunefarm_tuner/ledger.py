"""Where each trial is: a plain state machine. No clock, no thread, no file, no device.

    proposed -> building -> ready -> sent -> done
                   |          ^       |
                   |          `-------'  the device was lost: back to the front
                   `-> twin of an earlier trial's code: done when that one is

Every trial ends with one record. A trial that was proposed and has no record is owed: a run that is
killed begins again with fewer records and proposes as many as are missing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tunefarm import Bundle

from tunefarm_tuner.records import SCREEN, Record, trial_id
from tunefarm_tuner.search.base import Candidate, Observation, Strategy
from tunefarm_tuner.search.stopping import Patience
from tunefarm_tuner.tasks import Task

MOST_FAULTS = 4  # of devices, with the same trial under way: then the trial is to blame
BATCH = 8  # candidates that are asked of one task before another has its turn
MOST_KNOWN = 64  # answers in a row with nothing new: such a strategy is through as well
MOST_TWINS = 8  # for each trial: a strategy that finds nothing else is through


@dataclass(eq=False)
class Trial:
    """One candidate on its way."""

    id: str
    line: "Line"
    candidate: Candidate
    bundle: Bundle | None = None
    object_digest: str = ""
    build_s: float = 0.0
    built_at: float = 0.0
    faults: int = 0
    done: bool = False
    twins: list["Trial"] = field(default_factory=list)


class Line:
    """One task's trials. `wanted` counts those that were measured or failed; twins come on top."""

    def __init__(
        self, task: Task, strategy: Strategy, wanted: int, patience: Patience | None = None
    ) -> None:
        self.task = task
        self.strategy = strategy
        self.wanted = wanted
        self.patience = patience or Patience(0)
        self.trials = 0
        self.failed = 0
        self.twins = 0
        self.through = False
        self.known = 0  # answers of the strategy since one had anything new
        self.asked = 0  # candidates that the strategy is being asked for
        self.open: dict[str, Trial] = {}
        self.ready: deque[Trial] = deque()
        self.best: Record | None = None
        self.best_trials: list[Record] = []
        self.records: dict[str, Record] = {}
        self.by_object: dict[str, str] = {}  # object digest: trial
        self.news: list[Observation] = []
        self.points: list[tuple[int, float, float]] = []

    @property
    def missing(self) -> int:
        """Trials that are still to be proposed."""
        return 0 if self.through else max(self.wanted - self.spent, 0)

    @property
    def spent(self) -> int:
        """Trials done, under way, and asked for."""
        originals = sum(not self._is_twin(trial) for trial in self.open.values())
        return self.trials + originals + self.asked

    def _is_twin(self, trial: Trial) -> bool:
        first = self.by_object.get(trial.object_digest)
        return bool(trial.object_digest) and first not in (None, trial.id)

    @property
    def idle(self) -> bool:
        """Whether nothing of it is under way."""
        return not self.open and not self.asked

    def keep(self, record: Record) -> None:
        """Count a record of this task, of this run or of an earlier one."""
        self.records[record.trial] = record
        if record.duplicate_of:
            self.twins += 1
        else:
            self.trials += 1
            self.failed += bool(record.error)
            if record.object_digest:
                self.by_object.setdefault(record.object_digest, record.trial)
        good = bool(record.samples_s) and not record.error
        if good and (self.best is None or record.median_s < self.best.median_s):
            self.best = record
        cost = record.median_s if good else float("inf")
        self.news.append(Observation(record.schedule, cost, record.error))
        self.patience.observe(self.news[-1:])
        self.through = self.through or self.patience.through
        if self.twins > MOST_TWINS * max(self.wanted, 1):
            self.through = True


class Ledger:
    """All lines of a run. `pots` are trials that the tasks of a key have together, by key."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.pots: dict[str, int] = {}
        self._turn = 0

    def add(
        self,
        task: Task,
        strategy: Strategy,
        wanted: int,
        held: Sequence[Record],
        patience: Patience | None = None,
    ) -> Line:
        """A task, with the records that there are of it."""
        line = Line(task, strategy, wanted, patience)
        for record in held:
            same = record.task == task.name and record.threads == task.threads
            if same and record.tier == SCREEN:
                line.keep(record)
                if line.best is record:
                    line.points.append((line.trials, record.median_s, 0.0))
        self.lines.append(line)
        return line

    @property
    def over(self) -> bool:
        """Whether every trial has its record."""
        return all(not self.missing(line) and line.idle for line in self.lines)

    def missing(self, line: Line) -> int:
        """Trials of a task that are still to be proposed: no more than its key's pot has."""
        pot = self.pots.get(line.task.key)
        if pot is None:
            return line.missing
        spent = sum(one.spent for one in self.lines if one.task.key == line.task.key)
        return min(line.missing, max(pot - spent, 0))

    def ended(self, line: Line) -> bool:
        """Whether nothing of a task is missing or under way."""
        return line.idle and not self.missing(line)

    @property
    def under_way(self) -> int:
        """Trials proposed and not done."""
        return sum(len(line.open) + line.asked for line in self.lines)

    def next_lines(self, count: int, choose: Callable[[Sequence[Line]], Line]) -> dict[int, int]:
        """How many candidates to ask of which line, `count` in all: index of the line, number."""
        asked: dict[int, int] = {}
        while count > 0:
            open_lines = [line for line in self.lines if self.missing(line)]
            if not open_lines:
                break
            line = choose(open_lines)
            batch = min(count, BATCH, self.missing(line))
            line.asked += batch
            count -= batch
            index = self.lines.index(line)
            asked[index] = asked.get(index, 0) + batch
        return asked

    def proposed(self, line: Line, asked: int, found: Sequence[Candidate]) -> list[Trial]:
        """Candidates that a strategy proposed: those to build. None at all: it is through."""
        line.asked -= asked
        trials = []
        for candidate in found:
            name = trial_id(*line.task.name, candidate, line.task.threads)
            if name not in line.records and name not in line.open:
                line.open[name] = Trial(name, line, candidate)
                trials.append(line.open[name])
        line.known = 0 if trials else line.known + 1
        line.through = line.through or not found or line.known >= MOST_KNOWN
        return trials

    def built(self, trial: Trial, bundle: Bundle, object_digest: str) -> Trial | None:
        """A bundle is there. Returns its trial where an earlier one of the same code is done."""
        line = trial.line
        trial.bundle, trial.object_digest = bundle, object_digest
        first = line.by_object.setdefault(object_digest, trial.id)
        if first == trial.id:
            line.ready.append(trial)
        elif first in line.open:
            line.open[first].twins.append(trial)
        else:
            return trial
        return None

    def take(self, key: str, target: str) -> Trial | None:
        """The next trial for a device, in turns among the tasks."""
        for step in range(len(self.lines)):
            line = self.lines[(self._turn + step) % len(self.lines)]
            if line.ready and (line.task.key, line.task.target) == (key, target):
                self._turn = (self._turn + step + 1) % len(self.lines)
                return line.ready.popleft()
        return None

    def back(self, trials: Sequence[Trial], head: Trial | None) -> list[Trial]:
        """Trials that a lost device leaves; `head` was under way. Returns those to be given up."""
        given_up = []
        for trial in reversed(trials):
            if trial.done:
                continue
            trial.faults += trial is head
            if trial.faults >= MOST_FAULTS:
                given_up.append(trial)
            elif trial not in trial.line.ready:
                trial.line.ready.appendleft(trial)
        return given_up

    def done(self, trial: Trial, record: Record) -> list[Trial]:
        """A trial's record is kept. Returns its twins, which are to get records like it."""
        assert not trial.done  # noqa: S101 (once: who asks looks first)
        trial.done, trial.bundle = True, None
        trial.line.open.pop(trial.id, None)
        trial.line.keep(record)
        return trial.twins
