"""PTX checked by ptxas: whether it takes it, and what each kernel needs of a multiprocessor.

Without a ptxas on this machine PTX is made all the same, and nothing is known of its kernels.
"""

import importlib.util
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tunefarm_proto.errors import BuildFailedError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler.targets import TargetSpec

SECONDS = 120
_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@cache
def ptxas() -> str:
    """Its path: on PATH, in a CUDA toolkit, or of the package nvidia-cuda-nvcc; "" for none."""
    if found := shutil.which("ptxas"):
        return found
    folders = [*Path("/usr/local").glob("cuda*/bin")]
    spec = importlib.util.find_spec("nvidia")
    for where in (spec.submodule_search_locations or []) if spec else []:
        folders += Path(where).glob("*/bin")
    kept = [one / "ptxas" for one in sorted(folders, reverse=True)]
    return str(next((path for path in kept if path.is_file()), ""))


@cache
def version() -> str:
    """What it says of itself, as in "V13.0.88"; "" where there is none."""
    if not ptxas():
        return ""
    said = subprocess.run([ptxas(), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"V\d[\d.]*", said.stdout)
    return found.group() if found else ""


def assemble(
    ptx: str, spec: TargetSpec, spilling: bool = True
) -> tuple[bytes, dict[str, bpb.KernelResources]]:
    """The machine code, and what each kernel needs; nothing of either without a ptxas.

    Raises: BuildFailedError, with the line that it refuses; where it takes over two minutes; and,
    unless `spilling` is allowed, where a kernel spills registers.
    """
    if not ptxas():
        return b"", {}
    with tempfile.TemporaryDirectory(prefix="tunefarm-ptx-") as folder:
        source, made = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        command = [ptxas(), "-v", f"-arch={spec.cpu}", str(source), "-o", str(made)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            raise BuildFailedError(f"ptxas took over {SECONDS} s") from None
        if done.returncode or not made.exists():
            raise _refused(done.stderr or done.stdout, ptx)
        cubin = made.read_bytes()
    resources = parse(done.stderr + done.stdout)
    for name, used in resources.items():
        if not spilling and used.spill_store_bytes:
            raise BuildFailedError(
                f"{name} spills {used.spill_store_bytes} bytes of each thread's registers",
                "give its schedule a smaller register tile",
            )
    return cubin, resources


def parse(said: str) -> dict[str, bpb.KernelResources]:
    """What `ptxas -v` says of each kernel."""
    found: dict[str, bpb.KernelResources] = {}
    here = bpb.KernelResources()
    for line in said.splitlines():
        if entry := _ENTRY.search(line):
            here = found.setdefault(entry.group(1), bpb.KernelResources())
        if stack := _STACK.search(line):
            here.stack_bytes, here.spill_store_bytes, here.spill_load_bytes = map(
                int, stack.groups()
            )
        if used := _USED.search(line):
            here.registers = int(used.group(1))
        if shared := _SHARED.search(line):
            here.shared_bytes = int(shared.group(1))
    return found


def _refused(said: str, ptx: str) -> BuildFailedError:
    """Its first complaint, with the line of the text that it is about."""
    told = [line for line in said.splitlines() if " info " not in line]
    first = next((line for line in told if "line" in line or "error" in line), said)
    place = re.search(r"line (\d+)", first)
    lines = ptx.splitlines()
    text = ""
    if place and int(place.group(1)) <= len(lines):
        text = f" in `{lines[int(place.group(1)) - 1].strip()}`"
    what = re.sub(r"^ptxas \S+, |\s+", " ", first).strip()
    return BuildFailedError(f"ptxas refused the code: {what}{text}"[:300])
