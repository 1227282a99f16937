"""The machines that kernels are checked on notice what a kernel must not do, and go on after it."""

import kernel_machines as machines
import numpy as np
import pytest
from tunefarm_compiler import targets
from tunefarm_compiler.codegen import emit_object, module_text

TARGETS = ("local", "rasp3b", "rasp3b-32", "riscv64", "wasm")
# Bytes from an argument's first: of the input (0) or the output (1).
KERNEL = """
define i32 @{name}(ptr %args) #0 {{
  %slot = getelementptr ptr, ptr %args, i32 {argument}
  %base = load ptr, ptr %slot
  %where = getelementptr i8, ptr %base, i32 {offset}
  {deed}
  ret i32 {status}
}}
"""
READ = "%x = load volatile i8, ptr %where"
WRITE = "store volatile i8 1, ptr %where"
INPUT, OUTPUT = 0, 1
SIZE = 40  # bytes of each argument
KERNELS = {
    "fine": (OUTPUT, 3, WRITE, 0),
    "failing": (OUTPUT, 0, WRITE, 5),
    "reads_beyond": (INPUT, SIZE, READ, 0),
    "reads_before": (INPUT, -1, READ, 0),
    "writes_input": (INPUT, 7, WRITE, 0),
    "writes_beyond": (OUTPUT, SIZE, WRITE, 0),
    "writes_before": (OUTPUT, -1, WRITE, 0),
}


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_kernel_must_not_do_is_noticed(target):
    spec = targets.resolve(target)
    if lacking := machines.lacking(spec):
        pytest.skip(lacking)
    names = list(KERNELS)
    objects = [
        emit_object(
            module_text(
                KERNEL.format(name=name, argument=where, offset=at, deed=deed, status=status),
                spec,
                timed=False,
            ),
            spec,
        )
        for name, (where, at, deed, status) in KERNELS.items()
    ]
    data = np.arange(SIZE, dtype=np.uint8)
    # A module's memory ends behind one argument of a call, in turns: the input of even ones.
    order = ["reads_beyond", "fine", "failing", "fine", "writes_input", "writes_beyond"]
    order += ["fine", "reads_before", "fine", "writes_before", "fine"]
    calls = [
        machines.Call(names.index(name), [data], data, not name.endswith("before"))
        for name in order
    ]
    outcomes = machines.run(spec, names, objects, calls)
    assert len(outcomes) == len(order)
    for name, outcome in zip(order, outcomes, strict=True):
        if name == "fine":
            want = np.full(SIZE, machines.POISON, np.uint8)
            want[3] = 1
            assert (outcome == want).all()
        elif name == "failing":
            assert outcome == "status 5"
        elif target != "wasm":
            assert "the process ended with -11" in outcome
        elif name == "reads_before":  # which nothing notices in a module
            assert isinstance(outcome, np.ndarray)
        else:
            assert "it trapped" in outcome or outcome == "it wrote outside its output"
