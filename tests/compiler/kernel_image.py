"""A shared library as it lies in memory: as a loader lays it, for those that need little."""

import struct
from dataclasses import dataclass

LOAD, RELA, REL, DYNSYM = 1, 4, 9, 11
HELPERS = ("fmaf", "memcpy", "memset", "memmove")  # what guest.c gives, in this order


@dataclass(frozen=True)
class Image:
    """The memory of a library, where its functions are, and where it wants which helper."""

    memory: bytes
    functions: dict[str, int]
    wanted: list[tuple[int, int]]

    @classmethod
    def of(cls, library: bytes) -> "Image":
        """As an ELF file of a little-endian processor says."""
        wide = library[4] == 2
        memory = bytearray()
        for kind, at, where, size, whole in _segments(library, wide):
            if kind == LOAD:
                memory.extend(bytes(max(0, where + whole - len(memory))))
                memory[where : where + size] = library[at : at + size]
        sections = list(_sections(library, wide))
        (table,) = [section for section in sections if section[0] == DYNSYM]
        symbols = list(_symbols(library, wide, table, sections[table[3]][1]))
        wanted = [
            (where, HELPERS.index(symbols[number][0]))
            for section in sections
            if section[0] in (RELA, REL)
            for where, number in _relocations(library, wide, section)
        ]
        return cls(bytes(memory), {name: at for name, at in symbols if at}, wanted)


def _segments(library, wide):
    (table,) = struct.unpack_from("<Q" if wide else "<I", library, 32 if wide else 28)
    size, count = struct.unpack_from("<HH", library, 54 if wide else 42)
    for place in range(table, table + size * count, size):
        if wide:
            kind, _, at, where, _, length, whole, _ = struct.unpack_from(
                "<IIQQQQQQ", library, place
            )
        else:
            kind, at, where, length, whole = struct.unpack_from("<3I4xII", library, place)
        yield kind, at, where, length, whole


def _sections(library, wide):
    """(type, where in the file, size, link) of each."""
    (table,) = struct.unpack_from("<Q" if wide else "<I", library, 40 if wide else 32)
    size, count = struct.unpack_from("<HH", library, 58 if wide else 46)
    for place in range(table, table + size * count, size):
        read = struct.unpack_from("<IIQQQQII" if wide else "<8I", library, place)
        yield read[1], read[4], read[5], read[6]


def _symbols(library, wide, section, names):
    """(name, address) of each; the address is 0 for what is wanted from elsewhere."""
    _, at, length, _ = section
    for place in range(at, at + length, 24 if wide else 16):
        name, value = struct.unpack_from("<I4xQ" if wide else "<II", library, place)
        begin = names + name
        yield library[begin : library.index(b"\0", begin)].decode(), value


def _relocations(library, wide, section):
    """(address, symbol) of each."""
    kind, at, length, _ = section
    step = (24 if wide else 12) if kind == RELA else (16 if wide else 8)
    for place in range(at, at + length, step):
        where, info = struct.unpack_from("<QQ" if wide else "<II", library, place)
        yield where, info >> (32 if wide else 8)
