"""What a contract makes of a product on a GPU: tiles in shared memory, and whether they fit."""

from math import prod

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.contract import Contract
from tunefarm_compiler.emit import SIZES, Value
from tunefarm_compiler.gpu.emitter import GpuEmitter
from tunefarm_compiler.gpu.products import Factor, Product
from tunefarm_compiler.gpu.registers import STEP
from tunefarm_compiler.gpu.shared import PIECE, Tile
from tunefarm_compiler.gpu.task import at_axes
from tunefarm_compiler.targets import TargetSpec

KINDS = {
    "f16": ("float16",),
    "bf16": ("bfloat16",),
    "tf32": ("float32",),
    "s8": ("int8", "uint8"),
    "wgmma": ("float16", "bfloat16"),
}
LEVELS = {"": 0, "f16": 75, "s8": 75, "bf16": 80, "tf32": 80, "wgmma": 90}
PANEL = 128  # bytes of a line of what wgmma reads across
INDICES = 1 << 31
REGISTERS = 65536  # of a multiprocessor
GROUP_NEEDS = 26  # registers besides the sums, by ptxas's words
ASYNC = 80  # from this level on shared memory is filled without registers


def level(spec: TargetSpec) -> int:
    """Its compute capability, as in 80."""
    return int(spec.cpu.removeprefix("sm_").rstrip("a"))


def check(found: Product, contract: Contract, spec: TargetSpec) -> None:
    """Whether a contract suits a product on that GPU. Raises: InvalidScheduleError."""
    contract.check()
    dtypes = {found.left.dtype, found.right.dtype}
    if contract.mma == "wgmma":
        _check_groups(found, contract, spec)
    if contract.mma:
        if not dtypes <= set(KINDS[contract.mma]):
            raise InvalidScheduleError(
                f"contraction: mma={contract.mma!r} of {' and '.join(sorted(dtypes))}",
                f"it is for {' and '.join(KINDS[contract.mma])}",
            )
        if level(spec) < LEVELS[contract.mma]:
            raise InvalidScheduleError(
                f"contraction: {spec.cpu} has no mma of {contract.mma}",
                f"it needs sm_{LEVELS[contract.mma]}, or leave mma out",
            )
        least = STEP // SIZES[found.left.dtype]
        if contract.block[2] < least:
            raise InvalidScheduleError(
                f"contraction: a block of {contract.block[2]} along k", f"{least} at least"
            )
    _check_indices(found, contract)
    needs = sum(stage_bytes(found, contract)) * contract.stages
    if needs > spec.shared_bytes:
        raise InvalidScheduleError(
            f"contraction: {needs} bytes of shared memory, {spec.cpu} has {spec.shared_bytes}",
            "take smaller blocks or fewer stages",
        )
    if contract.split > 1 and (contract.split - 1) * contract.block[2] >= found.k.total:
        raise InvalidScheduleError(
            f"contraction: {contract.split} parts of k={found.k.total}",
            f"each needs more than none of its blocks of {contract.block[2]}",
        )


def _check_groups(found: Product, contract: Contract, spec: TargetSpec) -> None:
    """What wgmma asks for besides: one type, lines of 64 or 128 bytes."""
    if spec.cpu != "sm_90a":
        raise InvalidScheduleError(
            f"contraction: {spec.cpu} has no wgmma", "it needs the target sm_90a"
        )
    if found.left.dtype != found.right.dtype or contract.block[2] not in (32, 64):
        raise InvalidScheduleError(
            f"contraction: wgmma of {found.left.dtype} and {found.right.dtype} in blocks of "
            f"{contract.block[2]} along k",
            "both of one type, 32 or 64 along k",
        )
    if contract.block[1] * contract.block[2] * 2 % 1024:
        raise InvalidScheduleError(
            f"contraction: wgmma of {contract.block[1]} columns", "16 at least, with 32 along k"
        )
    across = [not to_k(contract, one) for one in (found.left, found.right)]
    if across[1] and contract.tile[1] < PANEL // 2:
        raise InvalidScheduleError(
            f"contraction: wgmma of {contract.tile[1]} columns read across",
            f"{PANEL // 2} at least",
        )
    room = min(255, (REGISTERS // (contract.threads * contract.resident)) & ~7)
    if contract.accumulators + GROUP_NEEDS > room:  # wgmma's sums cannot be spilled
        raise InvalidScheduleError(
            f"contraction: wgmma of {contract.accumulators} sums in each thread, which has {room} "
            f"registers where {contract.resident} blocks are to fit",
            "take smaller blocks, more warps, or a smaller resident",
        )


def _check_indices(found: Product, contract: Contract) -> None:
    """Where an address is taken apart, or parts are added up, numbers have 32 bits."""
    stage = found.stage
    factors = {id(one.load): one for one in (found.left, found.right)}
    for load in (*stage.loads, at_axes(stage.tensor, stage.axes)):
        flats, strides = (found.m, found.n), load.strides()[0]
        plain = all(flat.stride(strides) is not None for flat in flats)
        if factor := factors.get(id(load)):
            plain = None not in (factor.step(factor.side), factor.step(factor.k))
        elements = prod(load.tensor.shape)
        if elements >= INDICES and (contract.split > 1 or not plain):
            raise InvalidScheduleError(
                f"contraction: {load.tensor.name} has {elements} elements",
                f"less than {INDICES} where its addresses are not plain, or k is cut in parts",
            )


def held(found: Product, contract: Contract, factor: Factor) -> str:
    """The type of a factor in shared memory."""
    return factor.dtype if contract.mma else found.total


def to_k(contract: Contract, factor: Factor) -> bool:
    """Whether a factor's lines in shared memory run along k."""
    return bool(contract.mma) and (SIZES[factor.dtype] != 2 or factor.along == "k")


def tile_of(
    emit: GpuEmitter, start: Value, found: Product, contract: Contract, number: int
) -> Tile:
    """The tile of the left factor (0) or of the right one."""
    factor = (found.left, found.right)[number]
    side, depth = contract.block[number], contract.block[2]
    size = SIZES[held(found, contract, factor)]
    lines, width = (side, depth) if to_k(contract, factor) else (depth, side)
    layout = contract.layout
    if not contract.mma:  # threads read along a line; lines collide where columns are written
        layout = "pad" if factor.along == "k" and layout != "plain" else "plain"
    panel = PANEL if contract.mma == "wgmma" and not to_k(contract, factor) else 0
    return Tile(emit, start, lines, max(PIECE, width * size), layout, panel)


def stage_bytes(found: Product, contract: Contract) -> tuple[int, int]:
    emit = GpuEmitter()
    one, two = (tile_of(emit, 0, found, contract, number).size for number in (0, 1))
    return one, two
