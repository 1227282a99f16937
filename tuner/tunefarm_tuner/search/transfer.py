"""What records of other shapes, targets and devices say about a search that begins."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload, distance

from tunefarm_tuner.search.base import Candidate
from tunefarm_tuner.search.model import CostModel, Group
from tunefarm_tuner.search.schedules import ScheduleSpace

MAX_ROWS = 512  # of one group, the fastest and an even part of the others
MAX_GROUPS = 24
FROM_EACH = 8  # schedules of one group that are tried here


@dataclass(frozen=True)
class Experience:
    """One measured candidate of another search; `device` tells measurements that compare."""

    workload: Workload
    spec: TargetSpec
    candidate: Candidate
    cost_s: float  # infinite where it failed
    device: str = ""
    threads: int = 1


@dataclass(frozen=True)
class WarmStart:
    """What a search begins with: groups for its model, and candidates, the most promising first."""

    groups: tuple[Group, ...] = ()
    seeds: tuple[Candidate, ...] = ()


def apart(one: TargetSpec, other: TargetSpec) -> float:
    """How unlike two targets are."""
    if one == other:
        return 0.0
    far = 1.0 + 8.0 * (one.arch != other.arch)
    far += 3.0 * abs(math.log2(one.lanes / other.lanes))
    return far + 3.0 * abs(math.log2(one.vector_registers / other.vector_registers))


def warm_start(
    space: ScheduleSpace, experience: Sequence[Experience], most: int = 8, seed: int = 0
) -> WarmStart:
    """Groups of the nearest searches, and their best schedules in the form that fits here.

    `most` candidates, in the order in which a model of the groups ranks them, those of the nearest
    searches first among equals. Before them the default on one thread, where there are several.
    Records of the very workload and target are the search's own: tell them to the strategy.
    """
    searches: dict[tuple[Workload, TargetSpec, str], list[Experience]] = defaultdict(list)
    for one in experience:
        if one.spec.gpu != space.spec.gpu or one.threads != space.threads:
            continue  # features of GPUs are others, and so is what is fast on several threads
        searches[one.workload, one.spec, one.device].append(one)

    def far(key: tuple[Workload, TargetSpec, str]) -> float:
        return distance(key[0], space.workload) + apart(key[1], space.spec)

    nearest = sorted(searches, key=lambda key: (far(key), str(key[0]), key[2]))[:MAX_GROUPS]
    groups, seeds = [], dict[Candidate, float]()
    for key in nearest:
        known = sorted(searches[key], key=lambda one: (one.cost_s, one.candidate))
        source = ScheduleSpace(key[0], key[1], space.threads)
        group = _group(source, known)
        if group is not None:
            groups.append(group)
        if key[0].name != space.workload.name:
            continue
        for one in known[:FROM_EACH]:
            if not math.isfinite(one.cost_s):
                break
            moved = space.adapt(one.candidate, source)
            if moved is not None:
                seeds.setdefault(moved, far(key))
    first = [*space.alone(), *_ranked(space, groups, seeds, most, seed)]
    return WarmStart(tuple(groups), tuple(dict.fromkeys(first)))


def _group(space: ScheduleSpace, known: Sequence[Experience]) -> Group | None:
    """Features and costs, sorted by cost, of what is still a schedule of its space."""
    if len(known) > MAX_ROWS:
        step = len(known) / (MAX_ROWS // 2)
        rest = {int(n * step) for n in range(MAX_ROWS // 2)} | set(range(MAX_ROWS // 2))
        known = [known[n] for n in sorted(rest)]
    kept = [one for one in known if space.valid(one.candidate)]
    if len(kept) < 2:
        return None
    rows = [space.features(one.candidate) for one in kept]
    return Group(rows, [one.cost_s for one in kept])


def _ranked(
    space: ScheduleSpace,
    groups: Sequence[Group],
    seeds: dict[Candidate, float],
    most: int,
    seed: int,
) -> list[Candidate]:
    """The likeliest first: half by the model, half from the nearest search."""
    near = sorted(seeds, key=lambda one: seeds[one])  # as they came, among equals
    from tunefarm_tuner.search import model

    if model.missing() or not groups:
        return near[:most]
    scores = CostModel(seed, groups).scores([space.features(one) for one in near])
    best = [one for _, one in sorted(zip(scores, near, strict=True), key=lambda pair: -pair[0])]
    both = [one for pair in zip(best, near, strict=True) for one in pair]
    return list(dict.fromkeys(both))[:most]
