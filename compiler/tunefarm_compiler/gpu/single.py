"""One kernel of somebody's, launched once: what is checked of it, and its bundle."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tunefarm_proto.bundle import Bundle, Library, pack
from tunefarm_proto.errors import BuildFailedError, InvalidRequestError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler.foreign import IDENTIFIER
from tunefarm_compiler.gpu import geometry
from tunefarm_compiler.gpu.entries import Code, Entry
from tunefarm_compiler.gpu.geometry import Geometry
from tunefarm_compiler.targets import TargetSpec

NO_SCALARS = (
    "scalars are no arguments: make it a constant of the source (as by --flags=-DN=1024), "
    "or an array of one element"
)
TEGRA = 87

Compiled = tuple[TargetSpec, bytes, Code]  # a library, what it is for and what is in it


@dataclass(frozen=True)
class Single:
    """A kernel that takes `arguments`, then `scratch` (bytes each), all of them pointers.

    `label` names it in errors; it is the one called `function`, else `usual`, else the only one
    there is. A block of no sides is the one that the kernel is compiled for.
    """

    label: str
    usual: str
    function: str | None
    arguments: Sequence[bpb.ArgumentSignature]
    launch: Geometry
    scratch: Sequence[int] = ()
    no_scalars: str = NO_SCALARS

    def bundle(
        self, found: Sequence[Compiled], source: bytes, toolchain: Mapping[str, str]
    ) -> Bundle:
        """The bundle of such libraries. Raises: BuildFailedError, InvalidRequestError."""
        if self.function is not None and not IDENTIFIER.fullmatch(self.function):
            raise InvalidRequestError(
                f"{self.function[:60]!r} is no name of a function", "say --function NAME"
            )
        libraries, name = [], self.usual
        for spec, data, code in found:
            entry = self._pick(code.entries)
            self._check_parameters(entry)
            launch = self._launch(entry, spec)
            name = self.function or (self.usual if entry.name == self.usual else entry.name)
            plan = bpb.LaunchPlan(scratch_bytes=self.scratch)
            plan.launches.add(
                kernel=entry.symbol,
                grid=(*launch.grid, 1, 1)[:3],
                block=(*launch.block, 1, 1)[:3],
                shared_bytes=launch.shared,
                arguments=range(len(self.arguments) + len(self.scratch)),
                resources=entry.resources,
            )
            libraries.append(Library(spec.to_proto(), data, launches={name: plan}))
        manifest = bpb.BundleManifest(
            workload=self.label if name == self.usual else f"{self.label}:{name}",
            functions=[bpb.FunctionSignature(name=name, arguments=self.arguments)],
            toolchain=toolchain,
            source_digest=hashlib.sha256(source).hexdigest(),
        )
        return pack(manifest, libraries)

    def _pick(self, entries: Sequence[Entry]) -> Entry:
        """The kernel of that name. Raises: BuildFailedError, which lists those there are."""
        wanted = self.function if self.function is not None else self.usual
        named = [one for one in entries if one.symbol == wanted]
        named = named or [one for one in entries if one.name == wanted]
        if not named and self.function is None and len(entries) == 1:
            return entries[0]
        if len(named) == 1:
            return named[0]
        there = ", ".join(one.symbol if named else one.name for one in named or entries)
        raise BuildFailedError(
            f"{self.label}: {'several kernels are' if named else 'no kernel is'} named {wanted}",
            f"it has {there}; name one by --function" if entries else "write one with __global__",
        )

    def _check_parameters(self, entry: Entry) -> None:
        for number, parameter in enumerate(entry.parameters, 1):
            if not parameter.pointer:
                raise BuildFailedError(
                    f"{self.label}: parameter {number} of {entry.name} is no pointer "
                    f"({parameter.type})",
                    self.no_scalars,
                )
        there, given = len(entry.parameters), len(self.arguments)
        if there != given + len(self.scratch):
            of_scratch = f" with {len(self.scratch)} of scratch" if self.scratch else ""
            raise BuildFailedError(
                f"{self.label}: {entry.name} has {there} parameters{of_scratch}, and {given} "
                f"{'argument is' if given == 1 else 'arguments are'} named",
                "name one argument for each pointer, in their order",
            )

    def _launch(self, entry: Entry, spec: TargetSpec) -> Geometry:
        """The launch with the block that the kernel asks for. Raises: InvalidRequestError."""
        own, fixed = self.launch, entry.required
        said = f"{self.label}: {entry.name}"
        if entry.cluster:
            raise BuildFailedError(
                f"{said} runs in clusters of blocks", "leave its cluster dimensions out"
            )
        if not own.block and not fixed:
            raise InvalidRequestError(f"{said} needs the threads of a block", "say --block 128")
        own = own if own.block else replace(own, block=fixed)
        geometry.check(own, spec)
        if fixed and (*own.block, 1, 1)[:3] != fixed:
            raise InvalidRequestError(
                f"{said} is compiled for blocks of {','.join(map(str, fixed))}",
                f"say --block {','.join(map(str, fixed))}, or leave it out",
            )
        if entry.most and own.threads > entry.most:
            raise InvalidRequestError(
                f"{said} is compiled for up to {entry.most} threads in a block",
                f"say --block {entry.most} or less",
            )
        return own


def machine_code(spec: TargetSpec) -> TargetSpec:
    """The target of a cubin: it runs on GPUs of its major version alone; Jetson's on their like."""
    level = number(spec.cpu)
    kind = level if level == TEGRA else level // 10
    return replace(spec, features=tuple(sorted({*spec.features, f"cubin_{kind}"})))


def number(level: str) -> int:
    """90 of "sm_90a"."""
    return int(re.sub(r"\D", "", level))


def with_resources(code: Code, known: Mapping[str, bpb.KernelResources | None]) -> Code:
    """The same code, its kernels with those resources by symbol."""
    entries = (replace(one, resources=known.get(one.symbol)) for one in code.entries)
    return replace(code, entries=tuple(entries))
