"""The launch plans of a bundle's GPU library, checked before a runner gets them."""

from collections.abc import Sequence

from tunefarm_proto.bundle import architecture
from tunefarm_proto.errors import BundleInvalidError
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_device.launches import Launch, Plan

MOST_LAUNCHES = 10_000  # of a function
MOST_SCRATCH = 64
MOST_THREADS = 1024
# Of CUDA, since compute capability 3.0.
_GRID = (2**31 - 1, 65_535, 65_535)
_BLOCK = (1024, 1024, 64)


def plans(manifest: bpb.BundleManifest, entry: bpb.BundleLibrary) -> dict[str, Plan]:
    """The plan of each function; none for libraries of processors. Raises: BundleInvalidError."""
    if architecture(entry.target.triple) != "nvptx64":
        return {}
    found = {}
    for function in manifest.functions:
        if function.name not in entry.launches:
            raise BundleInvalidError(
                f"{entry.path} has no launch plan for {function.name}",
                "say how each function of a GPU library is launched",
            )
        try:
            plan = entry.launches[function.name]
            found[function.name] = _plan(plan, len(function.arguments))
        except ValueError as error:
            raise BundleInvalidError(f"the launch plan of {function.name}: {error}") from None
    return found


def _plan(plan: bpb.LaunchPlan, arguments: int) -> Plan:
    if not 1 <= len(plan.launches) <= MOST_LAUNCHES:
        raise ValueError(f"{len(plan.launches)} launches, and 1 to {MOST_LAUNCHES} are allowed")
    scratch = tuple(plan.scratch_bytes)
    if len(scratch) > MOST_SCRATCH or not all(scratch):
        raise ValueError(f"at most {MOST_SCRATCH} scratch buffers are allowed, none of 0 bytes")
    launches = tuple(_launch(one, arguments + len(scratch)) for one in plan.launches)
    return Plan(launches, scratch)


def _launch(launch: bpb.Launch, places: int) -> Launch:
    if not launch.kernel or not launch.kernel.isprintable():
        raise ValueError("a launch names no kernel")
    grid = _sizes(launch.kernel, "grid", launch.grid, _GRID)
    block = _sizes(launch.kernel, "block", launch.block, _BLOCK)
    if (threads := block[0] * block[1] * block[2]) > MOST_THREADS:
        raise ValueError(f"{launch.kernel} has {threads} threads a block of at most {MOST_THREADS}")
    if wrong := [place for place in launch.arguments if place >= places]:
        raise ValueError(f"{launch.kernel} takes argument {wrong[0]} of {places}")
    return Launch(launch.kernel, grid, block, launch.shared_bytes, tuple(launch.arguments))


def _sizes(
    kernel: str, what: str, sizes: Sequence[int], most: Sequence[int]
) -> tuple[int, int, int]:
    x, y, z = [*sizes, 1, 1, 1][:3]
    if not 1 <= len(sizes) <= 3 or not all(
        1 <= one <= top for one, top in zip((x, y, z), most, strict=True)
    ):
        raise ValueError(f"{kernel} has a {what} of {list(sizes)}, at most {list(most)} is allowed")
    return x, y, z
