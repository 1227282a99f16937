"""What the kernels of a GPU bundle take of a multiprocessor: for records, and to prune by.

Its assembler tells on the host, so what spills never gets to a device.
"""

from typing import Any

from tunefarm_proto.bundle import Bundle

MOST_SPILLED = 16  # bytes of a thread: less costs nothing that could be measured


def resources(bundle: Bundle) -> list[dict[str, Any]]:
    """Its launches with what each takes, in their order; none of a bundle for processors.

    Without an assembler on the host there are no registers and spills among it.
    """
    found = []
    for library in bundle.manifest.libraries:
        for name in sorted(library.launches):
            for launch in library.launches[name].launches:
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
