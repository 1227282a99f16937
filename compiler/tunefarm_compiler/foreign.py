"""Kernels written in C, in LLVM text or compiled elsewhere: `zig cc` makes them a bundle.

build_c("saxpy.c", "rasp4b", "x:float32[1024] y:out:float32[1024]").write("saxpy.tf")
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from tunefarm_proto.bundle import ITEM_BYTES, Bundle, pack
from tunefarm_proto.errors import (
    BuildFailedError,
    CompilerCrashedError,
    InvalidRequestError,
    UnknownTargetError,
)
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler.building import digest_of
from tunefarm_compiler.cache import BuildCache
from tunefarm_compiler.codegen import timing_loop
from tunefarm_compiler.elf import dynamic_symbols
from tunefarm_compiler.linker import zig_program
from tunefarm_compiler.targets import TargetSpec, resolve

COMPILE_S = 300.0  # the first compilation for a target also makes its C library's stubs
MOST_AXES = 64
MOST_BYTES = 1 << 47  # of one argument: no processor addresses more
WORD = "a word is NAME:DTYPE[SHAPE], or NAME:out:DTYPE[SHAPE] where the kernel writes it"
HELP = 'say --args "a:float32[16] b:out:float32[16]"; ' + WORD

# The oldest glibc that a device is thought to have.
_GLIBC = "2.28"
_SYSTEMS = {
    "x86_64": f"x86_64-linux-gnu.{_GLIBC}",
    "aarch64": f"aarch64-linux-gnu.{_GLIBC}",
    "armv7": f"arm-linux-gnueabihf.{_GLIBC}",
    "riscv64": f"riscv64-linux-gnu.{_GLIBC}",
    "wasm32": "wasm32-wasi",  # for its C library; what asks for WASI itself, no device takes
}
_MACHINES = {"x86_64": 62, "aarch64": 183, "armv7": 40, "riscv64": 243}
# Right results: multiplications may fuse with additions, nothing else is relaxed.
_FLAGS = (
    "-O3", "-g0", "-s", "-std=gnu17", "-ffp-contract=fast", "-fno-sanitize=all",
    "-fno-stack-protector",
)  # fmt: skip
_SHARED = ("-shared", "-Wl,--build-id=none", "-Wl,-z,defs", "-Wl,--as-needed")
_MODULE = (
    "-mexec-model=reactor", "-Wl,--export=tunefarm_repeat", "-Wl,--export-table",
    "-Wl,--growable-table", "-Wl,-z,stack-size=1048576",
)  # fmt: skip
_LIBRARIES = ("-lm", "-lpthread", "-lrt", "-ldl")
# Flags that name no file but by the preprocessor.
_ALONE = re.compile(
    r"-O\w*|-[DUI].+|-w|-pedantic|-W[a-z][\w+=-]*|-std=[\w+]+|-m[\w.+=-]+"
    r"|-f(?!profile|plugin|module|pass|auto-profile|sanitize)[\w-]+(=[\w-]+)?"
)
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_WORD = re.compile(r"([^:\[\]]*):(out:)?([^:\[\]]*)(?:\[([^\[\]]*)\])?")
_AXIS = re.compile(r"[0-9]{1,15}")
_AT_LINE = re.compile(r"(?P<file>.+?):(?P<line>\d+):\d+: (?:fatal )?error: (?P<said>.+)")
_AT_LINK = re.compile(
    r"(?:ld\.lld|wasm-ld|zig|clang|lld): error: (?:\S+\.o: )?(?P<said>.+)|error: (?P<other>.+)"
)


def parse_arguments(text: str) -> list[bpb.ArgumentSignature]:
    """The arguments that such words name: "a:float32[512,512] c:out:float32[512,512]".

    No shape is one element; "" is no argument. Raises: InvalidRequestError, which says which word.
    """
    words = re.sub(r"\s*,\s*", ",", re.sub(r"\s+\]", "]", re.sub(r"\[\s+", "[", text))).split()
    arguments = [_argument(word) for word in words]
    names = [argument.name for argument in arguments]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(f"two arguments are named {name}", "give each its own name")
    return arguments


def _argument(word: str) -> bpb.ArgumentSignature:
    found = _WORD.fullmatch(word)
    if found is None:
        raise InvalidRequestError(f"{word[:60]!r} is no argument", WORD)
    name, output, dtype, axes = found.groups()
    if not IDENTIFIER.fullmatch(name):
        raise InvalidRequestError(
            f"{name[:60]!r} is no name of an argument", "use letters, digits and _"
        )
    if dtype not in ITEM_BYTES:
        raise InvalidRequestError(
            f"argument {name} has unknown dtype {dtype[:60]!r}",
            f"known are {', '.join(ITEM_BYTES)}",
        )
    shape = _shape(name, axes) if axes is not None else []
    if math.prod(shape) * ITEM_BYTES[dtype] > MOST_BYTES:
        raise InvalidRequestError(f"argument {name} takes more memory than any device has")
    return bpb.ArgumentSignature(name=name, dtype=dtype, shape=shape, output=bool(output))


def _shape(name: str, axes: str) -> list[int]:
    words = axes.split(",")
    good = len(words) <= MOST_AXES and all(_AXIS.fullmatch(word) and int(word) for word in words)
    if not good:
        raise InvalidRequestError(
            f"argument {name} has no shape [{axes[:60]}]",
            f"give 1 to {MOST_AXES} numbers above 0, as in [512,512]",
        )
    return [int(word) for word in words]


def build_c(
    path: str | os.PathLike[str],
    target: str | TargetSpec | Sequence[str | TargetSpec],
    args: str | Sequence[bpb.ArgumentSignature],
    function: str | None = None,
    *,
    flags: str | Sequence[str] = (),
    log: Callable[[str], object] = lambda output: None,
    cache: BuildCache | None = None,
) -> Bundle:
    """A bundle of one function of a C file, named as the file unless `function` is given.

    The file may also be LLVM text (.ll), an object (.o) or a whole shared library (.so), which is
    taken as it is. The function has the C ABI `int32_t name(void *const *args)` and returns 0 for
    success. `args` are its arguments in the order of the pointers, as `parse_arguments` reads them.
    With several targets it is compiled for each. `flags` come after ours, so that they win. `log`
    gets all that the compiler printed. The same file, flags and tools give the same bytes wherever
    the file lies; a `cache` has what was built of them before. C is known by what the preprocessor
    makes of it, headers and all; what names other files yet is always compiled: flags as in -lx or
    -Wl,..., and .incbin.

    Raises: BuildFailedError with the first error as "file:line: message" (the whole output is its
    note), CompilerCrashedError, InvalidRequestError, UnknownTargetError, OSError.
    """
    file = Path(path)
    given = [target] if isinstance(target, str | TargetSpec) else target
    specs = [resolve(one) if isinstance(one, str) else one for one in given]
    if len(set(specs)) < len(specs) or not specs:
        raise InvalidRequestError("each target is to be named once", "name one at least")
    for spec in specs:
        if spec.gpu:
            raise UnknownTargetError(
                f"{file} is for processors, and {spec.cpu} is a GPU",
                "write CUDA C in a FILE.cu: docs/bring-your-own.md",
            )
    name = function if function is not None else file.stem
    if not IDENTIFIER.fullmatch(name):
        raise InvalidRequestError(
            f"{name[:60]!r} is no name of a C function", "say --function NAME"
        )
    arguments = parse_arguments(args) if isinstance(args, str) else list(args)
    words = split_flags(flags) if isinstance(flags, str) else list(flags)
    file.stat()  # before anything is said of what is in it

    def make() -> Bundle:
        return _bundle(file, specs, arguments, name, words=words, log=log)

    if cache is None:
        return make()
    return cache.made(lambda: _digest(file, specs, arguments, name, words), make)


def _bundle(
    file: Path,
    specs: Sequence[TargetSpec],
    arguments: Sequence[bpb.ArgumentSignature],
    name: str,
    *,
    words: Sequence[str],
    log: Callable[[str], object],
) -> Bundle:
    source = file.read_bytes()
    libraries = []
    for spec in specs:
        if file.suffix in (".o", ".so"):
            _check_machine(file, source, spec)
        made = source if file.suffix == ".so" else _compile(file, spec, name, words, log)
        if spec.arch != "wasm32" and name not in dynamic_symbols(made):
            raise _absent(file, name)
        libraries.append((spec.to_proto(), made))
    manifest = bpb.BundleManifest(
        workload=file.name if name == file.stem else f"{file.name}:{name}",
        functions=[bpb.FunctionSignature(name=name, arguments=arguments)],
        toolchain={"zig": metadata.version("ziglang"), "flags": shlex.join(words)},
        source_digest=hashlib.sha256(source).hexdigest(),
    )
    return pack(manifest, libraries)


def _digest(
    file: Path,
    specs: Sequence[TargetSpec],
    arguments: Sequence[bpb.ArgumentSignature],
    name: str,
    words: Sequence[str],
) -> str | None:
    """What the bundle is kept by; None where it takes more files than are known."""
    if not all(_ALONE.fullmatch(word) for word in words):
        return None
    texts = [file.read_bytes()]
    if file.suffix not in (".ll", ".o", ".so"):
        texts += [_preprocessed(file, spec, words) for spec in specs]
    if not all(texts) or (file.suffix not in (".o", ".so") and b".incbin" in b"".join(texts)):
        return None
    parts = [[spec.triple, spec.cpu, spec.features] for spec in specs]
    signature = [one.SerializeToString(deterministic=True).hex() for one in arguments]
    contents = [hashlib.sha256(text).hexdigest() for text in texts]
    return digest_of(json.dumps([file.name, name, [*words], parts, signature, contents]))


def _preprocessed(file: Path, spec: TargetSpec, flags: Sequence[str]) -> bytes:
    """C with all that it includes, b"" where there is an error, which compiling will tell."""
    if spec.arch not in _SYSTEMS:
        return b""
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [*_command(spec), *_FLAGS, *flags, "-E", f"./{file.name}"],
            cwd=file.absolute().parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMPILE_S,
            check=False,
        )
        return done.stdout if done.returncode == 0 else b""
    return b""


def _command(spec: TargetSpec) -> list[str]:
    zig = str(zig_program())
    return [zig, "cc", "-target", _SYSTEMS[spec.arch], f"-mcpu={zig_processor(spec)}"]


def _check_machine(file: Path, data: bytes, spec: TargetSpec) -> None:
    """An object or library must be for the target. Raises: BuildFailedError."""
    if spec.arch == "wasm32":
        fits, what = data[:4] == b"\0asm", "a WebAssembly module"
    else:
        machine = int.from_bytes(data[18:20], "little")
        fits = data[:4] == b"\x7fELF" and machine == _MACHINES[spec.arch]
        what = f"an ELF file for {spec.arch}"
    if not fits:
        raise BuildFailedError(f"{file} is not {what}", "name the target that it was compiled for")


def split_flags(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise InvalidRequestError(f"--flags {flags!r}: {error}", "close the quotes") from None


def _absent(file: Path, name: str) -> BuildFailedError:
    return BuildFailedError(
        f"{file}: no function {name} in it that can be seen from outside",
        f"write int32_t {name}(void *const *args), or say --function NAME",
    )


def zig_processor(spec: TargetSpec) -> str:
    """The processor as zig names it: "cortex_a72+neon"."""
    base = "x86_64" if spec.arch == "x86_64" else spec.cpu.replace("-", "_")
    if (spec.arch, base) == ("armv7", "generic"):
        base = "generic+v7a"
    return "+".join([base, *(re.sub("[-.]", "_", feature) for feature in spec.features)])


def _compile(
    file: Path, spec: TargetSpec, name: str, flags: Sequence[str], log: Callable[[str], object]
) -> bytes:
    """The library of one file and the timing loop."""
    if spec.arch not in _SYSTEMS:
        raise UnknownTargetError(
            f"C cannot be compiled for {spec.triple}", f"known are {', '.join(_SYSTEMS)}"
        )
    with tempfile.TemporaryDirectory(prefix="tunefarm-cc-") as scratch:
        repeat, library = Path(scratch, "repeat.o"), Path(scratch, "kernel.so")
        repeat.write_bytes(timing_loop(spec))
        command, wasm = _command(spec), spec.arch == "wasm32"
        command += [*_MODULE, f"-Wl,--export={name}"] if wasm else _SHARED
        # In its own folder and by its name alone: includes are found, no path gets into the code.
        command += [*_FLAGS, *flags, "-o", str(library), f"./{file.name}", str(repeat)]
        try:
            done = subprocess.run(
                [*command, *(_LIBRARIES[:1] if wasm else _LIBRARIES)],
                cwd=file.absolute().parent,
                # Zig's own cache of what it compiled does not know what .incbin takes.
                env={**os.environ, "ZIG_LOCAL_CACHE_DIR": scratch},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=COMPILE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CompilerCrashedError(f"{file}: the compiler took over {COMPILE_S:g} s") from None
        output = done.stdout.decode(errors="replace")
        log(output)
        if done.returncode == 0 and library.exists():
            return library.read_bytes()
    reason = first_error(file, output)
    if reason.endswith(f"--export not found: {name}"):
        raise _absent(file, name)
    failed = BuildFailedError(reason or f"{file}: status {done.returncode}")
    failed.add_note(output)
    raise failed


def first_error(file: Path, output: str) -> str:
    """The first error that the compiler or linker printed, "" where it printed none."""
    at_link = ""
    for line in output.splitlines():
        if found := _AT_LINE.fullmatch(line.strip()):
            where = Path(found["file"])
            shown = file if where.name == file.name else where
            return f"{shown}:{found['line']}: {found['said']}"
        if not at_link and (found := _AT_LINK.fullmatch(line.strip())):
            at_link = f"{file}: {found['said'] or found['other']}"
    return at_link
