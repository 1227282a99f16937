"""The rules that make a contract for a sum of products, and change it: powers of two throughout."""

import random
from collections.abc import Sequence
from dataclasses import replace

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.binding import WARP
from tunefarm_compiler.choices import Choose, even
from tunefarm_compiler.contract import LAYOUTS, Contract
from tunefarm_compiler.emit import SIZES
from tunefarm_compiler.features import log2
from tunefarm_compiler.gpu.contracts import tensor_kind
from tunefarm_compiler.gpu.fitting import check, level, stage_bytes
from tunefarm_compiler.gpu.geometry import card
from tunefarm_compiler.gpu.products import Factor, Flat, Product
from tunefarm_compiler.targets import TargetSpec

LEAST = 8  # rows, columns and k: below, loops do as well
SIDES = (16, 32, 64, 128, 256)
WARPS = (1, 2, 4, 8)
GROUPS = (1, 4, 8, 16)
RESIDENT = (1, 2, 4)
MOST_SUMS = {True: 256, False: 128}  # of a thread: with tensor cores, or without
REGISTERS = 40  # of a thread, beside sums and operands
LEAST_REGISTERS = 28  # of a thread, beside sums
SECTOR = 32


class ContractRules:
    """Decisions about one sum of products on a GPU."""

    def __init__(self, found: Product, spec: TargetSpec) -> None:
        self.found, self.spec = found, spec
        self.kind = tensor_kind(found, spec)
        self.groups = spec.cpu == "sm_90a" and self.kind in ("f16", "bf16")

    @classmethod
    def of(cls, found: Product | None, spec: TargetSpec) -> "ContractRules | None":
        """The rules, where a contract is worth it."""
        if found is None or min(found.m.total, found.n.total, found.k.total) < LEAST:
            return None
        return cls(found, spec)

    # Options, with weights

    def sides(self, flat: Flat) -> tuple[list[int], list[float]]:
        """Of a block along rows or columns: larger ones read less, smaller ones leave less over."""
        found = [n for n in SIDES if n == SIDES[0] or n < 2 * flat.total]
        likely = {16: 0.3, 32: 0.6, 64: 2.0, 128: 3.0, 256: 1.0}
        return found, [likely[n] * even(flat.total, n) ** 2 for n in found]

    def depths(self, mma: str) -> tuple[list[int], list[float]]:
        """Of a block along k."""
        step = 32 // SIZES[self.found.left.dtype] if mma else 4
        if mma == "wgmma":
            return [32, 64], [1.0, 3.0]
        found = [step * n for n in (1, 2, 4, 8) if n == 1 or step * n < 2 * self.found.k.total]
        return found, [1.0 if n in (step, 8 * step) else 3.0 for n in found]

    def splits(self, block: tuple[int, int, int]) -> tuple[list[int], list[float]]:
        """Parts of k: where there are few blocks."""
        found, deep = self.found, -(-self.found.k.total // block[2])
        blocks = -(-found.m.total // block[0]) * -(-found.n.total // block[1]) * found.batch.total
        options = [n for n in (1, 2, 3, 4, 6, 8, 16) if n == 1 or (n <= deep and blocks * n <= 512)]
        options = [n for n in options if n == 1 or (n - 1) * block[2] < found.k.total]
        return options, [3.0, *[1.0] * (len(options) - 1)]

    # The decisions in their order

    def draw(self, choose: Choose) -> Contract:
        """A contract by decisions; it may still have a fault."""
        mma = self.kind
        if mma:
            more = ["wgmma"] if self.groups else []
            mma = choose("mma", [mma, *more, ""], [8.0, *[8.0 for _ in more], 1.0])
        rows = choose("rows", *self.sides(self.found.m))
        columns = choose("columns", *self.sides(self.found.n))
        depth = choose("depth", *self.depths(mma))
        block = (rows, columns, depth)
        lanes = (4, 8)
        if not mma:
            tall = choose("lanes", [4, 8, 2, 16], [4.0, 2.0, 1.0, 0.5])
            lanes = (tall, WARP // tall)
        options = self._warps(block, mma, lanes)
        names = [f"{down}x{across}" for down, across in options]
        weights = [_busy(WARP * down * across) for down, across in options]
        warps = options[names.index(choose("warps", names, weights))]
        most = 2 if level(self.spec) < 80 else 5
        if mma == "wgmma":
            stages, layout = choose("stages", [3, 4, 5], [2.0, 3.0, 1.0]), "xor"
        else:
            stages = choose("stages", [*range(2, most + 1)], [1.0, 3.0, 3.0, 1.0][: most - 1])
            layout = choose("layout", list(LAYOUTS), [6.0 if mma else 2.0, 2.0, 1.0])
        split = choose("split", *self.splits(block))
        group = choose("group", list(GROUPS), [1.0, 2.0, 4.0, 1.0])
        vector = choose("vector", [16, 8, 4], [8.0, 0.5, 0.5])
        resident = choose("resident", list(RESIDENT), [4.0, 2.0, 0.5])
        return Contract(block, warps, lanes, mma, stages, vector, layout, split, group, resident)

    def _warps(
        self, block: tuple[int, int, int], mma: str, lanes: tuple[int, int]
    ) -> list[tuple[int, int]]:
        """Warps along rows and columns that leave each a tile of a bearable size."""
        least = (16, 8) if mma else lanes
        found = []
        for down in WARPS:
            for across in WARPS:
                rows, columns = block[0] // down, block[1] // across
                sums = rows * columns // WARP
                fits = rows >= least[0] and columns >= least[1] and down * across <= 16
                if mma == "wgmma":
                    fits = fits and down % 4 == 0 and columns <= 256
                if fits and sums <= MOST_SUMS[bool(mma)]:
                    found.append((down, across))
        return found or [(1, 1)]

    def fault(self, contract: Contract) -> str:
        """Why a contract cannot be, or is not worth building; "" where it may be."""
        try:
            check(self.found, contract, self.spec)
        except InvalidScheduleError as error:
            return str(error)
        if contract.mma == "tf32" != self.kind:
            return ""  # somebody asked for it
        if contract.accumulators > MOST_SUMS[bool(contract.mma)]:
            return "its sums do not fit in a thread's registers"
        if self.registers(contract) > 255:
            return "its sums and operands do not fit in a thread's registers"
        together = contract.threads * contract.resident
        if (contract.accumulators + LEAST_REGISTERS) * together > card(self.spec.cpu).registers:
            return "its threads' registers are more than there are"
        return ""

    def registers(self, contract: Contract) -> int:
        """Registers of a thread, as far as its tile tells."""
        rows, columns = contract.tile
        if contract.mma == "wgmma":
            operands = 0  # they stay in shared memory
        elif contract.mma:
            operands = (rows + columns) * 8 * SIZES[self.found.left.dtype] // 32 // 4
        else:
            operands = 2 * (rows // contract.lanes[0] + columns // contract.lanes[1])
        return REGISTERS + contract.accumulators + operands

    # Moves

    def mutated(self, contract: Contract, rng: random.Random) -> Contract:
        """A neighbour: one decision taken anew, now and then two or three."""
        made = contract
        for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0]):
            made = self._moved(made, rng)
        return made

    def _moved(self, one: Contract, rng: random.Random) -> Contract:
        rows, columns, depth = one.block
        part = rng.choices(
            ("side", "depth", "warps", "stages", "split", "rest", "anew"),
            (4.0, 2.0, 3.0, 2.0, 1.0, 1.5, 0.4),
        )[0]
        twice = rng.random() < 0.5
        if part == "anew":
            return self.draw(lambda _, options, weights: rng.choices(options, weights)[0])
        if part == "side":
            if rng.random() < 0.5:
                return replace(one, block=(_step(rows, twice), columns, depth))
            return replace(one, block=(rows, _step(columns, twice), depth))
        if part == "depth":
            return replace(one, block=(rows, columns, _step(depth, twice)))
        if part == "warps":
            options = self._warps(one.block, one.mma, one.lanes)
            return replace(one, warps=rng.choice(options))
        if part == "stages":
            return replace(one, stages=max(2, one.stages + (1 if twice else -1)))
        if part == "split":
            return replace(one, split=rng.choice(self.splits(one.block)[0]))
        if not one.mma and rng.random() < 0.4:
            tall = rng.choice((2, 4, 8, 16))
            return replace(one, lanes=(tall, WARP // tall))
        if rng.random() < 0.5:
            return replace(one, group=rng.choice(GROUPS))
        if rng.random() < 0.5:
            return replace(one, resident=rng.choice(RESIDENT))
        return replace(one, layout=rng.choice(LAYOUTS))

    def crossed(self, one: Contract, other: Contract, rng: random.Random) -> Contract:
        """A child: each decision of one or of the other."""
        if one.mma != other.mma:
            return one
        names = (
            "block",
            "warps",
            "lanes",
            "stages",
            "vector",
            "layout",
            "split",
            "group",
            "resident",
        )
        taken = {name: getattr(other, name) for name in names if rng.random() < 0.5}
        return replace(one, **taken)

    def adapted(self, contract: Contract) -> Contract | None:
        """The nearest one here to one of other sizes or of another GPU."""
        mma = contract.mma
        own = {self.kind, *(["wgmma"] if self.groups else [])}
        if mma and mma not in own and not (mma == "tf32" and level(self.spec) >= 80):
            return None
        made, most = contract, max(2, 2 if level(self.spec) < 80 else contract.stages)
        made = replace(made, stages=min(most, contract.stages))
        for _ in range(24):
            if made.split not in self.splits(made.block)[0]:
                made = replace(made, split=1)
            if not self.fault(made):
                return made
            made = _smaller(made)
        return None

    def features(self, contract: Contract) -> list[float]:
        """Those of `gpu.features.NAMES`, in their order."""
        found, spec = self.found, self.spec
        rows, columns, depth = contract.block
        shared = sum(stage_bytes(found, contract)) * contract.stages
        size = SIZES[found.left.dtype]
        products = found.operations // 2
        blocks = (
            -(-found.m.total // rows) * -(-found.n.total // columns) * found.batch.total
            * contract.split
        )  # fmt: skip
        whole = found.m.total + found.n.total
        read = found.k.total * whole * size + 4 * found.m.total * found.n.total
        moved = blocks * -(-found.k.total // contract.split) * (rows + columns) * size
        used = min(self.registers(contract), 255)
        machine = card(spec.cpu)
        once = machine.blocks_at_once(contract.threads, used, shared)
        tile = contract.tile
        uses = [_use(factor, contract.block[n], depth) for n, factor in enumerate(self._factors())]
        rounds = -(-found.k.total // (depth * contract.split))
        return [
            log2(spec.shared_bytes),
            log2(machine.threads),
            log2(products),
            log2(products / max(1, read * found.batch.total)),
            float(size),
            1.0,
            0.0,
            1.0 + (contract.split > 1),
            log2(1 + shared),
            log2((1 + shared) / contract.threads),
            log2(contract.threads),
            log2(blocks),
            float(once),
            once * contract.threads / machine.threads,
            log2(blocks / max(1, once)),
            float(used),
            log2(contract.accumulators),
            0.0,
            float(contract.vector),
            (tile[0] + tile[1]) / (tile[0] * tile[1]),
            0.0,
            0.0,
            log2(rounds * depth),
            0.0,
            log2(depth),
            log2(depth * contract.accumulators),
            log2(rounds),
            sum(uses) / 2,
            1.0,
            min(uses),
            log2(moved / products),
            0.0,
            even(found.m.total, rows) * even(found.n.total, columns),
            even(found.k.total, depth * contract.split),
            float(any(factor.windows for factor in self._factors())),
            float(contract.layout == "pad"),
            1.0,
            float(bool(contract.mma)),
            log2(rows),
            log2(columns),
            log2(depth),
            float(contract.threads // WARP),
            float(contract.stages),
            log2(contract.split),
            float(contract.vector),
            (rows + columns) / contract.accumulators / contract.threads,
            log2(contract.group),
            float(contract.resident),
            float(LAYOUTS.index(contract.layout)),
        ]

    def _factors(self) -> Sequence[Factor]:
        return self.found.left, self.found.right


def _use(factor: Factor, side: int, depth: int) -> float:
    """The share of the sectors which a line of a block touches in memory that it uses."""
    line = depth if factor.along == "k" else side
    run = factor.run(factor.k if factor.along == "k" else factor.side)
    size = SIZES[factor.dtype]
    return min(1.0, min(line, run) * size / SECTOR)


def _step(side: int, twice: bool) -> int:
    return side * 2 if twice else max(1, side // 2)


def _smaller(one: Contract) -> Contract:
    """With its largest side halved, and no more warps than that leaves work for."""
    rows, columns, depth = one.block
    if one.stages > 2:
        return replace(one, stages=one.stages - 1)
    down, across = one.warps
    if rows >= columns and rows > 16:
        return replace(one, block=(rows // 2, columns, depth), warps=(max(1, down // 2), across))
    if columns > 16:
        return replace(one, block=(rows, columns // 2, depth), warps=(down, max(1, across // 2)))
    return replace(one, block=(rows, columns, max(4, depth // 2)))


def _busy(threads: int) -> float:
    """How likely a block of so many threads is a good one."""
    return {32: 0.5, 64: 1.0, 128: 4.0, 256: 4.0, 512: 1.0}.get(threads, 0.1)
