"""Expressions that no operator is: their default schedules on GPUs give numpy's answers."""

import gpu_kernels as kernels
import numpy as np
import pytest
from tunefarm_compiler import defaults, targets, te
from tunefarm_compiler.codegen import assembly, module_text
from tunefarm_compiler.functions import exp, sqrt
from tunefarm_compiler.gpu import compile_function
from tunefarm_compiler.stages import inputs

M, N = 70, 300
A = te.placeholder("A", (M, N))
R, Q = te.reduce_axis("r", M), te.reduce_axis("q", N)
BOTH = (("i", M), ("j", N))


def the_sum_of_all():
    return te.compute("C", (), lambda: te.sum_of(A[R, Q], R, Q))


def softmax_of_columns():
    again = te.reduce_axis("s", M)
    most = te.compute("most", (("j", N),), lambda j: te.max_of(A[R, j], R))
    total = te.compute("total", (("j", N),), lambda j: te.sum_of(exp(A[again, j] - most[j]), again))
    return te.compute("C", BOTH, lambda i, j: exp(A[i, j] - most[j]) / total[j])


def sums_of_neighbours():
    def padded(tensor, i, j):
        return te.select(i.within(0, M) & j.within(0, N), tensor[i, j], 0.0)

    def across(i, j):
        return padded(A, i, j - 1) + padded(A, i, j) + padded(A, i, j + 1)

    rows = te.compute("rows", BOTH, across)
    return te.compute(
        "C", BOTH, lambda i, j: padded(rows, i - 1, j) + padded(rows, i, j) + padded(rows, i + 1, j)
    )


def divided_by_the_norm():
    total = te.compute("total", (), lambda: te.sum_of(A[R, Q] * A[R, Q], R, Q))
    return te.compute("C", BOTH, lambda i, j: A[i, j] / sqrt(total[()]))


def axes_turned_around():
    t = te.placeholder("T", (5, 6, 7, 8))
    axes = (("a", 8), ("b", 6), ("c", 5), ("d", 7))
    return te.compute("C", axes, lambda a, b, c, d: t[c, b, d, a])


def _neighbours(a):
    for axis in (1, 0):
        a = sum(np.roll(np.pad(a, 1), step, axis) for step in (-1, 0, 1))[1:-1, 1:-1]
    return a


def _softmax(a):
    powers = np.exp(a - a.max(0))
    return powers / powers.sum(0)


@pytest.mark.parametrize(
    ("expression", "reference", "launches"),
    [
        (the_sum_of_all, np.sum, 1),
        (softmax_of_columns, _softmax, 3),
        (sums_of_neighbours, _neighbours, 1),
        (divided_by_the_norm, lambda a: a / np.sqrt((a * a).sum()), 2),
        (axes_turned_around, lambda t: t.transpose(3, 1, 0, 2), 1),
    ],
)
def test_any_expression_by_its_default_schedule(expression, reference, launches):
    output, spec = expression(), targets.resolve("sm_80")
    code = compile_function("f", output, defaults.default(output, spec), spec)
    assert len(code.launches) == launches
    module = kernels.ptx.Module(assembly(module_text(code.llvm_text, spec), spec))
    rng = np.random.default_rng(1)
    given = [rng.standard_normal(one.shape).astype(np.float32) for one in inputs(output)]
    want = np.asarray(reference(*(one.astype(np.float64) for one in given)), np.float32)
    got = kernels.run(module, code, given, np.ascontiguousarray(want))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
