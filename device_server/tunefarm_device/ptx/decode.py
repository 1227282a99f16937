"""Instructions made callable: names become slots of the register file, constants too.

A step is a function of the frame. What makes one for an opcode is registered with `@handles`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from .errors import PtxSyntaxError, UnsupportedError
from .frame import Frame
from .kinds import KINDS, PRED, Array, Kind
from .syntax import (
    Address,
    Guard,
    Immediate,
    Instruction,
    Label,
    Name,
    Negated,
    Operand,
    Register,
    Sum,
    Variable,
    Vector,
)

Step: TypeAlias = Callable[[Frame], None]

SPECIALS = frozenset(
    [f"{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    + [f"lanemask_{name}" for name in ("eq", "le", "lt", "ge", "gt")]
    + ["laneid", "warpid", "nwarpid", "smid", "nsmid", "gridid"]
    + ["dynamic_smem_size", "total_smem_size"]
)


@dataclass
class Sync:
    """A step for whole warps: `members` is the slot of its mask of lanes, -1 is all that live."""

    step: Step
    members: int


@dataclass
class Branch:
    """To one of the labels: the one that `index` picks, where there is one."""

    labels: tuple[Label, ...]
    index: int = -1


@dataclass
class Reduction:
    """What bar.red gives: "popc", "and" or "or" of a predicate over the threads that wait."""

    function: str
    target: int
    predicate: int
    negated: bool


@dataclass
class Barrier:
    """Waits for the threads of the block. `number` and `count` are slots; -1 is every thread."""

    number: int
    count: int = -1
    waits: bool = True
    reduction: Reduction | None = None


@dataclass
class Exit:
    """The thread ends."""


Decoded: TypeAlias = Step | Sync | Branch | Barrier | Exit
Handler: TypeAlias = Callable[["Reader"], Decoded]

HANDLERS: dict[str, Handler] = {}


def handles(*opcodes: str) -> Callable[[Handler], Handler]:
    """Registers what makes the steps of these opcodes."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(opcodes, handler))
        return handler

    return register


@dataclass
class Slots:
    """The register file of a kernel: which slot is what, and what it holds at the start."""

    numbers: dict[object, int] = field(default_factory=dict)
    initial: list[Array] = field(default_factory=list)
    specials: dict[int, tuple[str, Kind]] = field(default_factory=dict)
    symbols: dict[int, tuple[Variable, int, Kind]] = field(default_factory=dict)
    granule: int = 16
    global_granule: int = 16
    orders_blocks: bool = False
    named_once: frozenset[Register] = frozenset()

    def of(self, key: object, initial: Array) -> int:
        """The slot of a key, made where there is none."""
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.initial)
            self.initial.append(initial)
        return number


def poison(kind: Kind) -> Array:
    """What a register holds before anything is written to it: a NaN of every width."""
    if kind is PRED:
        return np.zeros(1, bool)
    return np.array([(1 << min(kind.bits, 64)) - 1], kind.raw)


def bits_of(immediate: Immediate, kind: Kind) -> int:
    """The bits of a constant as an operand of a type. Raises: PtxSyntaxError."""
    if not immediate.real:
        if kind.family in ("f", "bf") and kind.bits > 16:
            return bits_of(Immediate(_pack(float(immediate.value)), 64), kind)
        return immediate.value % (1 << kind.bits)
    if immediate.real == kind.bits:
        return immediate.value
    if immediate.real == 64 and kind.bits == 32:
        value = struct.unpack("<d", immediate.value.to_bytes(8, "little"))[0]
        return int(np.array([value]).astype(np.float32).view(np.uint32)[0])
    if immediate.real == 32 and kind.bits == 64:
        value = struct.unpack("<f", immediate.value.to_bytes(4, "little"))[0]
        return _pack(value)
    raise PtxSyntaxError(f"a float constant of {immediate.real} bits for {kind.name}")


def _pack(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


class Reader:
    """Reads one instruction: takes its modifiers and operands, and refuses what is left over."""

    def __init__(self, instruction: Instruction, slots: Slots) -> None:
        self.instruction = instruction
        self.slots = slots
        self.modifiers = list(instruction.modifiers)
        self.operands = list(instruction.operands)
        self.opcode = instruction.opcode

    # -- modifiers

    def flag(self, *names: str) -> str:
        """The one of these modifiers that is there, taken; or ""."""
        for name in names:
            if name in self.modifiers:
                self.modifiers.remove(name)
                return name
        return ""

    def choose(self, *names: str) -> str:
        """The one of these modifiers that is there, taken. Raises: UnsupportedError."""
        found = self.flag(*names)
        if not found:
            raise UnsupportedError(f"none of {', '.join('.' + name for name in names)}")
        return found

    def kind(self) -> Kind:
        """The last modifier that is a type, taken. Raises: UnsupportedError."""
        for name in reversed(self.modifiers):
            if name in KINDS:
                index = len(self.modifiers) - 1 - self.modifiers[::-1].index(name)
                del self.modifiers[index]
                return KINDS[name]
        raise UnsupportedError("no type that is known")

    def number(self, prefix: str, default: int) -> int:
        """The number in a modifier such as `v4`, taken."""
        for name in self.modifiers:
            if name.startswith(prefix) and name[len(prefix) :].isdigit():
                self.modifiers.remove(name)
                return int(name[len(prefix) :])
        return default

    def drop(self, *names: str) -> None:
        """Takes modifiers that change nothing here; a name that ends in `::` takes all such."""
        self.modifiers = [
            given
            for given in self.modifiers
            if given not in names and not any(n[-1] == ":" and given.startswith(n) for n in names)
        ]

    def done(self) -> None:
        """Refuses modifiers and operands that nobody took. Raises: UnsupportedError."""
        for name in self.modifiers:
            raise UnsupportedError(f"the modifier .{name} is not known here")
        if self.operands:
            raise UnsupportedError(f"{len(self.operands)} operands more than are known")

    # -- operands

    def operand(self) -> Operand:
        """The next operand, taken. Raises: PtxSyntaxError."""
        if not self.operands:
            raise PtxSyntaxError("an operand is missing")
        return self.operands.pop(0)

    def vector(self) -> tuple[Operand, ...]:
        """The next operand's items; one that is no vector is one item."""
        operand = self.operand()
        return operand.items if isinstance(operand, Vector) else (operand,)

    def find(self, name: str) -> Register | Variable | Label:
        """What a name means. Raises: PtxSyntaxError."""
        found = self.instruction.scope.find(name)
        if found is None:
            raise PtxSyntaxError(f"{name} is not declared")
        return found

    def register(self, operand: Operand) -> Register:
        """The register that an operand is. Raises: PtxSyntaxError."""
        found = self.find(operand.text) if isinstance(operand, Name) else None
        if not isinstance(found, Register):
            raise PtxSyntaxError(f"{operand} where a register belongs")
        return found

    def target(self, kind: Kind, operand: Operand | None = None, *, wider: bool = False) -> int:
        """The slot of a register that is written. Raises: PtxSyntaxError where widths differ."""
        operand = operand if operand is not None else self.operand()
        if operand == Name("_"):
            return self.slots.of(("_", kind.bits), poison(kind))
        register = self.register(operand)
        if register.kind.bits != kind.bits and not (wider and register.kind.bits > kind.bits):
            raise PtxSyntaxError(
                f"{register.name} has {register.kind.bits} bits where .{kind.name} is written"
            )
        return self.slot_of(register)

    def is_read(self, operand: Operand) -> bool:
        """Whether anything in the kernel may read the register that this instruction writes."""
        return operand != Name("_") and self.register(operand) not in self.slots.named_once

    def slot_of(self, register: Register) -> int:
        """The slot of a register."""
        return self.slots.of((register.scope, register.name), poison(register.kind))

    def source(self, kind: Kind, operand: Operand | None = None) -> int:
        """The slot of what is read: a register, a constant, a special register, an address."""
        operand = operand if operand is not None else self.operand()
        if isinstance(operand, Immediate):
            return self.constant(bits_of(operand, kind), kind)
        if isinstance(operand, Sum):
            return self.symbol(self.find(operand.name.text), operand.offset, kind)
        if not isinstance(operand, Name):
            raise PtxSyntaxError(f"{operand} where a value belongs")
        special = operand.text.removeprefix("%")
        if self.instruction.scope.find(operand.text) is None and operand.text != special:
            return self.special(special, kind)
        if self.instruction.scope.find(operand.text) is None and operand.text == "WARP_SZ":
            return self.constant(32, kind)
        found = self.find(operand.text)
        if not isinstance(found, Register):
            return self.symbol(found, 0, kind)
        if found.kind.bits != kind.bits:
            raise PtxSyntaxError(
                f"{found.name} has {found.kind.bits} bits where .{kind.name} is read"
            )
        return self.slot_of(found)

    def wide_source(self, kind: Kind, operand: Operand | None = None) -> tuple[int, bool]:
        """The slot of what is read where the register may be wider, and whether it is."""
        operand = operand if operand is not None else self.operand()
        found = self.instruction.scope.find(operand.text) if isinstance(operand, Name) else None
        if isinstance(found, Register) and found.kind.bits > kind.bits:
            return self.slot_of(found), True
        return self.source(kind, operand), False

    def wide_target(self, kind: Kind, operand: Operand | None = None) -> tuple[int, Kind | None]:
        """The slot of what is written where the register may be wider, and its type if it is."""
        operand = operand if operand is not None else self.operand()
        slot = self.target(kind, operand, wider=True)
        if operand == Name("_"):
            return slot, None
        register = self.register(operand)
        if register.kind.bits == kind.bits:
            return slot, None
        return slot, KINDS[f"{'s' if kind.is_signed else 'u'}{register.kind.bits}"]

    def constant(self, bits: int, kind: Kind) -> int:
        """The slot of a constant."""
        if kind is PRED:
            return self.slots.of(("constant", 1, bits), np.array([bool(bits)]))
        return self.slots.of(("constant", kind.bits, bits), np.array([bits], kind.raw))

    def special(self, name: str, kind: Kind) -> int:
        """The slot of a special register such as `tid.x`. Raises: UnsupportedError."""
        if name not in SPECIALS:
            raise UnsupportedError(f"the special register %{name}")
        slot = self.slots.of(("special", name, kind.bits), poison(kind))
        self.slots.specials[slot] = (name, kind)
        return slot

    def symbol(self, found: Register | Variable | Label, offset: int, kind: Kind) -> int:
        """The slot of a variable's address."""
        if not isinstance(found, Variable):
            raise PtxSyntaxError(f"{found.name} has no address")
        slot = self.slots.of(("symbol", found.space, found.name, offset, kind.bits), poison(kind))
        self.slots.symbols[slot] = (found, offset, kind)
        return slot

    def predicate(self, operand: Operand | None = None) -> tuple[int, bool]:
        """A predicate that is read, and whether it is negated."""
        operand = operand if operand is not None else self.operand()
        if isinstance(operand, Negated):
            return self.source(PRED, operand.name), True
        return self.source(PRED, operand), False

    def label(self) -> Label:
        """The label that the next operand is. Raises: PtxSyntaxError."""
        operand = self.operand()
        found = self.find(operand.text) if isinstance(operand, Name) else None
        if not isinstance(found, Label):
            raise PtxSyntaxError(f"{operand} where a label belongs")
        return found

    def address(self) -> tuple[int, int, Kind]:
        """`[base+offset]`: the base's slot and type, and the offset. Raises: PtxSyntaxError."""
        operand = self.operand()
        if not isinstance(operand, Address):
            raise PtxSyntaxError(f"{operand} where an address belongs")
        if isinstance(operand.base, Immediate):
            kind = KINDS["u64"]
            return self.constant(operand.base.value, kind), operand.offset, kind
        found = self.find(operand.base.text)
        if isinstance(found, Register):
            if found.kind.bits not in (32, 64):
                raise PtxSyntaxError(f"an address in {found.name} of {found.kind.bits} bits")
            return self.slot_of(found), operand.offset, found.kind
        kind = KINDS["u64"]
        return self.symbol(found, operand.offset, kind), 0, kind

    def guard(self, guard: Guard) -> tuple[int, bool]:
        """The slot of a guard's predicate, and whether it is negated."""
        return self.source(PRED, guard.name), guard.negated


def guarded(step: Step, predicate: int, negated: bool) -> Step:
    """The step for those lanes alone whose predicate is so."""

    def run(f: Frame) -> None:
        chosen = f.regs[predicate]
        if len(chosen) == 1:
            if bool(chosen[0]) != negated:
                step(f)
            return
        outer = f.mask
        chosen = ~chosen if negated else chosen
        if outer is not None:
            chosen = chosen & outer
        count = np.count_nonzero(chosen)
        if count:
            f.mask = None if count == len(chosen) else chosen
            step(f)
            f.mask = outer

    return run
