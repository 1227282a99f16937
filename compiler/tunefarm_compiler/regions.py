"""Which part of a stage the loops inside need, and where it lies in scratch."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.access import Access
from tunefarm_compiler.bounds import Range, Ranges, interval, points, position
from tunefarm_compiler.emit import SIZES, Emitter, Value
from tunefarm_compiler.stages import Stage
from tunefarm_compiler.te import Index, Load

# One dimension of a part: where it begins, by the output's axes, and how much of it.
Side = tuple[Index, int]


@dataclass(frozen=True)
class Region:
    """A tensor, or a part of it: where its element 0, 0 ... is or would be, and its steps."""

    base: str
    steps: tuple[int, ...]

    def access(self, load: Load) -> Access:
        """How a load finds its elements here."""
        strides, offset = load.strides(self.steps)
        return Access(self.base, strides, strides, load.dtype, at=offset)


def needed(stages: Sequence[Stage], ranges: Ranges) -> dict[str, list[Side]]:
    """What is read of each stage by the last one's loops where they stand, and by one another."""
    *before, last = stages
    names = {stage.tensor.name for stage in before}
    found: dict[str, list[Side]] = {}
    for stage in reversed(stages):
        axes: dict[str, Side] = {a.name: (Index(), a.extent) for a in stage.reduce_axes}
        if stage is last:
            for axis, where in ranges.items():
                begin = Index((), where.low) if isinstance(where.at, int) else Index(((axis, 1),))
                axes[axis] = begin, where.extent
        else:
            own = found[stage.tensor.name]
            axes |= {axis.name: side for axis, side in zip(stage.axes, own, strict=True)}
        for load in (load for load in stage.loads if load.tensor.name in names):
            along = zip(load.indices, load.tensor.shape, strict=True)
            box = [_side(index, axes, extent, ranges, load) for index, extent in along]
            sides = zip(found.get(load.tensor.name, box), box, strict=True)
            found[load.tensor.name] = [_union(one, two, load) for one, two in sides]
    return found


def _side(index: Index, axes: dict[str, Side], shape: int, ranges: Ranges, load: Load) -> Side:
    start, extent = Index((), index.offset), 1
    for axis, coefficient in index.terms:
        first, length = axes[axis]
        start += first * coefficient + min(coefficient * (length - 1), 0)
        extent += abs(coefficient) * (length - 1)
    if not start.terms:
        # What lies outside is guarded by a condition, and never read. Where all does, one element
        # within the tensor stands for it: what fills the region reads it.
        low = min(max(0, start.offset), shape - 1)
        return Index((), low), max(1, min(shape, start.offset + extent) - low)
    low, high = interval(start, points(ranges))
    if low < 0 or high + extent > shape:
        raise InvalidScheduleError(
            f"schedule: {load.tensor.name} is read beyond its edge", "attach it at depth 0"
        )
    return start, extent


def _union(left: Side, right: Side, load: Load) -> Side:
    (one, length), (two, other) = left, right
    if one.terms != two.terms:
        raise InvalidScheduleError(
            f"schedule: {load.tensor.name} is read in two unlike ways", "attach it at depth 0"
        )
    begin = min(one.offset, two.offset)
    return Index(one.terms, begin), max(one.offset + length, two.offset + other) - begin


def placed(  # noqa: PLR0917
    emit: Emitter, scratch: str, box: Sequence[Side], ranges: Ranges, dtype: str, pad: int = 0
) -> tuple[Region, list[Range], int]:
    """A region of that size in scratch, where its axes stand, and its bytes.

    Its rows are `pad` elements longer than what they hold.
    """
    starts: list[Range] = []
    steps, step = [], 1
    for start, extent in box:
        at = position(emit, start.terms, ranges, start.offset)
        starts.append(Range(at, *interval(start, points(ranges)), extent))
    for _, extent in reversed(box):
        steps.append(step)
        step = step * extent + (pad if len(steps) == 1 < len(box) else 0)
    back: Value = 0
    for side, far in zip(starts, reversed(steps), strict=True):
        back = emit.add(emit.multiply(side.at, -far), back)
    return Region(emit.pointer(scratch, back, dtype), (*steps[::-1],)), starts, step * SIZES[dtype]
