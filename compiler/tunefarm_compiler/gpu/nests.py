"""The rules that make a GPU schedule of one stage, and change it: see `choices.py` and `moves.py`.

Powers of two throughout: tiles of registers, threads along each axis, rounds of a block. What an
access is best read by (the axis along the vectors, 16 bytes at a time) comes from the strides.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import replace

from tunefarm_compiler.binding import MOST_THREADS, WARP
from tunefarm_compiler.choices import Choose, even
from tunefarm_compiler.gpu.defaults import width
from tunefarm_compiler.gpu.divide import power
from tunefarm_compiler.gpu.forms import Cut, Form
from tunefarm_compiler.reuse import StageFacts

TILES = (1, 2, 4, 8, 16)
ROUNDS = (1, 2, 4, 8, 16)
UNROLLS = (1, 2, 4, 8, 16, 32)
MOST_VALUES = 128  # words of a thread's tile
MOST_CODE = 2048  # products written out
LEAST_THREADS = 32
REGISTERS, LEAST_REGISTERS = 65536, 16  # of a multiprocessor; of a thread beside its tile


def powers(most: int) -> list[int]:
    """1, 2, 4, ... up to the first that is no smaller."""
    return [1 << n for n in range(power(max(1, most)).bit_length())]


class NestRules:
    """Decisions about one stage, of whose axes there are `extents` at a time.

    The first `rows` axes are those that stages inside of its blocks are computed for, and the
    others are not cut into blocks where there are such stages. A stage inside of a block has none.
    """

    def __init__(
        self, facts: StageFacts, extents: Mapping[str, int], rows: int = 0, inside: bool = False
    ) -> None:
        self.facts, self.extents = facts, dict(extents)
        self.inside = inside
        uncut = facts.spatial[rows:] if rows else ()
        self.blocked = () if inside else tuple(a for a in facts.spatial if a not in uncut)
        axes = {axis.name: axis for axis in (*facts.stage.axes, *facts.stage.reduce_axes)}
        self.widths = {name: width(facts.stage, axis) for name, axis in axes.items()}

    # Options, with weights

    def vectors(self) -> tuple[list[str], list[float]]:
        """Axes along the vectors: what is read or written side by side."""
        facts, found = self.facts, dict[str, float]()
        for axis in facts.spatial:
            straight = sum(t.strides.get(axis) == 1 for t in (*facts.terms, facts.output))
            if straight and self.extents[axis] > 1:
                found[axis] = 4.0**straight
        for axis in facts.summed:
            reads = {t.strides[axis] for t in facts.terms if axis in t.strides}
            if reads == {1} and self.extents[axis] > 1:
                found[axis] = 16.0 if not found else 4.0
        if facts.spatial:
            found.setdefault(facts.spatial[-1], 1.0)
        return list(found), list(found.values())

    def lanes(self, vector: str) -> tuple[list[int], list[float]]:
        """Widths of an access."""
        found = [n for n in (1, 2, 4, 8, 16) if n <= self.widths.get(vector, 1)]
        return found[::-1], [1.0, *[0.15] * (len(found) - 1)]

    def tiles(self, axis: str, room: int) -> tuple[list[int], list[float]]:
        """Sides of a thread's tile, of which there is room for so many."""
        most = min(self.extents[axis], room)
        found = [n for n in TILES if n <= most] or [1]
        shared = bool(self.facts.summed) and axis in self.facts.shared
        weights = [
            even(self.extents[axis], n) ** 2 * (float(n) if shared and n <= 8 else 1.0 / n)
            for n in found
        ]
        return found, weights

    def teams(self, vector: str) -> tuple[list[int], list[float]]:
        """Threads that share a sum."""
        if not self.facts.summed:
            return [1], [1.0]
        length = math.prod(self.extents[axis] for axis in self.facts.summed)
        outputs = math.prod(self.extents[axis] for axis in self.facts.spatial)
        found = [n for n in powers(min(length, MOST_THREADS)) if n <= MOST_THREADS]
        if vector in self.facts.summed:
            weights = [4.0 if n >= WARP else 0.3 for n in found]
        else:
            few = outputs < 1 << 15
            weights = [4.0 if n == 1 else (2.0 if few else 0.3) / n**0.5 for n in found]
        enough = [n * outputs >= LEAST_THREADS for n in found]
        return found, [w if full else 0.01 for w, full in zip(weights, enough, strict=True)]

    def threads(self, axis: str, tile: int, room: int) -> tuple[list[int], list[float]]:
        """Threads along an axis, of which there is room for so many."""
        most = min(room, power(-(-self.extents[axis] // tile)))
        found = [n for n in powers(most) if n <= most]
        return found, [2.0**n for n in range(len(found))]

    def rounds(self, step: int, axis: str) -> tuple[list[int], list[float]]:
        """How often a block does its step."""
        found = [n for n in ROUNDS if n == 1 or step * n < 2 * self.extents[axis]]
        return found, [4.0, *[1.0 / n for n in found[1:]]]

    def unrolls(self, values: int, lanes: int) -> tuple[list[int], list[float]]:
        """Steps of a sum at a time."""
        steps = math.prod(self.extents[axis] for axis in self.facts.summed)
        found = [n for n in UNROLLS if n <= steps and n * values <= MOST_CODE] or [1]
        return found, [2.0 if n in (4, 8, lanes, 4 * lanes) else 1.0 for n in found]

    # The decisions in their order

    def draw(self, choose: Choose) -> Form:
        """A form by decisions. It may still break a rule of `fault`."""
        facts = self.facts
        vector = choose("vector", *self.vectors()) if facts.spatial or facts.summed else ""
        lanes = choose("lanes", *self.lanes(vector))
        across = vector in facts.summed
        cuts: dict[str, Cut] = {}
        room = MOST_VALUES * 4 // max(4, facts.total_size)
        if vector in facts.spatial:
            more = [n for n in (1, 2, 4) if n * lanes <= min(room, self.extents[vector])] or [1]
            times = choose("columns", more, [1.0 / n for n in more])
            cuts[vector] = Cut(0, 0, times * lanes)
            room //= times * lanes
        for axis in facts.spatial:
            if axis == vector:
                continue
            tile = choose(f"tile.{axis}", *self.tiles(axis, room)) if not across else 1
            cuts[axis] = Cut(0, 0, tile)
            room //= tile
        team = choose("team", *self.teams(vector))
        self._share(choose, cuts, vector, lanes, team)
        self._spread(choose, cuts, vector, team)
        values = math.prod(cuts[axis].tile for axis in facts.spatial)
        unroll = choose("unroll", *self.unrolls(values, lanes)) if facts.summed else 1
        pad = choose("pad", [0, 1], [1.0, 1.0]) if self.inside else 0
        return self.settled(Form(cuts, lanes, vector, unroll, facts.summed, pad))

    def _share(
        self, choose: Choose, cuts: dict[str, Cut], vector: str, lanes: int, team: int
    ) -> None:
        """The summed axes: one of them by a team."""
        summed = self.facts.summed
        if vector in summed:
            shared = vector
        else:
            shared = max(summed, key=lambda axis: self.extents[axis], default="")
        for axis in summed:
            tile = lanes if axis == vector else 1
            alone = axis != shared or team == 1
            whole = self.extents[axis]
            cuts[axis] = Cut(0, whole, whole) if alone else Cut(0, team * tile, tile)

    def _spread(self, choose: Choose, cuts: dict[str, Cut], vector: str, team: int) -> None:
        """So many threads over the spatial axes, those along the vectors first; then blocks."""
        left = max(1, MOST_THREADS // team)
        total = [n for n in powers(left) if n * team <= MOST_THREADS]
        weights = [_busy(n * team) for n in total]
        left = choose("threads", total, weights)
        order = [a for a in self.facts.spatial[::-1] if a != vector]
        if vector in self.facts.spatial:
            order.insert(0, vector)
        for axis in order:
            tile = cuts[axis].tile
            count = choose(f"threads.{axis}", *self.threads(axis, tile, left))
            left //= count
            step = tile * count
            block = 0
            if axis in self.blocked:
                block = step * choose(f"rounds.{axis}", *self.rounds(step, axis))
            cuts[axis] = Cut(block, step, tile)

    def settled(self, form: Form) -> Form:
        """The same form with nothing larger than its axis, and vectors of whole lanes."""
        cuts = {}
        for axis, cut in form.cuts.items():
            extent = self.extents[axis]
            if axis in self.facts.summed:
                tile = form.lanes if axis == form.vector and cut.threads > 1 else cut.tile
                one = Cut(0, cut.threads * tile, tile)
                cuts[axis] = one if cut.threads > 1 else Cut(0, extent, extent)
                continue
            unit = form.lanes if axis == form.vector else 1
            tile = max(1, cut.tile // unit) * unit
            made = Cut(cut.block, tile * cut.threads, tile)
            if tile <= extent:
                made = made.within(extent)
            block = made.block if axis in self.blocked else 0
            if axis in self.blocked and not block:
                block = min(made.step, extent)
            cuts[axis] = replace(made, block=block)
        unroll = form.unroll if self.facts.summed else 1
        return replace(form, cuts=cuts, unroll=unroll)

    def fault(self, form: Form) -> str:
        """Why a form is not worth building; "" where it may be."""
        facts = self.facts
        threads, values = form.threads(facts), form.values(facts)
        points = math.prod(self.extents.values())
        if threads > MOST_THREADS:
            return f"{threads} threads are more than a block has"
        if threads < LEAST_THREADS and points >= LEAST_THREADS * 8:
            return "its threads do not fill a warp"
        if values * max(4, facts.total_size) > 4 * MOST_VALUES:
            return "its tile does not fit in a thread's registers"
        if (LEAST_REGISTERS + values * max(4, facts.total_size) // 4) * threads > REGISTERS:
            return "its threads' registers are more than there are"
        if values * form.unroll > MOST_CODE:
            return "its code is too large"
        if form.blocks(facts) >= 1 << 31:
            return "its blocks are more than a grid has"
        if self.inside and any(form.cuts[axis].threads > 1 for axis in facts.summed):
            for axis in facts.spatial:
                cut = form.cuts[axis]
                limit = cut.limit(self.extents[axis])
                parts = (min(cut.step, limit), limit % cut.step)
                if any(part > cut.tile and part % cut.tile for part in parts):
                    return "its teams would lie over one another"
        return ""

    # Moves

    def mutated(self, form: Form, rng: random.Random) -> Form:
        """A neighbour: one decision taken anew, now and then two or three."""
        made = form
        for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0]):
            made = self.settled(self._moved(made, rng))
        return made

    def _moved(self, form: Form, rng: random.Random) -> Form:
        facts = self.facts
        kind = rng.choices(
            ("cut", "unroll", "trade", "lanes", "pad", "anew"), (6.0, 2.0, 3.0, 0.7, 0.5, 0.4)
        )[0]
        if kind == "anew":
            return self.draw(lambda _, options, weights: rng.choices(options, weights)[0])
        if kind == "unroll" and facts.summed:
            return replace(form, unroll=rng.choice(self.unrolls(form.values(facts), form.lanes)[0]))
        if kind == "pad" and self.inside:
            return replace(form, pad=1 - min(form.pad, 1))
        if kind == "lanes":
            return self._relaned(form, rng)
        axes = [axis for axis in form.cuts if self.extents[axis] > 1]
        if not axes:
            return form
        axis = rng.choice(axes)
        if axis in facts.summed:
            return self._shared(form, axis, rng)
        if kind == "trade" and len(axes) > 1:
            # Threads of one axis go over to another.
            other = rng.choice([one for one in axes if one != axis])
            if other not in facts.summed:
                form = self._times(form, other, "threads", 2.0)
            return self._times(form, axis, "threads", 0.5)
        part = rng.choice(("tile", "threads", "rounds"))
        return self._times(form, axis, part, rng.choice((0.5, 2.0)))

    def _times(self, form: Form, axis: str, part: str, by: float) -> Form:
        """Twice as much of something along an axis, or half."""
        cut = form.cuts[axis]
        limit = cut.block or self.extents[axis]
        counts = {
            "tile": cut.tile,
            "threads": cut.threads,
            "rounds": max(1, -(-limit // cut.step)),
        }
        counts[part] = max(1, int(counts[part] * by))
        step = counts["tile"] * counts["threads"]
        block = step * counts["rounds"] if axis in self.blocked else 0
        return form.with_cut(axis, Cut(block, step, counts["tile"]))

    def _shared(self, form: Form, axis: str, rng: random.Random) -> Form:
        """A sum shared by twice as many threads, or half."""
        cut, lanes = form.cuts[axis], form.lanes if axis == form.vector else 1
        team = max(1, int(cut.threads * rng.choice((0.5, 0.5, 2.0, 2.0, 4.0))))
        team = min(team, MOST_THREADS)
        whole = self.extents[axis]
        return form.with_cut(
            axis, Cut(0, team * lanes, lanes) if team > 1 else Cut(0, whole, whole)
        )

    def _relaned(self, form: Form, rng: random.Random) -> Form:
        """Vectors of another width."""
        lanes = rng.choice(self.lanes(form.vector)[0])
        made = replace(form, lanes=lanes)
        cut = form.cuts.get(form.vector)
        if cut is None or (form.vector in self.facts.summed and cut.threads == 1):
            return made
        tile = lanes if form.vector in self.facts.summed else max(1, cut.tile // form.lanes) * lanes
        return made.with_cut(form.vector, Cut(cut.block, tile * cut.threads, tile))

    def crossed(self, one: Form, other: Form, rng: random.Random) -> Form:
        """A child: each axis and each number of one or of the other."""
        if one.vector != other.vector:
            return one
        made = one
        for axis, cut in other.cuts.items():
            if axis in made.cuts and rng.random() < 0.5:
                made = made.with_cut(axis, cut)
        if rng.random() < 0.5:
            made = replace(made, unroll=other.unroll)
        if rng.random() < 0.5:
            made = replace(made, lanes=other.lanes)
        return self.settled(made)

    def adapted(self, form: Form) -> Form:
        """The nearest form here to one of other extents: the same threads and tiles."""
        lanes = max((n for n in self.lanes(form.vector)[0] if n <= form.lanes), default=1)
        return self.settled(replace(form, lanes=lanes))

    def smaller(self, form: Form) -> Form:
        """With the largest tile or the most threads halved, for what is too large here."""
        axes = [axis for axis in self.facts.spatial if form.cuts[axis].tile > 1]
        if form.threads(self.facts) > MOST_THREADS:
            axis = max(form.cuts, key=lambda one: form.cuts[one].threads)
            if axis in self.facts.summed:
                cut = form.cuts[axis]
                return form.with_cut(axis, replace(cut, step=cut.threads // 2 * cut.tile))
            return self.settled(self._times(form, axis, "threads", 0.5))
        if axes:
            axis = max(axes, key=lambda one: form.cuts[one].tile)
            return self.settled(self._times(form, axis, "tile", 0.5))
        return self.settled(replace(form, unroll=max(1, form.unroll // 2)))


def _busy(threads: int) -> float:
    """How likely a block of so many threads is a good one."""
    return {32: 0.5, 64: 1.0, 128: 3.0, 256: 4.0, 512: 2.0, 1024: 1.0}.get(threads, 0.05)
