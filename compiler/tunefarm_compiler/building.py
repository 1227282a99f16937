"""From workloads to a bundle: every kernel compiled for every target, one link for each target."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.bundle import Bundle, Library
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler import targets as registry
from tunefarm_compiler import threads
from tunefarm_compiler import workload as workloads
from tunefarm_compiler.codegen import (
    assembly,
    emit_object,
    lowered,
    module_text,
    thread_pool,
    timing_loop,
)
from tunefarm_compiler.database import known_best
from tunefarm_compiler.gpu import GpuCode, compile_function
from tunefarm_compiler.gpu import assemble as ptxas
from tunefarm_compiler.linker import link
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.spaces import Tuned, default_schedule
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.te import Tensor
from tunefarm_compiler.workload import Workload

# One for all targets, or by the target's name as it was given; None is the default one.
Schedules = Schedule | Mapping[str, Schedule] | None
Targets = str | TargetSpec | Sequence[str | TargetSpec]
# Who is asked where no schedule is given: True this user's database, False and None nobody.
Asked = Tuned | bool | None
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True)
class Kernel:
    """One function of a bundle: `name` is its symbol, the workload's own unless it is given.

    In place of a workload an expression: for this process alone.
    """

    workload: str | Workload | Tensor
    schedule: Schedules = None
    name: str = ""


@dataclass(frozen=True)
class Job:
    """All that decides what a bundle holds, as plain text that can be sent and hashed.

    `functions` are (name, workload); `libraries` the targets, each with a schedule's JSON for every
    function, "" for the default one. `operators` are users' files that define them, no part of
    the digest: workloads say which expressions they had.
    """

    functions: tuple[tuple[str, str], ...]
    libraries: tuple[tuple[TargetSpec, tuple[str, ...]], ...]
    operators: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Canonical JSON: equal jobs give equal text."""
        specs = [
            [spec.triple, spec.cpu, spec.features, schedules] for spec, schedules in self.libraries
        ]
        more = [self.operators] if self.operators else []
        return json.dumps([self.functions, specs, *more], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Job":
        """Read what `to_json` wrote."""
        functions, libraries, *operators = json.loads(text)
        return cls(
            tuple((name, workload) for name, workload in functions),
            tuple(
                (TargetSpec(triple, cpu, tuple(features)), tuple(schedules))
                for triple, cpu, features, schedules in libraries
            ),
            tuple(file for files in operators for file in files),
        )

    @property
    def digest(self) -> str:
        """sha256 of the job and of every tool that has a part in it: known before the bundle is."""
        return digest_of(replace(self, operators=()).to_json())

    def run(self, known: Sequence[Workload] = ()) -> Bundle:
        """Compile it in this process; `known` are its workloads, where they are had.

        Raises: UnknownWorkloadError, CompileError.
        """
        files = self.operators or None
        made = known or [workloads.parse(text, files) for _, text in self.functions]
        parsed = [(name, one) for (name, _), one in zip(self.functions, made, strict=True)]
        libraries, sources = [], hashlib.sha256()
        for spec, texts in self.libraries:
            if spec.gpu:
                library, source = _gpu_library(parsed, texts, spec)
                libraries.append(library)
                sources.update(source)
                continue
            objects, schedules = [timing_loop(spec)], {}
            for (name, workload), text in zip(parsed, texts, strict=True):
                chosen = Schedule.from_json(text) if text else default_schedule(workload, spec)
                code = lowered(workload, spec, chosen, name)
                sources.update(code.encode())
                schedules[name] = chosen.to_json()
                objects.append(emit_object(code, spec))
                if threads.DEAL in code and thread_pool(spec) not in objects:
                    objects.append(thread_pool(spec))
            libraries.append(Library(spec.to_proto(), link(objects, spec), schedules))
        used = {text for library in libraries for text in library.schedules.values()}
        manifest = bpb.BundleManifest(
            workload="; ".join(dict.fromkeys(str(workload) for _, workload in parsed)),
            functions=[workload.signature(name) for name, workload in parsed],
            toolchain=toolchain(),
            source_digest=sources.hexdigest(),
            schedule=used.pop() if len(used) == 1 else "",
        )
        return bundle_file.pack(manifest, libraries)


def _gpu_library(
    functions: Sequence[tuple[str, Workload]], texts: Sequence[str], spec: TargetSpec
) -> tuple[Library, bytes]:
    """PTX of all functions, how they are launched and what they need; and its source."""
    codes, schedules = dict[str, GpuCode](), dict[str, str]()
    for (name, workload), text in zip(functions, texts, strict=True):
        made = Schedule.from_json(text) if text else default_schedule(workload, spec)
        codes[name] = compile_function(name, workload.output, made, spec)
        schedules[name] = made.to_json()
    source = module_text("".join(code.llvm_text for code in codes.values()), spec)
    ptx = assembly(source, spec)
    _, resources = ptxas.assemble(ptx, spec)
    launches = {name: code.plan(resources) for name, code in codes.items()}
    return Library(spec.to_proto(), ptx.encode(), schedules, launches), source.encode()


def toolchain() -> dict[str, str]:
    """The versions of the tools that make our bundles."""
    return {
        "llvm": ".".join(map(str, llvm.llvm_version_info)),
        "llvmlite": llvmlite.__version__,
    }


@cache
def _tools() -> str:
    """Names this compiler: its tools' versions and its own text."""
    own = [*Path(__file__).parent.rglob("*.py"), Path(bundle_file.__file__)]
    texts = hashlib.sha256()
    for path in sorted(own, key=lambda path: path.as_posix()):
        texts.update(path.read_bytes())
    try:
        zig = importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:  # for GPUs nothing is linked
        zig = ""
    return json.dumps([toolchain(), zig, ptxas.version(), texts.hexdigest()], sort_keys=True)


def digest_of(text: str) -> str:
    """What the build cache keeps something by that this compiler makes of such a text alone."""
    return hashlib.sha256(f"{_tools()}\n{text}".encode()).hexdigest()


def job(kernels: Sequence[Kernel], target: Targets, tuned: Asked = None) -> Job:
    """What `compile_many` is to do, checked as far as it can be without compiling.

    Raises: UnknownWorkloadError, UnknownTargetError, InvalidRequestError.
    """
    given = [target] if isinstance(target, str | TargetSpec) else [*target]
    if not kernels or not given:
        raise InvalidRequestError("a bundle of nothing", "give a workload and a target at least")
    specs = [registry.resolve(one) if isinstance(one, str) else one for one in given]
    parsed = [_parsed(kernel) for kernel in kernels]
    texts = [str(one) for one in parsed]
    libraries: list[tuple[TargetSpec, tuple[str, ...]]] = []
    for place, (name, spec) in enumerate(zip(given, specs, strict=True)):
        if spec in specs[:place]:
            first = given[specs.index(spec)]
            same = f", the same as {first}" if first != name else ""
            raise InvalidRequestError(f"target {name} is given twice{same}", "name each once")
        schedules = [
            _schedule(kernel, name, given) or _known(one, spec, tuned)
            for kernel, one in zip(kernels, parsed, strict=True)
        ]
        libraries.append((spec, tuple(schedules)))
    files = tuple(dict.fromkeys(file for one in parsed for file in one.files))
    return Job(tuple(zip(_names(kernels, texts), texts, strict=True)), tuple(libraries), files)


def _parsed(kernel: Kernel) -> Workload:
    """Raises: UnknownWorkloadError, OperatorInvalidError, InvalidRequestError for expressions."""
    given = kernel.workload
    if isinstance(given, Tensor):
        raise workloads.unnamed(given)
    return given if isinstance(given, Workload) else workloads.parse(given)


def _schedule(kernel: Kernel, target: str | TargetSpec, given: Sequence[object]) -> str:
    if kernel.schedule is None:
        return ""
    if isinstance(kernel.schedule, Schedule):
        return kernel.schedule.to_json()
    if unknown := sorted(set(kernel.schedule) - {name for name in given if isinstance(name, str)}):
        raise InvalidRequestError(
            f"a schedule is for {unknown[0]}, which is none of the targets",
            f"they are {', '.join(map(str, given))}",
        )
    own = kernel.schedule.get(target) if isinstance(target, str) else None
    return own.to_json() if own else ""


def _known(parsed: Workload, spec: TargetSpec, tuned: Asked) -> str:
    """The best schedule that is known, "" where none is."""
    asked = known_best() if tuned is True else tuned or None
    found = asked.schedule(parsed, spec, 1) if asked is not None else None
    return found.to_json() if found is not None else ""


def _names(kernels: Sequence[Kernel], texts: Sequence[str]) -> list[str]:
    """A symbol for each: as given, else the workload's name, numbered where several have it."""
    plain = [
        kernel.name or text.partition(":")[0] for kernel, text in zip(kernels, texts, strict=True)
    ]
    found: list[str] = []
    for number, name in enumerate(plain):
        alone = plain.count(name) == 1
        if not _NAME.fullmatch(name) or name in ("tunefarm_repeat", "tunefarm_cores"):
            raise InvalidRequestError(
                f"{name[:60]!r} names no function", "use letters, digits and _"
            )
        if kernels[number].name and not alone:
            raise InvalidRequestError(f"two functions are named {name}", "give each its own name")
        found.append(name if alone else f"{name}_{plain[:number].count(name)}")
    if len(set(found)) < len(found):
        raise InvalidRequestError("two functions have one name", "give each its own name")
    return found


def compile_many(kernels: Sequence[Kernel], target: Targets, tuned: Asked = True) -> Bundle:
    """One bundle of several kernels for one target or several, compiled in this process.

    Functions without a name bear their workload's, with _0, _1, ... where several have it. All
    are linked at once, and every target's library has all of them. Where no schedule is given it is
    the best that `tuned` knows, else the default one: this user's database unless it is another
    one, or False for none.
    Raises: UnknownWorkloadError, UnknownTargetError, InvalidScheduleError, BuildFailedError,
    InvalidRequestError.
    """
    known = [
        replace(kernel, workload=workloads.of_expression(kernel.workload, kernel.name))
        if isinstance(kernel.workload, Tensor)
        else replace(kernel, workload=_parsed(kernel))
        for kernel in kernels
    ]
    return job(known, target, tuned).run([_parsed(kernel) for kernel in known])
