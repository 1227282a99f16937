"""The loop text that `te.show` prints."""

from tunefarm_compiler import te
from tunefarm_compiler.schedule import Pack, Schedule

BEFORE_AND_AFTER = """\
before:
  for i in 0..10:
    for j in 0..64:
      C[i, j] = max(sum((A[i, k] * B[k, j]) for k in 0..7), 0)
after:
  with k at 0..4:
    pack 64 x 4 of B in panels of 32
    for i in 0..8 by 4:
      for j in 0..64 by 32:
        tile of C: i 4 x j 32 over k 4 by 2, vectors of 16 along j
    with i at 8..10:
      for j in 0..64 by 32:
        tile of C: i 2 x j 32 over k 4 by 2, vectors of 16 along j
  with k at 4..7:
    pack 64 x 3 of B in panels of 32
    for i in 0..8 by 4:
      for j in 0..64 by 32:
        tile of C: i 4 x j 32 over k 3 by 2, vectors of 16 along j
    with i at 8..10:
      for j in 0..64 by 32:
        tile of C: i 2 x j 32 over k 3 by 2, vectors of 16 along j"""


def test_loops_before_and_after_a_schedule():
    a, b, r = te.placeholder("A", (10, 7)), te.placeholder("B", (7, 64)), te.reduce_axis("k", 7)
    axes = (("i", 10), ("j", 64))
    product = te.compute("P", axes, lambda i, j: te.sum_of(a[i, r] * b[r, j], r))
    output = te.compute("C", axes, lambda i, j: te.maximum(product[i, j], 0.0))
    schedule = Schedule((("k", 4), ("i", 4), ("j", 32)), 16, 2, (Pack("B", 1),))
    assert te.show(output, schedule) == BEFORE_AND_AFTER


def test_what_is_used_twice_is_written_once():
    a = te.placeholder("A", (4,))

    def each(i):
        square = a[i] * a[i]
        return square + square

    shown = te.show(te.compute("C", (("i", 4),), each))
    assert "C[i] = (t1 + t1)" in shown
    assert "where t1 = (A[i] * A[i])" in shown
