"""Blocks of a factor copied from global to shared memory, each thread its vectors of each block.

All that is known when compiling is folded into the addresses. What a thread adds to them stays the
same through the loop over k, where an access is affine in k: then a pointer steps. Else k is taken
apart for each block. Outside of a window or of the tensor zeros are written and nothing is read.
"""

from dataclasses import dataclass
from functools import cached_property

from tunefarm_compiler.emit import SIZES, Value
from tunefarm_compiler.gpu import instructions as ptx
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.products import Factor, Flat
from tunefarm_compiler.gpu.shared import PIECE, Spot, Tile

NEAR = 1 << 23  # bytes that an instruction adds to an address
LANES = 8  # of a warp along k, where single elements change places: 32 bytes of a line


@dataclass(frozen=True)
class Region:
    """What a block of threads copies: where it begins, and its size along the side and k.

    `batch` has the values of the batch axes; `first` and `k` are indices of side and k.
    """

    batch: dict[str, Value]
    first: Value
    k: Value
    side: int
    depth: int
    rounds: int  # blocks of k, of all parts that k is cut into


@dataclass(frozen=True)
class Slot:
    """A vector that each thread copies: how far along side and k it is from the thread's first."""

    side: int
    k: int


@dataclass(frozen=True)
class Form:
    """How a block is copied and held.

    `held` is its type in shared memory; its lines there run along k where `to_k`. At most `vector`
    bytes are copied at a time, passing by the registers where `asynchronous` and nothing changes.
    """

    held: str
    to_k: bool
    vector: int
    asynchronous: bool


class Copies:
    """Of one factor, by `threads` of which the running one is `thread`."""

    def __init__(
        self, emit: GpuEmitter, factor: Factor, region: Region, form: Form, threads: int
    ) -> None:
        self.emit, self.factor, self.region = emit, factor, region
        self.threads, self.form = threads, form
        self.by_k = factor.along == "k"
        self.size = SIZES[factor.dtype]
        self.words = form.to_k and not self.by_k and self.size == 1  # 4 bytes of k make a word
        flat, length = (factor.k, region.depth) if self.by_k else (factor.side, region.side)
        self.count = min(factor.width(flat), max(1, form.vector // self.size), length)
        as_it_is = form.held == factor.dtype
        self.straight = form.to_k == self.by_k
        self.asynchronous = form.asynchronous and as_it_is
        if self.words:
            self.count = 4 if self.count >= 4 else 1
            self.asynchronous = False
        elif self.asynchronous and not self.straight and self.size == 4:
            self.count = 1
        self.asynchronous &= (self.straight or self.count == 1) and self.bytes_at_once >= 4
        self.tail_side = factor.side.total % region.side != 0
        self.tail_k = factor.k.total != region.depth * region.rounds

    @cached_property
    def k_step(self) -> int | None:
        """What a step along k moves the access by, if it is affine."""
        return self.factor.step(self.factor.k)

    @cached_property
    def side_step(self) -> int | None:
        """The same of the side."""
        return self.factor.step(self.factor.side)

    @property
    def bytes_at_once(self) -> int:
        """Of an access to global memory."""
        return self.count * self.size

    @property
    def needs_k(self) -> bool:
        """Whether `begin` has to be told where its block lies."""
        return self.tail_k or self.k_step is None

    # What each thread copies

    def prepare(self, tile: Tile, base: str, thread: str) -> str:
        """The thread's part of all addresses. Gives the pointer of the first block."""
        emit, region, group = self.emit, self.region, 4 if self.words else 1
        lines, length = (
            (region.side, region.depth) if self.by_k else (region.depth // group, region.side)
        )
        across = min(length // self.count, self.threads)
        turns = not self.straight and (self.count == 1 or self.words)
        if turns and self.threads // LANES <= lines:
            across = min(across, LANES)
        down = self.threads // across
        line, column = emit.divide(thread, across)
        along = emit.multiply(column, self.count)
        self._inside = ""
        if down > lines:
            self._inside = emit.value("c", f"icmp ult i32 {thread}, {lines * across}")
        places = [
            (number, right)
            for number in range(0, lines, down)
            for right in range(0, length, across * self.count)
        ]
        if self.by_k:
            self.slots = [Slot(number, right) for number, right in places]
            self._side_at, self._k_at = line, along
        else:
            self.slots = [Slot(right, number * group) for number, right in places]
            self._side_at, self._k_at = along, emit.multiply(line, group)
        self._tile = tile
        self._spot = self._place()
        pointer = self._pointer(base)
        self._first_side = emit.add(region.first, self._side_at)
        self._sides: dict[int, tuple[Value, list[Value], str]] = {}
        for slot in self.slots:
            self._side(slot.side)
        return pointer

    def _place(self) -> Spot:
        """Where the thread's first vector lies in the tile."""
        emit, held = self.emit, SIZES[self.form.held]
        line, along = (self._side_at, self._k_at) if self.form.to_k else (self._k_at, self._side_at)
        piece, rest = emit.divide(emit.multiply(along, held), PIECE)
        if self.straight and self.count * held >= PIECE:
            rest = 0
        spot = self._tile.spot(line, piece)
        return Spot(emit.add(spot.line, rest), spot.piece)

    def _pointer(self, base: str) -> str:
        """Where the thread's first vector of the first block lies, as far as that is affine."""
        factor, region = self.factor, self.region
        parts: list[tuple[Value, int]] = [
            (value, factor.strides.get(axis, 0)) for axis, value in region.batch.items()
        ]
        if self.k_step is not None:
            parts += [(region.k, self.k_step), (self._k_at, self.k_step)]
        if self.side_step is not None:
            parts += [(region.first, self.side_step), (self._side_at, self.side_step)]
        known = factor.offset
        for value, stride in parts:
            if isinstance(value, int):
                known += value * stride
            elif stride:
                base = self._moved(base, value, stride * self.size)
        return self.step(base, known)

    def _moved(self, where: str, value: str, size: int) -> str:
        emit = self.emit
        long = emit.value("l", f"sext i32 {value} to i64")
        far = emit.value("l", f"mul nsw i64 {long}, {size}") if size != 1 else long
        return emit.value("p", f"getelementptr i8, {ptx.GLOBAL} {where}, i64 {far}")

    def step(self, pointer: str, elements: int) -> str:
        """A pointer so many elements on."""
        if not elements:
            return pointer
        far = elements * self.size
        return self.emit.value("p", f"getelementptr i8, {ptx.GLOBAL} {pointer}, i64 {far}")

    def advance(self, pointer: str) -> str:
        """The pointer of the next block."""
        return self.step(pointer, (self.k_step or 0) * self.region.depth)

    # Conditions and offsets

    def _taken_apart(self, flat: Flat, index: Value) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for axis in reversed(flat.axes[1:]):
            index, values[axis.name] = self.emit.divide(index, axis.extent)
        if flat.axes:
            values[flat.axes[0].name] = index
        return values

    def _forms(self, values: dict[str, Value]) -> tuple[Value, list[Value]]:
        """What axes of these values add to the offset, and to each window's index."""
        offset: Value = 0
        for axis, value in values.items():
            offset = self.emit.add(
                offset, self.emit.multiply(value, self.factor.strides.get(axis, 0))
            )
        tests: list[Value] = []
        for window in self.factor.windows:
            total: Value = 0
            for axis, coefficient in window.index.terms:
                if axis in values:
                    total = self.emit.add(total, self.emit.multiply(values[axis], coefficient))
            tests.append(total)
        return offset, tests

    def _side(self, move: int) -> tuple[Value, list[Value], str]:
        """Offset, window indices and condition of the thread's place along the side, moved on."""
        if move not in self._sides:
            emit, flat = self.emit, self.factor.side
            index = emit.add(self._first_side, move)
            fits = ""
            if self.tail_side:
                fits = emit.value("c", f"icmp ult i32 {index}, {flat.total}")
            if self.side_step is not None:
                own: tuple[Value, list[Value]] = (move * self.side_step, [])
                tests: list[Value] = [0] * len(self.factor.windows)
            else:
                own = self._forms(self._taken_apart(flat, index))
                tests = own[1]
            batch = self._forms(self.region.batch)[1]
            tests = [emit.add(one, two) for one, two in zip(tests, batch, strict=True)]
            self._sides[move] = own[0], tests, fits
        return self._sides[move]

    def _k(self, k: Value, move: int) -> tuple[Value, list[Value], str]:
        """The same along k, from index `k` of the block."""
        emit, flat = self.emit, self.factor.k
        if self.k_step is not None and not self.tail_k:
            return move * self.k_step, [0] * len(self.factor.windows), ""
        index = emit.add(emit.add(k, self._k_at), move)
        fits = emit.value("c", f"icmp ult i32 {index}, {flat.total}") if self.tail_k else ""
        if self.k_step is not None:
            return move * self.k_step, [0] * len(self.factor.windows), fits
        offset, tests = self._forms(self._taken_apart(flat, index))
        return offset, tests, fits

    def _both(self, conditions: list[str]) -> str:
        found = ""
        for one in conditions:
            if one and one != found:
                found = self.emit.value("c", f"and i1 {found}, {one}") if found else one
        return found

    # Copying

    def begin(self, pointer: str, k: Value, stage: Value, when: str) -> list[list[str]]:
        """Copy the block at index `k`, to the stage at that byte, unless `when` is false.

        Gives what `finish` is to write: nothing of what is copied asynchronously.
        """
        self._ks: dict[int, tuple[Value, list[Value], str]] = {}
        read: list[list[str]] = []
        for slot in self.slots:
            words: list[str] = []
            for line in range(4 if self.words else 1):
                words += self._vector(pointer, k, Slot(slot.side, slot.k + line), stage, when)
            read.append(words)
        return read

    def _vector(self, pointer: str, k: Value, slot: Slot, stage: Value, when: str) -> list[str]:
        emit = self.emit
        if slot.k not in self._ks:
            self._ks[slot.k] = self._k(k, slot.k)
        k_offset, k_tests, k_fits = self._ks[slot.k]
        offset, tests, fits = self._side(slot.side)
        conditions = [self._inside, fits, k_fits]
        for window, one, two in zip(self.factor.windows, tests, k_tests, strict=True):
            at = emit.add(emit.add(one, two), window.index.offset)
            conditions.append(emit.value("c", f"icmp ult i32 {at}, {window.extent}"))
        source = self._source(pointer, offset, k_offset)
        if not self.asynchronous:
            whole = self._both([when, *conditions])
            return ptx.load_global(emit, source[0], self.bytes_at_once, whole, source[1])
        whole, runs = self._both(conditions[1:]), self._both([when, self._inside])
        to = self._to(slot, stage)
        ptx.copy_async(emit, to, source, self.bytes_at_once, whole=whole, when=runs)
        return []

    def _source(self, pointer: str, *offsets: Value) -> tuple[str, int]:
        """An address, and a number that the instruction adds to it."""
        for value in offsets:
            if not isinstance(value, int):
                pointer = self._moved(pointer, value, self.size)
        known = sum(one for one in offsets if isinstance(one, int))
        if abs(known * self.size) < NEAR:
            return pointer, known * self.size
        return self.step(pointer, known), 0

    def _to(self, slot: Slot, stage: Value, more: int = 0) -> tuple[Value, int]:
        """Where in shared memory a slot goes, `more` bytes further."""
        held = SIZES[self.form.held]
        line, byte = (slot.side, slot.k * held) if self.form.to_k else (slot.k, slot.side * held)
        piece, rest = divmod(byte + more, PIECE)
        base, at = self._tile.at(self._spot, line, piece)
        return self.emit.add(base, stage), at + rest

    def finish(self, read: list[list[str]], stage: Value) -> None:
        """Write what `begin` read."""
        if self.asynchronous:
            return
        for slot, words in zip(self.slots, read, strict=True):
            values, size = self._converted(words)
            if not self.straight:
                for at, word in enumerate(values):
                    moved = (
                        Slot(slot.side, slot.k + at) if self.by_k else Slot(slot.side + at, slot.k)
                    )
                    self._write([word], size, self._to(moved, stage))
                continue
            for at in range(0, len(values), 4):
                part = values[at : at + 4]
                self._write(part, size * len(part), self._to(slot, stage, at * size))

    def _write(self, words: list[str], size: int, to: tuple[Value, int]) -> None:
        ptx.store_shared(self.emit, to, words, size, self._inside)

    def _transposed(self, words: list[str]) -> list[str]:
        """Of 4 lines of bytes the columns, each in a word."""
        emit = self.emit
        if self.count == 1:
            low = ptx.permute(emit, words[0], words[1], 0x7740)
            high = ptx.permute(emit, words[2], words[3], 0x7740)
            return [ptx.permute(emit, low, high, 0x5410)]
        halves = [
            [ptx.permute(emit, words[at], words[at + 1], picks) for picks in (0x5140, 0x7362)]
            for at in (0, 2)
        ]
        return [
            ptx.permute(emit, one, two, picks)
            for one, two in zip(*halves, strict=True)
            for picks in (0x5410, 0x7632)
        ]

    def _converted(self, words: list[str]) -> tuple[list[str], int]:
        """What is to be written, in words, and how many bytes of each count."""
        if self.words:
            return self._transposed(words), 4
        if self.form.held == self.factor.dtype:
            return words, min(4, self.bytes_at_once)
        found = []
        for number in range(self.count):
            word, bit = words[number * self.size // 4], 8 * (number * self.size % 4)
            found.append(widened(self.emit, word, bit, self.factor.dtype))
        return found, 4


def widened(emit: GpuEmitter, word: str, bit: int, dtype: str) -> str:
    """The narrow number from that bit of a word on, as a float's or an integer's word."""
    if dtype == "bfloat16":
        if bit:
            return emit.value("v", f"and i32 {word}, -65536")
        return emit.value("v", f"shl i32 {word}, 16")
    if dtype == "float16":
        low = emit.value("v", f"lshr i32 {word}, {bit}") if bit else word
        half = emit.value("v", f"trunc i32 {low} to i16")
        half = emit.value("v", f"bitcast i16 {half} to half")
        full = emit.value("v", f"fpext half {half} to float")
        return emit.value("v", f"bitcast float {full} to i32")
    up = emit.value("v", f"shl i32 {word}, {24 - bit}")
    down = "lshr" if dtype == "uint8" else "ashr"
    return emit.value("v", f"{down} i32 {up}, 24")
