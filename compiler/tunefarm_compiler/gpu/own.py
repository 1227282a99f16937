"""GPU kernels of your own: CUDA C, PTX or a cubin, with the geometry of one launch, make a bundle.

build("axpy.cu", "sm_80", "x:float32[1024] y:out:float32[1024]", grid=8, block=128).write("axpy.tf")
"""

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from tunefarm_proto.bundle import Bundle
from tunefarm_proto.errors import BuildFailedError, InvalidRequestError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler.building import digest_of
from tunefarm_compiler.cache import BuildCache
from tunefarm_compiler.foreign import parse_arguments, split_flags
from tunefarm_compiler.gpu import nvrtc
from tunefarm_compiler.gpu.assemble import assemble
from tunefarm_compiler.gpu.cubin import read_cubin
from tunefarm_compiler.gpu.entries import Code, read_ptx
from tunefarm_compiler.gpu.geometry import Geometry
from tunefarm_compiler.gpu.single import Compiled, Single, machine_code, number, with_resources
from tunefarm_compiler.targets import GPU_LEVELS, TargetSpec, resolve

SUFFIXES = (".cu", ".ptx", ".cubin")

Targets = Sequence[str | TargetSpec]
Sides = int | Sequence[int]
Log = Callable[[str], object]


def build(
    path: str | os.PathLike[str],
    target: str | TargetSpec | Targets,
    args: str | Sequence[bpb.ArgumentSignature],
    function: str | None = None,
    *,
    grid: Sides,
    block: Sides = (),
    shared: int = 0,
    flags: str | Sequence[str] = (),
    log: Log = lambda output: None,
    cache: BuildCache | None = None,
) -> Bundle:
    """A bundle of one `__global__` function of a .cu, .ptx or .cubin file, and its one launch.

    `args` are its parameters, pointers all, in their order. `grid` is in blocks and `block` in
    threads, one to three numbers each; the block may be left out where the kernel fixes it.
    `shared` is dynamic shared memory in bytes. CUDA C is compiled by NVRTC for each target, to PTX
    and to machine code: a device takes the machine code where it is of its kind. PTX and cubins are
    taken as they are, where target "local" is the one that the file names. `flags` are for NVRTC.
    The function is named as the file, or the only one there is, unless `function` names it. A
    `cache` has what was built before: of CUDA C that includes CUDA's headers alone.

    Raises: BuildFailedError with the first error as "file:line: message" (the whole output is its
    note), CompilerCrashedError, InvalidRequestError, UnknownTargetError, OSError.
    """
    file = Path(path)
    given = [target] if isinstance(target, str | TargetSpec) else [*target]
    arguments = parse_arguments(args) if isinstance(args, str) else list(args)
    words = split_flags(flags) if isinstance(flags, str) else list(flags)
    file.stat()
    geometry = Geometry(sides(grid), sides(block), shared)

    def make() -> Bundle:
        return _bundle(file, given, arguments, function, geometry=geometry, words=words, log=log)

    if cache is None:
        return make()
    return cache.made(
        lambda: _digest(file, given, arguments, function, geometry=geometry, words=words), make
    )


def _bundle(
    file: Path,
    given: Targets,
    arguments: list[bpb.ArgumentSignature],
    function: str | None,
    *,
    geometry: Geometry,
    words: Sequence[str],
    log: Log,
) -> Bundle:
    source = file.read_bytes()
    kernel = Single(file.name, file.stem, function, arguments, geometry)
    if file.suffix == ".cu":
        found, toolchain = _compiled(file, given, words, log)
    elif words:
        raise InvalidRequestError(f"--flags are for CUDA C, which {file} is not", "leave them out")
    else:
        found, toolchain = _given(file, source, given), {}
    return kernel.bundle(found, source, toolchain)


def _digest(
    file: Path,
    given: Targets,
    arguments: Sequence[bpb.ArgumentSignature],
    function: str | None,
    *,
    geometry: Geometry,
    words: Sequence[str],
) -> str | None:
    """What the bundle is kept by; None where it takes files that are not known."""
    source, tools = file.read_bytes(), ""
    if file.suffix == ".cu":
        tools = nvrtc.identity(file, source, words)
        if not tools:
            return None
    specs = [
        # Of what is compiled already "local" is what the file says.
        "local" if one == "local" and not tools else resolve(one) if isinstance(one, str) else one
        for one in given
    ]
    parts = [one if isinstance(one, str) else [one.triple, one.cpu, one.features] for one in specs]
    signature = [one.SerializeToString(deterministic=True).hex() for one in arguments]
    content = hashlib.sha256(source).hexdigest()
    launch = [geometry.grid, geometry.block, geometry.shared]
    return digest_of(
        json.dumps([file.name, function, [*words], parts, signature, launch, content, tools])
    )


def sides(given: Sides) -> tuple[int, ...]:
    """A grid or a block as numbers."""
    return (given,) if isinstance(given, int) else tuple(given)


def _compiled(
    file: Path, given: Targets, flags: Sequence[str], log: Log
) -> tuple[list[Compiled], dict[str, str]]:
    """PTX and machine code for each target, and the tools that made them."""
    found: list[Compiled] = []
    toolchain = {"flags": shlex.join(flags)}
    for spec in _specs(given, file):
        made = nvrtc.compile_cuda(file, spec.cpu, flags)
        log(made.log)
        toolchain["nvrtc"] = made.version
        code = with_resources(read_cubin(made.cubin), made.resources)
        found.append((spec, made.ptx, code))
        found.append((machine_code(spec), made.cubin, code))
    return found, toolchain


def _given(file: Path, source: bytes, given: Targets) -> list[Compiled]:
    """A file that is compiled already, for each target. Raises: BuildFailedError."""
    machine = file.suffix == ".cubin"
    try:
        code = read_cubin(source) if machine else _read_text(source)
    except BuildFailedError as error:
        raise BuildFailedError(f"{file}: {error.message}", error.hint) from None
    level = number(code.target)
    own = code.target
    if own not in GPU_LEVELS and own[-1].isdigit():
        own = next((one for one in GPU_LEVELS if number(one) >= level), own)
    found: list[Compiled] = []
    for spec in _specs(given, file, own):
        there = number(spec.cpu)
        runs = there >= level and (code.target[-1].isdigit() or code.target == spec.cpu)
        if not runs or (machine and there // 10 != level // 10):
            raise BuildFailedError(
                f"{file} is for {code.target}, which {spec.cpu} does not run",
                f"say --target {own}, or compile it for {spec.cpu}",
            )
        if machine:
            found.append((machine_code(spec), source, code))
        else:
            found.append((spec, source, with_resources(code, _assembled(file, source, spec))))
    return found


def _assembled(file: Path, source: bytes, spec: TargetSpec) -> dict[str, bpb.KernelResources]:
    """What each kernel of PTX takes; nothing where this host has no ptxas that knows its version.

    Raises: BuildFailedError where ptxas refuses it.
    """
    try:
        return assemble(source.decode(), spec)[1]
    except BuildFailedError as error:
        if "Unsupported .version" in error.message:
            return {}
        raise BuildFailedError(f"{file}: {error.message}", error.hint) from None


def _read_text(data: bytes) -> Code:
    try:
        return read_ptx(data.decode())
    except UnicodeDecodeError:
        raise BuildFailedError(
            "it is no text, so it is no PTX", "name a cubin FILE.cubin"
        ) from None


def _specs(given: Targets, file: Path, local: str = "") -> list[TargetSpec]:
    """The targets, each a GPU; `local` is what "local" means, where it means something."""
    names = [local if local and one == "local" else one for one in given]
    specs = [resolve(one) if isinstance(one, str) else one for one in names]
    if len(set(specs)) < len(specs) or not specs:
        raise InvalidRequestError("each target is to be named once", "name one at least")
    for name, spec in zip(given, specs, strict=True):
        if not spec.gpu:
            raise InvalidRequestError(
                f"{file} is for GPUs, and target {name if isinstance(name, str) else spec.cpu} "
                f"is {spec.arch}",
                "say --target sm_80, or another GPU: `tunefarm targets` lists them",
            )
    return specs
