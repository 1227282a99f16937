"""Bundles of GPU kernels, made by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

TARGET = pb.Target(triple="nvptx64-nvidia-cuda", cpu="sm_75", features=["sm_75"])
PTX = Path(__file__).parent.joinpath("conformance", "kernels.ptx").read_text()


def launch(kernel: str, arguments: Sequence[int] = (0,), **other: object) -> bpb.Launch:
    """A launch of one thread, where nothing else is said."""
    return bpb.Launch(
        **{"kernel": kernel, "grid": [1], "block": [1], "arguments": arguments} | other
    )


def bundle(
    plans: Mapping[str, bpb.LaunchPlan | bpb.Launch],
    code: str | bytes = PTX,
    *,
    shapes: Sequence[Sequence[int]] = ((16,),),
    target: pb.Target = TARGET,
) -> Bundle:
    """Functions that take float32 arrays of these shapes, the last of which they write."""
    manifest = bpb.BundleManifest(workload="by hand")
    launches = {}
    for name, given in plans.items():
        plan = bpb.LaunchPlan(launches=[given]) if isinstance(given, bpb.Launch) else given
        launches[name] = plan
        function = manifest.functions.add(name=name)
        for place, shape in enumerate(shapes):
            function.arguments.add(
                name=f"x{place}", dtype="float32", shape=shape, output=place == len(shapes) - 1
            )
    data = code.encode() if isinstance(code, str) else code
    return bundle_file.pack(manifest, [bundle_file.Library(target, data, launches=launches)])
