"""Contracts for sums of products: the one to take without a search, and any that can run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.contract import LAYOUTS, WARP, Contract
from tunefarm_compiler.emit import SIZES
from tunefarm_compiler.gpu.fitting import KINDS, LEVELS, check, level
from tunefarm_compiler.gpu.products import Factor, Product, product
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Tensor

T = TypeVar("T")
Pick = Callable[[Sequence[T]], T]

# Multiprocessors of the largest card of a level; what a search measures counts in the end.
CARDS = {75: 40, 80: 108, 86: 82, 87: 16, 89: 128, 90: 132, 100: 148, 120: 170}
LEAST = 8  # rows or columns, and k: below, there is nothing to share and a loop does as well
MOST_SPLIT = 16
TRIES = 200
TENSOR_RATE = 8  # products of tensor cores in the time of one multiply-add of all threads
PLAIN, APART = 2, 8  # instructions around a copy, and around one whose address is taken apart
ROOM = 128 << 10  # bytes of shared memory for four stages of two blocks, or three deep ones of one
ALONE = 128 * 256  # sums of a block whose registers leave room for no other
MOST_COPIES = 16  # of each thread, of each factor and block


@dataclass(frozen=True)
class Size:
    """A block of threads: rows, columns, warps, lanes, and what share of the peak it can reach."""

    rows: int
    columns: int
    warps: tuple[int, int]
    speed: float
    lanes: tuple[int, int] = (4, 8)


# The larger, the more often is used what was read; these are what libraries for GPUs take.
TENSOR = (
    Size(128, 256, (2, 4), 1.02),
    Size(128, 128, (2, 2), 1.0),
    Size(64, 128, (2, 2), 0.85),
    Size(128, 64, (2, 2), 0.85),
    Size(64, 64, (2, 2), 0.65),
    Size(32, 128, (1, 4), 0.6),
    Size(128, 32, (4, 1), 0.6),
    Size(32, 64, (1, 4), 0.45),
    Size(64, 32, (4, 1), 0.45),
    Size(32, 32, (2, 2), 0.3),
    Size(16, 128, (1, 4), 0.35),
    Size(128, 16, (4, 1), 0.35),
    Size(16, 32, (1, 4), 0.15),
    Size(32, 16, (2, 2), 0.15),
    Size(16, 16, (1, 2), 0.1),
)
SCALAR = (
    Size(128, 128, (4, 2), 1.0),
    Size(128, 64, (4, 1), 0.9),
    Size(64, 128, (2, 2), 0.9),
    Size(64, 64, (2, 1), 0.8),
    Size(64, 64, (2, 2), 0.7),
    Size(32, 64, (1, 2), 0.55),
    Size(32, 32, (1, 1), 0.45, (8, 4)),
    Size(16, 128, (1, 4), 0.45),
    Size(16, 32, (1, 1), 0.25),
    Size(32, 16, (1, 1), 0.25, (8, 4)),
    Size(16, 16, (1, 1), 0.15, (4, 8)),
)


def default(output: Tensor, spec: TargetSpec) -> Contract | None:
    """A good one without a search; None where loops do as well, or where it is no such sum."""
    found = product(output)
    if found is None or not _shared(found):
        return None
    kind = tensor_kind(found, spec)
    sizes = TENSOR if kind else SCALAR
    times = [(_time(found, size, split, spec), n, split) for n, size in enumerate(sizes)
             for split in _splits(found, size, kind, spec)]  # fmt: skip
    for _, number, split in sorted(times):
        made = _contract(found, sizes[number], split, kind, spec)
        try:
            check(found, made, spec)
        except InvalidScheduleError:
            continue
        return made
    return None


def _shared(found: Product) -> bool:
    """Whether what is read is used often enough for blocks to be worth it."""
    small, large = sorted((found.m.total, found.n.total))
    return small > 1 and min(large, found.k.total) >= LEAST


def tensor_kind(found: Product, spec: TargetSpec) -> str:
    """The tensor cores' kind that computes what the expression says; "" for none.

    float32 has none: "tf32" rounds what it reads.
    """
    dtypes = {found.left.dtype, found.right.dtype}
    for kind in ("f16", "bf16", "s8"):
        if dtypes <= set(KINDS[kind]) and level(spec) >= LEVELS[kind]:
            return kind
    return ""


def _depth(found: Product, kind: str, spec: TargetSpec) -> int:
    """Indices of k in a block: lines of 64 bytes, less where k is short."""
    if not kind:
        most, least = (16 if level(spec) >= 80 else 8), 4
    else:
        least = 32 // SIZES[found.left.dtype]
        most = 2 * least
    while most > least and most >= 2 * found.k.total:
        most //= 2
    return most


def _splits(found: Product, size: Size, kind: str, spec: TargetSpec) -> Iterator[int]:
    """Into how many parts k may be cut so that every multiprocessor has something to do."""
    yield 1
    rounds = -(-found.k.total // _depth(found, kind, spec))
    blocks = _blocks(found, size)
    split = 2
    while split <= min(rounds // 4, MOST_SPLIT) and blocks * split <= 2 * CARDS[_known(spec)]:
        yield split
        split *= 2


def _blocks(found: Product, size: Size) -> int:
    return -(-found.m.total // size.rows) * -(-found.n.total // size.columns) * found.batch.total


def _known(spec: TargetSpec) -> int:
    return max((one for one in CARDS if one <= level(spec)), default=75)


def _time(found: Product, size: Size, split: int, spec: TargetSpec) -> float:
    """Of the longest way through one multiprocessor, in multiply-adds at full speed."""
    cards = CARDS[_known(spec)]
    waves = -(-_blocks(found, size) * split // cards)
    ways = TENSOR_RATE if tensor_kind(found, spec) else 1
    copied = sum(_copied(*one) for one in ((found.left, size.rows), (found.right, size.columns)))
    own = (size.rows * size.columns / size.speed + copied * ways) * -(-found.k.total // split)
    added = 0.0
    if split > 1:
        added = found.batch.total * found.m.total * found.n.total * (split + 1) * 16 / cards
    return waves * own + added


def _copied(factor: Factor, side: int) -> float:
    """Instructions that copy an index of k of a side, by all threads."""
    wide = max(factor.width(factor.k), factor.width(factor.side))
    plain = factor.step(factor.k) is not None and factor.step(factor.side) is not None
    return side / wide * (PLAIN if plain else APART)


def _contract(found: Product, size: Size, split: int, kind: str, spec: TargetSpec) -> Contract:
    depth, much = _depth(found, kind, spec), spec.shared_bytes > ROOM
    stages = 2 if level(spec) < 80 else 4 if much else 3
    if kind and much and size.rows * size.columns >= ALONE and found.k.total >= 8 * depth:
        depth, stages = 2 * depth, 3
    deep = -(-found.k.total // depth)
    rounds = -(-deep // split)
    if not kind:
        stages = min(3, stages)
    warps = size.warps
    while kind and _copies(found, size, warps, depth) > MOST_COPIES and warps[0] * warps[1] < 8:
        tall, wide = size.rows // warps[0], size.columns // warps[1]
        if max(tall, wide) <= 16:
            break
        warps = (warps[0] * 2, warps[1]) if tall > wide else (warps[0], warps[1] * 2)
    return Contract(
        (size.rows, size.columns, depth), warps, size.lanes, kind,
        max(2, min(stages, rounds)), split=split, resident=1 if kind else 2,
    )  # fmt: skip


def _copies(found: Product, size: Size, warps: tuple[int, int], depth: int) -> float:
    """The most that a thread copies at a time of a factor: each needs a register or two."""
    each = []
    for factor, side in ((found.left, size.rows), (found.right, size.columns)):
        wide = max(factor.width(factor.k), factor.width(factor.side))
        each.append(side * depth / wide / (WARP * warps[0] * warps[1]))
    return max(each)


def draw(output: Tensor, spec: TargetSpec, pick: Pick[int]) -> Contract:
    """One that can run, at random; `pick` chooses one of several numbers. Raises:
    InvalidScheduleError, where no try in many makes sense.
    """
    found = product(output)
    if found is None:
        raise InvalidScheduleError(f"contraction: {output.name} is no sum of products", "none fits")
    problem = InvalidScheduleError("contraction: none fits", "take loops")
    for _ in range(TRIES):
        made = _drawn(found, spec, pick)
        try:
            check(found, made, spec)
        except InvalidScheduleError as error:
            problem = error
        else:
            return made
    raise problem


def _drawn(found: Product, spec: TargetSpec, pick: Pick[int]) -> Contract:
    kinds, own = [""], {found.left.dtype, found.right.dtype}
    without = {"tf32"} if spec.cpu == "sm_90a" else {"tf32", "wgmma"}
    for kind, dtypes in KINDS.items():
        if kind not in without and own <= set(dtypes) and level(spec) >= LEVELS[kind]:
            kinds += [kind, kind]
    kind = kinds[pick(range(len(kinds)))]
    tall = pick((1, 2, 4, 8, 16, 32))
    lanes = (tall, WARP // tall)
    warps = (pick((1, 2, 4)), pick((1, 2, 4)))
    least = (16, 8) if kind else lanes
    rows, columns = (
        warp * one * pick((1, 2, 4, 8)) for warp, one in zip(warps, least, strict=True)
    )
    step = 32 // SIZES[found.left.dtype] if kind else 1
    depth = step * pick((1, 2, 4) if kind else (1, 2, 4, 8, 16, 32))
    if kind == "wgmma":
        down, across, wide = pick((1, 2)), pick((1, 1, 2)), pick((16, 32, 64, 128, 256))
        block = (64 * down * pick((1, 1, 2)), wide * across, pick((32, 64)))
        ways = pick((3, 4, 5)), pick((4, 16, 16, 16)), "xor", pick((1, 1, 2, 3)), pick((1, 4, 8))
        return Contract(block, (4 * down, across), (4, 8), kind, *ways)
    return Contract(
        (rows, columns, depth), warps, lanes, kind, pick((2, 3, 4, 5)), pick((4, 16, 16, 16)),
        LAYOUTS[pick((0, 0, 0, 1, 2))], pick((1, 1, 1, 2, 3, 5)), pick((1, 2, 4, 8, 16)),
    )  # fmt: skip
