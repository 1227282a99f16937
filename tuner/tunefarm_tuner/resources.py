"""What the kernels of a GPU bundle take of a multiprocessor: for records, and to prune by.

Its assembler tells on the host, so what spills never gets to a device.
"""

import math
from typing import Any

from tunefarm_proto.bundle import Bundle
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

MOST_SPILLED = 16  # bytes of a thread: less costs nothing that could be measured


def resources(bundle: Bundle) -> list[dict[str, Any]]:
    """Its launches with what each takes, in their order; none of a bundle for processors.

    Without an assembler on the host there are no registers and spills among it.
    """
    libraries = bundle.manifest.libraries
    return [
        one for entry in libraries for name in sorted(entry.launches) for one in _of(entry, name)
    ]


def of_function(bundle: Bundle, target: pb.Target, function: str) -> list[dict[str, Any]]:
    """Those of one function in the library for a target."""
    own = [entry for entry in bundle.manifest.libraries if entry.target == target]
    return [one for entry in own[:1] for one in _of(entry, function)]


def _of(library: bpb.BundleLibrary, function: str) -> list[dict[str, Any]]:
    if function not in library.launches:
        return []
    found = []
    for launch in library.launches[function].launches:
        one: dict[str, Any] = {
            "kernel": launch.kernel,
            "grid": list(launch.grid),
            "block": list(launch.block),
            "shared_bytes": launch.shared_bytes,
        }
        if launch.HasField("resources"):
            used = launch.resources
            one |= {
                "registers": used.registers,
                "spill_store_bytes": used.spill_store_bytes,
                "spill_load_bytes": used.spill_load_bytes,
                "stack_bytes": used.stack_bytes,
                "static_shared_bytes": used.shared_bytes,
            }
        found.append(one)
    return found


def told(one: dict[str, Any]) -> str:
    """One of them in a line."""
    shared = one["shared_bytes"] + one.get("static_shared_bytes", 0)
    parts = [f"{math.prod(one['grid'])} blocks of {math.prod(one['block'])} threads"]
    if "registers" in one:
        parts.append(f"{one['registers']} registers")
        if one["spill_store_bytes"]:
            parts.append(f"spilling {one['spill_store_bytes']} bytes")
    if shared:
        parts.append(f"{shared} bytes of shared memory")
    return f"kernel {one['kernel']}: {', '.join(parts)}"


def fault(bundle: Bundle) -> str:
    """Why a bundle is not worth measuring; "" where it is."""
    for one in resources(bundle):
        spilled = one.get("spill_store_bytes", 0)
        if spilled > MOST_SPILLED:
            return (
                f"{one['kernel']} spills {spilled} bytes of each thread: "
                f"{one['registers']} registers are not enough"
            )
    return ""
