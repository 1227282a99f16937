"""Arrays of a session, and whether they fit a function."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunefarm_proto.errors import ArgumentMismatchError
from tunefarm_proto.v1 import bundle_pb2 as bpb


@dataclass(frozen=True)
class Array:
    """An array in the runner."""

    dtype: str
    shape: tuple[int, ...]
    size: int

    def __str__(self) -> str:
        return describe(self.dtype, self.shape)


def describe(dtype: str, shape: Sequence[int]) -> str:
    """As in "float32[16, 4]"."""
    return f"{dtype}[{', '.join(map(str, shape))}]"


def check_arguments(signature: bpb.FunctionSignature, arrays: Sequence[Array]) -> None:
    """Raises: ArgumentMismatchError, which says what was expected and what came."""
    wanted = [describe(a.dtype, a.shape) for a in signature.arguments]
    if len(arrays) != len(wanted):
        names = ", ".join(
            f"{a.name}: {w}" for a, w in zip(signature.arguments, wanted, strict=True)
        )
        raise ArgumentMismatchError(
            f"{signature.name} takes {len(wanted)} arguments, got {len(arrays)}", f"give {names}"
        )
    for index, (expected, given) in enumerate(zip(wanted, arrays, strict=True)):
        if expected != str(given):
            raise ArgumentMismatchError(
                f"argument {index} ({signature.arguments[index].name}) of {signature.name} "
                f"is {expected}, got {given}"
            )
