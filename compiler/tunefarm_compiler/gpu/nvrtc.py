"""CUDA C made PTX and machine code by NVRTC, in a process of its own. No GPU is needed."""

import base64
import contextlib
import importlib.metadata
import json
import os
import re
import site
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tunefarm_proto import extras
from tunefarm_proto.errors import BuildFailedError, CompilerCrashedError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler.gpu.assemble import parse

COMPILE_S = 300.0
# NVRTC's own defaults: multiplications fuse with additions, nothing else is relaxed.
_FLAGS = ("--std=c++17", "--ptxas-options=-v")
_INCLUDE = re.compile(r"#\s*include\s*<([\w./]+)>\s*(?://.*)?$")
# Flags that name no file.
_ALONE = re.compile(
    r"-[DU]\w+(=.*)?|--?std=[\w+]+|--?(use_fast_math|restrict|extra-device-vectorization|lineinfo"
    r"|device-debug|generate-line-info|G)|--?(fmad|ftz|prec-div|prec-sqrt|maxrregcount)=\w+"
)
_AT_LINE = re.compile(
    r"(?P<file>[^()]+)\((?P<line>\d+)\): (?:catastrophic |fatal )?error(?: #[\w-]+)?:? (?P<said>.+)"
)
_ELSEWHERE = re.compile(r"(?:nvrtc|ptxas)[^:]*?(?::| ) ?(?:error|fatal)\s*:\s*(?P<said>.+)")


class Compiled(NamedTuple):
    """PTX, machine code, NVRTC's version, and all that it and its assembler said."""

    ptx: bytes
    cubin: bytes
    version: str
    log: str

    @property
    def resources(self) -> dict[str, bpb.KernelResources]:
        """What the assembler says that each kernel takes, by its symbol."""
        return parse(self.log)


def compile_cuda(file: Path, level: str, flags: Sequence[str] = ()) -> Compiled:
    """Compile a file for a level as in "sm_80". `flags` come after ours, so that they win.

    Headers next to the file and those of a CUDA toolkit are found.
    Raises: BuildFailedError with the first error as "file:line: message" (the whole output is its
    note), CompilerCrashedError, OSError.
    """
    toolkits = _toolkits()
    includes = [f"-I{folder}" for folder in _includes(toolkits)]
    options = [f"--gpu-architecture={level}", *_FLAGS, "-I.", *flags, *includes]
    try:
        # In its own folder and by its name alone: no path gets into the code.
        done = _work(toolkits, [file.name, *options], file.absolute().parent)
    except subprocess.TimeoutExpired:
        raise CompilerCrashedError(f"{file}: NVRTC took over {COMPILE_S:g} s") from None
    if done.returncode != 0:
        raise CompilerCrashedError(f"{file}: NVRTC's process ended with status {done.returncode}")
    made = json.loads(done.stdout)
    if "missing" in made:
        raise BuildFailedError(f"{file}: CUDA C needs NVRTC, and {made['missing']}", install())
    if "ptx" not in made:
        failed = BuildFailedError(first_error(file, made["log"]) or f"{file}: {made['status']}")
        failed.add_note(made["log"])
        raise failed
    ptx, cubin = (base64.b64decode(made[part]) for part in ("ptx", "cubin"))
    return Compiled(ptx, cubin, made["version"], made["log"])


def found() -> tuple[str, str]:
    """NVRTC's version, or "", and what is missing for it."""
    try:
        done = _work(_toolkits(), [])
        told = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return "", "its process ended without an answer"
    return told.get("version", ""), told.get("missing", "")


def _work(
    toolkits: Sequence[Path], words: Sequence[str], folder: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """What the worker does with these words. Raises: OSError, subprocess.TimeoutExpired."""
    worker = Path(__file__).with_name("nvrtc_worker.py")
    environment = dict(os.environ)
    if toolkits and not {"CUDA_PATH", "CUDA_HOME"} & set(environment):
        environment["CUDA_PATH"] = str(toolkits[0])  # where cuda.bindings looks after its own
    return subprocess.run(
        [sys.executable, "-P", str(worker), *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMPILE_S,
        check=False,
    )


def install() -> str:
    """How NVRTC is installed: that of CUDA 12 where `cuda.bindings` is of CUDA 12."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        if importlib.metadata.version("cuda-bindings").startswith("12."):
            return extras.install("nvrtc12")
    return extras.install("nvrtc")


def first_error(file: Path, log: str) -> str:
    """The first error that NVRTC or ptxas printed, "" where it printed none."""
    elsewhere = ""
    for line in log.splitlines():
        if found := _AT_LINE.match(line.strip()):
            where = Path(found["file"])
            shown = file if where.name == file.name else where
            return f"{shown}:{found['line']}: {found['said']}"
        if not elsewhere and (found := _ELSEWHERE.match(line.strip())):
            elsewhere = f"{file}: {found['said']}"
    return elsewhere


def _toolkits() -> list[Path]:
    """CUDA toolkits of this machine, the newest first."""

    def version(folder: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", folder.name)]

    return sorted(Path("/usr/local").glob("cuda*"), key=version, reverse=True)


def identity(file: Path, source: bytes, flags: Sequence[str]) -> str:
    """What NVRTC makes a file's code of besides its text: its version and CUDA's headers.

    "" where that is not known: it includes other files, or flags may.
    """
    toolkits = _toolkits()
    folders = _includes(toolkits)
    beside = file.absolute().parent
    text = source.replace(b"\r", b"").replace(b"\\\n", b"")
    for line in map(bytes.strip, text.splitlines()):
        if b"include" not in line and b"embed" not in line and b"incbin" not in line:
            continue
        named = _INCLUDE.match(line.decode(errors="replace"))
        own = named is None or (beside / named[1]).exists()
        if own or not any((folder / named[1]).exists() for folder in folders if named):
            return ""
    version, missing = found()
    if missing or not all(_ALONE.fullmatch(flag) for flag in flags):
        return ""
    return json.dumps([version, [[str(one), one.stat().st_mtime_ns] for one in folders]])


def _includes(toolkits: Sequence[Path]) -> list[Path]:
    """Folders of CUDA's headers, of packages before those of toolkits."""
    named = [Path(os.environ[name]) for name in ("CUDA_PATH", "CUDA_HOME") if name in os.environ]
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    found = [path for base in packages for path in sorted(Path(base).glob("nvidia/*/include"))]
    found += [base / "include" for base in (*named, *toolkits)]
    whole = [path for path in found if (path / "cuda_fp16.h").exists()][:1]
    # Packages of CUDA 12 have what those headers include in a folder beside it.
    homes = {path.parents[1] for path in whole if not (path / "crt").exists()}
    beside = [path for path in found if (path / "crt").exists() and path.parents[1] in homes]
    more = [path / "cccl" for path in whole if (path / "cccl").exists()]
    return [*whole, *beside[:1], *more]
