"""Kernels for GPUs without a GPU: assembled by ptxas, and run by the machine that executes PTX."""

import random
from dataclasses import dataclass

import kernel_cases as cases
import numpy as np
import pytest
from tunefarm_compiler import Schedule, default_schedule, targets
from tunefarm_compiler.codegen import assembly, module_text
from tunefarm_compiler.gpu import GpuCode, compile_function
from tunefarm_compiler.gpu.assemble import assemble
from tunefarm_compiler.gpu.draw import draw
from tunefarm_compiler.workload import Workload
from tunefarm_proto.errors import InvalidScheduleError

ptx = pytest.importorskip("tunefarm_device.ptx")

TARGETS = ("sm_75", "sm_80", "sm_90", "sm_120")


@dataclass(frozen=True)
class Candidate:
    """A workload with a schedule, and what is made of them under a name of their own."""

    workload: Workload
    schedule: Schedule
    code: GpuCode

    def __str__(self):
        return f"{self.workload} {self.schedule.to_json()}"


def candidate(workload, target, name="", schedule=None):
    """One kernel, by its default schedule unless one is given."""
    spec = targets.resolve(target)
    schedule = schedule or default_schedule(workload, spec)
    schedule = Schedule.from_json(schedule.to_json())
    code = compile_function(name or workload.function, workload.output, schedule, spec)
    return Candidate(workload, schedule, code)


def drawn(rng, workload, target, name):
    """One by a random schedule; None where it needs more shared memory than there is."""
    spec = targets.resolve(target)
    try:
        return candidate(workload, target, name, draw(workload.output, spec, rng.choice))
    except InvalidScheduleError as error:
        assert len(str(error).splitlines()) == 1
        return None


def several(target, seed, draws, every=1):
    """A random shape of each kind, or every so manieth: by its default schedule and random ones."""
    found = []
    for name, dtype in cases.kinds()[TARGETS.index(target) % every :: every]:
        rng = random.Random(f"{seed} {name} {dtype}")
        workload = cases.one(rng, name, dtype)
        found.append(candidate(workload, target, f"k{len(found)}"))
        for _ in range(draws):
            if one := drawn(rng, workload, target, f"k{len(found)}"):
                found.append(one)
    return found


def text_of(candidates, target):
    """The PTX of them all."""
    source = "".join(one.code.llvm_text for one in candidates)
    spec = targets.resolve(target)
    return assembly(module_text(source, spec), spec)


def assembled(candidates, target):
    """What ptxas says of all their kernels."""
    return assemble(text_of(candidates, target), targets.resolve(target))[1]


def wrong(candidates, target):
    """Those whose answers are not numpy's, or that the machine stops."""
    module, found = ptx.Module(text_of(candidates, target)), []
    for one in candidates:
        try:
            given = one.workload.inputs(1)
            expected = one.workload.reference(given)
            answer = run(module, one.code, given, expected[0])
            right = one.workload.check([answer], expected)
        except ptx.PtxError as error:
            found.append(f"{one}: {error}")
            continue
        if not right:
            found.append(str(one))
    return found


def run(module, code, given, expected):
    """A function's launches on the machine; its answer."""
    memory = ptx.Memory()
    places = [memory.put(np.ascontiguousarray(array)) for array in given]
    places.append(memory.allocate(expected.nbytes))
    places += [memory.allocate(size) for size in code.scratch_bytes]
    for one in code.launches:
        kernel, arguments = module.kernels[one.kernel], [places[n] for n in one.arguments]
        ptx.launch(kernel, one.grid, one.block, one.shared_bytes, arguments, memory)
    answer = memory.read(places[len(given)], expected.nbytes)
    return np.frombuffer(answer, expected.dtype).reshape(expected.shape)
