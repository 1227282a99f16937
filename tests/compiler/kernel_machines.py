"""Where compiled kernels run: programs for any processor, emulated or not, and modules.

Many kernels are linked into one library as those of bundles are, which a program loads that calls
one after another (`guest.c`), every argument between pages that may not be touched, inputs in pages
that may not be written.

A WebAssembly module has one memory: each call lays one of its arguments, in turns, against that
memory's end, which traps, and bytes that must stay as they are around all of them.
"""

import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import ziglang
from kernel_image import Image
from tunefarm_compiler import targets
from tunefarm_compiler.linker import link

ZIG = Path(ziglang.__file__).parent / "zig"
TRIPLES = {
    "x86_64": "x86_64-linux-musl",
    "aarch64": "aarch64-linux-musl",
    "armv7": "arm-linux-musleabihf",
    "riscv64": "riscv64-linux-musl",
}
EMULATORS = {
    "aarch64": "qemu-aarch64-static",
    "armv7": "qemu-arm-static",
    "riscv64": "qemu-riscv64-static",
}
VECTORS = "rv64,v=true,vext_spec=v1.0,vlen=128"  # qemu leaves them out otherwise
FLAGS = (
    "-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-builtin", "-fno-sanitize=all",
    "-fno-stack-protector",
)  # fmt: skip
POISON, CANARY, MARGIN, WASM_PAGE = 77, 0xA5, 256, 1 << 16


@dataclass(frozen=True)
class Call:
    """A kernel by its number in the program, its inputs, and what its output looks like."""

    kernel: int
    inputs: list
    output: np.ndarray
    at_end: bool


def lacking(spec) -> str:
    """What is missing to run a target's code here; "" where nothing is."""
    if spec.arch == "wasm32":
        return "" if _has_wasmtime() else "wasmtime is not here: pip install wasmtime"
    if spec.arch == "x86_64":
        there = set(targets.resolve("local").features)
        less = sorted(set(spec.features) - there)
        return f"this processor lacks {', '.join(less)}" if less else ""
    if shutil.which(EMULATORS[spec.arch]) is None:
        return f"{EMULATORS[spec.arch]} is not here: apt-get install qemu-user-static"
    return ""


def _has_wasmtime():
    try:
        import wasmtime  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def _guest(arch: str) -> bytes:
    """The program that runs kernels."""
    with tempfile.TemporaryDirectory() as folder:
        program, source = Path(folder, "guest"), Path(__file__).with_name("guest.c")
        command = [ZIG, "cc", "-target", TRIPLES[arch], *FLAGS, "-o", program, source]
        subprocess.run(command, check=True, capture_output=True)
        return program.read_bytes()


def run(spec, names, objects, calls):
    """The output of each call, or a text that says how it failed.

    `names` are the functions that calls count, linked as every library is.
    """
    library = link(objects, spec)
    if spec.arch == "wasm32":
        return _run_module(library, names, calls)
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
        program = Path(folder, "guest")
        program.write_bytes(_guest(spec.arch))
        program.chmod(0o700)
        return _run_program(spec, program, _loaded(Image.of(library), names), calls)


def _loaded(image, names):
    """A library as the guest reads it."""
    starts = [image.functions[name] for name in names]
    head = struct.pack("<3I", len(image.memory), len(starts), len(image.wanted))
    wanted = [number for pair in image.wanted for number in pair]
    return head + image.memory + struct.pack(f"<{len(starts) + len(wanted)}I", *starts, *wanted)


def _run_program(spec, program, library, calls):
    emulator = [EMULATORS[spec.arch]] if spec.arch in EMULATORS else []
    outcomes = []
    while len(outcomes) < len(calls):
        left = calls[len(outcomes) :]
        done = subprocess.run(
            [*emulator, program],
            env={**os.environ, **({"QEMU_CPU": VECTORS} if "v" in spec.features else {})},
            input=library + b"".join(_request(call) for call in left),
            capture_output=True,
            timeout=600,
            check=False,
        )
        answers = done.stdout
        for call in left:
            size = 4 + call.output.nbytes
            if len(answers) < size:
                break
            (status,) = struct.unpack_from("<i", answers)
            raw = answers[4:size]
            made = np.frombuffer(raw, call.output.dtype).reshape(call.output.shape)
            outcomes.append(f"status {status}" if status else made)
            answers = answers[size:]
        else:
            assert (done.returncode, answers) == (0, b""), done.stderr[-500:]
            break
        said = done.stderr.decode(errors="replace").strip()[-200:]
        outcomes.append(f"the process ended with {done.returncode} {said}")
    return outcomes


def _request(call):
    given = [*call.inputs, np.full_like(call.output, POISON)]
    sizes = [data.nbytes for data in given]
    head = struct.pack(f"<{3 + len(sizes)}I", call.kernel, len(given), call.at_end, *sizes)
    return head + b"".join(data.tobytes() for data in given)


def _run_module(library, names, calls):
    import wasmtime

    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, library)
    outcomes = []
    store = instance = None
    for number, call in enumerate(calls):
        if instance is None:
            store = wasmtime.Store(engine)
            instance = wasmtime.Instance(store, module, [])
        try:
            outcomes.append(_call_module(store, instance, names[call.kernel], call, number))
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            outcomes.append(f"it trapped: {str(error).splitlines()[-1]}")
            instance = None
    return outcomes


def _call_module(store, instance, name, call, number):
    exports = instance.exports(store)
    memory = exports["memory"]
    given = [*call.inputs, np.full_like(call.output, POISON)]
    last = number % len(given)  # the one at the memory's end
    need = sum(data.nbytes + 2 * MARGIN for data in given) + MARGIN
    begin = memory.size(store) * WASM_PAGE
    memory.grow(store, -(-need // WASM_PAGE))
    end = memory.size(store) * WASM_PAGE
    places, at = [0] * len(given), begin + MARGIN
    for index, data in enumerate(given):
        if index == last:
            places[index] = end - data.nbytes
        else:
            at = -(-at // 8) * 8 + MARGIN + (0 if call.at_end else data.itemsize)
            places[index], at = at, at + data.nbytes
    before = bytearray([CANARY]) * (end - begin)
    table = begin
    before[: 4 * len(given)] = struct.pack(f"<{len(given)}I", *places)
    for place, data in zip(places, given, strict=True):
        before[place - begin : place - begin + data.nbytes] = data.tobytes()
    memory.write(store, before, begin)
    status = exports[name](store, table)
    after = bytearray(memory.read(store, begin, end))
    place, size = places[-1] - begin, given[-1].nbytes
    made = np.frombuffer(bytes(after[place : place + size]), call.output.dtype)
    after[place : place + size] = before[place : place + size]
    if status or after != before:
        return f"status {status}" if status else "it wrote outside its output"
    return made.reshape(call.output.shape)
