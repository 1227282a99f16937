"""Windows that slide over rows and columns: their fields, where they read, and how many there are.

`stride` and `dilation` hold for both directions unless `stride_w` and `dilation_w` give those along
the width. `pad` is the padding on top; what the other sides are given none of their own, the bottom
and the left have as much as the top, and the right as much as the left.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tunefarm_compiler import te
from tunefarm_compiler.operators.base import Array, Field, fields

FIELDS = (
    *fields(stride=1, pad=0, dilation=1),
    Field("stride_w", like="stride"),
    Field("dilation_w", like="dilation"),
    Field("pad_bottom", low=0, like="pad"),
    Field("pad_left", low=0, like="pad"),
    Field("pad_right", low=0, like="pad_left"),
)


@dataclass(frozen=True)
class Slide:
    """Windows along one direction, `before` and `after` what it is padded by."""

    size: int
    window: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        """From the first element of a window to its last, both counted."""
        return self.dilation * (self.window - 1) + 1

    @property
    def count(self) -> int:
        """Windows that fit; 0 where none does."""
        room = self.size + self.before + self.after - self.reach
        return room // self.stride + 1 if room >= 0 else 0

    def index(self, at: te.Axis, step: te.Axis) -> te.Index:
        """Where a step of a window lies."""
        return at * self.stride + step * self.dilation - self.before


@dataclass(frozen=True)
class Windows:
    """Windows of (r, s) over (h, w)."""

    rows: Slide
    columns: Slide

    @classmethod
    def of(
        cls, h: int, w: int, r: int, s: int, stride: int, pad: int, dilation: int, stride_w: int,
        dilation_w: int, pad_bottom: int, pad_left: int, pad_right: int, **_: object,
    ) -> "Windows":  # fmt: skip
        """By an operator's fields, of which others are passed over."""
        return cls(
            Slide(h, r, stride, dilation, pad, pad_bottom),
            Slide(w, s, stride_w, dilation_w, pad_left, pad_right),
        )

    @property
    def counts(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        return self.rows.count, self.columns.count

    def read(
        self,
        at: tuple[te.Axis, te.Axis],
        step: tuple[te.Axis, te.Axis],
        load: Callable[[te.Index, te.Index], te.Expr],
        outside: float = 0,
    ) -> te.Expr:
        """What lies at a step of the window at a row and column, or `outside`."""
        row, column = self.rows.index(at[0], step[0]), self.columns.index(at[1], step[1])
        tests = [
            index.within(0, side.size)
            for index, side in ((row, self.rows), (column, self.columns))
            if side.before or side.after
        ]
        value = load(row, column)
        for test in tests[1:]:
            tests[0] &= test
        return te.select(tests[0], value, outside) if tests else value

    def under(self, a: Array, fill: float = 0.0) -> Array:
        """Of (n, h, w, c) the (n, y, x, c, r, s) that lie under windows, in numpy."""
        y, x = self.rows, self.columns
        sides = ((0, 0), (y.before, y.after), (x.before, x.after), (0, 0))
        padded = np.pad(a, sides, constant_values=fill)
        found = np.lib.stride_tricks.sliding_window_view(padded, (y.reach, x.reach), (1, 2))
        return found[:, :: y.stride, :: x.stride, :, :: y.dilation, :: x.dilation]
