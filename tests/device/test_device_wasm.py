"""What is the WebAssembly backend's own: modules that do not fit, memory, the epoch, the loop."""

import math
from pathlib import Path

import pytest
from device_harness import boxed
from tunefarm_compiler import build, targets
from tunefarm_device.backend import KernelEnded, RunnerError, find
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb

wasmtime = pytest.importorskip("wasmtime")

TABLE = '(table (export "__indirect_function_table") 1 funcref)'
MEMORY = '(memory (export "memory") 1)'
COUNT = """(func (export "count") (param i32) (result i32)
  (i32.store (i32.load (local.get 0)) (i32.add (i32.const 1) (i32.load (i32.load (local.get 0)))))
  (i32.const 0))"""
# Tells the number that it was asked for, and calls nothing.
REPEAT = """(func (export "tunefarm_repeat") (param i32 i32 i64) (result i32)
  (i32.store (i32.load (local.get 1)) (i32.wrap_i64 (local.get 2))) (i32.const 0))"""


def run(kernel, number):
    kernel.prepare()
    return kernel.run(number)


@pytest.fixture(scope="module")
def backend():
    backend = find("wasm")
    backend.prepare()
    return backend


@pytest.fixture
def device(backend):
    device = backend.open()
    with device.limited(30):
        yield device


@pytest.fixture
def load(device, tmp_path):
    def load(*parts: str, functions: tuple[str, ...] = ("count",)):
        path = Path(tmp_path, "module.wasm")
        path.write_bytes(wasmtime.wat2wasm(f"(module {' '.join(parts)})"))
        return device.load(str(path), list(functions))

    return load


def number_in(array) -> int:
    return int.from_bytes(array.read(0, 4), "little")


def test_the_timing_loop_is_the_module_s_own(device, load):
    x = device.array(64)
    assert run(load(MEMORY, TABLE, COUNT, REPEAT).kernel("count", [x]), 1000) == 0
    assert number_in(x) == 1000


@pytest.mark.parametrize(
    "parts",
    [(TABLE, COUNT), (COUNT, REPEAT), (TABLE.replace(" 1 ", " 1 1 "), COUNT, REPEAT)],
    ids=["no loop", "no table", "a table that cannot grow"],
)
def test_without_it_calls_are_counted_here(device, load, parts):
    x = device.array(64)
    assert run(load(MEMORY, *parts).kernel("count", [x]), 1000) == 0
    assert number_in(x) == 1000


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (('(import "env" "puts" (func (param i32)))', MEMORY, COUNT), "it imports env.puts"),
        (('(import "env" "memory" (memory 1))', COUNT), "it imports env.memory"),
        ((COUNT.replace('"count"', '"other"'), MEMORY), "no function count"),
        ((MEMORY, '(func (export "count"))'), r"count is no function \(i32\) -> i32"),
        ((MEMORY, '(global (export "count") i32 (i32.const 0))'), "no function count"),
        (
            (MEMORY, COUNT, '(func (export "tunefarm_repeat"))'),
            r"tunefarm_repeat is no function \(i32, i32, i64\)",
        ),
        (('(func (export "count") (param i32) (result i32) (i32.const 0))',), "no 32-bit memory"),
        (
            (
                '(memory (export "memory") i64 1)',
                '(func (export "count") (param i32) (result i32) (i32.const 0))',
            ),
            "memory",
        ),
    ],
)
def test_modules_that_do_not_fit_are_refused_in_a_line(load, parts, words):
    with pytest.raises(RunnerError, match=words) as caught:
        load(*parts)
    assert caught.value.kind == "library"
    assert "\n" not in str(caught.value)


def test_what_a_module_does_at_its_start_can_fail(load):
    with pytest.raises(KernelEnded, match="unreachable"):
        load(MEMORY, COUNT, "(func $start unreachable) (start $start)")
    with pytest.raises(KernelEnded, match="out of bounds"):
        load(MEMORY, COUNT, '(data (i32.const 65535) "too long")')


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("unreachable", "wasm `unreachable` instruction executed"),
        ("(i32.load (i32.const -16))", "out of bounds memory access"),
        ("(i32.add (i32.const 1) (call 0 (i32.const 0)))", "call stack exhausted"),
        ("(i32.div_s (i32.const 1) (local.get 1))", "integer divide by zero"),
        ("(i32.trunc_f32_s (f32.const nan))", "invalid conversion to integer"),
        ("(memory.fill (i32.const 1) (i32.const 0) (i32.const -1)) unreachable", "out of bounds"),
    ],
)
def test_a_trap_is_told_in_the_words_of_wasmtime(load, body, words):
    kernel = f'(func (export "bad") (param i32) (result i32) (local i32) {body})'
    with pytest.raises(KernelEnded) as caught:
        run(load(kernel, MEMORY, functions=("bad",)).kernel("bad", []), 1)
    assert caught.value.kind == "crash"
    assert str(caught.value).startswith(f"wasm trap: {words}")


def test_an_endless_start_is_ended_by_the_epoch(backend, tmp_path):
    path = tmp_path / "module.wasm"
    path.write_bytes(wasmtime.wat2wasm("(module (func $s (loop (br 0))) (start $s))"))
    device = backend.open()
    with pytest.raises(KernelEnded) as caught, device.limited(0.05):
        device.load(str(path), [])
    assert caught.value.kind == "timeout"


def test_the_epoch_ends_a_kernel_and_only_in_its_own_frame(device, load):
    loop = '(func (export "loop") (param i32) (result i32) (loop (br 0)) (i32.const 0))'
    library = load(MEMORY, COUNT, loop, functions=("count", "loop"))
    for _ in range(2):
        with pytest.raises(KernelEnded) as caught, device.limited(0.05):
            run(library.kernel("loop", []), 1)
        assert caught.value.kind == "timeout"
        with device.limited(math.inf):
            assert run(library.kernel("count", [device.array(4)]), 100) == 0


def test_arrays_follow_the_module_that_uses_them(device, load):
    one, two = load(MEMORY, COUNT), load(MEMORY, COUNT)
    x, other = device.array(4), device.array(1 << 20)
    for turn in range(1, 5):
        run((one, two)[turn % 2].kernel("count", [x]), 1)
        run((two, one)[turn % 2].kernel("count", [other]), 1)
        assert number_in(x) == number_in(other) == turn
    pages = []
    for _ in range(10):  # the memory that they leave is used again
        for library in (one, two):
            run(library.kernel("count", [x]), 1)
            run(library.kernel("count", [other]), 1)
            pages.append(library.space._memory.size(device._store))
    assert max(pages) == max(pages[:4])  # when the first gaps are left


def test_kernels_of_two_modules_take_turns_with_the_same_arrays(device, load):
    one, two = load(MEMORY, TABLE, COUNT), load(MEMORY, COUNT)
    x, y = device.array(4), device.array(8)
    kernels = [lib.kernel("count", [array]) for lib in (one, two) for array in (x, y)]
    for turn in range(1, 6):
        for kernel in kernels:
            run(kernel, 1)
        assert number_in(x) == number_in(y) == 2 * turn
    many = [one.kernel("count", [x] * count) for count in (1, 3000, 1)]  # more than one page holds
    for kernel in many:
        run(kernel, 1)
    assert number_in(x) == 13


def test_new_arrays_are_zeros_where_others_lay(device, load):
    library = load(MEMORY, COUNT)
    for _ in range(3):
        x = device.array(1 << 16)
        run(library.kernel("count", [x]), 7)
        assert x.read(0, 1 << 16) == b"\7" + bytes((1 << 16) - 1)
        x.close()


def test_memory_that_a_module_cannot_have(device, load):
    library = load('(memory (export "memory") 1 4)', COUNT)
    with pytest.raises(RunnerError, match="more than the module can hold") as caught:
        library.kernel("count", [device.array(1 << 20)]).prepare()
    assert caught.value.kind == "memory"
    with pytest.raises(RunnerError, match="4294901760") as caught:
        device.array(1 << 32)
    assert caught.value.kind == "memory"


def test_a_kernel_that_takes_all_memory_leaves_none_for_arrays(device, load):
    all_ = "(i32.sub (i32.const 65536) (memory.size))"
    grow = f"(i32.eq (i32.const -1) (memory.grow {all_}))"
    kernel = f'(func (export "greedy") (param i32) (result i32) {grow})'
    library = load(MEMORY, COUNT, kernel, functions=("count", "greedy"))
    x = device.array(64)
    assert run(library.kernel("greedy", [x]), 1) == 0
    assert run(library.kernel("count", [x]), 3) == 0  # what it has, it keeps
    assert number_in(x) == 3
    with pytest.raises(RunnerError, match="more than the module can hold"):
        run(library.kernel("count", [device.array(1 << 20)]), 1)
    other = load(MEMORY, COUNT)
    assert run(other.kernel("count", [x]), 1) == 0
    assert number_in(x) == 4


def test_a_shut_in_runner_takes_a_module_with_much_data(tmp_path):
    """A runner may write no file above 1 MiB, not even one without a name."""
    data = "a" * (4 << 20)
    text = f'(module (memory (export "memory") 80) {COUNT} (data (i32.const 1024) "{data}"))'
    argument = bpb.ArgumentSignature(name="x", dtype="int32", shape=[16], output=True)
    manifest = bpb.BundleManifest(
        functions=[bpb.FunctionSignature(name="count", arguments=[argument])]
    )
    target = targets.resolve("wasm").to_proto()
    bundle = bundle_file.pack(manifest, [(target, bytes(wasmtime.wat2wasm(text)))])
    for box in boxed(tmp_path, "--backend", "wasm"):
        client = box.lease()
        client.upload(bundle.data)
        session = client.session()
        x = session.empty(16, dtype="int32")
        session.call(session.load(bundle.digest), "count", x)
        assert session.read(x)[:4] == b"\1\0\0\0"
        session.close()
        client.close()


def test_compiled_modules_import_nothing_and_use_vectors():
    bundle = build("matmul:m=70,n=66,k=35", "wasm")
    entry = bundle.manifest.libraries[0]
    assert entry.target == targets.resolve("wasm").to_proto()
    assert "simd128" in entry.target.features
    module = wasmtime.Module(wasmtime.Engine(), bundle.library(entry))
    assert not list(module.imports)
    names = {export.name for export in module.exports}
    assert {"memory", "matmul", "tunefarm_repeat", "__indirect_function_table"} <= names
    config = wasmtime.Config()
    config.wasm_simd = config.wasm_relaxed_simd = False
    with pytest.raises(wasmtime.WasmtimeError, match="SIMD"):
        wasmtime.Module(wasmtime.Engine(config), bundle.library(entry))
