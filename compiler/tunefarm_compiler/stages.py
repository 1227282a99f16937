"""From tensor expressions to stages: what is inlined, what is merged, what stands alone."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from tunefarm_proto.errors import InvalidScheduleError

from tunefarm_compiler.additions import at_forms, cached, from_copies, parted
from tunefarm_compiler.te import (
    Axis,
    Compute,
    Expr,
    Index,
    Inside,
    Load,
    Reduce,
    Tensor,
    Total,
    rewrite,
    walk,
)
from tunefarm_compiler.winograd import minimal


@dataclass(frozen=True)
class Stage:
    """One nest of loops: fills `tensor` with `body`, a function of loads and of the reduction."""

    tensor: Tensor
    axes: tuple[Axis, ...]
    body: Expr
    reduce: Reduce | None
    loads: tuple[Load, ...]
    tests: tuple[Index, ...]

    @cached_property
    def reduce_axes(self) -> tuple[Axis, ...]:
        """Axes summed over; none for an elementwise stage."""
        return self.reduce.axes if self.reduce else ()

    @cached_property
    def extents(self) -> dict[str, int]:
        """Extent of every axis by name."""
        return {axis.name: axis.extent for axis in (*self.axes, *self.reduce_axes)}

    @property
    def plain(self) -> bool:
        """Whether the reduction is the answer: no epilogue is left to do."""
        return isinstance(self.body, Total)


def inputs(output: Tensor) -> list[Tensor]:
    """Placeholders that a tensor is computed from, each once, in the order written."""
    found: dict[str, Tensor] = {}

    def visit(tensor: Tensor) -> None:
        if tensor.compute is None:
            if found.setdefault(tensor.name, tensor) != tensor:
                raise ValueError(f"two inputs are named {tensor.name}")
            return
        for expr in walk(tensor.compute.body):
            if isinstance(expr, Load):
                visit(expr.tensor)

    visit(output)
    return list(found.values())


def plan(output: Tensor, kept: Collection[str]) -> list[Stage]:
    """The stages in an order in which they can be computed, the output's last.

    Tensors not in `kept` are inlined into what reads them. Raises: InvalidScheduleError.
    """
    kept = frozenset(kept)
    output = parted(cached(minimal(output, kept, inline), kept), kept)
    stages: dict[str, Stage] = {}

    def visit(tensor: Tensor) -> None:
        if tensor.compute is None or tensor.name in stages:
            return
        stage = _stage(tensor, tensor.compute, kept)
        for load in stage.loads:
            visit(load.tensor)
        stages[tensor.name] = stage

    visit(output)
    if unknown := sorted(set(kept) - set(stages)):
        names = ", ".join(name for name in stages if name != output.name)
        raise InvalidScheduleError(
            f"schedule: no stage {unknown[0]!r}", f"the stages are {names or 'none'}"
        )
    return list(stages.values())


@lru_cache(512)  # a search makes the same ones for each candidate
def _stage(tensor: Tensor, compute: Compute, kept: frozenset[str]) -> Stage:
    body = from_copies(tensor, inline(compute.body, kept), kept)
    reductions = [expr for expr in walk(body) if isinstance(expr, Reduce)]
    reduce = reductions[0] if reductions else None
    if len(reductions) > 1:
        raise InvalidScheduleError(
            f"schedule: {tensor.name} would hold {len(reductions)} reductions",
            "give the stages that it reads a place of their own",
        )
    if reduce is not None:
        if names := {axis.name for axis in compute.axes} & {axis.name for axis in reduce.axes}:
            raise ValueError(f"{tensor.name}: axis {min(names)} is both spatial and reduced over")
        total = Total(reduce.dtype)
        body = rewrite(body, lambda expr: total if expr is reduce else None, {})
    return collected(tensor, compute.axes, body, reduce)


def collected(tensor: Tensor, axes: tuple[Axis, ...], body: Expr, reduce: Reduce | None) -> Stage:
    """A stage with the loads and conditions of its expressions."""
    roots = [body, *([reduce.body] if reduce else [])]
    loads: dict[object, Load] = {}
    tests: dict[Index, None] = {}
    for expr in walk(*reversed(roots)):
        if isinstance(expr, Load):
            loads.setdefault(expr.key(), expr)
        elif isinstance(expr, Inside):
            tests.update(dict.fromkeys(expr.tests))
    return Stage(tensor, axes, body, reduce, tuple(loads.values()), tuple(tests))


def inline(body: Expr, kept: Collection[str], known: dict[object, Expr] | None = None) -> Expr:
    """With what is not kept in place of its loads."""
    made = {} if known is None else known  # what is read at one point is one expression

    def leaf(expr: Expr) -> Expr | None:
        if not isinstance(expr, Load) or expr.tensor.compute is None or expr.tensor.name in kept:
            return None
        if expr.key() not in made:
            made[expr.key()] = inline(_moved(expr, expr.tensor.compute), kept, made)
        return made[expr.key()]

    return rewrite(body, leaf, {})


def _moved(load: Load, compute: Compute) -> Expr:
    """The expression behind a load, at the load's indices."""
    axes = {axis.name: index for axis, index in zip(compute.axes, load.indices, strict=True)}

    def leaf(expr: Expr) -> Expr | None:
        if isinstance(expr, Reduce):
            lone = [index.terms for index in load.indices if index.terms]
            if any(len(terms) != 1 for terms in lone) or len({t[0][0] for t in lone}) != len(lone):
                raise InvalidScheduleError(
                    f"schedule: the reduction {load.tensor.name} is read at more than one point",
                    "give it a place of its own among the stages",
                )
            return replace(expr, body=rewrite(expr.body, leaf, {}))
        return at_forms(expr, axes)

    return rewrite(compute.body, leaf, {})
