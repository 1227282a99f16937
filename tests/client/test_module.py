"""What a loaded bundle shows of itself."""

from tunefarm.module import Module
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb


def test_a_module_says_what_is_in_it_and_what_for() -> None:
    manifest = bpb.BundleManifest(functions=[bpb.FunctionSignature(name="matmul")])
    target = pb.Target(triple="aarch64-unknown-linux-gnu", cpu="cortex-a53")
    loaded = dpb.LoadedModule(manifest=manifest.SerializeToString(), target=target)
    shown = repr(Module(None, "0123456789abcdef" * 4, loaded, 0))  # type: ignore[arg-type]
    assert shown == "Module(matmul; aarch64-unknown-linux-gnu cortex-a53, bundle 0123456789ab)"
