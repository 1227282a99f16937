"""The register tile of one thread; parts of a sum are put together with those of other threads."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from tunefarm_compiler.access import Access, Piece
from tunefarm_compiler.binding import WARP
from tunefarm_compiler.emit import SIZES, Value, kind
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.values import GpuValues
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.tile import Nest, Tile


@dataclass(frozen=True)
class Team:
    """Threads that share a sum: `count` of them, `step` apart; `rank` is this thread's number."""

    count: int
    step: int
    rank: str


@dataclass(frozen=True)
class Crew:
    """The threads of a nest: how many, this one's number, who shares sums.

    `inside` is whether this one is of them at all, `stores` whether it stores what is computed; ""
    for all. `again`: they come here more than once.
    """

    total: int
    thread: str
    teams: tuple[Team, ...] = ()
    inside: str = ""
    stores: str = ""
    again: bool = False


class ThreadTile(Tile):
    """Emits the register tile of a thread."""

    values_type = GpuValues

    def __init__(  # noqa: PLR0917
        self,
        emit: GpuEmitter,
        nest: Nest,
        accesses: Mapping[object, Access],
        spec: TargetSpec,
        crew: Crew,
        shared: Callable[[int], str],
        nothing: str,
    ) -> None:
        super().__init__(emit, nest, accesses, spec)
        self.emit: GpuEmitter = emit
        if self.across:
            steps = self.stage.extents[self.values.vector] // self.schedule.lanes
            self.chains = max(1, min(self.schedule.unroll, steps))
            self.outward = True
        self.crew = crew
        self._shared = shared
        self.values.nothing = nothing
        if isinstance(self.values, GpuValues):
            self.values.newer = "sm_80" in spec.features

    def _finish(self, tile: list[Piece], last: Value) -> list[str]:
        with self.emit.when(self.crew.stores) if self.crew.stores else nullcontext():
            return super()._finish(tile, last)

    def _run_reduce(self, tile: list[Piece], first: Value) -> None:
        super()._run_reduce(tile, first)
        if not self.crew.teams:
            return
        totals = self.values.totals
        lanes = [lane for piece in tile for lane in self._lanes(totals[piece], piece)]
        for team in self.crew.teams:
            lanes = self._together(lanes, team)
        for piece in tile:
            mine, lanes = lanes[: piece.lanes], lanes[piece.lanes :]
            totals[piece] = self._vector(mine)

    def _lanes(self, value: str, piece: Piece) -> list[str]:
        dtype, lanes = self.reduce.dtype, piece.lanes
        return [self.emit.part(value, lane, 1, dtype, lanes) for lane in range(lanes)]

    def _vector(self, lanes: list[str]) -> str:
        if len(lanes) == 1:
            return lanes[0]
        dtype, made = self.reduce.dtype, "poison"
        wide = kind(dtype, len(lanes))
        for number, lane in enumerate(lanes):
            one = f"{kind(dtype)} {lane}, i32 {number}"
            made = self.emit.value("e", f"insertelement {wide} {made}, {one}")
        return made

    def _together(self, values: list[str], team: Team) -> list[str]:
        """The totals of a team, which each of its threads then has."""
        distance, left = team.step, team.count
        while left > 1 and distance < WARP:
            values = [self._exchange(value, distance) for value in values]
            distance, left = 2 * distance, left // 2
        return self._by_memory(values, team, left) if left > 1 else values

    def _exchange(self, value: str, distance: int) -> str:
        dtype = self.reduce.dtype
        word = value
        if kind(dtype) != "i32":
            word = self._as_word(value, dtype)
        other = self.emit.exchanged(word, distance)
        if kind(dtype) != "i32":
            other = self._from_word(other, dtype)
        return self._combine(value, other, 1)

    def _as_word(self, value: str, dtype: str) -> str:
        bits = 8 * SIZES[dtype]
        if dtype.startswith("float"):
            value = self.emit.value("w", f"bitcast {kind(dtype)} {value} to i{bits}")
        return value if bits == 32 else self.emit.value("w", f"zext i{bits} {value} to i32")

    def _from_word(self, word: str, dtype: str) -> str:
        bits = 8 * SIZES[dtype]
        if bits < 32:
            word = self.emit.value("w", f"trunc i32 {word} to i{bits}")
        if not dtype.startswith("float"):
            return word
        return self.emit.value("w", f"bitcast i{bits} {word} to {kind(dtype)}")

    def _by_memory(self, values: list[str], team: Team, left: int) -> list[str]:
        """Parts of `left` groups of threads, through shared memory."""
        emit, dtype, total = self.emit, self.reduce.dtype, self.crew.total
        size = SIZES[dtype]
        # One number of each thread's: what differs only within a warp is the same.
        base = self._shared(len(values) * total * size)
        if self.crew.again:
            emit.barrier()
        mine = emit.pointer(base, self.crew.thread, dtype)
        with emit.when(self.crew.inside) if self.crew.inside else nullcontext():
            for number, value in enumerate(values):
                emit.store(value, emit.pointer(mine, number * total, dtype), dtype)
        emit.barrier()
        apart = team.count // left * team.step
        back = emit.multiply(self._group(team, left), -apart)
        first = emit.pointer(mine, back, dtype)
        found = []
        for number in range(len(values)):
            parts = [
                emit.load(emit.pointer(first, number * total + n * apart, dtype), dtype)
                for n in range(left)
            ]
            while len(parts) > 1:
                pairs = zip(parts[::2], parts[1::2], strict=True)
                parts = [self._combine(a, b, 1) for a, b in pairs]
            found += parts
        return found

    def _group(self, team: Team, left: int) -> str:
        """Which of the groups this thread is in."""
        if left == team.count:
            return team.rank
        return self.emit.value("d", f"udiv i32 {team.rank}, {team.count // left}")
