"""The parts of a PTX text, as the parser gives them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from .kinds import Kind


@dataclass(frozen=True)
class Name:
    """A register, variable, parameter or label."""

    text: str


@dataclass(frozen=True)
class Immediate:
    """A constant: `value` is an integer, or the bits of a float of `real` bits (0: an integer)."""

    value: int
    real: int = 0


@dataclass(frozen=True)
class Negated:
    """`!%p`."""

    name: Name


@dataclass(frozen=True)
class Sum:
    """`symbol+offset`."""

    name: Name
    offset: int


@dataclass(frozen=True)
class Address:
    """`[base+offset]`."""

    base: "Name | Immediate"
    offset: int


@dataclass(frozen=True)
class Vector:
    """`{a, b, c, d}`."""

    items: "tuple[Operand, ...]"


@dataclass(frozen=True)
class Pair:
    """`p|q`: two results."""

    first: "Operand"
    second: "Operand"


Operand: TypeAlias = Name | Immediate | Negated | Sum | Address | Vector | Pair


def names_in(*operands: Operand) -> Iterator[Name]:
    """Every name that the operands mention."""
    for operand in operands:
        match operand:
            case Name():
                yield operand
            case Negated(name) | Sum(name, _):
                yield name
            case Address(base, _):
                yield from names_in(base)
            case Vector(items):
                yield from names_in(*items)
            case Pair(first, second):
                yield from names_in(first, second)


@dataclass(frozen=True)
class Register:
    """A declared register."""

    name: str
    kind: Kind
    scope: int


@dataclass(frozen=True)
class Variable:
    """A declared variable: `space` is global, const, shared, local or param; sizes in bytes.

    `size` 0 is an array whose size the launch gives. `initial` is its content, or None.
    """

    name: str
    space: str
    align: int
    size: int
    initial: bytes | None = None
    line: int = 0


@dataclass(frozen=True)
class Label:
    """A place in the code."""

    name: str
    scope: int


@dataclass
class Scope:
    """What the names between one pair of braces mean."""

    number: int
    parent: "Scope | None" = None
    names: dict[str, "Register | Variable | Label"] = field(default_factory=dict)
    ranges: dict[str, tuple[int, Kind]] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def find(self, name: str) -> "Register | Variable | Label | None":
        """What the name means here, or None."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.names.get(name) or scope.numbered(name)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def table(self, name: str) -> tuple[str, ...] | None:
        """The labels of a `.branchtargets`, or None."""
        if name in self.tables:
            return self.tables[name]
        return self.parent.table(name) if self.parent else None

    def numbered(self, name: str) -> Register | None:
        """The register of a range, `%r<34>`, that the name is."""
        match = re.fullmatch(r"(.*?)(0|[1-9]\d*)", name)
        if match is None or match[1] not in self.ranges:
            return None
        count, kind = self.ranges[match[1]]
        if int(match[2]) >= count:
            return None
        register = Register(name, kind, self.number)
        self.names[name] = register
        return register


@dataclass(frozen=True)
class Guard:
    """`@%p` or `@!%p`."""

    name: Name
    negated: bool


@dataclass(frozen=True)
class Instruction:
    """One instruction: `opcode` is its first word, `modifiers` are the rest of the dotted name."""

    line: int
    text: str
    guard: Guard | None
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    scope: Scope


@dataclass
class KernelText:
    """One `.entry`: parameters in order, and its body of instructions and labels."""

    name: str
    line: int
    parameters: list[Variable]
    scope: Scope
    body: list[Instruction | Label]
    variables: list[Variable]
    directives: dict[str, tuple[int, ...]]


@dataclass
class ModuleText:
    """A whole text: version, target, module variables and kernels."""

    version: str
    target: str
    scope: Scope
    variables: list[Variable]
    kernels: list[KernelText]
