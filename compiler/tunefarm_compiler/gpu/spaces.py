"""All schedules of an expression for a GPU that are worth building, by the rules of `nests.py`.

What is kept as a stage, and where, are the ways of the default schedule (rows in shared memory,
say) and its simpler ones; each stage's loops are a `Form`.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.binding import WARP, Gpu
from tunefarm_compiler.choices import Choose, T
from tunefarm_compiler.contract import Contract
from tunefarm_compiler.emit import SIZES
from tunefarm_compiler.gpu import checks, features, fitting
from tunefarm_compiler.gpu.contracting import ContractRules
from tunefarm_compiler.gpu.defaults import loops
from tunefarm_compiler.gpu.forms import Form
from tunefarm_compiler.gpu.nests import NestRules
from tunefarm_compiler.gpu.products import Product, product
from tunefarm_compiler.reuse import StageFacts
from tunefarm_compiler.schedule import Attach, Schedule
from tunefarm_compiler.spaces import ScheduleRules
from tunefarm_compiler.stages import Stage, plan

# What is kept: names of stages, each with the depth that it is attached at.
Skeleton = tuple[tuple[str, int], ...]
SHRINKS = 32


@dataclass(frozen=True)
class Kept:
    """Stages of one skeleton, the output's last, with what never changes of them."""

    skeleton: Skeleton
    stages: tuple[Stage, ...]
    facts: tuple[StageFacts, ...]

    @cached_property
    def depth(self) -> int:
        """How many loops over blocks those inside of a block are inside of."""
        return max((depth for _, depth in self.skeleton), default=0)

    @property
    def last(self) -> StageFacts:
        """Of the output's stage."""
        return self.facts[-1]


class GpuRules(ScheduleRules):
    """`ScheduleRules` of a GPU. There are no threads of a processor to deal loops out to."""

    def kept(self, skeleton: Skeleton) -> Kept:
        """The stages of a skeleton. Raises: InvalidScheduleError."""
        if skeleton not in self._kept:
            stages = tuple(plan(self.output, [name for name, _ in skeleton]))
            facts = tuple(StageFacts(stage, self.spec) for stage in stages)
            self._kept[skeleton] = Kept(skeleton, stages, facts)
        return self._kept[skeleton]

    @cached_property
    def _kept(self) -> dict[Skeleton, Kept]:
        return {}

    @cached_property
    def product(self) -> Product | None:
        """The sum of products that the expression is, if it is one."""
        return product(self.workload.output)

    @cached_property
    def contracts(self) -> ContractRules | None:
        """The rules of a sum of products; None for other expressions."""
        return ContractRules.of(self.product, self.spec)

    @cached_property
    def skeletons(self) -> list[Skeleton]:
        """That of the default schedule; without copies of inputs; each stage launched by itself."""
        usual = _skeleton(loops(self.workload.output, self.spec))
        plain = tuple(one for one in usual if not one[0].endswith(".shared"))
        apart = tuple((name, 0) for name, _ in plain)
        found = []
        for one in dict.fromkeys((usual, plain, apart)):
            try:
                self.kept(one)
            except (InvalidScheduleError, ValueError):
                continue
            found.append(one)
        return found

    # Forms of a schedule's stages

    def _rules(self, kept: Kept, number: int, blocks: Sequence[int]) -> NestRules:
        """Of a stage; one inside of blocks sees what they leave of its axes."""
        inside = number < len(kept.skeleton) and kept.skeleton[number][1] > 0
        key = (kept.skeleton, number, tuple(blocks) if inside else ())
        if key not in self._by_blocks:
            self._by_blocks[key] = self._nest_rules(kept, number, blocks)
        return self._by_blocks[key]

    @cached_property
    def _by_blocks(self) -> dict[tuple[Skeleton, int, tuple[int, ...]], NestRules]:
        return {}

    def _nest_rules(self, kept: Kept, number: int, blocks: Sequence[int]) -> NestRules:
        facts = kept.facts[number]
        rows = kept.depth
        if number < len(kept.skeleton):
            if kept.skeleton[number][1] == 0:
                return NestRules(facts, facts.extents)
            left = dict(zip(kept.last.spatial, blocks, strict=False))
            extents = {a: min(e, left.get(a, e) or e) for a, e in facts.extents.items()}
            extents |= self._copied(kept, number, blocks)
            return NestRules(facts, extents, inside=True)
        return NestRules(facts, facts.extents, rows=rows)

    def _copied(self, kept: Kept, number: int, blocks: Sequence[int]) -> dict[str, int]:
        """Of a copy of an input, whose axes are its dimensions: what the output's blocks read."""
        facts = kept.facts[number]
        left = {**kept.last.extents}
        left |= {a: b for a, b in zip(kept.last.spatial, blocks, strict=False) if b}
        found = dict[str, int]()
        for stage in kept.stages:
            for load in stage.loads:
                if load.tensor.name != facts.stage.tensor.name:
                    continue
                for axis, index in zip(facts.spatial, load.indices, strict=True):
                    reach = 1 + sum(
                        abs(by)
                        * (min(left.get(name, stage.extents[name]), stage.extents[name]) - 1)
                        for name, by in index.terms
                    )
                    found[axis] = min(facts.extents[axis], max(reach, found.get(axis, 1)))
        return found if facts.stage.tensor.name.endswith(".shared") else {}

    def _forms(self, schedule: Schedule) -> tuple[Kept, list[NestRules], list[Form]]:
        """How a schedule's stages are dealt out, by their rules. Raises: InvalidScheduleError."""
        kept = self.kept(_skeleton(schedule))
        last = Form.of(schedule, kept.last, kept.last.extents)
        blocks = [last.cuts[axis].block for axis in kept.last.spatial]
        rules = [self._rules(kept, number, blocks) for number in range(len(kept.stages))]
        forms = [
            Form.of(attach.schedule, one.facts, one.extents)
            for attach, one in zip(schedule.stages, rules, strict=False)
        ]
        return kept, rules, [*forms, last]

    def _made(self, kept: Kept, forms: Sequence[Form]) -> Schedule:
        """The schedule of such forms, each put in order for what the output's blocks leave."""
        last = self._rules(kept, len(kept.stages) - 1, ()).settled(forms[-1])
        blocks = [last.cuts[axis].block for axis in kept.last.spatial]
        stages = []
        for number, (name, depth) in enumerate(kept.skeleton):
            rules = self._rules(kept, number, blocks)
            own = rules.settled(forms[number]).schedule(rules.facts, rules.extents)
            stages.append(Attach(name, depth, own))
        made = last.schedule(kept.last, kept.last.extents)
        return replace(made, stages=tuple(stages))

    # What ScheduleRules asks

    def broken(self, schedule: Schedule) -> str:
        """Why a schedule cannot be applied, or is of no form that is known here; "" otherwise."""
        try:
            if (contract := _contract(schedule)) is not None:
                if self.product is None:
                    return "schedule: a contract of what is no sum of products"
                if schedule != _by(contract):
                    return "schedule: a contract beside loops, binds or stages"
                fitting.check(self.product, contract, self.spec)
                return ""
            kept = self.kept(_skeleton(schedule))
            checks.check_planned(schedule, [*kept.stages])
            self._forms(schedule)
        except (InvalidScheduleError, ValueError) as error:
            return str(error)
        return ""

    def fault(self, schedule: Schedule) -> str:
        """Why a schedule cannot be applied, or is not worth building; "" where it is."""
        if said := self.broken(schedule):
            return said
        if (contract := _contract(schedule)) is not None:
            return self.contracts.fault(contract) if self.contracts else "too small for a contract"
        kept, rules, forms = self._forms(schedule)
        for one, form in zip(rules, forms, strict=True):
            if said := one.fault(form):
                return f"{one.facts.stage.tensor.name}: {said}"
        shared = shared_bytes(kept, rules, forms)
        if shared > self.spec.shared_bytes:
            return f"a block needs {shared} bytes of shared memory"
        return ""

    def _unwanted(self, schedule: Schedule) -> str:
        return self.fault(schedule)

    def features(self, schedule: Schedule) -> list[float]:
        """A schedule without faults in numbers, see `gpu.features.NAMES`."""
        if (contract := _contract(schedule)) is not None:
            assert self.product is not None  # noqa: S101 (it has a contract)
            return ContractRules(self.product, self.spec).features(contract)
        kept, rules, forms = self._forms(schedule)
        shared = shared_bytes(kept, rules, forms)
        return features.of_forms(rules, forms, shared, self.spec)

    def dealt_out(self, schedule: Schedule, count: int) -> Schedule:
        """As it is: a GPU's loops are bound."""
        return schedule

    def draw(self, choose: Choose) -> Schedule:
        """A schedule by decisions; it may still have a fault."""
        if self.contracts is not None:
            how = ["contract", "loops"] if self.skeletons else ["contract"]
            if choose("how", how, [12.0, 1.0][: len(how)]) == "contract":
                return _by(self.contracts.draw(_named(choose, "contract")))
        names = ["+".join(f"{n}@{d}" for n, d in one) for one in self.skeletons]
        weights = [4.0, *[1.0] * (len(names) - 1)]
        kept = self.kept(self.skeletons[names.index(choose("stages", names, weights))])
        last = self._rules(kept, len(kept.stages) - 1, ()).draw(choose)
        blocks = [last.cuts[axis].block for axis in kept.last.spatial]
        forms = [
            self._rules(kept, number, blocks).draw(_named(choose, name))
            for number, (name, _) in enumerate(kept.skeleton)
        ]
        return self._made(kept, [*forms, last])

    def _moved(self, schedule: Schedule, rng: random.Random) -> Schedule:
        if (contract := _contract(schedule)) is not None:
            return _by(self.contracts.mutated(contract, rng)) if self.contracts else schedule
        if len(self.skeletons) > 1 and rng.random() < 0.1:
            return self.draw(lambda _, options, weights: rng.choices(options, weights)[0])
        kept, rules, forms = self._forms(schedule)
        weights = [float(one.facts.points) ** 0.5 for one in rules]
        number = rng.choices(range(len(rules)), weights)[0]
        forms[number] = rules[number].mutated(forms[number], rng)
        return self._made(kept, forms)

    def _crossed(self, one: Schedule, other: Schedule, rng: random.Random) -> Schedule:
        first, second = _contract(one), _contract(other)
        if first is not None and second is not None and self.contracts is not None:
            return _by(self.contracts.crossed(first, second, rng))
        if first is not None or second is not None or _skeleton(one) != _skeleton(other):
            return one
        kept, rules, mine = self._forms(one)
        theirs = self._forms(other)[2]
        made = [
            rule.crossed(own, their, rng)
            for rule, own, their in zip(rules, mine, theirs, strict=True)
        ]
        return self._made(kept, made)

    def adapt(self, schedule: Schedule, source: ScheduleRules) -> Schedule | None:
        """The nearest schedule here to one of the same operator's other sizes or target."""
        if not isinstance(source, GpuRules) or source.broken(schedule):
            return None
        if (contract := _contract(schedule)) is not None:
            near = self.contracts.adapted(contract) if self.contracts else None
            return _by(near) if near is not None else None
        try:
            kept = self.kept(_skeleton(schedule))
            forms = source._forms(schedule)[2]
        except (InvalidScheduleError, ValueError):
            return None
        extents = itertools.zip_longest((set(f.cuts) for f in forms), kept.facts)
        if any(f is None or axes != set(f.extents) for axes, f in extents):
            return None
        rules = [self._rules(kept, number, ()) for number in range(len(forms))]
        for _ in range(SHRINKS):
            forms = [rule.adapted(form) for rule, form in zip(rules, forms, strict=True)]
            made = self._made(kept, forms)
            if not self.fault(made):
                return made
            forms = [rule.smaller(form) for rule, form in zip(rules, forms, strict=True)]
        return None


def _contract(schedule: Schedule) -> Contract | None:
    return schedule.gpu.contract if schedule.gpu else None


def _by(contract: Contract) -> Schedule:
    return Schedule((), 1, gpu=Gpu(contract=contract))


def _skeleton(schedule: Schedule) -> Skeleton:
    return tuple((attach.stage, attach.depth) for attach in schedule.stages)


def shared_bytes(kept: Kept, rules: Sequence[NestRules], forms: Sequence[Form]) -> int:
    """Shared memory of a block: the stages inside of it, and sums that warps share."""
    total = 0
    for one, form in zip(rules, forms, strict=True):
        if one.inside:
            sides = [one.extents[axis] for axis in one.facts.spatial]
            if sides:
                sides[-1] += form.pad
            size = SIZES[one.facts.stage.tensor.dtype]
            for side in sides:
                size *= side
            total += -(-size // 16) * 16
        total += _of_teams(one, form)
    return total


def _of_teams(rules: NestRules, form: Form) -> int:
    """Shared memory for sums that threads share: by shuffles within a warp, by memory beyond."""
    facts, copies, step, places = rules.facts, 1, 1, 0
    for axis in facts.spatial:  # the first or last round may be code of its own
        limit = form.cuts[axis].limit(rules.extents[axis])
        copies *= 2 if limit > form.cuts[axis].step else 1
    counts = form.counts(facts)
    for axis in reversed(form.threaded(facts)):
        step *= counts[axis]
        places += axis in facts.summed and step > WARP
    return places * copies * form.values(facts) * form.threads(facts) * facts.total_size


def _named(choose: Choose, stage: str) -> Choose:
    """Decisions of one stage under names of its own."""

    def chosen(name: str, options: Sequence[T], weights: Sequence[float]) -> T:
        return choose(f"{stage}.{name}", options, weights)

    return chosen
