"""The register tile: spatial loops unrolled into vectors, carried through the reduce loop."""

import itertools
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.emit import Emitter, Value
from tunefarm_compiler.te import Binary, Compute, Constant, Expr, Load, Reduce

# One vector of the tile: a point of the outer spatial axes, a start along the vectors, its lanes.
Piece = tuple[tuple[int, ...], int, int]


@dataclass(frozen=True)
class Access:
    """Where a load or store goes: a base and how far each axis moves it, in elements.

    `strides` hold inside the register tile, `outer` between tiles: in packed panels they differ.
    """

    base: str
    strides: Mapping[str, int]
    outer: Mapping[str, int]


def vector_type(lanes: int) -> str:
    """LLVM's name of a float32 vector, a plain float for one lane."""
    return "float" if lanes == 1 else f"<{lanes} x float>"


def spans(extent: int, lanes: int) -> list[tuple[int, int]]:
    """(start, width) of vectors that cover `extent` elements and touch nothing beside them.

    A tail takes powers of two.
    """
    found: list[tuple[int, int]] = []
    start, width = 0, lanes
    while start < extent:
        if width > extent - start:
            width //= 2
            continue
        found.append((start, width))
        start += width
    return found


def pieces(compute: Compute, extents: Mapping[str, int], lanes: int) -> list[Piece]:
    """The vectors of a tile."""
    outer = [range(extents[axis.name]) for axis in compute.axes[:-1]]
    along = spans(extents[compute.axes[-1].name], lanes)
    return [(point, at, width) for point in itertools.product(*outer) for at, width in along]


class Tile:
    """Emits one register tile of a compute."""

    def __init__(  # noqa: PLR0917
        self,
        emit: Emitter,
        compute: Compute,
        accesses: Mapping[int, Access],
        output: Access,
        lanes: int,
        unroll: int,
    ) -> None:
        self.emit = emit
        self.compute = compute
        self.accesses = accesses  # by the load's place in compute.loads()
        self.output = output
        self.lanes = lanes
        self.unroll = unroll
        self._places = {_key(load): place for place, load in enumerate(compute.loads())}
        self._loaded: dict[tuple[int, int, int], str] = {}
        self._pointers: dict[int, str] = {}
        self._steps: dict[str, int] = {}

    def run(self, extents: Mapping[str, int], first: bool) -> None:
        """Compute the tile with these extents. `first`: the outputs hold nothing yet."""
        tile = pieces(self.compute, extents, self.lanes)
        self._pointers = {place: access.base for place, access in self.accesses.items()}
        if isinstance(self.compute.body, Reduce):
            values = [_zero(piece[2]) if first else self._load_output(piece) for piece in tile]
            values = self._reduce(self.compute.body, tile, values, extents)
        else:
            self._loaded = {}
            values = [self._value(self.compute.body, piece) for piece in tile]
        for piece, value in zip(tile, values, strict=True):
            where = self.emit.pointer(self.output.base, self._offset(self.output.strides, piece))
            self.emit.line(f"store {vector_type(piece[2])} {value}, ptr {where}, align 4")

    def _reduce(
        self, body: Reduce, tile: list[Piece], values: list[str], extents: Mapping[str, int]
    ) -> list[str]:
        *outer, inner = body.axes
        if any(extents[axis.name] > 1 for axis in outer):
            raise InvalidScheduleError(
                f"schedule: only {inner.name} may run inside the register tile",
                f"give {', '.join(axis.name for axis in outer)} loops of block 1",
            )
        extent = extents[inner.name]
        unroll = min(self.unroll, extent)
        kinds = [vector_type(width) for _, _, width in tile]
        rounds, rest = divmod(extent, unroll)
        bases = [self._pointers[place] for place in self._pointers]
        carried = [*zip(kinds, values, strict=True), *(("ptr", base) for base in bases)]
        with self.emit.loop(rounds, carried) as loop:
            values, moved = loop.values[: len(tile)], loop.values[len(tile) :]
            self._pointers = dict(zip(self._pointers, moved, strict=True))
            values = self._steps_of(body, tile, values, inner.name, unroll)
            loop.next = [*values, *self._advance(inner.name, unroll)]
        values = loop.final[: len(tile)]
        self._pointers = dict(zip(self._pointers, loop.final[len(tile) :], strict=True))
        return self._steps_of(body, tile, values, inner.name, rest)

    def _advance(self, axis: str, steps: int) -> list[str]:
        return [
            self.emit.pointer(pointer, steps * self.accesses[place].strides.get(axis, 0))
            for place, pointer in self._pointers.items()
        ]

    def _steps_of(
        self, body: Reduce, tile: list[Piece], values: list[str], axis: str, steps: int
    ) -> list[str]:
        for step in range(steps):
            self._loaded = {}
            self._steps = {axis: step}
            values = [
                self._accumulate(body.body, piece, value)
                for piece, value in zip(tile, values, strict=True)
            ]
        self._steps = {}
        return values

    def _accumulate(self, term: Expr, piece: Piece, total: str) -> str:
        kind = vector_type(piece[2])
        if isinstance(term, Binary) and term.op == "fmul":
            left, right = self._value(term.left, piece), self._value(term.right, piece)
            suffix = "f32" if piece[2] == 1 else f"v{piece[2]}f32"
            return self.emit.value(
                "acc",
                f"call {kind} @llvm.fma.{suffix}({kind} {left}, {kind} {right}, {kind} {total})",
            )
        return self.emit.value("acc", f"fadd {kind} {total}, {self._value(term, piece)}")

    def _value(self, expr: Expr, piece: Piece) -> str:
        kind = vector_type(piece[2])
        match expr:
            case Load():
                return self._load(expr, piece)
            case Constant(value):
                return _constant(value, piece[2])
            case Binary("maximum", left, right):
                one, two = self._value(left, piece), self._value(right, piece)
                above = self.emit.value("c", f"fcmp ugt {kind} {one}, {two}")
                condition = "i1" if piece[2] == 1 else f"<{piece[2]} x i1>"
                return self.emit.value(
                    "m", f"select {condition} {above}, {kind} {one}, {kind} {two}"
                )
            case Binary(op, left, right):
                return self.emit.value(
                    "x", f"{op} {kind} {self._value(left, piece)}, {self._value(right, piece)}"
                )
        raise AssertionError(f"no code for {expr}")

    def _load(self, load: Load, piece: Piece) -> str:
        place = self._places[_key(load)]
        access = self.accesses[place]
        along = access.strides.get(self.compute.axes[-1].name, 0)
        offset = self._offset(access.strides, piece)
        lanes = piece[2]
        key = (place, offset, lanes)
        if key not in self._loaded:
            base = self._pointers[place]
            if along == 1 or lanes == 1:
                where = self.emit.pointer(base, offset)
                self._loaded[key] = self.emit.value(
                    "x", f"load {vector_type(lanes)}, ptr {where}, align 4"
                )
            elif along == 0:
                self._loaded[key] = self._splat(place, base, offset, lanes)
            else:
                self._loaded[key] = self._gather(base, offset, along, lanes)
        return self._loaded[key]

    def _scalar(self, base: str, offset: int) -> str:
        return self.emit.value("s", f"load float, ptr {self.emit.pointer(base, offset)}, align 4")

    def _splat(self, place: int, base: str, offset: int, lanes: int) -> str:
        key = (place, offset, 1)
        if key not in self._loaded:
            self._loaded[key] = self._scalar(base, offset)
        kind = vector_type(lanes)
        one = self.emit.value("e", f"insertelement {kind} poison, float {self._loaded[key]}, i32 0")
        zeros = f"<{lanes} x i32> zeroinitializer"
        return self.emit.value("b", f"shufflevector {kind} {one}, {kind} poison, {zeros}")

    def _gather(self, base: str, offset: int, stride: int, lanes: int) -> str:
        kind, value = vector_type(lanes), "poison"
        for lane in range(lanes):
            one = self._scalar(base, offset + lane * stride)
            value = self.emit.value("g", f"insertelement {kind} {value}, float {one}, i32 {lane}")
        return value

    def _load_output(self, piece: Piece) -> str:
        where = self.emit.pointer(self.output.base, self._offset(self.output.strides, piece))
        return self.emit.value("c", f"load {vector_type(piece[2])}, ptr {where}, align 4")

    def _offset(self, strides: Mapping[str, int], piece: Piece) -> int:
        point, start, _ = piece
        total = start * strides.get(self.compute.axes[-1].name, 0)
        for axis, at in zip(self.compute.axes[:-1], point, strict=True):
            total += at * strides.get(axis.name, 0)
        for name, step in self._steps.items():
            total += step * strides.get(name, 0)
        return total


def _key(load: Load) -> tuple[object, ...]:
    strides, offset = load.strides()
    return (load.tensor.name, *sorted(strides.items()), offset)


def _zero(lanes: int) -> str:
    return "0.0" if lanes == 1 else "zeroinitializer"


def _constant(value: float, lanes: int) -> str:
    exact = struct.unpack("f", struct.pack("f", value))[0]
    text = f"0x{struct.unpack('<Q', struct.pack('<d', exact))[0]:016X}"
    return text if lanes == 1 else "<" + ", ".join([f"float {text}"] * lanes) + ">"


def standing(emit: Emitter, access: Access, at: Mapping[str, Value]) -> str:
    """Address where the loops stand: the base moved by every axis's offset."""
    total: Value = 0
    for axis, stride in access.outer.items():
        total = emit.add(total, emit.multiply(at[axis], stride))
    return emit.pointer(access.base, total)
