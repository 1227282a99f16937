"""The space of a workload's schedules on a target, and what is built where nothing was tuned.

Made by rules from the tensor expression alone: `choices.py` says what may be decided about a stage,
`moves.py` changes what was decided, `limits.py` refuses what cannot be fast.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler import dealing, defaults, moves
from tunefarm_compiler.additions import LAYOUT, laid_out
from tunefarm_compiler.choices import Choose, NestRules, T
from tunefarm_compiler.features import features
from tunefarm_compiler.length import length
from tunefarm_compiler.limits import LONG, MAX_CODE, faults, nests
from tunefarm_compiler.reuse import Nest, StageFacts
from tunefarm_compiler.schedule import Attach, Schedule, check_stages
from tunefarm_compiler.stages import Stage, plan
from tunefarm_compiler.suit import suited
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Load, Tensor, walk
from tunefarm_compiler.winograd import filters
from tunefarm_compiler.workload import Workload

TRIES = 200
MINIMAL = 0.5  # how likely fewer products are tried, for 1 of all of them
TURNED, TURNED_USES = 0.03, 16  # an input in another layout; how often it must be read at least
LONGEST = 5000  # lines, of a default schedule too
DEALING = 0.2  # of the neighbours have other threads


class Tuned(Protocol):
    """Where the best known schedules are looked up."""

    def schedule(self, workload: Workload, spec: TargetSpec, threads: int) -> Schedule | None:
        """The best one known for that, if any, on so many threads at most."""


def default_schedule(
    workload: Workload, spec: TargetSpec, threads: int = 1, tuned: Tuned | None = None
) -> Schedule:
    """The best schedule known to `tuned`, else one that is good enough without any search.

    Its loops are dealt out to so many threads; the best known one may do with fewer.
    """
    if tuned is not None and (found := tuned.schedule(workload, spec, threads)) is not None:
        return found
    output = workload.output
    return defaults.on_threads(defaults.default(output, spec, threads), output, spec, threads)


class Odometer:
    """Takes every combination of options in turn: one `draw` after another, the last ones first."""

    def __init__(self) -> None:
        self._taken: list[int] = []
        self._counts: list[int] = []
        self._at = 0

    def __call__(self, name: str, options: Sequence[T], weights: Sequence[float]) -> T:
        """The option whose turn it is, the likeliest ones first."""
        if self._at == len(self._taken):
            self._taken.append(0)
            self._counts.append(len(options))
        order = sorted(range(len(options)), key=lambda n: -weights[n])
        self._at += 1
        return options[order[self._taken[self._at - 1]]]

    def step(self) -> bool:
        """On to the next combination; whether there is one."""
        self._at = 0
        while self._taken and self._taken[-1] + 1 == self._counts[-1]:
            self._taken.pop()
            self._counts.pop()
        if self._taken:
            self._taken[-1] += 1
        return bool(self._taken)


class Layout:
    """One way to divide an expression into stages."""

    def __init__(self, stages: Sequence[Stage], spec: TargetSpec) -> None:
        self.stages = list(stages)
        self.facts = [StageFacts(stage, spec) for stage in stages]
        self._rules: dict[tuple[str, frozenset[str]], NestRules] = {}

    def rules(self, name: str, single: frozenset[str] = frozenset()) -> NestRules:
        """Rules of a stage of which those axes have one index at a time."""
        key = (name, single)
        if key not in self._rules:
            facts = next(one for one in self.facts if one.stage.tensor.name == name)
            axes = frozenset(axis for axis in single if axis in facts.spatial)
            self._rules[key] = NestRules(facts, axes)
        return self._rules[key]

    @cached_property
    def shared(self) -> int:
        """How many of the output's first axes every stage has as its own first ones."""
        *before, last = self.stages
        depth = len(last.axes)
        before = [stage for stage in before if not self.once(stage)]
        for stage in before:
            same = itertools.takewhile(
                lambda pair: pair[0].name == pair[1].name, zip(stage.axes, last.axes, strict=False)
            )
            depth = min(depth, sum(1 for _ in same))
        return depth if before else 0

    def once(self, stage: Stage) -> bool:
        """Whether it is made as a whole, before all others."""
        return stage.tensor.name == filters(self.stages[-1].tensor) or LAYOUT in stage.tensor.name


class ScheduleRules:
    """All schedules of an expression on a target that are worth building.

    They take so many threads or fewer: the default all of them.
    """

    def __init__(self, workload: Workload, spec: TargetSpec, threads: int = 1) -> None:
        self.workload, self.spec, self.threads = workload, spec, threads
        self.output = suited(workload.output, spec)
        self._layouts: dict[frozenset[str], Layout] = {}

    @cached_property
    def default(self) -> Schedule:
        """What is built where nothing was tuned."""
        return default_schedule(self.workload, self.spec, self.threads)

    def layout(self, kept: Sequence[str]) -> Layout:
        """The stages where those are not inlined. Raises: InvalidScheduleError."""
        key = frozenset(kept)
        if key not in self._layouts:
            self._layouts[key] = Layout(plan(self.output, kept), self.spec)
        return self._layouts[key]

    @cached_property
    def layouts(self) -> list[tuple[str, ...]]:
        """What may be kept as stages of their own: the usual ones, and one more or one less."""
        usual = tuple(defaults.kept(self.output))
        every = between(self.output)
        options = [usual, *self.minimal, *((*usual, name) for name in self.turned(usual))]
        for name in every:
            changed = tuple(n for n in usual if n != name)
            options.append(changed if name in usual else (*usual, name))
        found = []
        for option in options:
            try:
                stages = self.layout(option).stages
            except (InvalidScheduleError, ValueError):
                continue
            # A stage of its own that is only copied serves nothing.
            copied = {s.body.tensor.name for s in stages if isinstance(s.body, Load)}
            if not copied & {*option} - {*usual}:
                found.append(option)
        return found

    @cached_property
    def minimal(self) -> list[tuple[str, ...]]:
        """What is kept to compute it by fewer products."""
        found = defaults.minimal(self.output)
        return [found.names()] if found else []

    def turned(self, kept: Sequence[str]) -> list[str]:
        """Copies of inputs in other layouts, each with another dimension side by side.

        Of what sums read often, where that dimension is long enough for vectors.
        """
        found: dict[str, None] = {}
        for facts in self.layout(kept).facts:
            loads = {load.tensor.name: load for load in facts.stage.loads}
            lone = [load for load in loads.values() if load.tensor.compute is None]
            for load in lone if facts.summed else ():
                uses = facts.points // math.prod(load.tensor.shape)
                for n, index in enumerate(load.indices[:-1]):
                    wide = load.tensor.shape[n] >= self.spec.lanes and len(index.terms) == 1
                    if wide and uses >= TURNED_USES:
                        others = [m for m in range(len(load.indices)) if m != n]
                        found[laid_out(load.tensor, [*others, n]).name] = None
        return list(found)

    def broken(self, schedule: Schedule) -> str:
        """Why a schedule cannot be applied; "" where it can."""
        try:
            check_stages(schedule, self.layout([a.stage for a in schedule.stages]).stages)
        except InvalidScheduleError as error:
            return str(error)
        return ""

    def fault(self, schedule: Schedule) -> str:
        """Why a schedule cannot be applied, or is not worth building; "" where it is."""
        if schedule.most_threads > self.threads:
            return f"it takes {schedule.most_threads} threads, and there are {self.threads}"
        return self.broken(schedule) or faults(self._nests(schedule), self._longest)

    def _unwanted(self, schedule: Schedule) -> str:
        """Why it is not drawn by chance: it may not be long even where the default is."""
        stages = sorted(attach.stage for attach in schedule.stages)
        minimal = stages in [sorted(kept) for kept in self.minimal]
        most = self._longest if minimal else MAX_CODE  # what they transform is long at edges
        return self.broken(schedule) or faults(self._nests(schedule), most)

    def _nests(self, schedule: Schedule) -> list[Nest]:
        layout = self.layout([attach.stage for attach in schedule.stages])
        return [*nests(schedule, layout.facts)]

    @cached_property
    def _longest(self) -> int:
        """Lines that a stage's code may have: as many as the default's has, in any case."""
        return max(MAX_CODE, *(length(nest, LONGEST) for nest in self._nests(self.default)))

    def features(self, schedule: Schedule) -> list[float]:
        """A schedule without faults in numbers, see `features.NAMES`."""
        layout = self.layout([attach.stage for attach in schedule.stages])
        return features(schedule, layout.facts, self.spec)

    # Making

    def draw(self, choose: Choose) -> Schedule:
        """A schedule by decisions; it may still have a fault."""
        made, count = self._drawn(choose), 1
        if self.threads > 1:
            most = self.threads
            count = choose("threads", dealing.counts(most), dealing.weights(most))
        if count > 1 and len(axes := self._parallel(made)) > 1:
            # Mostly the loop that keeps the threads busy is left to be found.
            weights = [float(len(axes)), *[1.0] * len(axes)]
            made = replace(made, parallel=choose("parallel", ["", *axes], weights))
        return self.dealt_out(made, count)

    def _parallel(self, schedule: Schedule) -> list[str]:
        """Axes whose loops can be dealt out."""
        return dealing.axes(schedule, self._facts(schedule)[-1])

    def _facts(self, schedule: Schedule) -> list[StageFacts]:
        return self.layout([attach.stage for attach in schedule.stages]).facts

    def count(self, schedule: Schedule) -> int:
        """How many of the threads of this space a schedule takes. Raises: InvalidScheduleError."""
        if self.threads == 1:
            return 1
        return dealing.count(schedule, self._facts(schedule), self.threads)

    def dealt_out(self, schedule: Schedule, count: int) -> Schedule:
        """Its loops dealt out to so many threads, as far as there are any."""
        return dealing.dealt_out(schedule, self._facts(schedule), count)

    def _drawn(self, choose: Choose) -> Schedule:
        turned = [LAYOUT in "".join({*kept} - {*self.layouts[0]}) for kept in self.layouts]
        weights = [
            MINIMAL if kept in self.minimal else TURNED if one else 0.1
            for kept, one in zip(self.layouts, turned, strict=True)
        ]
        weights[0] = 1.0
        names = ["+".join(sorted(kept)) for kept in self.layouts]
        kept = self.layouts[names.index(choose("stages", names, weights))]
        layout = self.layout(kept)
        *before, last = layout.stages
        if not before:
            return layout.rules(last.tensor.name).draw(choose)
        depths = list(range(layout.shared + 1))
        usual = max((a.depth for a in self.default.stages), default=0)
        weights = [3.0 if depth == usual else 1.0 for depth in depths]
        depth = choose("attach", depths, weights)
        single = frozenset(axis.name for axis in last.axes[:depth])
        stages = tuple(
            Attach(
                stage.tensor.name, 0 if layout.once(stage) else depth,
                layout.rules(stage.tensor.name, single).draw(_named(choose, stage.tensor.name)),
            )
            for stage in before
        )  # fmt: skip
        return replace(layout.rules(last.tensor.name, single).draw(choose), stages=stages)

    def every(self) -> Iterator[Schedule]:
        """All of them, the default first, in an order that is always the same."""
        yield self.default
        odometer, seen = Odometer(), {self.default}
        while True:
            made = self.draw(odometer)
            if made not in seen and not self.fault(made):
                seen.add(made)
                yield made
            if not odometer.step():
                return

    def sample(self, rng: random.Random) -> Schedule:
        """Any of them."""

        stages: list[int] = []

        def choose(name: str, options: Sequence[T], weights: Sequence[float]) -> T:
            number = rng.choices(range(len(options)), weights)[0]
            if name == "stages":  # once: else those with few faults would crowd out the others
                stages.append(number)
                number = stages[0]
            return options[number]

        for _ in range(TRIES):
            made = self.draw(choose)
            if not (fault := self._unwanted(made)):
                return made
            short = replace(made, unroll=1)
            if fault == LONG and short != made and not self._unwanted(short):
                return short
        return self.default

    def mutate(self, schedule: Schedule, rng: random.Random) -> Schedule:
        """A neighbour without faults; another sample where none was found."""
        for _ in range(TRIES // 4):
            made = self._neighbour(schedule, rng)
            if made != schedule and not self.fault(made):
                return made
        return self.sample(rng)

    def _neighbour(self, schedule: Schedule, rng: random.Random) -> Schedule:
        count = self.count(schedule)
        if self.threads == 1 or rng.random() > DEALING:
            return self.dealt_out(self._moved(schedule, rng), count)
        if count == 1 or rng.random() < 0.5:
            others = [one for one in dealing.counts(self.threads) if one != count]
            return self.dealt_out(schedule, rng.choice(others))
        axis = rng.choice(["", *self._parallel(schedule)])
        return self.dealt_out(replace(schedule, parallel=axis), count)

    def _moved(self, schedule: Schedule, rng: random.Random) -> Schedule:
        layout = self.layout([attach.stage for attach in schedule.stages])
        if schedule.stages and rng.random() < 0.1:
            return self.draw(lambda _, options, weights: rng.choices(options, weights)[0])
        depth = max((attach.depth for attach in schedule.stages), default=0)
        single = frozenset(axis for axis, _ in schedule.loops[:depth])
        weights = [float(facts.points) ** 0.5 for facts in layout.facts]
        number = rng.choices(range(len(weights)), weights)[0]
        if number == len(schedule.stages):
            last = layout.stages[-1].tensor.name
            return moves.mutated(schedule, layout.rules(last, single), rng, depth)
        name = layout.stages[number].tensor.name
        return replace(
            schedule,
            stages=tuple(
                replace(a, schedule=moves.mutated(a.schedule, layout.rules(name, single), rng))
                if a.stage == name
                else a
                for a in schedule.stages
            ),
        )

    def cross(self, one: Schedule, other: Schedule, rng: random.Random) -> Schedule:
        """A child without faults; a neighbour of one parent where none was found."""
        either = (self.count(one), self.count(other))
        for _ in range(4):
            count = rng.choice(either) if self.threads > 1 else 1
            made = self.dealt_out(self._crossed(one, other, rng), count)
            if made not in (one, other) and not self.fault(made):
                return made
        return self.mutate(one, rng)

    def _crossed(self, one: Schedule, other: Schedule, rng: random.Random) -> Schedule:
        theirs = {attach.stage: attach for attach in other.stages}
        depth = max((attach.depth for attach in one.stages), default=0)
        same = [(a.stage, a.depth) for a in one.stages] == [
            (a.stage, a.depth) for a in other.stages
        ]
        if not same or one.loops[:depth] != other.loops[:depth]:
            return one
        layout = self.layout([*theirs])
        single = frozenset(axis for axis, _ in one.loops[:depth])
        stages = tuple(
            replace(
                a,
                schedule=moves.crossed(
                    a.schedule, theirs[a.stage].schedule, layout.rules(a.stage, single), rng
                ),
            )
            for a in one.stages
        )
        last = layout.rules(layout.stages[-1].tensor.name, single)
        return replace(moves.crossed(one, other, last, rng), stages=stages)

    def adapt(self, schedule: Schedule, source: "ScheduleRules") -> Schedule | None:
        """The nearest schedule here to one of the same operator's other sizes or target."""
        if source.broken(schedule):
            return None
        try:
            theirs = source.layout([attach.stage for attach in schedule.stages])
            layout = self.layout([attach.stage for attach in schedule.stages])
        except InvalidScheduleError:
            return None
        extents = {facts.stage.tensor.name: facts.extents for facts in theirs.facts}
        for facts in layout.facts:
            if set(extents.get(facts.stage.tensor.name, ())) != set(facts.extents):
                return None
        depth = max((attach.depth for attach in schedule.stages), default=0)
        single = frozenset(axis for axis, _ in schedule.loops[:depth])

        def nest(name: str, own: Schedule) -> Schedule:
            rules = layout.rules(name, single)
            return moves.adapted(own, rules, extents[name], source.spec.lanes)

        stages = tuple(replace(a, schedule=nest(a.stage, a.schedule)) for a in schedule.stages)
        last = layout.stages[-1].tensor.name
        count = self._carried(schedule, source)
        made = self.dealt_out(replace(nest(last, schedule), stages=stages), count)
        for _ in range(32):
            if not self.fault(made):
                return made
            smaller = self.dealt_out(moves.shrunk(made, layout.rules(last, single)), count)
            if smaller == made:
                break
            made = smaller
        return None

    def _carried(self, schedule: Schedule, source: "ScheduleRules") -> int:
        """How many threads: as much work for each where it did with fewer than there were."""
        count = source.count(schedule)
        if count >= source.threads:
            return self.threads
        more = self.workload.operations / max(1, source.workload.operations)
        return max(n for n in dealing.counts(self.threads) if n <= max(count, count * more))


def rules_of(workload: Workload, spec: TargetSpec, threads: int = 1) -> ScheduleRules:
    """The rules for a target: of a processor on so many threads at most, or of a GPU."""
    if spec.gpu:
        from tunefarm_compiler.gpu.spaces import GpuRules

        return GpuRules(workload, spec)
    return ScheduleRules(workload, spec, threads)


def between(output: Tensor) -> list[str]:
    """Names of the tensors between inputs and output."""
    found: dict[str, None] = {}

    def visit(tensor: Tensor) -> None:
        if tensor.compute is None or tensor.name in found:
            return
        for expr in walk(tensor.compute.body):
            if isinstance(expr, Load):
                visit(expr.tensor)
        found[tensor.name] = None

    visit(output)
    return list(found)[:-1]


def _named(choose: Choose, stage: str) -> Choose:
    """Decisions of one stage under names of its own."""

    def chosen(name: str, options: Sequence[T], weights: Sequence[float]) -> T:
        return choose(f"{stage}.{name}", options, weights)

    return chosen


def space(workload: Workload, spec: TargetSpec, count: int = 500) -> list[Schedule]:
    """The default schedule and up to `count` others by chance, always the same ones."""
    rules = rules_of(workload, spec)
    rng = random.Random(0)  # noqa: S311 (a sample, not a secret)
    return list(dict.fromkeys([rules.default, *(rules.sample(rng) for _ in range(count))]))


__all__ = ["ScheduleRules", "Tuned", "default_schedule", "rules_of", "space"]
