"""Operators on each element alone."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.functions import ACTIVATIONS, exp
from tunefarm_compiler.operators.base import (
    EVERY,
    Array,
    Field,
    Operator,
    Values,
    fields,
    rounded,
    widened,
)

_erf = np.vectorize(math.erf, otypes=[np.float64])

REFERENCES: Mapping[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x * math.sqrt(0.5))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "exp": np.exp,
}


def _each(count: int, apply: Callable[..., te.Expr]) -> Callable[[str, int], te.Tensor]:
    """The expression of a function of `count` inputs."""

    def expression(dtype: str, n: int) -> te.Tensor:
        given = [te.placeholder(name, (n,), dtype) for name in "AB"[:count]]

        def at(i: te.Axis) -> te.Expr:
            return rounded(apply(*(widened(tensor[i]) for tensor in given)), dtype)

        return te.compute("C", (("i", n),), at)

    return expression


def bias_act(dtype: str, m: int, n: int, act: str = "gelu") -> te.Tensor:
    """act(A + bias): A is (m, n), bias is (n)."""
    a, bias = te.placeholder("A", (m, n), dtype), te.placeholder("bias", (n,), dtype)

    def each(i: te.Axis, j: te.Axis) -> te.Expr:
        return rounded(ACTIVATIONS[act](widened(a[i, j]) + widened(bias[j])), dtype)

    return te.compute("C", (("i", m), ("j", n)), each)


def _unary(name: str, function: Callable[[te.Expr], te.Expr]) -> Operator:
    def reference(x: Values, **_: object) -> Array:
        return REFERENCES[name](x[0])

    exact = name == "relu"
    return Operator(
        fields("n"),
        _each(1, function),
        lambda n: n,
        reference,
        lambda **_: 0 if exact else 8,
        EVERY if exact else te.FLOATS,
    )


def _binary(combine: Callable[..., te.Expr], reference: Callable[..., Array]) -> Operator:
    return Operator(
        fields("n"),
        _each(2, combine),
        lambda n: n,
        lambda x, **_: reference(*x),
        lambda **_: 1,
        te.FLOATS,
    )


OPERATORS = {
    "add": _binary(lambda a, b: a + b, np.add),
    "mul": _binary(lambda a, b: a * b, np.multiply),
    **{
        name: _unary(name, function)
        for name, function in {**ACTIVATIONS, "exp": exp}.items()
        if name != "none"
    },
    "bias_act": Operator(
        (*fields("m", "n"), Field("act", "gelu", choices=tuple(ACTIVATIONS))),
        bias_act,
        lambda m, n, act: 2 * m * n,
        lambda x, act, **_: REFERENCES[act](x[0] + x[1]),
        lambda **_: 8,
        te.FLOATS,
    ),
}
