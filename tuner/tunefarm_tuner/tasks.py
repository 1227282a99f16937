"""What is tuned: a workload on the devices of a key. It builds candidates and judges answers."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tunefarm import Bundle
from tunefarm_compiler import workload as workloads
from tunefarm_compiler.building import Kernel, job
from tunefarm_compiler.pool import Build, BuildPool, Made
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload
from tunefarm_proto.errors import (
    InvalidRequestError,
    InvalidScheduleError,
    OperatorInvalidError,
    UnknownWorkloadError,
)
from tunefarm_proto.seeded import seeded_bytes
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_tuner.search.base import Candidate, Space
from tunefarm_tuner.search.schedules import ScheduleSpace
from tunefarm_tuner.templates import Config, TemplateSpace, Value

Array = np.ndarray[Any, Any]
KNOWN_OUTPUTS = 32  # digests that travel with each candidate


class Task:
    """One workload on one target and key, in a space of candidates. `target` is its name.

    `threads` is the most that the candidates' loops are dealt out to.
    `weight` is how much a second of it counts in the whole, as in how often a model calls it.
    Subclasses say how a candidate is built (`submit`), what the kernel takes (`signature`), what is
    right (`reference`, of inputs; `agrees`).
    """

    def __init__(
        self,
        workload: str,
        signature: bpb.FunctionSignature,
        spec: TargetSpec,
        space: Space,
        *,
        key: str,
        target: str,
        weight: float = 1.0,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.workload = workload
        self.signature = signature
        self.function = signature.name
        self.operations = signature.operations
        self.spec = spec
        self.key = key
        self.target = target
        self.space = space
        self.weight = weight
        self.seed = seed
        self.threads = threads
        self._answers: OrderedDict[str, bool] = OrderedDict()
        self._expected: list[Array] | None = None
        self._computing = threading.Lock()

    @property
    def name(self) -> tuple[str, str, str]:
        """As `Record.task`."""
        return self.workload, self.key, self.target

    def untuned(self) -> list[Candidate]:
        """What is built without a search: the winner is timed beside it."""
        default = self.space.default()
        more = self.space.alone() if isinstance(self.space, ScheduleSpace) else []
        return [*([] if default is None else [default]), *more]

    def submit(self, pool: BuildPool, candidate: Candidate) -> Build:
        """Build a candidate. The future raises TunefarmErrors."""
        raise NotImplementedError

    def reference(self, inputs: list[Array]) -> list[Array]:
        """The right outputs."""
        raise NotImplementedError

    def agrees(self, outputs: list[Array], expected: list[Array]) -> bool:
        """Whether outputs are right, to rounding."""
        raise NotImplementedError

    def arguments(self) -> list[dpb.ArgumentData]:
        """Of each argument, how the device fills it: inputs from seeds, outputs with zeros."""
        return [
            dpb.ArgumentData()
            if argument.output
            else dpb.ArgumentData(seeded=dpb.SeededData(seed=self.seed + index))
            for index, argument in enumerate(self.signature.arguments)
        ]

    def inputs(self) -> list[Array]:
        """What the device makes of the seeds; shapes as in memory."""
        found = []
        for index, argument in enumerate(self.signature.arguments):
            if not argument.output:
                kind, shape = np.dtype(argument.dtype), tuple(argument.shape)
                size = int(np.prod(shape)) * kind.itemsize
                data = seeded_bytes(self.seed + index, argument.dtype, size)
                found.append(np.frombuffer(data, kind).reshape(shape))
        return found

    def expected(self) -> list[Array]:
        """The reference, computed once."""
        with self._computing:
            if self._expected is None:
                self._expected = self.reference(self.inputs())
            return self._expected

    def known_outputs(self) -> list[str]:
        """Digests of answers that were judged: the last ones."""
        return list(self._answers)[-KNOWN_OUTPUTS:]

    def right(self, digest: str, outputs: list[bytes]) -> bool:
        """Whether the answer with that digest is right; `outputs` may be empty where it is known.

        A digest is believed only where outputs that have it were compared with the reference.
        """
        if not outputs:
            return self._answers.get(digest, False)
        found = hashlib.sha256(b"".join(outputs)).hexdigest()
        if found not in self._answers:
            self._answers[found] = self._compared(outputs, self.expected())
        return found == digest and self._answers[found]

    def _compared(self, outputs: list[bytes], expected: list[Array]) -> bool:
        if [len(got) for got in outputs] != [want.nbytes for want in expected]:
            return False
        pairs = zip(outputs, expected, strict=True)
        shaped = [np.frombuffer(got, want.dtype).reshape(want.shape) for got, want in pairs]
        return self.agrees(shaped, expected)


class WorkloadTask(Task):
    """A workload of the compiler, in a space of schedules."""

    def __init__(self, parsed: Workload, spec: TargetSpec, space: Space, **more: Any) -> None:
        super().__init__(str(parsed), parsed.signature(), spec, space, **more)
        self.parsed = parsed

    def submit(self, pool: BuildPool, candidate: Candidate) -> Build:
        try:
            return pool.submit(self.workload, self.spec, Schedule.from_json(candidate))
        except InvalidScheduleError as error:  # a strategy of somebody's
            build = Build()
            build.set_exception(error)
            return build

    def reference(self, inputs: list[Array]) -> list[Array]:
        return self.parsed.reference(inputs)

    def agrees(self, outputs: list[Array], expected: list[Array]) -> bool:
        return self.parsed.check(outputs, expected)


@dataclass(frozen=True)
class Custom:
    """A kernel that any Python function builds: `build(candidate, spec)` gives its bundle.

    Or a `building.job`, which a worker process compiles. `reference(inputs)` gives the right
    outputs of the function of that signature; `check(outputs, expected)` judges, else they are
    compared within `tolerance`, relative and absolute. `build` is called on threads, several at a
    time.
    """

    name: str
    space: Space
    build: Callable[[Candidate, TargetSpec], Made]
    signature: bpb.FunctionSignature
    reference: Callable[[list[Array]], list[Array]]
    tolerance: float = 1e-4
    weight: float = 1.0
    check: Callable[[list[Array], list[Array]], bool] | None = None

    @classmethod
    def of(
        cls,
        text: str,
        template: Callable[[Config], Schedule | Bundle] | TemplateSpace[Any],
        knobs: Mapping[str, Sequence[Value]] | None = None,
        *,
        weight: float = 1.0,
    ) -> "Custom":
        """A template over a workload, which says what the kernel takes and what is right.

        `template(cfg)` defines knobs, or has those of `knobs`, and returns a schedule of the
        workload, compiled for each target, or a bundle with a function named as the workload's. A
        space of such a template does as well.
        Raises: UnknownWorkloadError, InvalidRequestError for knobs that make no sense.
        """
        parsed = workloads.parse(text)
        if isinstance(template, TemplateSpace):
            if knobs is not None:
                raise InvalidRequestError(f"{template.name} has its knobs", "leave others out")
            space = template
        else:
            space = TemplateSpace(template, knobs)
        return cls._over(parsed, parsed.signature(), space, weight)

    @classmethod
    def from_space(cls, space: TemplateSpace[Any], *, weight: float = 1.0) -> "Custom":
        """A template that returns bundles which say of which workload they are.

        The first candidate is built here to find out, in this process.
        Raises: InvalidRequestError where that fails, or leaves open what is right.
        """
        signature = _function_of(space)
        return cls._over(workloads.parse(signature.workload), signature, space, weight)

    @classmethod
    def _over(
        cls,
        parsed: Workload,
        signature: bpb.FunctionSignature,
        space: TemplateSpace[Any],
        weight: float,
    ) -> "Custom":
        def build(candidate: Candidate, spec: TargetSpec) -> Made:
            made = space.build(candidate)
            return job([Kernel(parsed, made)], spec) if isinstance(made, Schedule) else made

        name = f"{parsed} by {space.name}"
        return cls(
            name, space, build, signature, parsed.reference, weight=weight, check=parsed.check
        )


def _function_of(space: TemplateSpace[Any]) -> bpb.FunctionSignature:
    """The one function of what a template makes first, whose workload is known."""
    name, first = space.name, space.default()
    own = "give a Custom, with the kernel's signature and reference"
    try:
        made = space.build(first)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InvalidRequestError(
            f"template {name} fails for its first candidate {first[:80]}: {said}",
            "give knobs first options that build",
        ) from error
    if isinstance(made, Schedule):
        raise InvalidRequestError(
            f"template {name} returns a schedule and does not say of which workload",
            "name it: Custom.of(workload, space)",
        )
    if not isinstance(made, Bundle):
        raise InvalidRequestError(
            f"template {name} returns {type(made).__name__}, which is no bundle", own
        )
    functions = made.manifest.functions
    if len(functions) != 1:
        raise InvalidRequestError(
            f"the bundle of template {name} has {len(functions)} functions", own
        )
    try:
        workloads.parse(functions[0].workload)
    except (UnknownWorkloadError, OperatorInvalidError):
        raise InvalidRequestError(
            f"the bundle of template {name} does not say what is right: it is of no known workload",
            own,
        ) from None
    return functions[0]


class CustomTask(Task):
    """A kernel that a Python function builds."""

    def __init__(self, custom: Custom, spec: TargetSpec, **more: Any) -> None:
        super().__init__(
            custom.name, custom.signature, spec, custom.space, weight=custom.weight, **more
        )
        self.custom = custom

    def submit(self, pool: BuildPool, candidate: Candidate) -> Build:
        return pool.call(lambda: self.custom.build(candidate, self.spec))

    def reference(self, inputs: list[Array]) -> list[Array]:
        return self.custom.reference(inputs)

    def agrees(self, outputs: list[Array], expected: list[Array]) -> bool:
        if self.custom.check is not None:
            return self.custom.check(outputs, expected)
        near = self.custom.tolerance
        return all(
            np.allclose(got, want, rtol=near, atol=near)
            for got, want in zip(outputs, expected, strict=True)
        )
