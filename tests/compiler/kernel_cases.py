"""Random workloads of an operator: primes, ones, tails, and what fits; small enough to check."""

import random

from tunefarm_compiler import workload
from tunefarm_compiler.operators import OPERATORS
from tunefarm_compiler.workload import Workload
from tunefarm_proto.errors import UnknownWorkloadError

SIDES = (1, 1, 2, 3, 4, 5, 7, 8, 11, 13, 15, 16, 17, 19, 23, 31, 32, 33, 37, 47, 53, 64, 65, 97)
LONGEST = 600
LARGE = (127, 131, 192, 257, 300, 521)  # one side in some workloads: more blocks than one
FEW = (1, 2, 3, 4, 5, 7, 8, 11, 13, 14, 16, 17, 19)
WINDOWED = ("conv2d", "conv2d_nchwc", "bit_conv2d", "depthwise_conv2d", "max_pool2d", "avg_pool2d")
SMALL = {"n": 3, "b": 3, "r": 5, "s": 5, "stride": 3, "pad": 3, "dilation": 3, "groups": 4}
SMALL |= {"stride_w": 4, "dilation_w": 4, "pad_bottom": 4, "pad_left": 4, "pad_right": 4}
UNEVEN = 0.4  # of the windows differ in their directions or sides, each of these fields in half
MINIMAL = ("conv2d", "depthwise_conv2d")  # windows of 3 in even rows take fewer products
SLID = {"stride", "stride_w", "dilation", "dilation_w", "pad_bottom", "pad_left", "pad_right"}
BLOCKED = ("to_nchwc", "from_nchwc")


def kinds():
    """Every operator with each of its types."""
    return [(name, dtype) for name, one in OPERATORS.items() for dtype in one.dtypes]


def _size(rng, name, field):
    if field.choices:
        return rng.choice(field.choices)
    if field.high <= 2:
        return rng.randint(field.low, field.high)
    if field.name == "block":
        return rng.choice((1, 3, 4, 8, 16, 16, 17, 32))
    if name in BLOCKED:
        return rng.choice((1, 2, 3) if field.name == "n" else FEW)
    if name in WINDOWED:
        most = SMALL.get(field.name)
        return rng.randint(field.low, most) if most else rng.choice(FEW)
    if field.name == "b":
        return rng.choice((1, 1, 2, 3))
    if len(OPERATORS[name].fields) == 1:
        return rng.randint(1, LONGEST)
    return rng.choice(SIDES)


def _drawn(rng, name, dtype):
    """The text of a workload, which may not fit."""
    every = OPERATORS[name].fields
    chosen = {field.name: _size(rng, name, field) for field in every if not field.like}
    if rng.random() < UNEVEN:
        likes = [field for field in every if field.like and rng.random() < 0.5]
        chosen |= {field.name: _size(rng, name, field) for field in likes}
    if "multiplier" in chosen:
        chosen["multiplier"] = rng.choice((1, 1, 1, 2, 3, 4, 5, 16, 17))
    if name not in (*WINDOWED, *BLOCKED) and rng.random() < 0.15:
        chosen[rng.choice([side for side in "mnk" if side in chosen])] = rng.choice(LARGE)
    if name in WINDOWED and rng.random() < 0.15:
        chosen[rng.choice("hwc")] = rng.choice((33, 64, 67))
    if name == "conv2d":
        groups = chosen["groups"] = rng.choice((1, 1, 1, 2, 3, 4))
        chosen["c"], chosen["k"] = chosen["c"] * groups, chosen["k"] * groups
    if name in ("from_nchwc", "conv2d_nchwc"):
        chosen |= {side: chosen["block"] * rng.choice((1, 2, 3)) for side in "ck" if side in chosen}
    if name == "bit_matmul":
        chosen["k"] = 32 * rng.choice((1, 2, 3, 5, 8))
    if name == "bit_conv2d":
        chosen["c"] = 32 * rng.choice((1, 2, 3))
    if name == "bit_pack":
        chosen["n" if chosen["axis"] else "m"] = 32 * rng.choice((1, 2, 3, 5))
    if dtype == "int8" and "act" in chosen:
        chosen["act"] = rng.choice(("none", "relu"))
    if name in MINIMAL and dtype == "float32" and rng.random() < 0.4:
        chosen = {key: value for key, value in chosen.items() if key not in SLID} | {"pad": 1}
        chosen |= {"r": 3, "s": 3, "h": 2 * rng.randint(1, 7), "w": 2 * rng.randint(1, 9)}
        if name == "conv2d":
            each = chosen["groups"]
            chosen |= {"c": each * rng.choice((5, 16, 19)), "k": 17 * each}
    fields = ",".join(f"{field}={value}" for field, value in chosen.items())
    return f"{name}:{fields},dtype={dtype}"


def one(rng: random.Random, name: str, dtype: str) -> Workload:
    """A workload that fits."""
    while True:
        try:
            return workload.parse(_drawn(rng, name, dtype))
        except UnknownWorkloadError as error:
            assert "window" in str(error)  # larger than its input


def several(rng: random.Random, name: str, dtype: str, count: int) -> list[Workload]:
    """So many workloads, no two alike."""
    found: dict[str, Workload] = {}
    while len(found) < count:
        drawn = one(rng, name, dtype)
        found[str(drawn)] = drawn
    return list(found.values())
