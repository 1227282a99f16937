"""Operators: plain Python functions over tensor expressions, with what is needed to check them.

`docs/adding-an-operator.md` adds one.
"""

from collections.abc import Mapping

from tunefarm_compiler.operators import (
    bits,
    blocked,
    contractions,
    convolutions,
    elementwise,
    layouts,
    pooling,
    rows,
)
from tunefarm_compiler.operators.base import Array, Field, Operator, Values

OPERATORS: Mapping[str, Operator] = {
    **contractions.OPERATORS,
    **bits.OPERATORS,
    **convolutions.OPERATORS,
    **blocked.OPERATORS,
    **pooling.OPERATORS,
    **rows.OPERATORS,
    **layouts.OPERATORS,
    **elementwise.OPERATORS,
}

__all__ = ["OPERATORS", "Array", "Field", "Operator", "Values"]
