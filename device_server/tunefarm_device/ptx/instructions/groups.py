"""wgmma: products of matrices in shared memory by groups of four warps, while these go on.

The sum is there at once, not when it is waited for; but what is read counts as read until then, so
that a write which comes too early is found.
"""

from dataclasses import dataclass

import numpy as np

from ..decode import Decoded, Reader, Sync, handles
from ..errors import SharedRaceError, UndefinedResultError, UnsupportedError
from ..frame import Frame
from ..kinds import KINDS, Array, Kind
from ..syntax import Immediate
from .matrices import _numbers, _shape
from .memory import note_granule

GROUP = 128  # lanes
ROWS, DEPTH = 64, 16
PIECE = 16  # bytes
# Bytes of a line by the descriptor's mode of swizzling.
LINES = {1: 128, 2: 64, 3: 32}


@dataclass(frozen=True)
class _Side:
    """A factor: its descriptor's register, its rows or columns, whether k runs across lines."""

    slot: int
    extent: int
    turned: bool


@handles("wgmma")
def wgmma(r: Reader) -> Decoded:
    """wgmma.fence, commit_group, wait_group N, and mma_async of halves from shared memory."""
    what = r.choose("fence", "commit_group", "wait_group", "mma_async")
    r.choose("sync")
    r.choose("aligned")
    if what == "mma_async":
        return _product(r)
    left = 0
    if what == "wait_group":
        left = _constant(r)
    r.done()
    if what == "fence":
        return Sync(lambda f: None, -1)
    if what == "commit_group":
        return Sync(_commit, -1)
    return Sync(lambda f: _wait(f, left), -1)


def _constant(r: Reader) -> int:
    operand = r.operand()
    if not isinstance(operand, Immediate):
        raise UnsupportedError("a number that is no constant")
    return operand.value


# Places in shared memory that are read, and who had written there.
_Reads = list[tuple[Array, Array]]


def _pending(f: Frame) -> list[_Reads]:
    """What groups of products read, the last of them not committed yet."""
    found: list[_Reads] = f.cache.setdefault("wgmma", [[]])
    return found


def _commit(f: Frame) -> None:
    _pending(f).append([])


def _wait(f: Frame, left: int) -> None:
    groups = _pending(f)
    done = max(0, len(groups) - 1 - left)
    for reads in groups[:done]:
        for at, stamps in reads:
            if (f.shared.written[at] != stamps).any():
                raise SharedRaceError("what a wgmma reads was written before it was waited for")
    del groups[:done]


def _product(r: Reader) -> Decoded:
    """mma_async.m64nNk16.f32.{f16,bf16} d, a, b, scale-d, 1, 1, turned a, turned b."""
    of_b, of_a, of_d = r.kind(), r.kind(), r.kind()
    rows, columns, depth = _shape(r)
    if (rows, depth) != (ROWS, DEPTH) or of_d.name != "f32" or of_a is not of_b:
        raise UnsupportedError("wgmma but of m64nNk16 and .f32 sums of one type")
    targets = [r.target(KINDS["b32"], item) for item in r.vector()]
    one, other = r.source(KINDS["b64"]), r.source(KINDS["b64"])
    scale, negated = r.predicate()
    signs = [_constant(r) for _ in range(4)]
    r.done()
    if len(targets) != columns // 2 or signs[:2] != [1, 1]:
        raise UnsupportedError(f"wgmma of {len(targets)} registers, signs {signs[:2]}")
    note_granule(r, "shared", PIECE)
    left, right = _Side(one, rows, bool(signs[2])), _Side(other, columns, bool(signs[3]))

    def step(f: Frame) -> None:
        groups = _groups(f)
        total = np.matmul(_matrix(f, left, groups, of_a), _matrix(f, right, groups, of_a).mT)
        sums = np.stack([f.full(t).view(np.float32).reshape(-1, 4, 8, 4)[groups] for t in targets])
        # Registers (square, half, of two), warps, rows, pairs of columns.
        sums = sums.reshape(columns // 8, 2, 2, len(groups), 4, 8, 4)
        sums = sums.transpose(3, 4, 1, 5, 0, 6, 2).reshape(len(groups), rows, columns)
        keep = f.full(scale).reshape(-1, GROUP)[groups, 0] != negated
        total += np.where(keep[:, None, None], sums, 0)
        parts = total.astype(np.float32).reshape(len(groups), 4, 2, 8, columns // 8, 4, 2)
        parts = parts.transpose(4, 2, 6, 0, 1, 3, 5).reshape(columns // 2, len(groups), GROUP)
        for number, target in enumerate(targets):
            value = np.zeros((f.lanes // GROUP, GROUP), np.float32)
            value[groups] = parts[number]
            f.put(target, value.reshape(-1).view(np.uint32))

    return Sync(step, -1)


def _groups(f: Frame) -> Array:
    """The groups of warps that execute. Raises: UndefinedResultError where one is not whole."""
    if f.geometry.padded % GROUP:
        raise UndefinedResultError(f"wgmma in a block of {f.geometry.threads} threads")
    here = f.present().reshape(-1, GROUP)
    if (here.any(1) != here.all(1)).any():
        raise UndefinedResultError("only some threads of a group of four warps execute it")
    return np.flatnonzero(here[:, 0])


def _matrix(f: Frame, side: _Side, groups: Array, kind: Kind) -> Array:
    """Rows (or columns) by k, for each group, as float64."""
    given = f.full(side.slot).reshape(-1, GROUP)[groups]
    if (given != given[:, :1]).any():
        raise UndefinedResultError("threads of a group have different descriptors")
    descriptor = given[:, 0].astype(np.uint64)
    start, across, down = (
        ((descriptor >> np.uint64(shift)) & np.uint64(0x3FFF)).astype(np.int64) << 4
        for shift in (0, 16, 32)
    )
    modes = {int(mode) for mode in descriptor >> np.uint64(62)}
    if len(modes) != 1 or not modes <= set(LINES):
        raise UnsupportedError(f"descriptors of modes {sorted(modes)}: 1, 2 and 3 are known")
    line = LINES[modes.pop()]
    if side.turned:  # pieces of 8 rows, a line for each k
        row, k = np.meshgrid(np.arange(side.extent // 8), np.arange(DEPTH), indexing="ij")
        wide = line // PIECE
        own = k % 8 * line + row % wide * PIECE
        first, second = row // wide, k // 8
    else:  # pieces of 8 k, a line for each row
        row, k = np.meshgrid(np.arange(side.extent), np.arange(DEPTH // 8), indexing="ij")
        own = row % 8 * line + k * PIECE
        first, second = np.zeros_like(row), row // 8
    each = (first, second, own)
    flat = [part.reshape(1, -1) for part in each]
    places = start[:, None] + flat[0] * across[:, None] + flat[1] * down[:, None] + flat[2]
    places ^= (places >> 7 & (line // PIECE - 1)) << 4
    lanes = np.repeat(groups * GROUP, places.shape[1])
    found = f.shared.locate(lanes, places.reshape(-1), PIECE)
    f.shared.note_read(lanes, found, PIECE)
    at = found // f.shared.granule
    _pending(f)[-1].append((at, f.shared.written[at]))
    halves = f.shared.data.view(np.uint16)[(found // 2)[:, None] + np.arange(8)]
    numbers = _numbers(kind)(halves.reshape(-1)).reshape(len(groups), *row.shape, 8)
    if side.turned:
        return np.moveaxis(numbers, 3, 2).reshape(len(groups), side.extent, DEPTH)
    return numbers.reshape(len(groups), side.extent, DEPTH)
