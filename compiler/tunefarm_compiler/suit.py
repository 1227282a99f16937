"""An expression in the form that suits a processor; the same numbers come out."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tunefarm_compiler import functions
from tunefarm_compiler.dots import as_pairs, available, unsigned
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Axis, Cast, Compute, Expr, Load, Reduce, Tensor, rewrite


def suited(output: Tensor, spec: TargetSpec) -> Tensor:
    """The expression for which the processor has instructions."""
    made: dict[str, Tensor] = {}

    def tensor(old: Tensor) -> Tensor:
        if old.compute is None:
            return old
        if old.name not in made:
            body = _Rules(spec, old.name, old.compute.axes, tensor).apply(old.compute.body)
            same = body is old.compute.body
            made[old.name] = old if same else replace(old, compute=Compute(old.compute.axes, body))
        return made[old.name]

    return tensor(output)


@dataclass(frozen=True)
class _Rules:
    """What is put in place of an expression in one tensor's body."""

    spec: TargetSpec
    name: str
    axes: tuple[Axis, ...]
    tensor: Callable[[Tensor], Tensor]

    def apply(self, body: Expr) -> Expr:
        """The body by the rules."""
        return rewrite(body, self._leaf, {})

    def _leaf(self, expr: Expr) -> Expr | None:
        match expr:
            case Load(tensor, indices) if self.tensor(tensor) is not tensor:
                return Load(self.tensor(tensor), indices)
            case Reduce() if available(expr, self.spec) and (made := as_pairs(expr, self.apply)):
                return made
            case Reduce() if "avx512vnni" in self.spec.features:
                return unsigned(expr, self.name, self.axes)
            case functions.Function(name="exp", argument=x) if self.spec.gpu and x is not None:
                return functions.exp_by_exp2(self.apply(x))
            case Cast(_, "bfloat16") if "sm_80" in self.spec.features:
                return None
            case Cast(value, "float32") if value.dtype == "bfloat16":
                return functions.from_bfloat(self.apply(value))
            case Cast(value, "bfloat16"):
                return functions.to_bfloat(self.apply(value))
            case Cast(value, to) if not self.spec.halves and to != value.dtype == "float16":
                return functions.from_half(self.apply(value))
            case Cast(value, "float16") if not self.spec.halves:
                return functions.to_half(self.apply(value))
        return None
