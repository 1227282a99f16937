"""Workloads: named kernels with sizes, their inputs, and what numpy says the answer is.

A workload is written `matmul:m=512,n=512,k=512`, optionally with `,dtype=float32`. That of a user's
own operator gets a last field, `source`: which expression the name stood for when it was parsed, so
that nothing that was built, measured or tuned before an edit is taken for what is there now.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import ml_dtypes  # noqa: F401 (numpy knows bfloat16 by it)
import numpy as np
from tunefarm_proto.errors import InvalidRequestError, OperatorInvalidError, UnknownWorkloadError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler import registry, te
from tunefarm_compiler.identity import identity
from tunefarm_compiler.operators import OPERATORS, Array, Field, Operator
from tunefarm_compiler.sound import check
from tunefarm_compiler.stages import inputs

MAX_ELEMENTS = 1 << 30
_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Workload:
    """An operator with sizes. `str()` is its canonical form; `function` its kernel's symbol."""

    name: str
    sizes: tuple[tuple[str, int | str], ...]  # every field of the operator, in its order
    dtype: str = "float32"
    source: str = ""  # the expression's identity, of a user's own operator
    own: Operator | None = field(default=None, compare=False, repr=False)  # that operator

    def __str__(self) -> str:
        written = [f"{name}={value}" for name, value in self.given.items()]
        more = [f"source={self.source}"] if self.source else []
        return f"{self.name}:{','.join([*written, f'dtype={self.dtype}', *more])}"

    def __reduce__(self) -> tuple[object, ...]:  # without the expression, made again when needed
        if self.own is not None:
            return parse, (str(self), self.files)
        return Workload, (self.name, self.sizes, self.dtype)

    @property
    def files(self) -> tuple[str, ...]:
        """Where its operator is defined, if that is in a user's file."""
        return (self.own.file,) if self.own is not None and self.own.file else ()

    @property
    def function(self) -> str:
        """Symbol of the kernel."""
        return self.name

    @property
    def given(self) -> dict[str, int | str]:
        """Fields whose values are not those they have where none is given."""
        every = dict(self.sizes)
        others = {
            field.name: every[field.like] if field.like else field.default
            for field in self._operator.fields
        }
        return {name: value for name, value in self.sizes if value != others[name]}

    @property
    def _operator(self) -> Operator:
        return self.own or OPERATORS[self.name]

    def _ask(self, function: Callable[..., Any], *given: object) -> Any:
        """What one of the operator's functions says. Raises: OperatorInvalidError."""
        if self.own is None:
            return function(*given, **self._fields)
        with registry.blamed(self.own.file or self.name):
            return function(*given, **self._fields)

    @property
    def _fields(self) -> dict[str, Any]:
        return dict(self.sizes)

    @cached_property
    def output(self) -> te.Tensor:
        """The tensor expression."""
        if self.own is None:
            return self._operator.express(self.dtype, **self._fields)
        with registry.blamed(self.own.file or self.name, ValueError):  # sizes that do not fit
            made: object = self.own.express(self.dtype, **self._fields)
            if not isinstance(made, te.Tensor) or made.compute is None:
                raise TypeError(f"{self.name} returns no computed tensor but {made!r}")
            return made

    @property
    def operations(self) -> int:
        """Floating-point operations of one call."""
        return int(self._ask(self._operator.operations))

    def signature(self, name: str = "") -> bpb.FunctionSignature:
        """As a bundle's manifest states it: inputs, then the output. `name` is another symbol."""
        output = self.output
        arguments = [
            bpb.ArgumentSignature(name=t.name, dtype=t.dtype, shape=t.outside, output=t is output)
            for t in (*inputs(output), output)
        ]
        return bpb.FunctionSignature(
            name=name or self.function,
            arguments=arguments,
            operations=self.operations,
            workload=str(self),
        )

    def inputs(self, seed: int) -> list[Array]:
        """Inputs, the same for the same seed: standard normal, or any of the 8-bit integers."""
        rng = np.random.default_rng(seed)

        def array(shape: tuple[int, ...], dtype: str) -> Array:
            if np.dtype(dtype).kind in "iu":
                low, high = (0, 1 << 32) if dtype == "uint32" else (-128, 128)
                return rng.integers(low, high, shape, dtype)
            return rng.standard_normal(shape, np.float32).astype(dtype)

        return [array(t.outside, t.dtype) for t in inputs(self.output)]

    def reference(self, inputs: Sequence[Array]) -> list[Array]:
        """What numpy computes in float64, rounded to the output's dtype."""
        wide = [x.astype(np.float64) for x in inputs]
        exact = np.asarray(self._ask(self._operator.reference, wide))
        if self.own is not None and exact.shape != self.output.outside:
            raise OperatorInvalidError(
                f"{self.own.file or self.name}: the reference of {self.name} gives {exact.shape}, "
                f"its expression {self.output.outside}",
                "they must agree",
            )
        dtype = np.dtype(self.output.dtype)
        if dtype.kind in "iu":  # the largest of nothing is the least number
            exact = np.clip(exact, np.iinfo(dtype).min, np.iinfo(dtype).max)
        return [np.ascontiguousarray(exact.astype(dtype))]

    def check(self, outputs: Sequence[Array], expected: Sequence[Array]) -> bool:
        """Whether the answers agree to rounding.

        Each of the t terms of a sum may add a rounding error of half a unit in the last place of
        the running sum, in any order of summation. For standard normal inputs the running sum
        stays within a few sqrt(t), and errors add up like a random walk, so the bound taken is
        8 x eps x t in absolute terms, and eps relative: a wrong term is of size 1. Sums are taken
        in float32 at least, so eps is that of float32, but for the last rounding. Integers, and
        what is moved or chosen without any rounding (0 terms), agree.
        """
        eps = float(np.finfo(np.float32).eps)
        terms = int(self._ask(self._operator.terms))
        bound = 8 * eps * terms if terms > 1 else eps
        relative = eps if terms == 1 else 8 * eps
        relative = _EPS.get(self.output.dtype, relative)
        if terms == 0 or np.dtype(self.output.dtype).kind in "iu":
            relative = bound = 0.0
        wide = np.float64
        return all(
            got.shape == want.shape
            and bool(np.allclose(got.astype(wide), want.astype(wide), rtol=relative, atol=bound))
            for got, want in zip(outputs, expected, strict=True)
        )


def parse(text: str, files: Sequence[str] | None = None) -> Workload:
    """Read a workload. Users' own operators are those of `files`, else of `registry.files()`.

    Raises: UnknownWorkloadError, which lists what is known, OperatorInvalidError.
    """
    if isinstance(text, te.Tensor):
        raise unnamed(text)
    name, _, rest = text.partition(":")
    operator = registry.find(name, files)
    if operator is None:
        named = f"a user's own: name its file by --operators or {registry.VARIABLE}"
        hint = named if "source=" in rest else _nearest(name, files)
        raise UnknownWorkloadError(f"no workload {name[:60]!r}", hint)
    if name in OPERATORS:
        return _parse(text, operator)
    rest, _, source = rest.partition("source=")
    made = _parse(f"{name}:{rest.rstrip(',')}", operator)
    if source not in ("", made.source):
        raise UnknownWorkloadError(
            f"{text}: in {operator.file or 'its package'} it is source={made.source}",
            "it was edited since, or gives another expression each time",
        )
    return made


def unnamed(output: te.Tensor) -> InvalidRequestError:
    """What an expression gets where a workload's text has to reach other processes."""
    return InvalidRequestError(
        f"{output.name} is an expression, which only tunefarm_compiler.build takes",
        "make an operator of it, in a file: docs/adding-an-operator.md",
    )


def of_expression(output: te.Tensor, name: str = "") -> Workload:
    """An expression as a workload that no other process knows, with neither reference nor count.

    Raises: InvalidRequestError.
    """
    check(output)
    operator = Operator((), lambda: output, lambda: 0, lambda *_: None, lambda: 0)  # type: ignore[arg-type]
    return Workload(name or output.name, (), output.dtype, identity(output), operator)


@lru_cache(maxsize=256)
def _parse(text: str, operator: Operator) -> Workload:
    name, _, rest = text.partition(":")
    hint = f"write {name}:{_form(operator, True)}"
    known_fields = {field.name: field for field in operator.fields}
    given: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        field, equals, value = part.partition("=")
        if not equals or field not in (*known_fields, "dtype") or field in given:
            why = "given twice" if field in given else "unknown"
            raise UnknownWorkloadError(f"{name}: field {field!r} is {why}", hint)
        given[field] = value
    dtype = given.pop("dtype", operator.dtypes[0])
    if dtype not in operator.dtypes:
        known = ", ".join(operator.dtypes)
        raise UnknownWorkloadError(f"{name}: no dtype {dtype!r}", f"known are {known}")
    needed = [field.name for field in operator.fields if field.needed]
    if missing := [field for field in needed if field not in given]:
        raise UnknownWorkloadError(f"{name}: {', '.join(missing)} not given", hint)
    values = dict[str, int | str]()
    for one in operator.fields:
        like = one.like if one.name not in given else ""
        values[one.name] = values[like] if like else _value(name, one, given.get(one.name))
    sizes = tuple(values.items())
    if name in OPERATORS:
        return _checked(text, Workload(name, sizes, dtype))
    first = _checked(text, Workload(name, sizes, dtype, own=operator))
    made = replace(first, source=identity(first.output, first.operations))
    if identity(made.output, made.operations) != made.source:
        raise OperatorInvalidError(
            f"{operator.file or name}: {name} gives another expression each time",
            "make it of its arguments alone",
        )
    made._ask(operator.terms)  # what is wrong with it is said now
    return made


def _nearest(name: str, files: Sequence[str] | None) -> str:
    """How those most like it are written; where there are none, what all are called."""
    known = registry.every(files)
    close = difflib.get_close_matches(name, known, 3, 0.6)
    close = close or [one for one in known if len(name) > 2 and (name in one or one in name)]
    if close:
        forms = " or ".join(f"{one}:{_form(known[one], False)}" for one in close[:3])
        return f"did you mean {forms}?"
    return f"known are {', '.join(known)}; matmul:{_form(OPERATORS['matmul'], False)}, say"


def _form(operator: Operator, whole: bool) -> str:
    """How an operator is written: what must be given, then what may be."""
    needed = [field.form for field in operator.fields if field.needed]
    more = [f"[,{field.form}]" for field in operator.fields if not field.needed]
    return ",".join(needed) + ("".join(more) if whole else "")


def _value(name: str, field: Field, text: str | None) -> int | str:
    if text is None:
        return field.default if field.default is not None else 0
    if field.choices:
        if text not in field.choices:
            raise UnknownWorkloadError(
                f"{name}: {field.name}={text} is none of its choices",
                f"known are {', '.join(field.choices)}",
            )
        return text
    if (
        not text.isascii()
        or not text.isdecimal()
        or len(text) > 12
        or not field.low <= int(text) <= field.high
    ):
        raise UnknownWorkloadError(
            f"{name}: {field.name}={text} is out of range",
            f"give a whole number, {field.low} to {field.high}",
        )
    return int(text)


def _checked(text: str, made: Workload) -> Workload:
    try:
        output = made.output
    except ValueError as error:
        raise UnknownWorkloadError(f"{text}: {error}", "give fields that fit together") from None
    if 0 not in output.shape:  # said below
        check(output)
    for tensor in (*inputs(output), output):
        elements = int(np.prod([float(extent) for extent in tensor.shape]))
        if elements > MAX_ELEMENTS:
            raise UnknownWorkloadError(
                f"{text}: {tensor.name} has over {MAX_ELEMENTS} elements", "give smaller sizes"
            )
        if elements == 0:
            raise UnknownWorkloadError(
                f"{text}: {tensor.name} has no elements", "give a window that fits its input"
            )
    return made


def distance(one: Workload, other: Workload) -> float:
    """How unlike two workloads are: factors between their sizes, in powers of two."""
    if one.name != other.name:
        return 64.0
    total = 0.0 if one.dtype == other.dtype else 4.0
    said = one.given.keys() | other.given.keys()  # what follows from others counts once
    for (name, mine), (_, theirs) in zip(one.sizes, other.sizes, strict=True):
        if name not in said:
            continue
        if isinstance(mine, int) and isinstance(theirs, int):
            total += abs(math.log2((mine + 1) / (theirs + 1)))
        else:
            total += 0.0 if mine == theirs else 1.0
    return total
