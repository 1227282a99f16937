"""A function of TVM's TIR as MetaSchedule keeps it before scheduling: stages that fill buffers.

Each stage is a nest of plain loops around one block that writes each element of one buffer once, or
sums (or takes the largest or least) into it. Whatever is not exactly so is refused.
"""

import math
from dataclasses import dataclass, field

from tunefarm_compiler.te import Index

from tunefarm_tuner.foreign_graph import Graph

COMBINERS = {"Add": "add", "Max": "max", "Min": "min"}
LARGEST = 3.4028234663852886e38
LOWEST = {"float32": -LARGEST, "float16": -65504.0, "bfloat16": -LARGEST}  # as TVM has them
SPATIAL, REDUCE = "0", "2"  # iter_type
STEPS = 30_000  # of one module; one of a network takes a few hundred
AXES = 16  # of a buffer; and twice as many loops


class Budget:
    """Steps that are left: what names itself, or one thing very often, would never end."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self) -> None:
        """One step. Raises: ValueError where none is left."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("too long")


@dataclass(frozen=True)
class Buffer:
    """Contiguous, in C order."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def steps(self) -> tuple[int, ...]:
        """Elements from one index of each dimension to the next."""
        return tuple(math.prod(self.shape[at + 1 :]) for at in range(len(self.shape)))

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Stage:
    """`value` at `axes`, one variable for each dimension (None where it is of 1), by `op` over
    `reduced`, which are variables and extents; "" where nothing is reduced. It reads stages of
    lower numbers; those of one block have the same."""

    number: int
    axes: tuple[int | None, ...]
    reduced: tuple[tuple[int, int], ...]
    op: str
    value: int


@dataclass
class Program:
    """Buffers by node; `inputs` in the order of the arguments."""

    graph: Graph
    buffers: dict[int, Buffer] = field(default_factory=dict)
    stages: dict[int, Stage] = field(default_factory=dict)
    inputs: tuple[int, ...] = ()
    output: int = 0
    budget: Budget = field(default_factory=lambda: Budget(STEPS))


def read(graph: Graph) -> Program:
    """The one function of a module. Raises: ValueError, KeyError for what is no such program."""
    made = Program(graph)
    functions = graph.items(graph.field(graph.expect(graph.root, "IRModule"), "functions"))
    if len(functions) != 2:  # a name and a function
        raise ValueError("not one function")
    function = graph.expect(functions[1], "PrimFunc")
    named: dict[int, int] = {}
    if graph.has(function, "buffer_map"):
        pairs = graph.items(graph.field(function, "buffer_map"))
        named = dict(zip(pairs[::2], pairs[1::2], strict=True))
    arguments = [named.get(one, one) for one in graph.items(graph.field(function, "params"))]
    for one in arguments:
        made.buffers[one] = _buffer(graph, one)
    body = graph.field(function, "body")
    if graph.kind(body) == "BlockRealize":
        body = _root(made, body)
    for statement in _statements(graph, body):
        _stage(made, statement)
    outputs = [one for one in arguments if one in made.stages]
    if len(outputs) != 1 or len(set(arguments)) != len(arguments):
        raise ValueError("not one output")
    held = [graph.field(one, "data") for one in made.buffers if graph.kind(one) == "Buffer"]
    if len(set(held)) != len(held):
        raise ValueError("two buffers of one memory")
    made.output = outputs[0]
    made.inputs = tuple(one for one in arguments if one not in made.stages)
    return made


def same_place(graph: Graph, one: int, other: int) -> bool:
    """Whether two lists of indices are variables, the same ones."""
    left, right = graph.items(one), graph.items(other)
    return len(left) == len(right) and all(
        a == b or (graph.kind(a) == graph.kind(b) == "IntImm" and graph.whole(a) == graph.whole(b))
        for a, b in zip(left, right, strict=True)
    )


def _buffer(graph: Graph, at: int) -> Buffer:
    """A buffer: a node of its own, or the type of a variable."""
    if graph.kind(at) == "Var":
        at = graph.field(at, "ty")
    graph.expect(at, "Buffer", "BufferType")
    for name in ("strides", "axis_separators", "allocated_addr"):
        if graph.has(at, name) and graph.items(graph.field(at, name)):
            raise ValueError(f"a buffer with {name}")
    if graph.has(at, "layout") or (
        graph.has(at, "elem_offset") and graph.whole(graph.field(at, "elem_offset")) != 0
    ):
        raise ValueError("a buffer laid out otherwise")
    shape = tuple(graph.whole(one) for one in graph.items(graph.field(at, "shape")))
    if len(shape) > AXES or any(extent < 1 for extent in shape):
        raise ValueError("a buffer of nothing, or of too many axes")
    return Buffer(shape, graph.dtype(at))


def _block(graph: Graph, realize: int) -> int:
    """The block that is always carried out."""
    if graph.whole(graph.field(graph.expect(realize, "BlockRealize"), "predicate")) != 1:
        raise ValueError("a block with a condition")
    block = graph.expect(graph.field(realize, "block"), "Block")
    if graph.items(graph.field(block, "match_buffers")):
        raise ValueError("a block with parts of buffers")
    return block


def _root(made: Program, realize: int) -> int:
    """What stands in the outermost block, or the node itself where it is a stage."""
    graph = made.graph
    block = _block(graph, realize)
    if graph.items(graph.field(block, "iter_vars")) or graph.has(block, "init"):
        return realize
    body = graph.field(block, "body")
    if graph.kind(body) == "BufferStore":
        return realize
    for one in graph.items(graph.field(block, "alloc_buffers")):
        made.buffers[one] = _buffer(graph, one)
    return body


def _statements(graph: Graph, body: int) -> list[int]:
    return graph.items(graph.field(body, "seq")) if graph.kind(body) == "SeqStmt" else [body]


def _range(graph: Graph, least: int, extent: int) -> int:
    """The extent of what starts at 0."""
    if graph.whole(least) != 0 or graph.whole(extent) < 1:
        raise ValueError("a loop that does not start at 0")
    return graph.whole(extent)


def _stage(made: Program, statement: int) -> None:
    """Put one nest among the stages."""
    graph, loops = made.graph, dict[int, int]()
    while graph.kind(statement) == "For":
        if graph.plain(statement, "kind") != "0" or graph.has(statement, "thread_binding"):
            raise ValueError("a loop that is scheduled")
        if graph.has(statement, "step"):
            raise ValueError("a loop with a step")
        var = graph.expect(graph.field(statement, "loop_var"), "Var")
        if var in loops or len(loops) >= 2 * AXES:
            raise ValueError("a loop within itself, or too many")
        loops[var] = _range(graph, graph.field(statement, "min"), graph.field(statement, "extent"))
        statement = graph.field(statement, "body")
    block = _block(graph, statement)
    if graph.items(graph.field(block, "alloc_buffers")):
        raise ValueError("a block with buffers of its own")
    kinds = _iterated(graph, statement, block, loops)
    reduced = {var: extent for var, (kind, extent) in kinds.items() if kind == REDUCE}
    spatial = {var: extent for var, (kind, extent) in kinds.items() if kind == SPATIAL}
    starts = _stores(graph, graph.field(block, "init")) if graph.has(block, "init") else {}
    stores, number = _stores(graph, graph.field(block, "body")), len(made.stages)
    if not stores or (starts.keys() != stores.keys() if reduced else starts):
        raise ValueError("sums without a start, or the other way round")
    for buffer, (place, value) in stores.items():
        if buffer in made.stages or buffer not in made.buffers:
            raise ValueError("a buffer written twice, or of nobody")
        op = ""
        if reduced:
            op, value = _update(graph, buffer, place, value, starts[buffer])  # noqa: PLW2901
        axes = _places(graph, made.buffers[buffer], place, spatial)
        made.stages[buffer] = Stage(number, axes, tuple(reduced.items()), op, value)


def _stores(graph: Graph, body: int) -> dict[int, tuple[int, int]]:
    """For each buffer that a block writes, once, where and what. What may have had a name."""
    named, found = dict[int, int](), dict[int, tuple[int, int]]()
    while graph.kind(body) == "LetStmt":
        var = graph.field(body, "var")
        if var in named:
            raise ValueError("a name of two values")
        named[var], body = graph.field(body, "value"), graph.field(body, "body")
    for one in _statements(graph, body):
        if graph.kind(one) == "Bind":
            named[graph.field(one, "var")] = graph.field(one, "value")
            continue
        buffer = graph.field(graph.expect(one, "BufferStore"), "buffer")
        if buffer in found or graph.has(one, "predicate"):
            raise ValueError("a buffer written twice, or by halves")
        value = graph.field(one, "value")
        found[buffer] = graph.field(one, "indices"), named.get(value, value)
    return found


def _iterated(
    graph: Graph, realize: int, block: int, loops: dict[int, int]
) -> dict[int, tuple[str, int]]:
    """The block's variables with kind and extent: each is one loop, and each loop one of them."""
    found, left = dict[int, tuple[str, int]](), dict(loops)
    values = graph.items(graph.field(realize, "iter_values"))
    named = graph.items(graph.field(block, "iter_vars"))
    for value, one in zip(values, named, strict=True):
        domain = graph.field(graph.expect(one, "IterVar"), "dom")
        extent = _range(graph, graph.field(domain, "min"), graph.field(domain, "extent"))
        if graph.kind(value) == "Var":
            if left.pop(value, 0) != extent:
                raise ValueError("a variable that is not one loop")
        elif graph.whole(value) != 0 or extent != 1:
            raise ValueError("a variable that is no loop")
        kind = graph.plain(one, "iter_type")
        if kind not in (SPATIAL, REDUCE):
            raise ValueError("a variable of another kind")
        found[graph.expect(graph.field(one, "var"), "Var")] = kind, extent
    if len(found) != len(named) or any(extent > 1 for extent in left.values()):
        raise ValueError("a loop that is no variable")
    return found


def _places(
    graph: Graph, buffer: Buffer, place: int, spatial: dict[int, int]
) -> tuple[int | None, ...]:
    """The variable of each dimension: each goes over the whole of it."""
    left, axes = dict(spatial), list[int | None]()
    for at, extent in zip(graph.items(place), buffer.shape, strict=True):
        if graph.kind(at) == "Var":
            if left.pop(at, 0) != extent:
                raise ValueError("a buffer filled in part")
            axes.append(at)
        elif graph.whole(at) != 0 or extent != 1:
            raise ValueError("a buffer filled otherwise")
        else:
            axes.append(None)
    if any(extent > 1 for extent in left.values()):
        raise ValueError("an element written many times")
    return tuple(axes)


def _update(
    graph: Graph, buffer: int, place: int, value: int, init: tuple[int, int]
) -> tuple[str, int]:
    """How a reduction combines, and what, if it starts from what changes nothing."""

    def itself(at: int) -> bool:
        return (
            graph.kind(at) == "BufferLoad"
            and loaded(graph, at) == buffer
            and same_place(graph, graph.field(at, "indices"), place)
        )

    kind = graph.kind(graph.expect(value, *COMBINERS))
    sides = graph.field(value, "a"), graph.field(value, "b")
    mine = [itself(side) for side in sides]
    if sum(mine) != 1:
        raise ValueError("a reduction that is none")
    where, start = init
    if not same_place(graph, where, place):
        raise ValueError("another start")
    least = lowest(graph.dtype(start))
    neutral = {"Add": [0.0], "Max": [-math.inf, least], "Min": [math.inf, -least]}[kind]
    if graph.dtype(start).startswith("int") and kind != "Add":
        neutral = [least if kind == "Max" else -least - 1]
    if graph.number(start) not in neutral:
        raise ValueError("a reduction with another start")
    return COMBINERS[kind], sides[1] if mine[0] else sides[0]


def lowest(dtype: str) -> float:
    """The least number of a type, as TVM writes it where nothing is to be less."""
    if dtype.startswith("int") and dtype[3:].isdecimal():
        return -float(1 << (int(dtype[3:]) - 1))
    return LOWEST.get(dtype, math.nan)


def loaded(graph: Graph, load: int) -> int:
    """The buffer that is read. Raises: ValueError for one read under a condition."""
    if graph.has(load, "predicate"):
        raise ValueError("a load with a condition")
    return graph.field(load, "buffer" if "buffer" in graph.names(load) else "source")


def span(extents: dict[str, int], index: Index) -> tuple[int, int]:
    """The least and the largest that it is."""
    ends = [coefficient * (extents[axis] - 1) for axis, coefficient in index.terms]
    low = index.offset + sum(min(0, end) for end in ends)
    return low, index.offset + sum(max(0, end) for end in ends)


class Whole:
    """Whole numbers of a program as affine forms of axes, whose `extents` it knows."""

    def __init__(self, program: Program, extents: dict[str, int]) -> None:
        self.graph = program.graph
        self.extents = extents
        self._budget = program.budget

    def form(self, at: int, env: dict[int, Index]) -> Index:
        """Raises: ValueError, KeyError for what is not affine."""
        self._budget.take()
        graph, kind = self.graph, self.graph.kind(at)
        if kind == "IntImm":
            return Index((), graph.whole(at))
        if kind == "Var":
            return env[at]
        if graph.dtype(at) not in ("int32", "int64"):
            raise ValueError("an index that is no whole number")
        if kind == "Cast":
            return self.form(graph.field(at, "value"), env)
        left, right = (self.form(graph.field(at, side), env) for side in "ab")
        if kind == "Add":
            return left + right
        if kind == "Sub":
            return left - right
        if kind in ("Min", "Max"):
            least = self._least(left, right)
            return least if kind == "Min" else left + right - least
        if kind == "Mul" and not left.terms:
            return right * left.offset
        if right.terms:
            raise ValueError("an index that is not affine")
        if kind == "Mul":
            return left * right.offset
        if kind == "Div" and span(self.extents, left)[0] >= 0:  # rounds to 0 otherwise
            kind = "FloorDiv"
        if kind in ("FloorDiv", "FloorMod") and right.offset > 0:
            parts = self._divided(left, right.offset)
            return parts if kind == "FloorDiv" else left - parts * right.offset
        raise ValueError(f"an index by {kind}")

    def _least(self, left: Index, right: Index) -> Index:
        """The one that is never the larger."""
        low, high = span(self.extents, left - right)
        if high <= 0:
            return left
        if low >= 0:
            return right
        raise ValueError("an index that is now one, now the other")

    def _divided(self, index: Index, by: int) -> Index:
        """Rounded down."""
        whole = Index(tuple((axis, c // by) for axis, c in index.terms if c % by == 0))
        rest = Index(tuple((axis, c) for axis, c in index.terms if c % by), index.offset)
        low, high = span(self.extents, rest)
        if low // by != high // by:
            raise ValueError("a quotient that is not affine")
        return whole + low // by
