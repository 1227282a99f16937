"""What is in a cubin: an ELF file of machine code for one GPU, as ptxas and NVRTC write it.

Sections: `.text.NAME` holds a kernel, `.nv.info.NAME` its parameters, `.nv.info` registers and
stacks by symbol, `.nv.shared.NAME` its shared memory. An attribute is format, number and a value:
of 16 bits, or for format 4 so many bytes.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tunefarm_proto.errors import BuildFailedError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler.gpu.entries import Code, Entry, Parameter

EM_CUDA = 190
RESERVED_SHARED = 1024  # of each block, from Hopper on; the section counts it, ptxas does not

_PARAMETER, _REGISTERS, _FRAME, _THREADS_MOST, _THREADS_REQUIRED = 0x17, 0x2F, 0x11, 0x05, 0x10
_CLUSTER = 0x3D
_NEW_ABI, _NOBITS = 8, 8


class _Section(NamedTuple):
    name: str
    kind: int
    offset: int
    size: int
    link: int
    info: int


def read_cubin(data: bytes) -> Code:
    """The kernels of a cubin, with what each takes. Raises: BuildFailedError."""
    try:
        return _read(data)
    except (struct.error, IndexError, ValueError) as error:
        raise BuildFailedError(f"a damaged cubin: {error}", "compile it again") from None


def _read(data: bytes) -> Code:
    if data[:5] != b"\x7fELF\x02" or int.from_bytes(data[18:20], "little") != EM_CUDA:
        raise BuildFailedError(
            "it is no cubin (an ELF file for CUDA)", "give what nvcc -cubin or ptxas wrote"
        )
    (flags,) = struct.unpack_from("<I", data, 48)
    level = flags >> 8 & 0xFF if data[8] >= _NEW_ABI else flags & 0xFF
    sections = _sections(data)
    symbols = _symbols(data, sections)
    found = {one.name: one for one in sections}
    values: dict[str, dict[int, int]] = {}
    if ".nv.info" in found:
        for number, value in _attributes(data, found[".nv.info"]):
            if len(value) == 8:
                symbol, amount = struct.unpack("<II", value)
                values.setdefault(symbols[symbol], {})[number] = amount
    entries = []
    for section in sections:
        symbol = section.name.removeprefix(".text.")
        own = found.get(f".nv.info.{symbol}")
        if section.name.startswith(".text.") and own is not None:
            shared = found[f".nv.shared.{symbol}"].size if f".nv.shared.{symbol}" in found else 0
            reserved = RESERVED_SHARED if level >= 90 else 0
            resources = bpb.KernelResources(
                registers=values.get(symbol, {}).get(_REGISTERS, 0),
                stack_bytes=values.get(symbol, {}).get(_FRAME, 0),
                shared_bytes=max(0, shared - reserved),
            )
            entries.append(_entry(symbol, list(_attributes(data, own)), resources))
    return Code(f"sm_{level}", tuple(entries))


def _entry(
    symbol: str, attributes: list[tuple[int, bytes]], resources: bpb.KernelResources
) -> Entry:
    parameters: dict[int, Parameter] = {}
    required: tuple[int, ...] = ()
    most, cluster = 0, False
    for number, value in attributes:
        if number == _PARAMETER:
            _, ordinal, _, packed = struct.unpack("<IHHI", value)
            size = packed >> 18 & 0x3FFF
            parameters[ordinal] = Parameter("" if size == 8 else f"{size} bytes", size)
        elif number == _THREADS_REQUIRED:
            required = struct.unpack("<III", value)
        elif number == _THREADS_MOST:
            x, y, z = struct.unpack("<III", value)
            most = x * y * z
        elif number == _CLUSTER:
            cluster = True
    ordered = tuple(parameters[place] for place in sorted(parameters))
    return Entry(symbol, ordered, required, most, cluster, resources)


def _sections(data: bytes) -> list[_Section]:
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    raw = []
    for number in range(count):
        name, kind, _, _, offset, length, link, info = struct.unpack_from(
            "<IIQQQQII", data, start + number * size
        )
        raw.append((name, kind, offset, length, link, info))
    if _end(data, raw) > len(data):
        raise ValueError("it ends too early")
    strings = raw[names][2]
    return [_Section(_string(data, strings + name), *rest) for name, *rest in raw]


def _end(data: bytes, sections: list[tuple[int, int, int, int, int, int]]) -> int:
    """Where the program headers and all that the file holds of sections end."""
    programs = int.from_bytes(data[32:40], "little")
    size, count = (int.from_bytes(data[at : at + 2], "little") for at in (54, 56))
    held = (offset + length for _, kind, offset, length, _, _ in sections if kind != _NOBITS)
    return max([programs + size * count, *held])


def _symbols(data: bytes, sections: list[_Section]) -> list[str]:
    """Names of the symbols, in the order of their numbers."""
    for section in sections:
        if section.name == ".symtab":
            strings = sections[section.link].offset
            return [
                _string(data, strings + struct.unpack_from("<I", data, at)[0])
                for at in range(section.offset, section.offset + section.size, 24)
            ]
    return []


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode(errors="replace")


def _attributes(data: bytes, section: _Section) -> Iterator[tuple[int, bytes]]:
    at, end = section.offset, section.offset + section.size
    while at + 4 <= end:
        form, number, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == 4:
            yield number, data[at : at + size]
            at += size
        else:
            yield number, struct.pack("<H", size)
