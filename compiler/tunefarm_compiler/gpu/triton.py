"""What Triton compiled, as a bundle: Triton itself is not imported.

compiled = add_kernel.warmup(x, y, out, BLOCK=256, grid=(4,))    # or triton.compile(...)
bundle(compiled, "x:float32[1024] y:float32[1024] out:out:float32[1024]", grid=4).write("add.tf")
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunefarm_proto.bundle import Bundle
from tunefarm_proto.errors import BuildFailedError, InvalidRequestError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler.foreign import parse_arguments
from tunefarm_compiler.gpu.cubin import read_cubin
from tunefarm_compiler.gpu.entries import read_ptx
from tunefarm_compiler.gpu.geometry import WARP, Geometry
from tunefarm_compiler.gpu.own import Sides, sides
from tunefarm_compiler.gpu.single import Compiled, Single, machine_code, with_resources
from tunefarm_compiler.targets import resolve

LEAST_SCRATCH = 16  # bytes: a pointer that is never followed points to something all the same
NO_SCALARS = (
    "scalars are no arguments: make it a tl.constexpr, or load it from an array of one element"
)


def bundle(
    compiled: Any,
    args: str | Sequence[bpb.ArgumentSignature],
    grid: Sides,
    *,
    function: str | None = None,
) -> Bundle:
    """A bundle of a kernel that Triton compiled: an object with `asm` and `metadata`.

    `args` are its pointers in order, without `tl.constexpr` ones; `grid` is one to three numbers of
    programs. Threads and shared memory are what Triton chose. PTX is taken, and machine code where
    Triton made it. The scratch that newer versions append to the parameters is given.

    Raises: BuildFailedError, InvalidRequestError.
    """
    asm: Mapping[str, Any] = getattr(compiled, "asm", None) or {}
    facts = _facts(compiled)
    label = f"triton:{facts.get('name', '')}"
    if not isinstance(asm.get("ptx"), str) or not facts.get("name"):
        raise InvalidRequestError(
            "there is no asm['ptx'] or no name in its metadata",
            "give what triton.compile or KERNEL.warmup returned, compiled for CUDA",
        )
    _check_facts(label, facts, compiled)
    arguments = parse_arguments(args) if isinstance(args, str) else list(args)
    ptx = asm["ptx"]
    code = read_ptx(ptx)
    entry = next((one for one in code.entries if one.symbol == facts["name"]), None)
    if entry is None:
        raise BuildFailedError(f"{label}: its PTX has no kernel of that name")
    block = entry.required or (WARP * int(facts.get("num_warps", 4)),)
    launch = Geometry(sides(grid), block, int(facts.get("shared", 0)))
    more = max(0, len(entry.parameters) - len(arguments))
    scratch = _scratch(facts, math.prod(launch.grid))[:more]
    spec = resolve(code.target)
    found: list[Compiled] = [(spec, ptx.encode(), code)]
    if isinstance(machine := asm.get("cubin"), bytes):
        made = read_cubin(machine)
        known = {one.symbol: one.resources for one in made.entries}
        found = [(spec, ptx.encode(), with_resources(code, known))]
        found.append((machine_code(resolve(made.target)), machine, made))
    version = str(facts.get("triton_version", ""))
    kernel = Single(label, facts["name"], function, arguments, launch, scratch, NO_SCALARS)
    return kernel.bundle(found, ptx.encode(), {"triton": version} if version else {})


def _facts(compiled: Any) -> dict[str, Any]:
    """Its metadata: a named tuple, an object or a dict, as Triton's versions have it."""
    metadata = getattr(compiled, "metadata", None)
    if isinstance(metadata, Mapping):
        return dict(metadata)
    if metadata is None:
        return {}
    return dict(metadata._asdict() if hasattr(metadata, "_asdict") else vars(metadata))


def _check_facts(label: str, facts: Mapping[str, Any], compiled: Any) -> None:
    """Refuses what one launch with pointers alone is not. Raises: BuildFailedError."""
    if int(facts.get("num_ctas", 1)) > 1:
        raise BuildFailedError(f"{label} runs in clusters of blocks", "compile it with num_ctas=1")
    if facts.get("launch_cooperative_grid"):
        raise BuildFailedError(f"{label} is a cooperative launch", "leave that option out")
    if facts.get("tensordesc_meta"):
        raise BuildFailedError(f"{label} takes tensor descriptors", "pass pointers")
    signature = getattr(getattr(compiled, "src", None), "signature", None) or {}
    for name, kind in signature.items():
        if isinstance(kind, str) and kind != "constexpr" and not kind.startswith("*"):
            raise BuildFailedError(f"{label}: parameter {name} is no pointer ({kind})", NO_SCALARS)


def _scratch(facts: Mapping[str, Any], programs: int) -> list[int]:
    """Bytes of the global scratch and of the profiler's, which are the last parameters."""
    each = (int(facts.get(f"{kind}_scratch_size") or 0) for kind in ("global", "profile"))
    return [max(LEAST_SCRATCH, size * programs) for size in each]
