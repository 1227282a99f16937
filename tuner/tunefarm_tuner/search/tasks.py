"""Which of many workloads is tuned next: where the expected gain for the whole is largest.

Plain data, no clock: `next` says whose turn it is, `observe` tells what a batch of its trials gave.
The gain that a task's next batch is worth is estimated as in Ansor (Zheng et al., OSDI 2020): from
what its last trials gained, and from how far it is behind tasks like it, weighted by its share.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WARM_UP = 1  # batches that every task gets before gains are compared


@dataclass
class Task:
    """A workload in a run. `weight` is how often the whole calls it; `operations` those of a call.

    `alike` groups tasks whose rates say something of one another (an operator's name, say).
    """

    name: str
    weight: float = 1.0
    operations: float = 0.0
    alike: str = ""
    trials: int = 0
    ended: bool = False
    why: str = ""  # the reason it ended
    best_s: float = math.inf
    history: list[tuple[int, float]] = field(default_factory=list)  # (trials, best seconds then)

    @property
    def share_s(self) -> float:
        """Seconds of the whole that it takes by its best; 0 while it has none."""
        return self.weight * self.best_s if math.isfinite(self.best_s) else 0.0


class TaskScheduler:
    """Trials for many tasks. `window` is how many trials back a gain is measured over.

    `past` weighs what a task gained against what it might; 1 looks back only.
    Raises: ValueError for two tasks of one name.
    """

    def __init__(self, tasks: Sequence[Task], *, window: int = 64, past: float = 0.4) -> None:
        self.tasks = {task.name: task for task in tasks}
        if len(self.tasks) < len(tasks):
            raise ValueError("two tasks have one name")
        self.window, self.past = window, past
        self._turns: dict[str, int] = dict.fromkeys(self.tasks, 0)

    def next(self, busy: Sequence[str] = ()) -> str | None:
        """The task to propose a batch for; None where all have ended. Those in `busy` have a batch
        out already, and come only where no other task is left."""
        open_ = [task for task in self.tasks.values() if not task.ended]
        free = [task for task in open_ if task.name not in busy] or open_
        if not free:
            return None
        least = min(self._turns[task.name] for task in free)
        fresh = [task for task in free if self._turns[task.name] < WARM_UP]
        chosen = fresh[0] if fresh else max(free, key=self._order(least))
        self._turns[chosen.name] += 1
        return chosen.name

    def _order(self, least: int) -> Callable[[Task], tuple[float, float]]:
        return lambda task: (self.gain(task), least - self._turns[task.name])

    def observe(self, name: str, costs_s: Sequence[float]) -> None:
        """Results of trials of a task; infinite where they failed."""
        task = self.tasks[name]
        task.trials += len(costs_s)
        task.best_s = min([task.best_s, *costs_s])
        task.history.append((task.trials, task.best_s))

    def end(self, name: str, why: str = "") -> None:
        """No more trials for this one: its strategy is through, or its device gone."""
        self.tasks[name].ended, self.tasks[name].why = True, why

    @property
    def total_s(self) -> float:
        """Seconds of the whole by the best of every task that has one."""
        return sum(task.share_s for task in self.tasks.values())

    def gain(self, task: Task) -> float:
        """Seconds of the whole that one more trial of it is expected to save."""
        if not math.isfinite(task.best_s):
            # Nothing worked so far: worth as much as the others on average, less with each trial.
            known = [one.share_s for one in self.tasks.values() if math.isfinite(one.best_s)]
            mean = sum(known) / len(known) if known else 1.0
            return task.weight * mean / max(1, task.trials)
        return task.weight * (self.past * self._gained(task) + (1 - self.past) * self._hope(task))

    def _gained(self, task: Task) -> float:
        """Seconds that each of its last trials saved."""
        start = task.trials - self.window
        before = [(n, best) for n, best in task.history if n <= start and math.isfinite(best)]
        known = [(n, best) for n, best in task.history if math.isfinite(best)]
        n, best = before[-1] if before else known[0]
        return (best - task.best_s) / max(1, task.trials - n)

    def _hope(self, task: Task) -> float:
        """Seconds that a trial might save: as the trials so far did, and no more than to the rate
        of the best task like it."""
        hope = task.best_s / max(1, task.trials)
        rates = [
            one.operations / one.best_s
            for one in self.tasks.values()
            if one.alike == task.alike and one.name != task.name and one.operations
            and math.isfinite(one.best_s)
        ]  # fmt: skip
        if rates and task.operations:
            reach = task.operations / max(rates)
            hope = min(hope, max(task.best_s - reach, 0.05 * task.best_s) / max(1, task.trials) * 2)
        return hope


class RoundRobin(TaskScheduler):
    """Each task in turn, weights or not."""

    def next(self, busy: Sequence[str] = ()) -> str | None:
        """The task that has had the fewest turns."""
        open_ = [task for task in self.tasks.values() if not task.ended]
        free = [task for task in open_ if task.name not in busy] or open_
        if not free:
            return None
        chosen = min(free, key=lambda task: self._turns[task.name])
        self._turns[chosen.name] += 1
        return chosen.name
