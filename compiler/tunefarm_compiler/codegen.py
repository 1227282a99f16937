"""LLVM text to a shared library: no IR passes, then one link."""

import hashlib
import os
import re
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import ziglang
from tunefarm_proto.bundle import Bundle, pack
from tunefarm_proto.errors import BuildFailedError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler import threads
from tunefarm_compiler.lower import function
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload

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

# The native timing loop: calls a kernel `number` times, stops at the first status that is not 0.
_REPEAT = """
define i32 @tunefarm_repeat(ptr %kernel, ptr %args, i64 %number) #0 {
entry:
  %any = icmp sgt i64 %number, 0
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %again ]
  %status = call i32 %kernel(ptr %args)
  %bad = icmp ne i32 %status, 0
  br i1 %bad, label %done, label %again
again:
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %number
  br i1 %more, label %loop, label %done
done:
  %result = phi i32 [ 0, %entry ], [ %status, %loop ], [ 0, %again ]
  ret i32 %result
}
"""


def lowered(workload: Workload, spec: TargetSpec, schedule: Schedule) -> str:
    """The LLVM text of a workload's library. Raises: InvalidScheduleError."""
    return module_text(function(workload.function, workload.output, schedule, spec), spec)


def module_text(functions: str, spec: TargetSpec) -> str:
    """A module of these functions and the timing loop, with the target's attributes."""
    attributes = ["nounwind"]
    if spec.arch == "x86_64":
        width = str(32 * spec.lanes)
        attributes += [f'"prefer-vector-width"="{width}"', f'"min-legal-vector-width"="{width}"']
        # Code is for the features; the CPU's name only orders instructions.
        attributes += [f'"tune-cpu"="{spec.cpu}"']
    if spec.arch == "wasm32":  # fused, it would be a call for each lane
        functions = functions.replace("@llvm.fma.", "@llvm.fmuladd.")
    if "@threads.deal" in functions:
        functions += threads.runtime(spec)
    flags = ""
    if spec.abi:
        flags = f'!llvm.module.flags = !{{!0}}\n!0 = !{{i32 1, !"target-abi", !"{spec.abi}"}}\n'
    return (
        f'target triple = "{spec.triple}"\n{functions}{_REPEAT}'
        f"attributes #0 = {{ {' '.join(attributes)} }}\n{flags}"
    )


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    # Our loops already step pointers; finding that out takes LLVM as long as all the rest.
    llvm.set_option("tunefarm", "-disable-lsr")


@cache
def _machine(spec: TargetSpec) -> llvm.TargetMachine:
    _initialize()
    cpu = "x86-64" if spec.arch == "x86_64" else spec.cpu
    return llvm.Target.from_triple(spec.triple).create_target_machine(
        cpu=cpu,
        features=",".join(f"+{feature}" for feature in spec.features),
        opt=2,
        reloc="static" if spec.arch == "wasm32" else "pic",
        abiname=spec.abi,
    )


def emit_object(text: str, spec: TargetSpec) -> bytes:
    """An object of the text. Raises: BuildFailedError for text that LLVM refuses."""
    try:
        with llvm.parse_assembly(text) as module:
            module.verify()
            return bytes(_machine(spec).emit_object(module))
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise BuildFailedError(f"LLVM refused the code: {said}"[:300]) from None


def link(objects: bytes, spec: TargetSpec) -> bytes:
    """A shared library of one object, or a WebAssembly module. Raises: BuildFailedError."""
    if spec.arch == "wasm32":
        return _run_linker([*WASM_LINKER], objects)
    command = ["ld.lld", "-shared", "-m", _EMULATION[spec.arch], "--build-id=none"]
    data = _run_linker([*command, "-z", "noexecstack"], objects)
    _refuse_foreign(dynamic_symbols(data, defined=False), ALLOWED_UNDEFINED)
    return data


def _run_linker(command: list[str], objects: bytes) -> bytes:
    """Run one of zig's linkers on an object. Raises: BuildFailedError."""
    with tempfile.TemporaryDirectory(prefix="tunefarm-link-") as scratch:
        source, library = Path(scratch, "kernel.o"), Path(scratch, "kernel.so")
        source.write_bytes(objects)
        zig = Path(ziglang.__file__).parent / "zig"
        done = subprocess.run(
            [str(zig), *command, "-o", str(library), str(source)],
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


def dynamic_symbols(library: bytes, *, defined: bool = True) -> set[str]:
    """Names that a little-endian ELF library gives, or takes from elsewhere, by its .dynsym."""
    wide = library[4] == 2
    if wide:
        (table,), (size, count) = (
            struct.unpack_from("<Q", library, 40),
            struct.unpack_from("<HH", library, 58),
        )
    else:
        (table,), (size, count) = (
            struct.unpack_from("<I", library, 32),
            struct.unpack_from("<HH", library, 46),
        )
    layout = "<IIQQQQII" if wide else "<IIIIIIII"
    sections = [struct.unpack_from(layout, library, table + size * i) for i in range(count)]
    found = set()
    for section in (s for s in sections if s[1] == 11):  # SHT_DYNSYM
        names = sections[section[6]]
        step = 24 if wide else 16
        for at in range(section[4] + step, section[4] + section[5], step):
            name, where = struct.unpack_from("<I2xH" if wide else "<I10xH", library, at)
            if bool(where) == defined:
                start = names[4] + name
                found.add(library[start : library.index(b"\0", start)].decode())
    return found


def build_with(workload: Workload, spec: TargetSpec, schedule: Schedule) -> Bundle:
    """Compile a workload in this process. Raises: InvalidScheduleError, BuildFailedError.

    LLVM may abort the process: `pool.BuildPool` does this in processes of its own.
    """
    text = lowered(workload, spec, schedule)
    library = link(emit_object(text, spec), spec)
    manifest = bpb.BundleManifest(
        workload=str(workload),
        functions=[workload.signature()],
        toolchain={
            "llvm": ".".join(map(str, llvm.llvm_version_info)),
            "llvmlite": llvmlite.__version__,
        },
        source_digest=hashlib.sha256(text.encode()).hexdigest(),
        schedule=schedule.to_json(),
    )
    return pack(manifest, [(spec.to_proto(), library)])
