"""Threads of a space of schedules: to how many of those given for a run loops are dealt out.

The number of a run is the most: waking threads takes longer than a small kernel alone.
"""

from collections.abc import Sequence
from dataclasses import replace

from tunefarm_compiler.reuse import StageFacts
from tunefarm_compiler.schedule import Schedule

ALL = 2.0  # how much likelier all threads are than any fewer


def counts(most: int) -> list[int]:
    """How many a schedule may take: powers of two, and all of them."""
    return [*(1 << n for n in range(most.bit_length()) if 1 << n < most), most]


def weights(most: int) -> list[float]:
    """How likely each of those is a good one."""
    fewer = len(counts(most)) - 1
    return [*[1.0] * fewer, ALL * max(1, fewer)]


def axes(schedule: Schedule, facts: StageFacts) -> list[str]:
    """Axes of a stage whose loops can be dealt out."""
    return list(dict.fromkeys(axis for axis, _ in schedule.loops if axis in facts.spatial))


def count(schedule: Schedule, facts: Sequence[StageFacts], most: int) -> int:
    """How many of them a schedule takes: all where it has no loop that could say."""
    known = {one.stage.tensor.name: one for one in facts}
    nests = [(a.schedule, known[a.stage]) for a in schedule.stages if not a.depth]
    says = any(axes(*nest) for nest in [*nests, (schedule, facts[-1])])
    return min(schedule.most_threads, most) if says else most


def dealt_out(schedule: Schedule, facts: Sequence[StageFacts], threads: int) -> Schedule:
    """Its loops dealt out to so many, as far as there are any; stages inside of others' are not."""
    if threads == 1 and schedule.most_threads == 1:
        return schedule
    known = {one.stage.tensor.name: one for one in facts}

    def nest(one: Schedule, own: StageFacts, alone: bool = False) -> Schedule:
        there = axes(one, own)
        if threads == 1 or alone or not there:
            return replace(one, threads=1, parallel="")
        return replace(one, threads=threads, parallel=one.parallel if one.parallel in there else "")

    stages = tuple(
        replace(a, schedule=nest(a.schedule, known[a.stage], alone=a.depth > 0))
        for a in schedule.stages
    )
    return nest(replace(schedule, stages=stages), facts[-1])
