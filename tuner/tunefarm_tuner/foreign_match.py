"""Which workload a program of MetaSchedule is: guessed by its shapes, then proved by its form.

A guess may be wrong, and is then dropped: what counts is that our own expression has the same form,
which is what each element of the output is, of which elements of memory.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tunefarm_compiler import te, workload
from tunefarm_compiler.functions import sqrt
from tunefarm_compiler.operators.base import widened
from tunefarm_compiler.operators.rows import EPSILON
from tunefarm_compiler.operators.windows import Slide, Windows
from tunefarm_compiler.stages import inputs
from tunefarm_compiler.te import Index
from tunefarm_proto.errors import UnknownWorkloadError

from tunefarm_tuner import foreign_tir
from tunefarm_tuner.foreign_forms import (
    Form,
    Space,
    call,
    canonical,
    const,
    many,
    of_expression,
)
from tunefarm_tuner.foreign_graph import Graph
from tunefarm_tuner.foreign_reader import Reader
from tunefarm_tuner.foreign_tir import Budget, Program

BAD = (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError, ArithmeticError)
HALF = math.sqrt(0.5)
Shape = tuple[int, ...]
Reads = list[tuple[Index | None, ...]]
MOST_INPUTS = 3
MOST_STEPS = 1_000_000
MOST_WORDS = 8


def _gelu(x: Form) -> Form:
    bell = call("erf", many("mul", x, const(HALF)))
    return many("mul", x, const(0.5), many("add", const(1), bell))


def _gelu_halved(x: Form) -> Form:
    half = many("mul", const(0.5), call("erf", many("mul", x, const(HALF))))
    return many("mul", x, many("add", const(0.5), half))


# As programs write them; our own expressions have polynomials in their place.
ACTIVATIONS: list[tuple[str, Callable[[Form], Form]]] = [
    ("none", lambda x: x),
    ("relu", lambda x: many("max", x, const(0))),
    ("sigmoid", lambda x: call("sigmoid", x)),
    ("tanh", lambda x: call("tanh", x)),
    ("gelu", _gelu),
    ("gelu", _gelu_halved),
]


def workload_of(module: Any) -> str:
    """Ours for a line's module, as `database_workload.json` has it; "" where it is surely none."""
    try:
        return of_program(foreign_tir.read(Graph.of_base64(module)))
    except BAD:
        return ""


def words_of(module: Any) -> str:
    """What TVM called the blocks of one, as in "PadInput conv3d_ndhwc"; "" where it is none."""
    try:
        names = [name for name in Graph.of_base64(module).hints("Block") if name != "root"]
        return " ".join(names[:MOST_WORDS])
    except BAD:
        return ""


def of_program(program: Program) -> str:
    """Ours, where its arguments may stand in another order. Raises: as `foreign_tir.read`."""
    out = program.buffers[program.output].shape
    space = Space({f"o{at}": extent for at, extent in enumerate(out)})
    reader = Reader(program, space, whole=True)
    reader.output([Index(((f"o{at}", 1),)) for at in range(len(out))])
    if len(program.inputs) > MOST_INPUTS:
        return ""
    for order in itertools.permutations(range(len(program.inputs))):
        turned = replace(program, inputs=tuple(program.inputs[at] for at in order))
        reads = [indices for number, indices in reader.loads if number == order[0]]
        if found := _found(turned, reads, space.extents):
            return found
    return ""


def _found(program: Program, reads: Reads, extents: dict[str, int]) -> str:
    shapes = [program.buffers[one].shape for one in program.inputs]
    dtype = program.buffers[program.inputs[0]].dtype
    for text in _guesses(shapes, program.buffers[program.output].shape, reads, extents):
        try:
            if found := _proved(program, workload.parse(f"{text},dtype={dtype}")):
                return found
        except (UnknownWorkloadError, ValueError):  # it is none, or its axes fit in no way
            continue
    return ""


def _proved(program: Program, made: workload.Workload) -> str:
    """The workload, with the activation that it has after all; "" where it is not the same."""
    given = inputs(made.output)
    held = [program.buffers[one] for one in program.inputs]
    ours = [(math.prod(one.shape), one.dtype) for one in given]
    out = program.buffers[program.output]
    if ours != [(one.size, one.dtype) for one in held]:
        return ""
    if (math.prod(made.output.shape), made.output.dtype) != (out.size, out.dtype):
        return ""
    theirs_at, ours_at, extents = _refined(out.shape, made.output.shape)
    reader = Reader(program, Space(extents))
    theirs = canonical(reader.output(theirs_at), program.budget)
    if not reader.dtypes <= _allowed(made.dtype):
        return ""
    if made.name in dict(ACTIVATIONS):
        whole = ("load", 0, ours_at[0])
        return str(made) if theirs in _activated(made.name, whole, program.budget) else ""
    plain = of_expression(made.output, given, Space(extents), ours_at)
    if made.name == "max_pool2d" and made.dtype != "int8" and not _all_read(made):
        return ""
    if "act" not in dict(made.sizes):
        spellings = [plain]
        if made.name == "layer_norm":
            once = _layer_norm_in_one_pass(made.output, given)
            spellings.append(of_expression(once, given, Space(extents), ours_at))
        found = any(canonical(one, program.budget) == theirs for one in spellings)
        return str(made) if found else ""
    for act, _ in ACTIVATIONS:
        if theirs in _activated(act, plain, program.budget):
            others = [f"{name}={value}" for name, value in made.given.items() if name != "act"]
            text = f"{made.name}:{','.join(others)},act={act},dtype={made.dtype}"
            return str(workload.parse(text))
    return ""


def _layer_norm_in_one_pass(output: te.Tensor, given: list[te.Tensor]) -> te.Tensor:
    """As TVM until 0.20 has it: the variance is the mean of squares less the mean's square."""
    (a, gamma, beta), (m, n) = given, output.shape

    def mean(name: str, of: Callable[[te.Expr], te.Expr]) -> te.Tensor:
        r = te.reduce_axis("r", n)
        return te.compute(name, (("i", m),), lambda i: te.sum_of(of(widened(a[i, r])), r) * (1 / n))

    level, squares = mean("mean", lambda x: x), mean("squares", lambda x: x * x)

    def each(i: te.Axis, j: te.Axis) -> te.Expr:
        spread = 1.0 / sqrt(squares[i] - level[i] * level[i] + EPSILON)
        return (widened(a[i, j]) - level[i]) * spread * widened(gamma[j]) + widened(beta[j])

    return te.compute("C", (("i", m), ("j", n)), each)


def _all_read(made: workload.Workload) -> bool:
    """Whether each window has something of its input in it: the largest of nothing is of floats
    -infinity to us, and the least number to them."""
    under = Windows.of(**dict(made.sizes))  # type: ignore[arg-type]  # those of windows are numbers
    return _reads(under.rows) and _reads(under.columns)


def _reads(side: Slide) -> bool:
    if not side.before and not side.after:
        return True
    starts = range(-side.before, side.count * side.stride - side.before, side.stride)
    steps = [step * side.dilation for step in range(side.window)]
    return len(starts) * len(steps) <= MOST_STEPS and all(
        any(0 <= start + step < side.size for step in steps) for start in starts
    )


def _activated(act: str, plain: Form, budget: Budget) -> list[Form]:
    return [canonical(applied(plain), budget) for name, applied in ACTIVATIONS if name == act]


def _allowed(dtype: str) -> set[str]:
    """Types that values may have on the way: halves are summed in either, as ours in float32."""
    return {dtype, "float32"} if dtype in te.FLOATS else {dtype, "int32"}


def _refined(one: Shape, other: Shape) -> tuple[list[Index], list[Index], dict[str, int]]:
    """Axes that both shapes of the same elements are made of: each shape's indices by them."""
    steps = sorted({*_steps(one), *_steps(other), math.prod(one)})
    extents = dict[str, int]()
    for low, high in itertools.pairwise(steps):
        if high % low:
            raise ValueError("axes that do not fit into each other")
        extents[f"a{low}"] = high // low

    def indices(shape: Shape) -> list[Index]:
        found = []
        for extent, step in zip(shape, _steps(shape), strict=True):
            inside = [at for at in steps if step <= at < step * extent]
            found.append(sum((Index(((f"a{at}", at // step),)) for at in inside), Index()))
        return found

    return indices(one), indices(other), extents


def _steps(shape: Shape) -> list[int]:
    return [math.prod(shape[at + 1 :]) for at in range(len(shape))]


def _guesses(
    shapes: list[Shape], out: Shape, reads: Reads, extents: dict[str, int]
) -> Iterator[str]:
    """What it may be, by its shapes and by how its first input is read."""
    ranks, sums = [len(one) for one in shapes], any(axis[0] != "o" for axis in extents)
    if sums and [*ranks[:2], len(out)] in ([4, 4, 4], [5, 6, 5]):
        yield from _convolutions(shapes, out, reads)
    if sums and [*ranks, len(out)] == [4, 4]:
        yield from _pools(shapes[0], out, reads, extents)
    if sums and len(shapes) in (2, 3):
        yield from _products(shapes, out, extents)
    if len(shapes) == 1 and sums:
        yield from _reductions(shapes[0], out)
    elif len(shapes) == 1:
        yield from _moves(shapes[0])
    elif len(shapes) == 2:
        size, n = math.prod(shapes[0]), math.prod(shapes[1])
        yield from (f"{name}:n={size}" for name in ("add", "mul"))
        yield f"bias_act:m={size // n},n={n},act=none"
    elif len(shapes) == 3:
        n = math.prod(shapes[1])
        yield f"layer_norm:m={math.prod(shapes[0]) // n},n={n}"


def _convolutions(shapes: list[Shape], out: Shape, reads: Reads) -> Iterator[str]:
    image, weight, bias = shapes[0], shapes[1], len(shapes) - 2
    if len(image) == 5:
        (n, blocks, h, w, block), (k, _, r, s) = image, weight[:4]
        window = _window(reads, (2, 3), image, out, (r, s))
        sizes = f"c={blocks * block},h={h},w={w},k={k * weight[5]},r={r},s={s},n={n}"
        yield f"conv2d_nchwc:{sizes},block={block},{window},bias={bias}"
        return
    n, h, w, c = image
    r, s, inner, k = weight
    sizes = f"h={h},w={w},r={r},s={s},n={n},{_window(reads, (1, 2), image, out, (r, s))}"
    if r == 1 and k == c:  # weights (1, r, s, c)
        window = _window(reads, (1, 2), image, out, (s, inner))
        yield f"depthwise_conv2d:c={c},h={h},w={w},r={s},s={inner},n={n},{window},bias={bias}"
    if inner in (1, c) and c > 1 and out[3] % c == 0:
        yield f"depthwise_conv2d:c={c},{sizes},multiplier={out[3] // c},bias={bias}"
    if inner and c % inner == 0:
        yield f"conv2d:c={c},k={out[3]},{sizes},groups={c // inner},bias={bias}"
    n, c, h, w = image
    k, inner, r, s = weight
    sizes = f"h={h},w={w},r={r},s={s},n={n},{_window(reads, (2, 3), image, out, (r, s))}"
    for groups in dict.fromkeys((c // inner, c)):
        yield f"conv2d:c={c},k={out[1]},{sizes},groups={groups},bias={bias},layout=nchw"


def _pools(image: Shape, out: Shape, reads: Reads, extents: dict[str, int]) -> Iterator[str]:
    for (rows, columns), n, c in (
        ((1, 2), image[0], image[3]),
        ((2, 3), image[0] * image[1], 1),  # channels first are so many images of one channel
    ):
        sides = [_window_axis(reads, at, extents) for at in (rows, columns)]
        window = _window(reads, (rows, columns), image, out, (sides[0], sides[1]))
        sizes = f"c={c},h={image[rows]},w={image[columns]},r={sides[0]},s={sides[1]},n={n},{window}"
        yield f"max_pool2d:{sizes}"
        yield f"avg_pool2d:{sizes}"


def _window_axis(reads: Reads, at: int, extents: dict[str, int]) -> int:
    """The size of a window: of the axis of a reduction that this index goes along."""
    for indices in reads:
        for axis, _ in getattr(indices[at], "terms", ()):
            if not axis.startswith("o"):
                return extents[axis]
    return 1


def _window(
    reads: Reads, places: tuple[int, int], image: Shape, out: Shape, sizes: tuple[int, int]
) -> str:
    """Strides, dilations and padding, by the indices of rows and columns."""
    found = []
    for at, window in zip(places, sizes, strict=True):
        index = next((one[at] for one in reads if one[at] is not None), None) or Index()
        terms = dict(index.terms)
        stride = terms.get(f"o{at}", 1)
        steps = [step for axis, step in terms.items() if not axis.startswith("o")]
        dilation, before = (steps or [1])[0], -index.offset
        reach = dilation * (window - 1) + 1
        room = image[at] + before - reach
        if out[at] == 1:  # any that leaves room for no more
            stride = max(stride, room + 1) if room > 0 else 1
        least = max(0, (out[at] - 1) * stride - room)
        even = (room + before) // stride + 1 == out[at] and before >= 0
        found.append((stride, dilation, before, before if even else least))
    (stride, dilation, top, bottom), (stride_w, dilation_w, left, right) = found
    return (
        f"stride={stride},stride_w={stride_w},dilation={dilation},dilation_w={dilation_w},"
        f"pad={top},pad_bottom={bottom},pad_left={left},pad_right={right}"
    )


def _products(shapes: list[Shape], out: Shape, extents: dict[str, int]) -> Iterator[str]:
    one, two, *rest = shapes
    size, left, right = math.prod(out), math.prod(one), math.prod(two)
    for k in dict.fromkeys(extent for axis, extent in extents.items() if axis[0] != "o"):
        for b in dict.fromkeys((1, math.prod(two[:-2]))):
            m, n = left // (b * k), right // (b * k)
            if (b * m * k, b * n * k, b * m * n) != (left, right, size):
                continue
            sizes = f"m={m},n={n},k={k}"
            if len(two) == 1 and not rest:
                yield f"gemv:m={m},n={k}"
            for ta, tb in ((0, 0), (0, 1), (1, 0), (1, 1)) if not rest else ():
                yield f"matmul:{sizes},b={b},ta={ta},tb={tb}"
            yield f"dense:{sizes},bias={len(rest)}"


def _reductions(shape: Shape, out: Shape) -> Iterator[str]:
    size, kept = math.prod(shape), math.prod(out)
    if shape == out:
        yield f"softmax:m={size // shape[-1]},n={shape[-1]}"
    for name in ("sum", "mean", "max", "min"):
        yield f"{name}:m={kept},n={size // kept}"
        yield f"{name}:m={size // kept},n={kept},axis=0"


def _moves(shape: Shape) -> Iterator[str]:
    size = math.prod(shape)
    yield from (f"{name}:n={size}" for name in ("relu", "sigmoid", "tanh", "gelu", "exp"))
    for first, last in itertools.combinations(range(len(shape) + 1), 2):
        b, m, n = (math.prod(part) for part in (shape[:first], shape[first:last], shape[last:]))
        if min(m, n) > 1:
            yield f"transpose:b={b},m={m},n={n}"
