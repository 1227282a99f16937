"""What a batch of blocks starts with: special registers, parameters, addresses of variables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .copies import Copies
from .errors import LaunchRefusedError
from .frame import Frame, Geometry
from .kinds import Array
from .memory import Memory
from .module import Kernel
from .shared import Shared
from .statistics import Recorder
from .syntax import Variable
from .traffic import Traffic

_AXES = {"x": 0, "y": 1, "z": 2}


def check(kernel: Kernel, geometry: Geometry, shared: int, most_shared: int) -> None:
    """Raises: LaunchRefusedError where a GPU would refuse the launch."""
    if min(geometry.grid + geometry.block) < 1:
        raise LaunchRefusedError(f"a grid of {geometry.grid} of blocks of {geometry.block}")
    if geometry.grid[0] > 2**31 - 1 or max(geometry.grid[1:]) > 65535:
        raise LaunchRefusedError(f"a grid of {geometry.grid}: 2147483647, 65535, 65535 are allowed")
    if geometry.threads > 1024 or geometry.block[2] > 64:
        raise LaunchRefusedError(f"a block of {geometry.block}: 1024 threads, 64 deep are allowed")
    if geometry.threads > kernel.most_threads:
        raise LaunchRefusedError(
            f"a block of {geometry.threads} threads where {kernel.name} says {kernel.most_threads}"
        )
    if kernel.exact_block and (*kernel.exact_block, 1, 1)[:3] != geometry.block:
        raise LaunchRefusedError(f"a block of {geometry.block}: .reqntid {kernel.exact_block}")
    if shared > most_shared:
        raise LaunchRefusedError(f"{shared} bytes of shared memory of {most_shared}")


def parameter_bytes(kernel: Kernel, values: Sequence[int | float | bytes]) -> Array:
    """The parameters as the kernel sees them. Raises: LaunchRefusedError.

    A number is its bits, as an integer; a float is for .f32 and .f64; bytes for anything.
    """
    if len(values) != len(kernel.parameters):
        raise LaunchRefusedError(
            f"{len(values)} parameters where {kernel.name} has {len(kernel.parameters)}"
        )
    data = bytearray(kernel.parameter_bytes)
    for parameter, value in zip(kernel.parameters, values, strict=True):
        if isinstance(value, float):
            value = np.dtype(f"float{parameter.size * 8}").type(value).tobytes()  # noqa: PLW2901
        elif not isinstance(value, bytes):
            bits = value % (1 << (8 * parameter.size))
            value = bits.to_bytes(parameter.size, "little")  # noqa: PLW2901
        if len(value) != parameter.size:
            raise LaunchRefusedError(f"{len(value)} bytes for {parameter.name} of {parameter.size}")
        start = kernel.offsets[parameter.name]
        data[start : start + parameter.size] = value
    return np.frombuffer(bytes(data), np.uint8)


@dataclass(frozen=True)
class Launch:
    """What all batches of a launch share; `shared_bytes` are those of a block, all together."""

    geometry: Geometry
    shared_bytes: int
    parameters: Array
    memory: Memory
    traffic: Traffic | None


def frame_of(
    kernel: Kernel, launch: Launch, first: int, blocks: int, recorder: Recorder | None
) -> Frame:
    """The frame of a batch: its first block and how many there are."""
    geometry, shared_bytes = launch.geometry, launch.shared_bytes
    parameters, memory = launch.parameters, launch.memory
    granule = kernel.slots.granule
    lanes = blocks * geometry.padded
    frame = Frame(
        geometry=geometry, first=first, blocks=blocks, regs=list(kernel.slots.initial),
        memory=memory, shared=Shared(geometry, blocks, shared_bytes, granule),
        local=np.full(lanes * kernel.local_bytes, 0xFF, np.uint8), copies=Copies(lanes),
        recorder=recorder, traffic=launch.traffic, parameters=parameters,
    )  # fmt: skip
    if geometry.padded != geometry.threads:
        frame.mask = np.arange(lanes) % geometry.padded < geometry.threads
    for slot, (name, kind) in kernel.slots.specials.items():
        frame.regs[slot] = special(frame, name, shared_bytes, kernel).astype(kind.raw)
    for slot, (variable, offset, kind) in kernel.slots.symbols.items():
        value = address_of(kernel, variable, memory) + offset
        frame.regs[slot] = np.array([value % (1 << kind.bits)], kind.raw)
    return frame


def address_of(kernel: Kernel, variable: Variable, memory: Memory) -> int:
    """The address of a variable in its own space."""
    if variable.space == "param":
        return kernel.offsets[variable.name]
    if variable.space == "shared":
        return kernel.shared[variable.name]
    if variable.space == "local":
        return kernel.local[variable.name]
    return memory.place((kernel.module, variable.name), variable.size, variable.initial)


def special(f: Frame, name: str, shared_bytes: int, kernel: Kernel) -> Array:
    """The value of a special register in every lane."""
    word, _, axis = name.partition(".")
    geometry = f.geometry
    if axis:
        grid, block = geometry.grid, geometry.block
        if word == "ntid":
            return np.array([block[_AXES[axis]]])
        if word == "nctaid":
            return np.array([grid[_AXES[axis]]])
        if word == "tid":
            return _part(f.lane_numbers() % geometry.padded, block, axis)
        return _part(f.first + f.lane_numbers() // geometry.padded, grid, axis)
    if word == "laneid":
        return f.lane_numbers() % 32
    if word == "warpid":
        return f.lane_numbers() % geometry.padded // 32
    if word.startswith("lanemask_"):
        return _lane_mask(f.lane_numbers() % 32, word[-2:])
    return np.array(
        [
            {
                "nwarpid": 32,
                "smid": 0,
                "nsmid": 1,
                "gridid": 0,
                "total_smem_size": shared_bytes,
                "dynamic_smem_size": shared_bytes - kernel.shared_bytes,
            }[word]
        ]
    )


def _part(number: Array, sizes: tuple[int, int, int], axis: str) -> Array:
    if axis == "x":
        return np.asarray(number % sizes[0])
    if axis == "y":
        return np.asarray(number // sizes[0] % sizes[1])
    return np.asarray(number // (sizes[0] * sizes[1]))


def _lane_mask(lane: Array, which: str) -> Array:
    one = np.left_shift(1, lane)
    everyone = np.int64(0xFFFFFFFF)
    if which == "eq":
        return one
    below = one - 1
    if which == "lt":
        return below
    if which == "le":
        return below | one
    return everyone - below if which == "ge" else everyone - (below | one)
