"""WebAssembly modules of the compiler against numpy: random shapes, the schedules of the grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunefarm_compiler import build, space, targets, workload
from tunefarm_compiler.codegen import emit_object, module_text
from tunefarm_compiler.foreign import build_c
from tunefarm_compiler.linker import link
from tunefarm_compiler.peak import peak_bundle
from tunefarm_device.backend import RunnerError, find
from tunefarm_proto.errors import BuildFailedError

wasmtime = pytest.importorskip("wasmtime")

SPEC = targets.resolve("wasm")
BACKEND = find("wasm")
BACKEND.prepare()


def outputs(bundle, function, inputs, shapes, folder):
    """What a kernel makes of the inputs, in a device of its own."""
    path = folder / "kernel.wasm"
    path.write_bytes(bundle.library(bundle.manifest.libraries[0]))
    device = BACKEND.open()
    with device.limited(60):
        library = device.load(str(path), [function])
        given_ = [device.array(data.nbytes) for data in inputs]
        for array, data in zip(given_, inputs, strict=True):
            array.write(0, data.tobytes())
        made = [device.array(4 * int(np.prod(shape))) for shape in shapes]
        kernel = library.kernel(function, [*given_, *made])
        kernel.prepare()
        assert kernel.run(2) == 0
    return [
        np.frombuffer(array.read(0, 4 * int(np.prod(shape))), np.float32).reshape(shape)
        for array, shape in zip(made, shapes, strict=True)
    ]


def agrees(text, folder, schedule=None):
    parsed = workload.parse(text)
    inputs = parsed.inputs(0)
    expected = parsed.reference(inputs)
    bundle = build(parsed, SPEC, schedule)
    shapes = [each.shape for each in expected]
    return parsed.check(outputs(bundle, parsed.function, inputs, shapes, folder), expected)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 70)] * 3))
def test_matmul_of_any_shape(tmp_path_factory, sizes):
    m, n, k = sizes
    assert agrees(f"matmul:m={m},n={n},k={k}", tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("text", ["add:n=301", "mul:n=1", "relu:n=67"])
def test_elementwise(tmp_path, text):
    assert agrees(text, tmp_path)


def test_schedules_of_the_grid(tmp_path):
    parsed = workload.parse("matmul:m=70,n=66,k=35")
    grid = space(parsed, SPEC)
    assert len(grid) > 30
    assert any(schedule.packs for schedule in grid[::23])
    for schedule in grid[::23]:
        assert agrees("matmul:m=70,n=66,k=35", tmp_path, schedule)


def test_the_peak_kernel_stays_at_one(tmp_path):
    half = np.full(2, 0.5, np.float32)
    (out,) = outputs(peak_bundle(SPEC), "peak", [half], [(SPEC.lanes,)], tmp_path)
    assert (out == 1).all()


def test_a_module_may_take_nothing_from_its_device():
    calls = "declare float @expf(float)\ndefine i32 @kernel(ptr %args) #0 {\n"
    calls += "  %x = load float, ptr %args\n  %y = call float @expf(float %x)\n"
    calls += "  store float %y, ptr %args\n  ret i32 0\n}\n"
    with pytest.raises(BuildFailedError, match="the kernel needs expf, which a device may lack"):
        link(emit_object(module_text(calls, SPEC), SPEC), SPEC)


SOURCE = """
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int32_t f(void *const *args) { BODY return 0; }
"""


def test_a_kernel_in_c_has_the_c_library(tmp_path):
    body = "float *t = malloc(4096); for (int i = 0; i < 1000; ++i)"
    body += " t[i] = expf(((float *)args[0])[i]); memcpy(args[1], t, 4000); free(t);"
    (tmp_path / "f.c").write_text(SOURCE.replace("BODY", body))
    bundle = build_c(tmp_path / "f.c", "wasm", "x:float32[1000] y:out:float32[1000]")
    x = np.linspace(-2, 2, 1000, dtype=np.float32)
    (y,) = outputs(bundle, "f", [x], [(1000,)], tmp_path)
    np.testing.assert_allclose(y, np.exp(x), rtol=1e-6)


def test_a_kernel_in_c_that_prints_is_refused_by_the_device(tmp_path):
    (tmp_path / "f.c").write_text(SOURCE.replace("BODY", 'puts("hello");'))
    bundle = build_c(tmp_path / "f.c", "wasm", "x:float32[4]")
    with pytest.raises(RunnerError, match="it imports wasi_snapshot_preview1"):
        outputs(bundle, "f", [], [(4,)], tmp_path)
