"""Objects to a shared library in this process, and what a library gives and takes.

The linker's own process takes as long as all of LLVM for a small kernel. What LLVM makes of ours
needs little of it: sections put side by side and a dozen kinds of relocation (x86-64 psABI,
AAELF64). What is not known here is left to the linker.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

X86_64, AARCH64 = 62, 183
_PAGES = {X86_64: 1 << 12, AARCH64: 1 << 16}  # the largest page that a segment is mapped by
_PROGBITS, _STRTAB, _RELA, _HASH, _DYNAMIC, _NOBITS, _DYNSYM = 1, 3, 4, 5, 6, 8, 11
_WRITE, _ALLOC, _EXECUTE, _TLS = 1, 2, 4, 0x400
_HEADER, _PROGRAM, _SECTION, _SYMBOL = "<16sHHIQQQIHHHHHH", "<IIQQQQQQ", "<IIQQQQIIQQ", "<IBBHQQ"
# Sections of a library by what its pages may do, in their order.
_CODE, _CONSTANT, _DATA, _ZEROS = range(4)


class UnknownPartError(Exception):
    """An object has a part that only the linker knows how to treat."""


@dataclass
class _Piece:
    """A section of an object and where it lies in the library."""

    kind: int
    size: int
    align: int
    data: bytes
    at: int = 0
    relocations: list[tuple[int, int, int, int]] = field(default_factory=list)


# Name, info, section, value, size.
_Symbol = tuple[str, int, int, int, int]


@dataclass
class _Object:
    """What the library takes of one object."""

    pieces: dict[int, _Piece]
    symbols: list[_Symbol]


def _read(data: bytes) -> _Object:
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from(_SECTION, data, table + size * n) for n in range(count)]
    pieces: dict[int, _Piece] = {}
    symbols: list[_Symbol] = []
    for number, section in enumerate(sections):
        _, sort, flags, _, at, length, link, _, align, _ = section
        if sort == 2:  # SHT_SYMTAB
            symbols = [*_symbols(data, at, length, sections[link][4])]
        if not flags & _ALLOC:
            continue
        if sort not in (_PROGBITS, _NOBITS) or flags & _TLS:
            raise UnknownPartError(f"section of type {sort}, flags {flags:#x}")
        write = _ZEROS if sort == _NOBITS else _DATA
        kind = _CODE if flags & _EXECUTE else write if flags & _WRITE else _CONSTANT
        held = b"" if sort == _NOBITS else data[at : at + length]
        pieces[number] = _Piece(kind, length, max(align, 1), held)
    for section in sections:
        if section[1] == _RELA and section[7] in pieces:
            found = [*struct.iter_unpack("<QIIq", data[section[4] : section[4] + section[5]])]
            pieces[section[7]].relocations = found
    return _Object(pieces, symbols)


def _symbols(data: bytes, at: int, length: int, names: int) -> Iterator[_Symbol]:
    for name, info, other, where, value, size in struct.iter_unpack(
        _SYMBOL, data[at : at + length]
    ):
        start = names + name
        if other:
            raise UnknownPartError("a name with a visibility of its own")
        yield data[start : data.index(b"\0", start)].decode(), info, where, value, size


def shared(objects: Sequence[bytes]) -> bytes:
    """A shared library of LLVM's objects, all for one processor: the same bytes for the same.

    Raises: UnknownPartError where they need the linker.
    """
    machine = int.from_bytes(objects[0][18:20], "little")
    if machine not in _PAGES:
        raise UnknownPartError(f"machine {machine}")
    read = [_read(data) for data in objects]
    pieces = [piece for one in read for piece in one.pieces.values() if piece.size]
    exported = [
        (name, info, one.pieces[section], value, size)
        for one in read
        for name, info, section, value, size in one.symbols
        if info >> 4 == 1 and section in one.pieces
    ]
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in exported)
    library = _Library(_PAGES[machine])
    hashes, dynsym, dynstr, dynamic = library.place(exported, names, pieces)
    found = {name: piece.at + value for name, _, piece, value, _ in exported}
    if len(found) < len(exported):
        raise UnknownPartError("two objects define one name")
    for one in read:
        _relocate(one, found, _APPLY[machine])
    starts = 1
    table = [struct.pack(_SYMBOL, 0, 0, 0, 0, 0, 0)]
    for name, info, piece, value, size in exported:
        table.append(struct.pack(_SYMBOL, starts, info, 0, 3, piece.at + value, size))
        starts += len(name.encode()) + 1
    tags = [(4, hashes), (5, dynstr), (6, dynsym), (10, len(names)), (11, 24), (0, 0)]
    library.put(hashes, _hash_table(len(table)))
    library.put(dynsym, b"".join(table))
    library.put(dynstr, names)
    library.put(dynamic, b"".join(struct.pack("<QQ", *tag) for tag in tags))
    for piece in pieces:
        if piece.kind != _ZEROS:
            library.put(piece.at, piece.data)
    return library.finish(machine, len(table), len(names))


def _hash_table(symbols: int) -> bytes:
    """DT_HASH with one bucket that holds all: a library has few names."""
    chain = [*range(2, symbols), 0] if symbols > 1 else []
    return struct.pack(f"<{4 + len(chain)}I", 1, symbols, min(symbols - 1, 1), 0, *chain)


class _Library:
    """Addresses and bytes: headers, tables, constants and code in one segment, data in another."""

    def __init__(self, page: int) -> None:
        self.page = page
        self.parts: list[tuple[int, bytes]] = []

    def place(
        self, exported: Sequence[object], names: bytes, pieces: Sequence[_Piece]
    ) -> tuple[int, int, int, int]:
        """Give everything its address; those of hashes, symbols, names and the dynamic table."""
        self.hashes = 64 + 4 * 56
        self.dynsym = _up(self.hashes + 4 * (4 + len(exported)), 8)
        self.dynstr = self.dynsym + 24 * (len(exported) + 1)
        at = _pieces_at(pieces, _CONSTANT, self.dynstr + len(names))
        self.code = _up(at, 64)
        self.code_end = _pieces_at(pieces, _CODE, self.code)
        # The next page, at the same place in it as in the file.
        self.shift = self.page
        self.dynamic = _up(self.code_end, 64) + self.shift
        self.data_end = _pieces_at(pieces, _DATA, self.dynamic + 6 * 16)
        self.end = _pieces_at(pieces, _ZEROS, self.data_end)
        return self.hashes, self.dynsym, self.dynstr, self.dynamic

    def put(self, at: int, data: bytes) -> None:
        """Bytes for an address."""
        self.parts.append((at if at < self.dynamic else at - self.shift, data))

    def finish(self, machine: int, symbols: int, names: int) -> bytes:
        """The file: with section headers, so that tools can read it."""
        file_end = self.data_end - self.shift
        start, data = self.dynamic, self.dynamic - self.shift
        words = b"\0.dynsym\0.dynstr\0.text\0.dynamic\0.shstrtab\0"
        text = self.code_end - self.code
        sections = [
            (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
            (1, _DYNSYM, _ALLOC, self.dynsym, self.dynsym, 24 * symbols, 2, 1, 8, 24),
            (9, _STRTAB, _ALLOC, self.dynstr, self.dynstr, names, 0, 0, 1, 0),
            (17, _PROGBITS, _ALLOC | _EXECUTE, self.code, self.code, text, 0, 0, 64, 0),
            (23, _DYNAMIC, _ALLOC | _WRITE, start, data, 96, 2, 0, 8, 16),
            (32, _STRTAB, 0, 0, file_end, len(words), 0, 0, 1, 0),
        ]
        table = _up(file_end + len(words), 8)
        magic = b"\x7fELF\x02\x01\x01" + bytes(9)
        programs = [
            (1, 5, 0, 0, 0, self.code_end, self.code_end, self.page),
            (1, 6, data, start, start, file_end - data, self.end - start, self.page),
            (2, 6, data, start, start, 96, 96, 8),
            (0x6474E551, 6, 0, 0, 0, 0, 0, 16),  # the stack holds no code
        ]
        count = len(sections)
        head = struct.pack(
            _HEADER,
            magic,
            3,
            machine,
            1,
            0,
            64,
            table,
            0,
            64,
            56,
            len(programs),
            64,
            count,
            count - 1,
        )
        made = bytearray(table)
        made[: len(head)] = head
        made[64 : 64 + 56 * len(programs)] = b"".join(struct.pack(_PROGRAM, *p) for p in programs)
        for at, part in [*self.parts, (file_end, words)]:
            made[at : at + len(part)] = part
        return bytes(made) + b"".join(struct.pack(_SECTION, *s) for s in sections)


def _up(at: int, align: int) -> int:
    return -(-at // align) * align


def _pieces_at(pieces: Sequence[_Piece], kind: int, at: int) -> int:
    """Place the sections of a kind from an address on. Returns where they end."""
    for piece in pieces:
        if piece.kind == kind:
            piece.at = _up(at, piece.align)
            at = piece.at + piece.size
    return at


# Relocations: (the word there, what it is to reach, its own address) -> the new word.


def _relocate(one: _Object, found: dict[str, int], apply: "dict[int, _Rule]") -> None:
    for piece in one.pieces.values():
        if not piece.relocations:
            continue
        data = bytearray(piece.data)
        for offset, kind, symbol, addend in piece.relocations:
            name, _, section, value, _ = one.symbols[symbol]
            if section in one.pieces:
                target = one.pieces[section].at + value
            elif name in found:
                target = found[name]
            else:
                raise UnknownPartError(f"{name} is not defined here")
            if kind not in apply:
                raise UnknownPartError(f"relocation {kind}")
            before = int.from_bytes(data[offset : offset + 4], "little")
            word = apply[kind](before, target + addend, piece.at + offset)
            data[offset : offset + 4] = (word & 0xFFFFFFFF).to_bytes(4, "little")
        piece.data = bytes(data)


_Rule = Callable[[int, int, int], int]


def _within(value: int, bits: int) -> int:
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise UnknownPartError("an address is out of reach")
    return value


def _relative(_: int, target: int, at: int) -> int:
    return _within(target - at, 32)


def _branch(word: int, target: int, at: int) -> int:
    return word & 0xFC000000 | _within(target - at >> 2, 26) & 0x3FFFFFF


def _page_of(word: int, target: int, at: int) -> int:
    pages = _within((target >> 12) - (at >> 12), 21)
    return word & 0x9F00001F | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5


def _low(shift: int) -> _Rule:
    """The offset in the page, in units of what is read there."""
    return lambda word, target, _: word & ~(0xFFF << 10) | (target & 0xFFF) >> shift << 10


_APPLY: dict[int, dict[int, _Rule]] = {
    X86_64: {2: _relative, 4: _relative},  # PC32, PLT32
    AARCH64: {
        261: _relative, 275: _page_of, 277: _low(0), 278: _low(0), 282: _branch, 283: _branch,
        284: _low(1), 285: _low(2), 286: _low(3), 299: _low(4),
    },
}  # fmt: skip


def dynamic_symbols(library: bytes, *, defined: bool = True) -> set[str]:
    """Names that a little-endian ELF library gives, or takes from elsewhere, by its .dynsym."""
    wide = library[4] == 2
    if wide:
        (table,), (size, count) = (
            struct.unpack_from("<Q", library, 40),
            struct.unpack_from("<HH", library, 58),
        )
    else:
        (table,), (size, count) = (
            struct.unpack_from("<I", library, 32),
            struct.unpack_from("<HH", library, 46),
        )
    layout = "<IIQQQQII" if wide else "<IIIIIIII"
    sections = [struct.unpack_from(layout, library, table + size * i) for i in range(count)]
    found = set()
    for section in (s for s in sections if s[1] == _DYNSYM):
        names = sections[section[6]]
        step = 24 if wide else 16
        for at in range(section[4] + step, section[4] + section[5], step):
            name, where = struct.unpack_from("<I2xH" if wide else "<I10xH", library, at)
            if bool(where) == defined:
                start = names[4] + name
                found.add(library[start : library.index(b"\0", start)].decode())
    return found
