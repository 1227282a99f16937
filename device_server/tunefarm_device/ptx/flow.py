"""The code of a kernel as basic blocks: straight steps, then what decides where lanes go next.

Blocks are in the order of the text. The lanes at the lowest block execute first: that is where the
threads of a warp meet again after a branch, in code laid out as compilers lay it out.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

from .decode import HANDLERS, Barrier, Branch, Decoded, Exit, Reader, Slots, Step, Sync, guarded
from .errors import PtxError, PtxSyntaxError, UnsupportedError
from .syntax import Instruction, KernelText, Label, Register, names_in

End: TypeAlias = Sync | Branch | Barrier | Exit


@dataclass
class Block:
    """Steps that no lane leaves between, and the end, if it is more than going on to the next."""

    number: int
    steps: list[tuple[Instruction, Step]] = field(default_factory=list)
    end: End | None = None
    at: Instruction | None = None
    guard: tuple[int, bool] | None = None
    targets: tuple[int, ...] = ()
    executed: int = 0

    @property
    def instructions(self) -> list[Instruction]:
        """All of them, the last one too."""
        return [at for at, _ in self.steps] + ([self.at] if self.at else [])


def decode(instruction: Instruction, slots: Slots) -> tuple[Decoded, tuple[int, bool] | None]:
    """What an instruction does, and its guard where the flow has to heed it.

    Raises: PtxSyntaxError, UnsupportedError, with the line and the text.
    """
    reader = Reader(instruction, slots)
    try:
        handler = HANDLERS.get(instruction.opcode)
        if handler is None:
            raise UnsupportedError(f"the instruction {instruction.opcode} is not known")
        decoded = handler(reader)
        guard = reader.guard(instruction.guard) if instruction.guard else None
    except PtxError as error:
        raise error.at(instruction.line, instruction.text) from None
    if isinstance(decoded, Sync | Branch | Barrier | Exit) or guard is None:
        return decoded, guard
    return guarded(decoded, *guard), None


def blocks_of(kernel: KernelText, slots: Slots) -> list[Block]:
    """The basic blocks of a kernel, in the order of the text. The last one ends every lane."""
    blocks = [Block(0)]
    labels: dict[Label, int] = {}
    slots.named_once = _named_once(kernel)
    for item in kernel.body:
        if isinstance(item, Label):
            if blocks[-1].steps:
                blocks.append(Block(len(blocks)))
            labels[item] = blocks[-1].number
            continue
        decoded, guard = decode(item, slots)
        if isinstance(decoded, Sync | Branch | Barrier | Exit):
            if isinstance(decoded, Sync) and blocks[-1].steps:
                # Lanes wait for each other in front of it, so it stands alone.
                blocks.append(Block(len(blocks)))
            last = blocks[-1]
            last.end, last.at, last.guard = decoded, item, guard
            blocks.append(Block(len(blocks)))
        else:
            blocks[-1].steps.append((item, decoded))
    blocks[-1].end = blocks[-1].end or Exit()
    for block in blocks:
        if isinstance(block.end, Branch):
            block.targets = tuple(_place(labels, label, block) for label in block.end.labels)
    return blocks


def _named_once(kernel: KernelText) -> frozenset[Register]:
    """The registers that one operand of the kernel names, and no other."""
    named = Counter(
        found
        for at in kernel.body
        if isinstance(at, Instruction)
        for name in names_in(*at.operands, *([at.guard.name] if at.guard else []))
        if isinstance(found := at.scope.find(name.text), Register)
    )
    return frozenset(register for register, times in named.items() if times == 1)


def _place(labels: dict[Label, int], label: Label, block: Block) -> int:
    number = labels.get(label)
    if number is None:
        at = block.at
        raise PtxSyntaxError(
            f"{label.name} is nowhere", at.line if at else 0, at.text if at else ""
        )
    return number
