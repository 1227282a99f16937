"""Search spaces by hand: a function of a config that defines knobs and returns what is built.

    def kernel(cfg):
        cfg.define_split("tile", 512, num_outputs=2)
        cfg.define_knob("unroll", [1, 2, 4])
        outer, inner = cfg["tile"].size
        return my_build(inner, cfg["unroll"].val)

    space = TemplateSpace(kernel)

Names are those of AutoTVM's `cfg`, so that its templates read the same. A candidate is the knobs as
JSON with sorted keys; `space.build(candidate)` calls the function with them.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tunefarm_proto.errors import InvalidRequestError

from tunefarm_tuner.search.base import Candidate

T = TypeVar("T")
Value = Any  # what JSON holds: a number, a text, a list of these
POLICIES = ("factors", "power2", "verbose")
MAX_OPTIONS = 100_000


@dataclass(frozen=True)
class Knob:
    """One decision taken. `val` is what was chosen; a split's is its `size`, an order's `perm`."""

    name: str
    val: Value

    @property
    def size(self) -> list[int]:
        """Parts of a split, the outermost first; their product is the axis, or more of it."""
        return list(self.val)

    @property
    def perm(self) -> list[int]:
        """Places of a reorder: which of the axes comes first, second, ..."""
        return list(self.val)

    def order(self, items: Sequence[T]) -> list[T]:
        """Those items in the order of a reorder."""
        return [items[place] for place in self.perm]


class Config:
    """What a template is called with: it defines knobs, and finds in them what was chosen.

    In the first call every knob has its first option. Raises: InvalidRequestError for knobs that
    make no sense, or that are not what they were in the first call.
    """

    def __init__(self, chosen: Mapping[str, Value] | None = None) -> None:
        self._chosen = chosen
        self.options: dict[str, list[Value]] = {}
        self.flop = 0.0

    def define_knob(self, name: str, candidate: Sequence[Value]) -> Knob:
        """Any of these values."""
        return self._define(name, list(candidate))

    def define_split(
        self,
        name: str,
        axis: int,
        *,
        num_outputs: int = 2,
        policy: str = "factors",
        max_factor: int | None = None,
        filter: Callable[[list[int]], bool] | None = None,  # noqa: A002 (AutoTVM's name)
        candidate: Sequence[Sequence[int]] | None = None,
    ) -> Knob:
        """An axis of that extent cut into `num_outputs` parts, the outermost first.

        `policy`: "factors" of the extent, "power2" for powers of two also where they leave a rest,
        "verbose" for both. No part but the outermost is over `max_factor`.
        """
        if candidate is not None:
            return self._define(name, [list(one) for one in candidate])
        if axis < 1 or num_outputs < 1 or policy not in POLICIES:
            raise InvalidRequestError(
                f"split {name!r} of {axis} into {num_outputs} by {policy!r}",
                f"give an extent and parts of 1 or more, and one of {', '.join(POLICIES)}",
            )
        sides = _sides(axis, policy, max_factor or axis)
        found = []
        for inner in itertools.product(sides, repeat=num_outputs - 1):
            product = math.prod(inner)
            if product <= axis and (policy != "factors" or axis % product == 0):
                sizes = [-(-axis // product), *inner]
                if filter is None or filter(sizes):
                    found.append(sizes)
        return self._define(name, found)

    def define_reorder(
        self,
        name: str,
        axes: Sequence[Any],
        policy: str = "all",
        candidate: Sequence[Sequence[int]] | None = None,
    ) -> Knob:
        """An order of some axes: "all" orders, "identity", or those places in `candidate`."""
        places = range(len(axes))
        if candidate is not None:
            found = [list(one) for one in candidate]
            if any(sorted(one) != list(places) for one in found):
                raise InvalidRequestError(
                    f"reorder {name!r} of {len(axes)} axes",
                    f"give orders of the places 0 to {len(axes) - 1}",
                )
        elif policy in ("all", "identity"):
            orders = itertools.permutations(places) if policy == "all" else [tuple(places)]
            found = [list(one) for one in orders]
        else:
            raise InvalidRequestError(f"reorder {name!r} by {policy!r}", "give all or identity")
        return self._define(name, found)

    def define_annotate(self, name: str, axes: Sequence[Any], policy: str = "try_unroll") -> Knob:
        """What is done with each axis: "none", or what the policy tries ("try_unroll_vec", ...)."""
        tried = [word for word in ("unroll", "vec") if word in policy]
        kinds = ["none", *({"vec": "vectorize"}.get(word, word) for word in tried)]
        return self._define(name, [list(one) for one in itertools.product(kinds, repeat=len(axes))])

    def add_flop(self, flop: float) -> None:
        """Operations of a call, for its rate."""
        self.flop += flop

    def __getitem__(self, name: str) -> Knob:
        if name not in self.options:
            raise InvalidRequestError(
                f"no knob {name!r}", f"defined are {', '.join(self.options) or 'none'}"
            )
        if self._chosen is None:
            return Knob(name, self.options[name][0])
        return Knob(name, self._chosen[name])

    def _define(self, name: str, options: list[Value]) -> Knob:
        if name in self.options:
            raise InvalidRequestError(f"knob {name!r} is defined twice", "give each a name")
        if not options or len(options) > MAX_OPTIONS:
            raise InvalidRequestError(
                f"knob {name!r} has {len(options)} options", f"give it 1 to {MAX_OPTIONS}"
            )
        self.options[name] = options
        if self._chosen is not None and self._chosen.get(name) not in options:
            raise InvalidRequestError(
                f"knob {name!r} is {self._chosen.get(name)!r}, which is none of its options",
                "define the same knobs in every call",
            )
        return self[name]


def _sides(extent: int, policy: str, most: int) -> list[int]:
    factors = {n for n in range(1, extent + 1) if extent % n == 0}
    powers = {1 << n for n in range(extent.bit_length())}
    found = {"factors": factors, "power2": powers, "verbose": factors | powers}[policy]
    return sorted(n for n in found if n <= most)


class TemplateSpace(Generic[T]):
    """The space of a template's knobs; a `Space`. `build` calls the template.

    The template is called once to learn its knobs: what it raises there is raised here, unless it
    is given `knobs`, name to options, and need define none.
    """

    def __init__(
        self,
        template: Callable[[Config], T],
        knobs: Mapping[str, Sequence[Value]] | None = None,
    ) -> None:
        self.template = template
        first = Config()
        self._given = knobs is not None
        for name, options in (knobs or {}).items():
            first.define_knob(name, options)
        if knobs is None:
            template(first)
        self.options = dict(sorted(first.options.items()))
        self.flop = first.flop
        self._defaults = {name: options[0] for name, options in first.options.items()}
        self._places = {
            name: {json.dumps(option): place for place, option in enumerate(options)}
            for name, options in self.options.items()
        }

    @property
    def name(self) -> str:
        """What the template is called."""
        return getattr(self.template, "__name__", "a template")

    def __len__(self) -> int:
        """How many candidates there are."""
        return math.prod(len(options) for options in self.options.values())

    def build(self, candidate: Candidate) -> T:
        """What the template returns for a candidate. Raises: InvalidRequestError, or as it does."""
        chosen = self._read(candidate)
        config = Config(chosen)
        if self._given:
            for name, options in self.options.items():
                config.define_knob(name, options)
        return self.template(config)

    def default(self) -> Candidate:
        """The first option of every knob."""
        return _text(self._defaults)

    def candidates(self) -> Iterator[Candidate]:
        """All of them."""
        for values in itertools.product(*self.options.values()):
            yield _text(dict(zip(self.options, values, strict=True)))

    def sample(self, rng: random.Random) -> Candidate:
        """Any of them."""
        return _text({name: rng.choice(options) for name, options in self.options.items()})

    def mutate(self, candidate: Candidate, rng: random.Random) -> Candidate:
        """One knob turned: to an option beside it, or to any."""
        chosen = self._read(candidate)
        open_ = [name for name, options in self.options.items() if len(options) > 1]
        if not open_:
            return candidate
        name = rng.choice(open_)
        options, place = self.options[name], self._place(name, chosen[name])
        near = [n for n in (place - 1, place + 1) if 0 <= n < len(options)]
        others = near if rng.random() < 0.5 else [n for n in range(len(options)) if n != place]
        return _text(chosen | {name: options[rng.choice(others)]})

    def cross(self, one: Candidate, other: Candidate, rng: random.Random) -> Candidate:
        """Each knob of one or the other."""
        mine, theirs = self._read(one), self._read(other)
        return _text({name: rng.choice((mine, theirs))[name] for name in self.options})

    def features(self, candidate: Candidate) -> Sequence[float]:
        """Each knob's place among its options, and the logarithms of its numbers."""
        chosen, found = self._read(candidate), list[float]()
        for name, options in self.options.items():
            found.append(float(self._place(name, chosen[name])))
            width = max(len(option) if isinstance(option, list) else 1 for option in options)
            value = chosen[name] if isinstance(chosen[name], list) else [chosen[name]]
            numbers = [_number(part) for part in value]
            found += [*numbers, *[0.0] * (width - len(numbers))]
        return found

    def draw(self, choose: Callable[[str, Sequence[Any], Sequence[float]], Any]) -> Candidate:
        """A candidate by decisions that `choose` takes, as Optuna's samplers do."""
        chosen = {}
        for name, options in self.options.items():
            place = choose(name, range(len(options)), [1.0] * len(options))
            chosen[name] = options[place]
        return _text(chosen)

    def valid(self, candidate: Candidate) -> bool:
        """Whether it is one of them."""
        try:
            self._read(candidate)
        except InvalidRequestError:
            return False
        return True

    def _place(self, name: str, value: Value) -> int:
        return self._places[name][json.dumps(value)]

    def _read(self, candidate: Candidate) -> dict[str, Value]:
        """The knobs in a candidate. Raises: InvalidRequestError."""
        try:
            chosen = json.loads(candidate)
            known = set(chosen) == set(self.options) and all(
                json.dumps(value) in self._places[name] for name, value in chosen.items()
            )
        except (ValueError, TypeError):
            known = False
        if not known:
            raise InvalidRequestError(
                f"{candidate[:80]!r} sets no knobs of this template",
                f"its knobs are {', '.join(self.options) or 'none'}",
            )
        return dict(chosen)


def _text(chosen: Mapping[str, Value]) -> Candidate:
    return json.dumps(chosen, sort_keys=True, separators=(",", ":"))


def _number(value: Value) -> float:
    if isinstance(value, (int, float)):
        return math.copysign(math.log2(1 + abs(value)), value)
    return 0.0
