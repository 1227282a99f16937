"""Workloads: named kernels with sizes, their inputs, and what numpy says the answer is.

A workload is written `matmul:m=512,n=512,k=512`, optionally with `,dtype=float32`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from tunefarm_proto.errors import UnknownWorkloadError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler import te
from tunefarm_compiler.stages import inputs

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
DTYPES = ("float32",)
MAX_EXTENT = 1 << 28
MAX_ELEMENTS = 1 << 30


@dataclass(frozen=True)
class Operator:
    """A kind of workload: its size fields, its expression, its cost, its reference."""

    fields: tuple[str, ...]
    expression: Callable[..., te.Tensor]
    operations: Callable[..., int]
    reference: Callable[[Sequence[Array]], Array]  # on float64 inputs
    terms: Callable[..., int]  # rounded operations behind one output element


def _matmul(m: int, n: int, k: int) -> te.Tensor:
    a, b, r = te.placeholder("A", (m, k)), te.placeholder("B", (k, n)), te.reduce_axis("k", k)
    return te.compute("C", (("i", m), ("j", n)), lambda i, j: te.sum_of(a[i, r] * b[r, j], r))


def _binary(combine: Callable[[te.Expr, te.Expr], te.Expr]) -> Callable[[int], te.Tensor]:
    def expression(n: int) -> te.Tensor:
        a, b = te.placeholder("A", (n,)), te.placeholder("B", (n,))
        return te.compute("C", (("i", n),), lambda i: combine(a[i], b[i]))

    return expression


def _relu(n: int) -> te.Tensor:
    a = te.placeholder("A", (n,))
    return te.compute("C", (("i", n),), lambda i: te.maximum(a[i], te.Constant(0.0)))


def _each(n: int) -> int:
    return n


def _one(n: int) -> int:
    return 1


OPERATORS: Mapping[str, Operator] = {
    "matmul": Operator(
        ("m", "n", "k"),
        _matmul,
        lambda m, n, k: 2 * m * n * k,
        lambda x: x[0] @ x[1],
        lambda m, n, k: k,
    ),
    "add": Operator(("n",), _binary(lambda a, b: a + b), _each, lambda x: x[0] + x[1], _one),
    "mul": Operator(("n",), _binary(lambda a, b: a * b), _each, lambda x: x[0] * x[1], _one),
    "relu": Operator(("n",), _relu, _each, lambda x: np.maximum(x[0], 0), _one),
}


@dataclass(frozen=True)
class Workload:
    """An operator with sizes. `str()` is its canonical form; `function` its kernel's symbol."""

    name: str
    sizes: tuple[tuple[str, int], ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.name}:{','.join(f'{k}={v}' for k, v in self.sizes)},dtype={self.dtype}"

    @property
    def function(self) -> str:
        """Symbol of the kernel."""
        return self.name

    @property
    def _operator(self) -> Operator:
        return OPERATORS[self.name]

    @property
    def output(self) -> te.Tensor:
        """The tensor expression."""
        return self._operator.expression(**dict(self.sizes))

    @property
    def operations(self) -> int:
        """Floating-point operations of one call."""
        return self._operator.operations(**dict(self.sizes))

    def signature(self) -> bpb.FunctionSignature:
        """As a bundle's manifest states it: inputs, then the output."""
        output = self.output
        arguments = [
            bpb.ArgumentSignature(name=t.name, dtype=t.dtype, shape=t.outside, output=t is output)
            for t in (*inputs(output), output)
        ]
        return bpb.FunctionSignature(
            name=self.function, arguments=arguments, operations=self.operations
        )

    def inputs(self, seed: int) -> list[Array]:
        """Standard normal inputs, the same for the same seed."""
        rng = np.random.default_rng(seed)
        return [rng.standard_normal(t.shape, np.float32) for t in inputs(self.output)]

    def reference(self, inputs: Sequence[Array]) -> list[Array]:
        """What numpy computes in float64, rounded to the workload's dtype."""
        exact = self._operator.reference([x.astype(np.float64) for x in inputs])
        return [exact.astype(self.dtype)]

    def check(self, outputs: Sequence[Array], expected: Sequence[Array]) -> bool:
        """Whether the answers agree to rounding.

        Each of the t terms of a sum may add a rounding error of half a unit in the last place of
        the running sum, in any order of summation. For standard normal inputs the running sum
        stays within a few sqrt(t), and errors add up like a random walk, so the bound taken is
        8 x eps x t in absolute terms, and eps relative: a wrong term is of size 1.
        """
        eps = float(np.finfo(self.dtype).eps)
        terms = self._operator.terms(**dict(self.sizes))
        bound = 8 * eps * terms if terms > 1 else eps
        return all(
            got.shape == want.shape and bool(np.allclose(got, want, rtol=eps, atol=bound))
            for got, want in zip(outputs, expected, strict=True)
        )


def parse(text: str) -> Workload:
    """Read a workload. Raises: UnknownWorkloadError, which lists what is known."""
    name, _, rest = text.partition(":")
    operator = OPERATORS.get(name)
    if operator is None:
        known = "; ".join(
            f"{n}:{','.join(f'{f}=N' for f in o.fields)}" for n, o in OPERATORS.items()
        )
        raise UnknownWorkloadError(f"no workload {name!r}", f"known are {known}")
    form = f"write {name}:{','.join(f'{field}=N' for field in operator.fields)}"
    given: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        field, equals, value = part.partition("=")
        if not equals or field not in (*operator.fields, "dtype") or field in given:
            why = "given twice" if field in given else "unknown"
            raise UnknownWorkloadError(f"{name}: field {field!r} is {why}", form)
        given[field] = value
    dtype = given.pop("dtype", "float32")
    if dtype not in DTYPES:
        raise UnknownWorkloadError(f"{name}: no dtype {dtype!r}", f"known are {', '.join(DTYPES)}")
    if missing := [field for field in operator.fields if field not in given]:
        raise UnknownWorkloadError(f"{name}: {', '.join(missing)} not given", form)
    for field, value in given.items():
        if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= MAX_EXTENT:
            raise UnknownWorkloadError(
                f"{name}: {field}={value} is out of range",
                f"give a whole number, 1 to {MAX_EXTENT}",
            )
    made = Workload(name, tuple((f, int(given[f])) for f in operator.fields), dtype)
    for tensor in (*inputs(made.output), made.output):
        if int(np.prod([float(e) for e in tensor.shape])) > MAX_ELEMENTS:
            raise UnknownWorkloadError(
                f"{text}: {tensor.name} has over {MAX_ELEMENTS} elements", "give smaller sizes"
            )
    return made
