"""The kernels in PTX text or a cubin: names, parameters, threads, as `Launch` needs them."""

import re
from dataclasses import dataclass

from tunefarm_proto.errors import BuildFailedError
from tunefarm_proto.v1 import bundle_pb2 as bpb

POINTER_BYTES = 8

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_TARGET = re.compile(r"^\s*\.target\s+(sm_\d+[af]?)", re.MULTILINE)
_ADDRESS = re.compile(r"^\s*\.address_size\s+(\d+)", re.MULTILINE)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*(?:\(([^)]*)\))?([^{;]*)\{")
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(?P<type>\w+)\s+"
    r"(?:\.ptr\s+(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?)?(?P<name>[\w$%]+)\s*(?:\[\s*(?P<count>\d+)\s*\])?"
)
_THREADS = re.compile(r"\.(reqntid|maxntid)\s+([\d\s,]+)")
_WIDTH = re.compile(r"\d+")


@dataclass(frozen=True)
class Parameter:
    """A kernel's parameter: its type's name as the file has it, its size in bytes."""

    type: str
    bytes: int

    @property
    def pointer(self) -> bool:
        """Whether it may be a pointer: files tell no more of a number of 64 bits."""
        return self.bytes == POINTER_BYTES and self.type in ("u64", "s64", "b64", "")


@dataclass(frozen=True)
class Entry:
    """A kernel: its symbol and parameters, and the threads of a block as far as it fixes them."""

    symbol: str
    parameters: tuple[Parameter, ...]
    required: tuple[int, ...] = ()
    most: int = 0
    cluster: bool = False
    resources: bpb.KernelResources | None = None

    @property
    def name(self) -> str:
        """As the source has it, where the symbol is a C++ function's."""
        if found := re.match(r"_Z(\d+)", self.symbol):
            return self.symbol[found.end() :][: int(found[1])]
        return self.symbol


@dataclass(frozen=True)
class Code:
    """What a file holds: the level that it is for, as in "sm_90a", and its kernels."""

    target: str
    entries: tuple[Entry, ...]


def read_ptx(text: str) -> Code:
    """The kernels of PTX text. Raises: BuildFailedError."""
    plain = _COMMENT.sub(" ", text)
    target, address = _TARGET.search(plain), _ADDRESS.search(plain)
    if target is None or ".version" not in plain:
        raise BuildFailedError(
            "there is no .version and .target in it, so it is no PTX",
            "give what nvcc -ptx, NVRTC or Triton wrote",
        )
    if address is not None and address[1] != "64":
        raise BuildFailedError(
            f"its addresses have {address[1]} bits", "devices take PTX of 64 bits alone"
        )
    return Code(target[1], tuple(_entry(*found) for found in _ENTRY.findall(plain)))


def _entry(symbol: str, parameters: str, directives: str) -> Entry:
    required: tuple[int, ...] = ()
    most = 0
    for word, numbers in _THREADS.findall(directives):
        sides = tuple(int(number) for number in _WIDTH.findall(numbers))
        if word == "reqntid":
            required = (*sides, 1, 1)[:3]
        else:
            most = 1
            for side in sides:
                most *= side
    return Entry(
        symbol,
        tuple(_parameter(one) for one in parameters.split(",") if one.strip()),
        required,
        most,
        "cluster" in directives,
    )


def _parameter(text: str) -> Parameter:
    found = _PARAMETER.search(text)
    if found is None:
        raise BuildFailedError(f"a parameter that cannot be read: {text.strip()[:60]!r}")
    width = _WIDTH.search(found["type"])
    size = int(width[0]) // 8 if width else 1
    if found["count"]:
        return Parameter("struct", size * int(found["count"]))
    return Parameter(found["type"], size)
