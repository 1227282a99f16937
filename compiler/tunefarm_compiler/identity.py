"""Which expression it is: equal for those that are made alike, in any process and on any day."""

import hashlib
from dataclasses import fields

from tunefarm_compiler.te import Compute, Expr, Tensor

LENGTH = 12  # hexadecimal digits: 48 bits


def identity(output: Tensor, operations: int = 0) -> str:
    """The first digits of the sha256 of all that a bundle says of an expression.

    That is whatever it is made of, names too, and how many operations are counted for it.
    What is shared in it is told from what is only alike, since kernels differ by that.
    """
    writer = _Writer()
    writer.word(output)
    writer.lines.append(repr(operations))
    return hashlib.sha256("\n".join(writer.lines).encode()).hexdigest()[:LENGTH]


class _Writer:
    """Writes each object once, what it is made of first."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._known: dict[int, str] = {}

    def word(self, thing: object) -> str:
        """How it is told in the lines: itself, or its number."""
        if not isinstance(thing, Tensor | Expr | Compute):
            return repr(thing)
        if id(thing) not in self._known:
            parts = [self.word(getattr(thing, one.name)) for one in fields(thing)]  # type: ignore[arg-type]
            self._known[id(thing)] = f"#{len(self.lines)}"
            self.lines.append(f"{type(thing).__name__} {' '.join(parts)}")
        return self._known[id(thing)]
