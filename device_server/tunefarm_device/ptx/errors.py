"""What the PTX machine refuses, by name. Each error says the line and the text of the instruction.

    PtxError
    +-- PtxSyntaxError            the text is not PTX
    +-- UnsupportedError          an instruction, or a form of one, that the machine does not know
    +-- LaunchRefusedError        grid, block, shared memory or parameters that no GPU would take
    +-- ExecutionError            the kernel did what it must not do
        +-- IllegalAddressError     outside every allocation
        +-- MisalignedAddressError
        +-- UninitialisedReadError  of shared memory that nothing was written to
        +-- SharedRaceError         two warps, one address, no barrier between them
        +-- GlobalRaceError         two blocks, one address, in one launch
        +-- DivergentBarrierError   only some threads reach a barrier or an instruction of the warp
        +-- EndlessLoopError        more instructions or seconds than the launch allows
        +-- UndefinedResultError    the ISA leaves the result open
        +-- TrapError               the kernel executed `trap`

The package stands alone, so these are not of the tree of `tunefarm_proto.errors`.
"""


class PtxError(Exception):
    """Anything that the PTX machine refuses.

    Attributes: `message`; `line` (1 is the first, 0 is unknown) and `text` of the instruction.
    """

    def __init__(self, message: str, line: int = 0, text: str = "") -> None:
        super().__init__(message, line, text)
        self.message = message
        self.line = line
        self.text = text

    def __str__(self) -> str:
        if not self.line:
            return self.message
        return (
            f"line {self.line}: {self.text}: {self.message}"
            if self.text
            else (f"line {self.line}: {self.message}")
        )

    def at(self, line: int, text: str) -> "PtxError":
        """The same error, with the place where it happened, unless it has one."""
        if not self.line:
            self.line, self.text = line, text
            self.args = (self.message, line, text)
        return self


class PtxSyntaxError(PtxError):
    """The text is not PTX."""


class UnsupportedError(PtxError):
    """An instruction, or a form of one, that the machine does not know."""


class LaunchRefusedError(PtxError):
    """Grid, block, shared memory or parameters that no GPU would take."""


class ExecutionError(PtxError):
    """The kernel did what it must not do."""


class IllegalAddressError(ExecutionError):
    """An access outside every allocation."""


class MisalignedAddressError(ExecutionError):
    """An address that is no multiple of the size of the access."""


class UninitialisedReadError(ExecutionError):
    """A read of shared memory that nothing was written to."""


class SharedRaceError(ExecutionError):
    """Two warps use one address of shared memory, one writes, and no barrier is between them."""


class GlobalRaceError(ExecutionError):
    """Two blocks of a launch use one address of global memory, and one of them changes it."""


class DivergentBarrierError(ExecutionError):
    """Only some of the threads reach a barrier, or an instruction that a whole warp executes."""


class EndlessLoopError(ExecutionError):
    """The launch took more instructions or more seconds than it may."""


class UndefinedResultError(ExecutionError):
    """The ISA leaves open what the instruction gives here."""


class TrapError(ExecutionError):
    """The kernel executed `trap`."""
