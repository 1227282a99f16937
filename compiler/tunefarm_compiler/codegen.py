"""Tensor expressions to LLVM text to objects, without IR passes."""

from functools import cache

import llvmlite.binding as llvm
from tunefarm_proto.errors import BuildFailedError

from tunefarm_compiler import threads
from tunefarm_compiler.gpu import compile_function
from tunefarm_compiler.lower import function
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload

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


def lowered(workload: Workload, spec: TargetSpec, schedule: Schedule, name: str = "") -> str:
    """The LLVM text of a workload's kernel. Raises: InvalidScheduleError."""
    if spec.gpu:
        code = compile_function(name or workload.function, workload.output, schedule, spec)
        return module_text(code.llvm_text, spec)
    kernel = function(name or workload.function, workload.output, schedule, spec)
    return module_text(kernel, spec, timed=False)


@cache
def timing_loop(spec: TargetSpec) -> bytes:
    """An object of the loop that every library has, made once for all candidates."""
    return emit_object(module_text("", spec), spec)


@cache
def thread_pool(spec: TargetSpec) -> bytes:
    """An object of the threads' pool, for libraries whose text calls `threads.DEAL`."""
    return emit_object(module_text(threads.runtime(spec), spec, timed=False), spec)


def module_text(functions: str, spec: TargetSpec, *, timed: bool = True) -> str:
    """A module of these functions, and the timing loop, with the target's attributes."""
    attributes = ["nounwind"]
    if spec.arch == "x86_64":
        width = str(32 * spec.lanes)
        attributes += [f'"prefer-vector-width"="{width}"', f'"min-legal-vector-width"="{width}"']
        # Code is for the features; the CPU's name only orders instructions.
        attributes += [f'"tune-cpu"="{spec.cpu}"']
    if spec.gpu:
        attributes, timed = [], False
    if not spec.fused:  # else it would be a call for each lane
        functions = functions.replace("@llvm.fma.", "@llvm.fmuladd.")
    flags = ""
    if spec.abi:
        flags = f'!llvm.module.flags = !{{!0}}\n!0 = !{{i32 1, !"target-abi", !"{spec.abi}"}}\n'
    last = f"attributes #0 = {{ {' '.join(attributes)} }}\n" if attributes else ""
    return f'target triple = "{spec.triple}"\n{functions}{_REPEAT if timed else ""}{last}{flags}'


# The least version of PTX that we write; GPUs from sm_89 on have one of their own.
PTX = dict.fromkeys(("sm_75", "sm_80", "sm_86", "sm_87"), "+ptx78")


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    # Our loops already step pointers; finding that out takes LLVM as long as all the rest.
    llvm.set_option("tunefarm", "-disable-lsr")
    # The first three find nothing to do in any kernel for any target; what the last one changes, no
    # clock tells from noise, and it takes a fifteenth of the time.
    for name in ("early-taildup", "tail-duplicate", "early-ifcvt", "cgp"):
        llvm.set_option("tunefarm", f"-disable-{name}")


@cache
def _machine(spec: TargetSpec) -> llvm.TargetMachine:
    _initialize()
    cpu = "x86-64" if spec.arch == "x86_64" else spec.cpu
    return llvm.Target.from_triple(spec.triple).create_target_machine(
        cpu=cpu,
        features=PTX.get(spec.cpu, "")
        if spec.gpu
        else ",".join(f"+{feature}" for feature in spec.features),
        opt=1,  # the code of 2 and 3 is the same to the eye of a clock, and takes longer to make
        reloc="static" if spec.arch == "wasm32" else "pic",
        codemodel="default",  # small: scratch is reached by one instruction
        abiname=spec.abi,
    )


def assembly(text: str, spec: TargetSpec) -> str:
    """The instructions of the text's object, as assembly. Raises: BuildFailedError."""
    try:
        with llvm.parse_assembly(text) as module:
            module.verify()
            return str(_machine(spec).emit_assembly(module))
    except RuntimeError as error:
        raise _refused(error) from None


def emit_object(text: str, spec: TargetSpec) -> bytes:
    """An object of the text. Raises: BuildFailedError for text that LLVM refuses."""
    try:
        with llvm.parse_assembly(text) as module:
            module.verify()
            return bytes(_machine(spec).emit_object(module))
    except RuntimeError as error:
        raise _refused(error) from None


def _refused(error: RuntimeError) -> BuildFailedError:
    said = " ".join(str(error).split())
    return BuildFailedError(f"LLVM refused the code: {said}"[:300])
