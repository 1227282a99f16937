"""Copies of inputs: stages of their own, for schedules that keep them in shared memory."""

from collections.abc import Collection

from tunefarm_compiler.te import Axis, Compute, Expr, Load, Tensor, rewrite

NAME = ".shared"  # what the copy of an input is called, after the input's own name


def copied(tensor: Tensor) -> Tensor:
    """The stage that holds a copy of an input, along axes d0, d1, ... of it."""
    axes = tuple(Axis(f"d{n}", extent) for n, extent in enumerate(tensor.shape))
    return Tensor(tensor.name + NAME, tensor.shape, tensor.dtype, Compute(axes, tensor[axes]))


def from_copies(tensor: Tensor, body: Expr, kept: Collection[str]) -> Expr:
    """The body of a tensor with inputs read from their copies, where these are kept."""
    if tensor.name.endswith(NAME) or not any(name.endswith(NAME) for name in kept):
        return body

    def leaf(expr: Expr) -> Expr | None:
        if isinstance(expr, Load) and expr.tensor.name + NAME in kept:
            return Load(copied(expr.tensor), expr.indices) if not expr.tensor.compute else None
        return None

    return rewrite(body, leaf, {})
