"""Operators on each element alone, and moves."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.functions import ACTIVATIONS, exp
from tunefarm_compiler.operators.base import Array, Field, Operator, Values, fields

_erf = np.vectorize(math.erf, otypes=[np.float64])

REFERENCES: Mapping[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x * math.sqrt(0.5))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "exp": np.exp,
}


def _unary(function: Callable[[te.Expr], te.Expr]) -> Callable[[int], te.Tensor]:
    def expression(n: int) -> te.Tensor:
        a = te.placeholder("A", (n,))
        return te.compute("C", (("i", n),), lambda i: function(a[i]))

    return expression


def _binary(combine: Callable[[te.Expr, te.Expr], te.Expr]) -> Callable[[int], te.Tensor]:
    def expression(n: int) -> te.Tensor:
        a, b = te.placeholder("A", (n,)), te.placeholder("B", (n,))
        return te.compute("C", (("i", n),), lambda i: combine(a[i], b[i]))

    return expression


def bias_act(m: int, n: int, act: str = "gelu") -> te.Tensor:
    """act(A + bias): A is (m, n), bias is (n)."""
    a, bias = te.placeholder("A", (m, n)), te.placeholder("bias", (n,))
    return te.compute("C", (("i", m), ("j", n)), lambda i, j: ACTIVATIONS[act](a[i, j] + bias[j]))


def transpose(m: int, n: int, b: int = 1) -> te.Tensor:
    """(b, m, n) to (b, n, m); channels last from channels first is b=n, m=c, n=h*w."""
    a = te.placeholder("A", (b, m, n), view=(b, m, n) if b > 1 else (m, n))
    axes, view = (("b", b), ("i", n), ("j", m)), (b, n, m) if b > 1 else (n, m)
    return te.compute("C", axes, lambda o, i, j: a[o, j, i], view)


def _each(n: int) -> int:
    return n


def _one(**_: object) -> int:
    return 1


def _few(**_: object) -> int:
    return 8


def _of(name: str) -> Callable[..., Array]:
    def reference(x: Values, **_: object) -> Array:
        return REFERENCES[name](x[0])

    return reference


_FUNCTIONS = {**ACTIVATIONS, "exp": exp}
del _FUNCTIONS["none"]

OPERATORS = {
    "add": Operator(
        fields("n"), _binary(lambda a, b: a + b), _each, lambda x, **_: x[0] + x[1], _one
    ),
    "mul": Operator(
        fields("n"), _binary(lambda a, b: a * b), _each, lambda x, **_: x[0] * x[1], _one
    ),
    **{
        name: Operator(
            fields("n"), _unary(function), _each, _of(name), _one if name == "relu" else _few
        )
        for name, function in _FUNCTIONS.items()
    },
    "bias_act": Operator(
        (*fields("m", "n"), Field("act", "gelu", choices=tuple(ACTIVATIONS))),
        bias_act,
        lambda m, n, act: 2 * m * n,
        lambda x, act, **_: REFERENCES[act](x[0] + x[1]),
        _few,
    ),
    "transpose": Operator(
        fields("m", "n", b=1),
        transpose,
        lambda m, n, b: m * n * b,
        lambda x, **_: np.swapaxes(x[0], -1, -2),
        _one,
    ),
}
