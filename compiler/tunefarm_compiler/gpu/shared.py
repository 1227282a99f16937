"""Tiles in shared memory, and where their pieces of 16 bytes lie so that banks do not collide."""

from dataclasses import dataclass, field

from tunefarm_compiler.emit import Value
from tunefarm_compiler.gpu.emitter import GpuEmitter

PIECE = 16  # bytes
BANKS = 128  # bytes that all banks give at once


@dataclass(frozen=True)
class Spot:
    """A thread's place in a tile: the first byte of a line, and a piece in it, already swizzled.

    What is known when compiling is added to both by `Tile.at`, which needs the bits of the two
    parts of each number to be disjoint.
    """

    line: Value
    piece: Value


@dataclass
class Tile:
    """`lines` of `width` bytes each, at byte `start` of every stage.

    Piece p of line l lies at piece p xor f(l), where eight lines that follow each other meet all
    banks: that is how `ldmatrix` and threads in neighbouring rows read. With `layout` "pad" lines
    are a piece longer instead; "plain" ones collide. Where there is a `panel` lines are cut into
    parts of so many bytes, and the first parts of all lines lie before the second ones.
    """

    emit: GpuEmitter
    start: Value
    lines: int
    width: int
    layout: str
    panel: int = 0
    _variants: dict[tuple[Spot, int], str] = field(default_factory=dict)

    @property
    def pitch(self) -> int:
        """Bytes from one line to the next."""
        return self.panel or self.width + (PIECE if self.layout == "pad" else 0)

    @property
    def far(self) -> int:
        """Bytes from one panel to the next."""
        return self.lines * self.panel

    @property
    def size(self) -> int:
        """Bytes in a stage."""
        return self.lines * (self.width if self.panel else self.pitch)

    @property
    def _pieces(self) -> int:
        return (self.panel or self.width) // PIECE

    @property
    def _rows(self) -> int:
        """Lines that the banks hold at once."""
        return max(1, BANKS // (self.panel or self.width))

    @property
    def _mask(self) -> int:
        return min(self._pieces, BANKS // PIECE) - 1 if self.layout == "xor" else 0

    def turn(self, line: int) -> int:
        """What the pieces of a line are xored with."""
        return line // self._rows & self._mask

    def spot(self, line: Value, piece: Value) -> Spot:
        """A thread's line and piece."""
        emit = self.emit
        at = emit.add(emit.multiply(line, self.pitch), self.start)
        if self.panel:
            panel, piece = emit.divide(piece, self._pieces)
            at = emit.add(at, emit.multiply(panel, self.far))
        if not self._mask:
            return Spot(at, piece)
        if isinstance(line, int):
            turned: Value = self.turn(line)
        else:
            shift = self._rows.bit_length() - 1
            row = emit.value("i", f"lshr i32 {line}, {shift}") if shift else line
            turned = emit.value("i", f"and i32 {row}, {self._mask}")
        return Spot(at, emit.xor(piece, turned))

    def at(self, spot: Spot, line: int, piece: int) -> tuple[Value, int]:
        """Bytes of a thread's place moved on by lines and pieces: a value, and a number to add."""
        turned = (piece ^ self.turn(line)) & self._mask
        key = (spot, turned)
        if key not in self._variants:
            moved = self.emit.multiply(self.emit.xor(spot.piece, turned), PIECE)
            self._variants[key] = str(self.emit.add(spot.line, moved))
        beyond = piece & ~self._mask
        far = beyond // self._pieces * self.far if self.panel else beyond * PIECE
        return self._variants[key], line * self.pitch + far
