"""Tensor cores that groups of four warps start and wait for (wgmma, sm_90a): factors stay in shared
memory, from where 64 rows by up to 256 columns are multiplied while the warps go on copying.
"""

from tunefarm_compiler.contract import WARP, Contract
from tunefarm_compiler.emit import Value
from tunefarm_compiler.gpu import instructions as ptx
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.registers import Operand
from tunefarm_compiler.gpu.shared import PIECE

ROWS, DEPTH = 64, 16
WARPS = 4  # of a group
# How a descriptor says that lines of so many bytes are swizzled.
MODES = {128: 1, 64: 2, 32: 3}


class Groups:
    """Sums of a group of warps: `rows` and `columns` count from each thread's own first ones."""

    run = 2

    def __init__(
        self, emit: GpuEmitter, contract: Contract, sides: tuple[Operand, Operand], form: str
    ) -> None:
        self.emit, self.contract, self.sides, self._form = emit, contract, sides, form
        tall, self._wide = contract.tile
        self._blocks = tall // DEPTH  # of 64 rows, 16 for each warp
        self.rows, self.columns = [], []
        for block in range(self._blocks):
            for square in range(self._wide // 8):
                self.rows += [ROWS * block, ROWS * block, ROWS * block + 8, ROWS * block + 8]
                self.columns += [8 * square, 8 * square + 1] * 2

    def prepare(self, thread: str) -> tuple[Value, Value]:
        """The group's descriptors. Gives the thread's first row and column in the block."""
        emit, (down, across) = self.emit, self.contract.warps
        warp, lane = emit.divide(thread, WARP)
        group, inner = emit.divide(warp, WARPS)
        if down * across == WARPS:
            group = 0
        along, beside = emit.divide(group, across)
        row = emit.multiply(along if down > WARPS else 0, self._blocks * ROWS)
        column = emit.multiply(beside, self._wide)
        self._starts, self._fixed = [], []
        for first, side in zip((row, column), self.sides, strict=True):
            tile = side.tile
            far = tile.pitch if side.to_k else tile.far // ROWS
            self._starts.append(emit.add(emit.multiply(first, far), tile.start))
            between = PIECE if side.to_k else tile.far
            fixed = (between >> 4) << 16 | (8 * tile.pitch >> 4) << 32 | MODES[tile.pitch] << 62
            self._fixed.append(fixed - (1 << 64) if fixed >> 63 else fixed)
        eighth, pair = emit.divide(lane, 4)
        own = emit.add(emit.multiply(inner, DEPTH), eighth)
        return emit.add(row, own), emit.add(column, emit.multiply(pair, 2))

    def _descriptor(self, number: int, stage: Value) -> str:
        emit = self.emit
        at = emit.add(self._starts[number], stage)
        low = emit.value("d", f"lshr i32 {at}, 4")
        long = emit.value("d", f"zext i32 {low} to i64")
        return emit.value("d", f"or i64 {long}, {self._fixed[number]}")

    def multiply(self, stage: Value, sums: list[str]) -> list[str]:
        """Begin to add the products of a block of k to the sums, which `wait` gives back."""
        emit = self.emit
        one, other = (self._descriptor(number, stage) for number in (0, 1))
        ptx.group_fence(emit)
        count = len(sums) // self._blocks
        for step in range(self.contract.block[2] // DEPTH):
            right = self._moved(other, self._step(1, step))
            made: list[str] = []
            for block in range(self._blocks):
                tile = self.sides[0].tile
                far = ROWS * tile.pitch if self.sides[0].to_k else tile.far
                left = self._moved(one, self._step(0, step) + block * far)
                own = sums[block * count : (block + 1) * count]
                turned = tuple(not side.to_k for side in self.sides)
                made += ptx.group_multiply(emit, self._form, (left, right), own, turned)
            sums = made
        ptx.group_commit(emit)
        return sums

    def _step(self, number: int, step: int) -> int:
        """Bytes to the index of k where a step begins."""
        side = self.sides[number]
        return step * DEPTH * (2 if side.to_k else side.tile.pitch)

    def _moved(self, descriptor: str, count: int) -> str:
        return self.emit.value("d", f"add i64 {descriptor}, {count >> 4}") if count else descriptor

    def wait(self, left: int, sums: list[str]) -> list[str]:
        """The sums when no more than so many blocks of k are under way."""
        return ptx.group_wait(self.emit, left, sums)
