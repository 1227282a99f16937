"""Sums in the registers of a thread: by multiply-adds, or by tensor cores with its whole warp.

A unit reads what it multiplies from shared memory one step of k at a time, so that the next step
can be under way, and knows which rows and columns of the block its sums are.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from tunefarm_compiler.contract import WARP, Contract
from tunefarm_compiler.emit import Value, kind
from tunefarm_compiler.gpu import instructions as ptx
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.shared import PIECE, Spot, Tile


@dataclass(frozen=True)
class Operand:
    """A tile in shared memory and whether its lines run along k."""

    tile: Tile
    to_k: bool


class Unit(ABC):
    """`rows` and `columns` are those of each sum, counted from the thread's own first ones."""

    depth: int  # indices of k in a step
    rows: list[int]
    columns: list[int]
    run: int  # sums in a row whose columns follow each other

    def __init__(
        self, emit: GpuEmitter, contract: Contract, sides: tuple[Operand, Operand], total: str
    ) -> None:
        self.emit, self.contract, self.sides, self.total = emit, contract, sides, total
        self.first = (Value, Value)

    def prepare(self, thread: str) -> tuple[Value, Value]:
        """The thread's part of its addresses. Gives its first row and column in the block."""
        emit, (down, across) = self.emit, self.contract.warps
        warp, lane = emit.divide(thread, WARP)
        tall, wide = self.contract.tile
        along, beside = emit.divide(warp, across) if down * across > 1 else (0, 0)
        row = emit.multiply(along if down > 1 else 0, tall)
        column = emit.multiply(beside, wide)
        return self._prepare(str(lane), row, column)

    @abstractmethod
    def _prepare(self, lane: str, row: Value, column: Value) -> tuple[Value, Value]: ...

    @property
    @abstractmethod
    def kinds(self) -> list[str]:
        """LLVM types of what a step reads."""

    @abstractmethod
    def read(self, step: int, stage: Value) -> list[str]:
        """What a step multiplies."""

    @abstractmethod
    def multiply(self, read: list[str], sums: list[str]) -> list[str]:
        """The sums with the products of a step."""


class Fma(Unit):
    """A rectangle of sums for each thread; neighbouring threads read neighbouring pieces."""

    depth = 1

    def __init__(
        self, emit: GpuEmitter, contract: Contract, sides: tuple[Operand, Operand], total: str
    ) -> None:
        super().__init__(emit, contract, sides, total)
        self._counts = [
            side // lanes for side, lanes in zip(contract.tile, contract.lanes, strict=True)
        ]
        self._wide = [min(4, count) for count in self._counts]
        moved = [
            [(n // w) * w * lanes + n % w for n in range(count)]
            for count, w, lanes in zip(self._counts, self._wide, contract.lanes, strict=True)
        ]
        self.rows = [row for row in moved[0] for _ in moved[1]]
        self.columns = [column for _ in moved[0] for column in moved[1]]
        self.run = self._wide[1]

    @property
    def kinds(self) -> list[str]:
        """A number of each row, then of each column."""
        return [kind(self.total)] * sum(self._counts)

    def _prepare(self, lane: str, row: Value, column: Value) -> tuple[Value, Value]:
        emit, (tall, wide_) = self.emit, self.contract.lanes
        lanes: tuple[Value, Value] = (0, lane)
        if tall > 1:
            # Neighbours are in one column, those after them in the same row: then shared memory
            # gives each half of a warp its 16 bytes a thread at once.
            pairs, odd = emit.divide(lane, 2)
            above, across = emit.divide(pairs, wide_)
            lanes = emit.add(emit.multiply(above, 2), odd) if tall > 2 else odd, across
        first = [
            emit.add(start, emit.multiply(one, wide))
            for start, one, wide in zip((row, column), lanes, self._wide, strict=True)
        ]
        self._spots = [
            emit.add(emit.multiply(at, 4), side.tile.start)
            for at, side in zip(first, self.sides, strict=True)
        ]
        return first[0], first[1]

    def read(self, step: int, stage: Value) -> list[str]:
        """Numbers of each row, then of each column, at index `step` of k."""
        found: list[str] = []
        for number, side in enumerate(self.sides):
            wide = self._wide[number]
            base = self.emit.add(self._spots[number], stage)
            for group in range(self._counts[number] // wide):
                at = step * side.tile.pitch + group * wide * self.contract.lanes[number] * 4
                found += ptx.load_shared(self.emit, base, at, kind(self.total), wide)
        return found

    def multiply(self, read: list[str], sums: list[str]) -> list[str]:
        """One multiply-add for each sum."""
        rows, columns = read[: self._counts[0]], read[self._counts[0] :]
        pairs = [(row, column) for row in rows for column in columns]
        return [self._add(*pair, total) for pair, total in zip(pairs, sums, strict=True)]

    def _add(self, left: str, right: str, total: str) -> str:
        if self.total == "float32":
            typed = f"float {left}, float {right}, float {total}"
            return self.emit.value("f", f"call float @llvm.fma.f32({typed})")
        made = self.emit.value("m", f"mul i32 {left}, {right}")
        return self.emit.value("f", f"add i32 {made}, {total}")


# What each kind multiplies at a time: LLVM's and PTX's words for it.
FORMS = {"f16": "f32.f16.f16.f32", "bf16": "f32.bf16.bf16.f32", "tf32": "f32.tf32.tf32.f32"}
STEP = 2 * PIECE  # bytes of k in a step, of every kind


class Mma(Unit):
    """Squares of 16 by 8 sums, dealt out to the lanes as tensor cores have it."""

    def __init__(
        self, emit: GpuEmitter, contract: Contract, sides: tuple[Operand, Operand], total: str,
        *, form: str, size: int, old: bool,
    ) -> None:  # fmt: skip
        super().__init__(emit, contract, sides, total)
        self.depth = STEP // size
        self._form, self._old = form, old
        tall, wide = contract.tile
        self._squares = tall // 16, wide // 8
        self.rows, self.columns = [], []
        for down in range(self._squares[0]):
            for across in range(self._squares[1]):
                self.rows += [down * 16, down * 16, down * 16 + 8, down * 16 + 8]
                self.columns += [across * 8, across * 8 + 1] * 2
        self.run = 2

    @property
    def kinds(self) -> list[str]:
        """Words: 4 for 16 rows, 2 for 8 columns."""
        return ["i32"] * (4 * self._squares[0] + 2 * self._squares[1])

    def _prepare(self, lane: str, row: Value, column: Value) -> tuple[Value, Value]:
        emit = self.emit
        inner = emit.divide(lane, 8)[1]
        eighth, sixteenth = emit.divide(emit.divide(lane, 8)[0], 2)[1], emit.divide(lane, 16)[0]
        # Lanes name lines: of the rows' squares (0, 0), (8, 0), (0, 8), (8, 8) in rows and k; of
        # the columns' (0, 0), (0, 8), (8, 0), (8, 8).
        sides = [(eighth, sixteenth, row), (sixteenth, eighth, column)]
        self._spots: list[Spot] = []
        for (by_side, by_k, first), one in zip(sides, self.sides, strict=True):
            across, down = (by_side, by_k) if one.to_k else (by_k, by_side)
            line = emit.add(emit.multiply(across, 8), inner)
            piece: Value = down
            if one.to_k:
                line = emit.add(line, first)
            else:
                piece = emit.add(piece, emit.divide(first, 8)[0])
            self._spots.append(one.tile.spot(line, piece))
        group, pair = emit.divide(lane, 4)
        return emit.add(row, group), emit.add(column, emit.multiply(pair, 2))

    def read(self, step: int, stage: Value) -> list[str]:
        """Four words for each 16 rows, then two for each 8 columns."""
        found: list[str] = []
        for number in (0, 1):
            size = self.contract.tile[number]
            for first in range(0, size, 16):
                count = 4 if size - first >= 16 else 2
                found += self._squares_of(number, step, first, count, stage)
        return found

    def _squares_of(
        self, number: int, step: int, first: int, count: int, stage: Value
    ) -> list[str]:
        one, spot = self.sides[number], self._spots[number]
        line, piece = (first, 2 * step) if one.to_k else (16 * step, first // 8)
        base, at = one.tile.at(spot, line, piece)
        to = self.emit.add(base, stage)
        words = ptx.load_matrices(self.emit, to, at, count, turned=not one.to_k)
        if self._form != "tf32":
            return words
        return [self._rounded(word) for word in words]

    def _rounded(self, word: str) -> str:
        number = self.emit.value("v", f"bitcast i32 {word} to float")
        return ptx.convert(self.emit, "rna.tf32.f32", number, "i32")

    def multiply(self, read: list[str], sums: list[str]) -> list[str]:
        """One instruction for each square of sums, or as many as an old processor needs."""
        down, across = self._squares
        made: list[str] = []
        for i in range(down):
            a = read[4 * i : 4 * i + 4]
            for j in range(across):
                b = read[4 * down + 2 * j : 4 * down + 2 * j + 2]
                at = 4 * (i * across + j)
                made += self._square(a, b, sums[at : at + 4])
        return made

    def _square(self, a: list[str], b: list[str], sums: list[str]) -> list[str]:
        emit = self.emit
        if self._form in FORMS:
            if not self._old:
                deep = "m16n8k8" if self._form == "tf32" else "m16n8k16"
                return ptx.multiply_matrices(
                    emit, f"{deep}.row.col.{FORMS[self._form]}", a, b, sums
                )
            form = f"m16n8k8.row.col.{FORMS[self._form]}"
            sums = ptx.multiply_matrices(emit, form, a[:2], b[:1], sums)
            return ptx.multiply_matrices(emit, form, a[2:], b[1:], sums)
        if not self._old:
            return ptx.multiply_matrices(emit, f"m16n8k32.row.col.s32.{self._form}.s32", a, b, sums)
        form = f"m8n8k16.row.col.s32.{self._form}.s32"
        for number in (0, 1):
            high = ptx.multiply_matrices(emit, form, [a[2 * number]], [b[number]], sums[:2])
            low = ptx.multiply_matrices(emit, form, [a[2 * number + 1]], [b[number]], sums[2:])
            sums = [*high, *low]
        return sums
