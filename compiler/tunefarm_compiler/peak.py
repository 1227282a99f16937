"""A kernel that does nothing but multiply-add: what a core can reach at all."""

from tunefarm_proto.bundle import Bundle, pack
from tunefarm_proto.v1 import bundle_pb2 as bpb

from tunefarm_compiler.codegen import emit_object, module_text
from tunefarm_compiler.emit import kind as llvm_kind
from tunefarm_compiler.linker import link
from tunefarm_compiler.targets import TargetSpec

ROUNDS = 100_000
UNROLL = 4


def peak_bundle(spec: TargetSpec) -> Bundle:
    """Function `peak(x)`, x a float32[2] of (0.5, 0.5) and out a float32[lanes].

    Independent chains of t = t * x[0] + x[1], started at 1 and so staying there, as many as hide
    the latency of the multiply-add. The manifest states its operations. That of a GPU has many
    threads: see `gpu.peak`.
    """
    if spec.gpu:
        from tunefarm_compiler.gpu.peak import gpu_peak_bundle

        return gpu_peak_bundle(spec)
    chains = min(spec.vector_registers - 4, 24)
    library = link(emit_object(module_text(_text(spec, chains), spec), spec), spec)
    arguments = [
        bpb.ArgumentSignature(name="x", dtype="float32", shape=[2]),
        bpb.ArgumentSignature(name="out", dtype="float32", shape=[spec.lanes], output=True),
    ]
    operations = 2 * ROUNDS * UNROLL * chains * spec.lanes
    function = bpb.FunctionSignature(name="peak", arguments=arguments, operations=operations)
    manifest = bpb.BundleManifest(workload="peak", functions=[function])
    return pack(manifest, [(spec.to_proto(), library)])


def _text(spec: TargetSpec, chains: int) -> str:
    """LLVM text of the kernel."""
    kind = llvm_kind("float32", spec.lanes)
    suffix = "f32" if spec.lanes == 1 else f"v{spec.lanes}f32"
    zeros = f"<{spec.lanes} x i32> zeroinitializer"

    def splat(name: str, at: int) -> list[str]:
        load = [
            f"  %{name}p = getelementptr float, ptr %in, i32 {at}",
            f"  %{name}s = load float, ptr %{name}p, align 4",
        ]
        if spec.lanes == 1:
            return [*load, f"  %{name} = fadd float %{name}s, 0.0"]
        return [
            *load,
            f"  %{name}e = insertelement {kind} poison, float %{name}s, i32 0",
            f"  %{name} = shufflevector {kind} %{name}e, {kind} poison, {zeros}",
        ]

    one = "1.0" if spec.lanes == 1 else "<" + ", ".join(["float 1.0"] * spec.lanes) + ">"
    lines = [
        "define i32 @peak(ptr %args) #0 {",
        "entry:",
        "  %in = load ptr, ptr %args",
        f"  %outp = getelementptr ptr, ptr %args, {spec.index} 1",
        "  %out = load ptr, ptr %outp",
        *splat("x", 0),
        *splat("y", 1),
        "  br label %loop",
        "loop:",
        "  %i = phi i32 [ 0, %entry ], [ %n, %loop ]",
    ]
    last = f"{UNROLL - 1}"
    lines += [
        f"  %t{c} = phi {kind} [ {one}, %entry ], [ %t{c}.{last}, %loop ]" for c in range(chains)
    ]
    for step in range(UNROLL):
        for c in range(chains):
            before = f"%t{c}" if step == 0 else f"%t{c}.{step - 1}"
            call = f"call {kind} @llvm.fma.{suffix}({kind} {before}, {kind} %x, {kind} %y)"
            lines.append(f"  %t{c}.{step} = {call}")
    lines += [
        "  %n = add nuw nsw i32 %i, 1",
        f"  %more = icmp ult i32 %n, {ROUNDS}",
        "  br i1 %more, label %loop, label %done",
        "done:",
    ]
    total = f"%t0.{last}"
    for c in range(1, chains):
        # Kept alive by a maximum, which leaves the ones that they all are.
        above = f"  %c{c} = fcmp ogt {kind} {total}, %t{c}.{last}"
        condition = "i1" if spec.lanes == 1 else f"<{spec.lanes} x i1>"
        chosen = f"  %m{c} = select {condition} %c{c}, {kind} {total}, {kind} %t{c}.{last}"
        lines += [above, chosen]
        total = f"%m{c}"
    lines += [f"  store {kind} {total}, ptr %out, align 4", "  ret i32 0", "}"]
    return "\n".join(lines) + "\n"
