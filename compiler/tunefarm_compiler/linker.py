"""Objects to a library: in this process where `elf` can, else by zig's linkers in theirs."""

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tunefarm_proto.errors import BuildFailedError

from tunefarm_compiler import threads
from tunefarm_compiler.elf import UnknownPartError, dynamic_symbols, shared
from tunefarm_compiler.targets import TargetSpec

# What a library may leave for the device's C library. A WebAssembly module has none.
ALLOWED_UNDEFINED = frozenset(("memcpy", "memset", "memmove", "fmaf")) | threads.NEEDED
_EMULATION = {
    "x86_64": "elf_x86_64",
    "aarch64": "aarch64linux",
    "armv7": "armelf_linux_eabi",
    "riscv64": "elf64lriscv",
}
# A module as `backends/wasm.py` of the device takes it: memory and table are its own, and may grow.
# The stack lies first, so that one that overflows leaves the memory instead of reaching the data.
WASM_LINKER = (
    "wasm-ld", "--no-entry", "--stack-first", "-z", "stack-size=1048576",
    "--export-dynamic", "--export-table", "--growable-table",
)  # fmt: skip


def zig_program() -> Path:
    """Zig's command. GPU code needs none, so nothing here is imported before it is used."""
    import ziglang

    return Path(ziglang.__file__).parent / "zig"


def link(objects: bytes | Sequence[bytes], spec: TargetSpec) -> bytes:
    """A shared library of objects, or a WebAssembly module. Raises: BuildFailedError."""
    given = [objects] if isinstance(objects, bytes) else [*objects]
    if spec.arch == "wasm32":
        return _run_linker([*WASM_LINKER], given)
    try:
        return shared(given)
    except UnknownPartError:
        pass
    command = ["ld.lld", "-shared", "-m", _EMULATION[spec.arch], "--build-id=none"]
    data = _run_linker([*command, "-z", "noexecstack"], given)
    _refuse_foreign(dynamic_symbols(data, defined=False), ALLOWED_UNDEFINED)
    return data


def _run_linker(command: list[str], objects: Sequence[bytes]) -> bytes:
    """Run one of zig's linkers. Raises: BuildFailedError."""
    with tempfile.TemporaryDirectory(prefix="tunefarm-link-") as scratch:
        library = Path(scratch, "kernel.so")
        sources = [Path(scratch, f"{number}.o") for number in range(len(objects))]
        for source, data in zip(sources, objects, strict=True):
            source.write_bytes(data)
        zig = zig_program()
        done = subprocess.run(
            [str(zig), *command, "-o", str(library), *map(str, sources)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch},
        )
        if done.returncode:
            _refuse_foreign(set(re.findall(r"undefined symbol: (\w+)", done.stderr)), frozenset())
            said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
            raise BuildFailedError(f"the linker failed: {said}")
        return library.read_bytes()


def _refuse_foreign(needed: set[str], allowed: frozenset[str]) -> None:
    if foreign := sorted(needed - allowed):
        raise BuildFailedError(
            f"the kernel needs {', '.join(foreign)}, which a device may lack",
            f"allowed are {', '.join(sorted(allowed))}"
            if allowed
            else "define it beside the kernel",
        )
