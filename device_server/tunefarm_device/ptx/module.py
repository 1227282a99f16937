"""A module: PTX text made ready to run."""

import itertools
from dataclasses import dataclass

from . import instructions  # noqa: F401  registers what makes the steps
from .decode import Slots
from .errors import UnsupportedError
from .flow import Block, blocks_of
from .parser import parse
from .syntax import KernelText, Variable

_SERIAL = itertools.count()


def _up(place: int, align: int) -> int:
    return -(-place // align) * align


@dataclass
class Kernel:
    """One `.entry`.

    `parameters` are in order; `shared` and `local` say where variables lie; `shared_bytes` is what
    the kernel declares, without what the launch adds.
    """

    name: str
    module: int
    parameters: list[Variable]
    offsets: dict[str, int]
    parameter_bytes: int
    slots: Slots
    blocks: list[Block]
    shared: dict[str, int]
    shared_bytes: int
    local: dict[str, int]
    local_bytes: int
    most_threads: int
    exact_block: tuple[int, ...] | None


class Module:
    """A PTX text. `kernels` are its entries by name.

    Everything is decoded here, so what the machine does not know is refused before anything runs.
    Raises: PtxSyntaxError, UnsupportedError.
    """

    def __init__(self, text: str | bytes) -> None:
        if isinstance(text, bytes):
            text = text.rstrip(b"\0").decode("utf-8", "replace")
        parsed = parse(text)
        self.target = parsed.target
        self.version = parsed.version
        self.variables = {variable.name: variable for variable in parsed.variables}
        self.serial = next(_SERIAL)
        self.kernels = {
            kernel.name: _kernel(kernel, parsed.variables, self.serial) for kernel in parsed.kernels
        }


def _kernel(text: KernelText, variables: list[Variable], serial: int) -> Kernel:
    slots = Slots()
    blocks = blocks_of(text, slots)
    offsets: dict[str, int] = {}
    place = 0
    for parameter in text.parameters:
        place = _up(place, parameter.align)
        offsets[parameter.name] = place
        place += parameter.size
    used = {variable.name for variable, _, _ in slots.symbols.values()}
    everything = [v for v in variables if v.name in used] + text.variables
    shared, shared_bytes = _layout([v for v in everything if v.space == "shared"])
    local, local_bytes = _layout([v for v in everything if v.space == "local"])
    most = text.directives.get("maxntid") or text.directives.get("reqntid")
    threads = 1024
    if most:
        threads = 1
        for count in most:
            threads *= count
    return Kernel(
        text.name, serial, text.parameters, offsets, place, slots, blocks, shared, shared_bytes,
        local, local_bytes, threads, text.directives.get("reqntid"),
    )  # fmt: skip


def _layout(variables: list[Variable]) -> tuple[dict[str, int], int]:
    """Offsets, those of unknown size last and all at one place; and the bytes of the others."""
    offsets: dict[str, int] = {}
    place = 0
    for variable in variables:
        if variable.initial is not None:
            raise UnsupportedError(f"{variable.name}: a {variable.space} variable with content")
        if variable.size:
            place = _up(place, variable.align)
            offsets[variable.name] = place
            place += variable.size
    open_ended = [variable for variable in variables if not variable.size]
    if open_ended:
        place = _up(place, max(variable.align for variable in open_ended))
        offsets.update({variable.name: place for variable in open_ended})
    return offsets, place
