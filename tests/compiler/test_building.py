"""Bundles of several kernels and targets: what is in them, who runs what, what was built before."""

import ctypes
import os
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor

import numpy as np
import pytest
from kernel_harness import call, loaded, run
from tunefarm_compiler import Kernel, Schedule, build, compile_many, targets, workload
from tunefarm_compiler.building import Job, job
from tunefarm_compiler.cache import BuildCache, default_cache
from tunefarm_compiler.codegen import emit_object, lowered, module_text, timing_loop
from tunefarm_compiler.elf import UnknownPartError, dynamic_symbols, shared
from tunefarm_compiler.linker import _EMULATION, _run_linker
from tunefarm_compiler.pool import BuildPool
from tunefarm_compiler.spaces import default_schedule
from tunefarm_proto.bundle import Bundle, choose_library, schedule_of
from tunefarm_proto.errors import (
    BuildFailedError,
    CompilerCrashedError,
    InvalidRequestError,
    InvalidScheduleError,
    TargetMismatchError,
    UnknownTargetError,
)

SMALL = "matmul:m=8,n=16,k=4"


def test_many_kernels_in_one_library_each_do_their_own():
    texts = [SMALL, "add:n=33", "matmul:m=5,n=7,k=3", "softmax:m=3,n=19"]
    bundle = compile_many([Kernel(text) for text in texts], "local")
    functions = bundle.manifest.functions
    assert [one.name for one in functions] == ["matmul_0", "add", "matmul_1", "softmax"]
    library = loaded(bundle.library(bundle.manifest.libraries[0]))
    for text, function in zip(texts, functions, strict=True):
        parsed = workload.parse(text)
        assert function.workload == str(parsed)
        inputs = parsed.inputs(0)
        (expected,) = parsed.reference(inputs)
        got = call(library, function.name, inputs, np.full_like(expected, 77))
        assert parsed.check([got], [expected])


def test_names_that_are_given_and_names_that_cannot_be():
    named = [Kernel(SMALL, name="first"), Kernel(SMALL, name="second")]
    assert {f.name for f in compile_many(named, "local").manifest.functions} == {"first", "second"}
    for kernels in (
        [Kernel(SMALL, name="x y")],
        [Kernel(SMALL, name="tunefarm_repeat")],
        [Kernel(SMALL, name="a"), Kernel("add:n=3", name="a")],
        [Kernel(SMALL), Kernel(SMALL), Kernel("add:n=3", name="matmul_1")],
        [],
    ):
        with pytest.raises(InvalidRequestError) as caught:
            compile_many(kernels, "local")
        assert len(str(caught.value).splitlines()) == 1


def test_a_bundle_for_several_targets_has_the_best_for_each_device():
    names = ["x86-64-v2", "x86-64-v3", "znver4", "rasp3b", "rasp4b", "rasp5", "wasm", "riscv64-v"]
    manifest = build(SMALL, names).manifest
    for name in names:
        own = targets.resolve(name).to_proto()
        entry = choose_library(manifest, own)
        assert entry.target == own
        assert schedule_of(manifest, own, "matmul") == entry.schedules["matmul"]
    wide = choose_library(manifest, targets.resolve("skylake-avx512").to_proto())
    assert wide.target.cpu == "x86-64-v3"  # znver4's needs VNNI
    assert choose_library(manifest, targets.resolve("jetson-orin").to_proto()).target.cpu.endswith(
        "a76"
    )
    plain = targets.resolve("riscv64").to_proto()
    with pytest.raises(TargetMismatchError) as caught:
        choose_library(manifest, plain)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert "this device is riscv64-unknown-linux-gnu generic-rv64" in said
    assert "generic-rv64 needs v" in said
    assert "needs a wasm32 processor" in said


def test_each_target_has_its_own_schedule():
    given = {"znver4": Schedule((("i", 4),), 16), "rasp5": Schedule((("i", 2),), 4)}
    manifest = build(SMALL, ["znver4", "rasp5", "wasm"], given).manifest
    found = [entry.schedules["matmul"] for entry in manifest.libraries]
    parsed, spec = workload.parse(SMALL), targets.resolve("wasm")
    assert found == [
        *(s.to_json() for s in given.values()),
        default_schedule(parsed, spec).to_json(),
    ]
    assert manifest.schedule == ""
    with pytest.raises(InvalidRequestError, match="rasp4b, which is none of the targets"):
        build(SMALL, ["znver4"], {"rasp4b": given["rasp5"]})
    with pytest.raises(InvalidRequestError, match="twice"):
        build(SMALL, ["rasp5", targets.resolve("rasp5")])
    for twice, said in (
        (["rasp5", "rasp5"], "rasp5 is given twice"),
        (["rasp5", "rock5b"], "rock5b is given twice, the same as rasp5"),
    ):
        with pytest.raises(InvalidRequestError, match=said):
            build(SMALL, twice)


def test_one_target_and_kernel_state_their_schedule_as_ever():
    parsed, spec = workload.parse(SMALL), targets.resolve("rasp5")
    assert build(SMALL, "rasp5").manifest.schedule == default_schedule(parsed, spec).to_json()


@pytest.mark.parametrize("target", ["local", "rasp5", "rasp3b-32", "wasm"])
def test_the_same_job_gives_the_same_bytes_in_another_process(target):
    kernels, wanted = [Kernel(SMALL), Kernel("softmax:m=3,n=19")], [target, "x86-64-v2"]
    script = (
        "from tunefarm_compiler import Kernel, compile_many as c; import sys;"
        f"print(c([Kernel({SMALL!r}), Kernel('softmax:m=3,n=19')], {wanted!r}).digest)"
    )
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == compile_many(kernels, wanted).digest


# The linker of our own


def test_our_libraries_hold_what_the_linkers_do():
    spec = targets.resolve("local")
    parsed = workload.parse("conv2d:c=5,h=8,w=9,k=20,r=3,s=3,pad=1,act=gelu")  # scratch, constants
    code = emit_object(lowered(parsed, spec, default_schedule(parsed, spec)), spec)
    ours = shared([timing_loop(spec), code])
    command = ["ld.lld", "-shared", "-m", _EMULATION[spec.arch], "--build-id=none"]
    theirs = _run_linker(command, [timing_loop(spec), code])
    assert dynamic_symbols(ours) == dynamic_symbols(theirs) == {"conv2d", "tunefarm_repeat"}
    inputs = parsed.inputs(0)
    (expected,) = parsed.reference(inputs)
    got = [call(loaded(one), "conv2d", inputs, np.full_like(expected, 7)) for one in (ours, theirs)]
    assert got[0].tobytes() == got[1].tobytes()
    assert parsed.check([got[0]], [expected])


def test_what_our_linker_does_not_know_goes_to_the_real_one():
    spec = targets.resolve("local")
    calls = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)\n"
    calls += "define i32 @clear(ptr %args) #0 {\n  %x = load ptr, ptr %args\n"
    calls += "  call void @llvm.memset.p0.i64(ptr %x, i8 0, i64 4096, i1 false)\n  ret i32 0\n}\n"
    code = emit_object(module_text(calls, spec), spec)
    with pytest.raises(UnknownPartError, match="memset"):
        shared([code])
    twice = emit_object(module_text("", spec), spec)
    with pytest.raises(UnknownPartError, match="one name"):
        shared([twice, twice])
    from tunefarm_compiler.linker import link

    library = link(code, spec)
    assert dynamic_symbols(library, defined=False) == {"memset"}
    poison = np.full(1024, 77, np.float32)
    assert not call(loaded(library), "clear", [], poison).any()


def test_many_functions_are_all_found_by_name():
    kernels = [Kernel(f"add:n={n}", name=f"sum_{n}") for n in range(1, 40)]
    library = loaded(
        compile_many(kernels, "local").library(compile_many(kernels, "local").manifest.libraries[0])
    )
    addresses = {ctypes.cast(library[kernel.name], ctypes.c_void_p).value for kernel in kernels}
    assert len(addresses) == len(kernels)
    with pytest.raises(AttributeError):
        library["sum_40"]


# What was built before


def test_a_job_is_known_by_all_that_decides_its_bytes():
    jobs = [
        job([Kernel(SMALL)], "rasp5"),
        job([Kernel(SMALL)], "rasp4b"),
        job([Kernel(SMALL, name="other")], "rasp5"),
        job([Kernel(SMALL, Schedule((("i", 2),), 4))], "rasp5"),
        job([Kernel("matmul:m=8,n=16,k=5")], "rasp5"),
        job([Kernel(SMALL), Kernel(SMALL)], "rasp5"),
        job([Kernel(SMALL)], ["rasp5", "rasp4b"]),
    ]
    assert len({one.digest for one in jobs}) == len(jobs)
    assert job([Kernel("matmul:k=4,m=8,n=16")], "rasp5").digest == jobs[0].digest
    assert all(Job.from_json(one.to_json()) == one for one in jobs)


def test_what_was_built_is_not_built_again(tmp_path):
    cache = BuildCache(tmp_path)
    with BuildPool(workers=1, cache=cache) as pool:
        first = pool.submit(SMALL, "rasp5").result()
        assert (cache.hits, cache.misses) == (0, 1)
    with BuildPool(workers=1, cache=BuildCache(tmp_path)) as pool:
        again = pool.submit("matmul:k=4,m=8,n=16", "rasp5").result()
        assert pool._threads == []  # nobody was asked
        assert pool.submit(SMALL, "rasp4b").result().digest != first.digest
    assert again.data == first.data
    with BuildPool(workers=1, cache=cache) as pool, pytest.raises(InvalidScheduleError):
        pool.submit(SMALL, "rasp5", Schedule((("q", 4),), 4)).result()


@pytest.mark.parametrize("harm", [b"", b"short", None])
def test_a_damaged_entry_is_built_again(tmp_path, harm):
    cache = BuildCache(tmp_path)
    with BuildPool(workers=1, cache=cache) as pool:
        good = pool.submit(SMALL, "rasp5").result()
        (path,) = tmp_path.glob("*.bundle")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data) if harm is None else harm)
        assert pool.submit(SMALL, "rasp5").result().data == good.data
        assert cache.get(path.stem).data == good.data


def test_the_cache_stays_within_its_limit_and_keeps_what_is_used(tmp_path):
    cache = BuildCache(tmp_path, limit=100_000)
    bundles = {f"{n:064x}": Bundle(bytes([n]) * 10_000) for n in range(1, 40)}
    for number, (digest, bundle) in enumerate(bundles.items()):
        cache.put(digest, bundle)
        os.utime(tmp_path / f"{digest}.bundle", (number, number))
        assert cache.get(next(iter(bundles))) is not None  # the first is used all the time
    kept = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert kept <= 100_000 + 100_000 // 32 + 10_032
    assert cache.get(next(iter(bundles))).data == next(iter(bundles.values())).data
    assert cache.clear() >= 8
    assert not [*tmp_path.glob("*.bundle")]


def test_several_processes_may_share_a_cache(tmp_path):
    script = (
        "import sys; from tunefarm_compiler.cache import BuildCache as C;"
        "from tunefarm_proto.bundle import Bundle as B; c = C(sys.argv[1], 60_000)\n"
        "for n in range(400):\n"
        " b = B(bytes([n % 25]) * 5000); d = f'{n % 25:064x}'; f = c.get(d)\n"
        " assert f is None or f.data == b.data\n c.put(d, b)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for one in running:
        assert one.communicate()[1] == ""
    assert not [*tmp_path.glob(".part-*")]


def test_a_cache_that_cannot_be_written_stops_nobody(tmp_path):
    (tmp_path / "file").write_text("")
    cache = BuildCache(tmp_path / "file" / "folder")
    cache.put("0" * 64, Bundle(b"x"))
    assert cache.get("0" * 64) is None


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEFARM_BUILD_CACHE", "off")
    assert default_cache() is None
    monkeypatch.setenv("TUNEFARM_BUILD_CACHE", str(tmp_path))
    assert default_cache().folder == tmp_path
    monkeypatch.setenv("TUNEFARM_BUILD_CACHE", "somewhere")
    with pytest.raises(InvalidRequestError, match="absolute"):
        default_cache()
    monkeypatch.delenv("TUNEFARM_BUILD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache().folder == tmp_path / "x/tunefarm/bundles"


# Somebody else's executor


def test_any_executor_may_build(tmp_path):
    cache = BuildCache(tmp_path)
    with ProcessPoolExecutor(1) as executor, BuildPool(executor=executor, cache=cache) as pool:
        kernels = [Kernel(SMALL), Kernel("add:n=3")]
        made = pool.submit_many(kernels, "rasp5")
        wrong = pool.submit(SMALL, "rasp5", Schedule((("q", 4),), 4))
        assert (
            made.result(60).digest
            == compile_many([Kernel(SMALL), Kernel("add:n=3")], "rasp5").digest
        )
        with pytest.raises(InvalidScheduleError):
            wrong.result(60)
    assert cache.misses == 2
    with BuildPool(executor=executor) as pool, pytest.raises(CompilerCrashedError, match="no work"):
        pool.submit(SMALL, "rasp5").result(60)


class Losing(Executor):
    """Loses what it is given."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.cancel()
        return future


def test_what_an_executor_loses_is_a_crash_by_name():
    with BuildPool(executor=Losing()) as pool, pytest.raises(CompilerCrashedError, match="lost it"):
        pool.submit(SMALL, "rasp5").result(60)


# Names of targets


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("znver9", "did you mean znver5"),
        ("rasp5+dotprdo", "did you mean dotprod"),
        ("rasp5+avx2", "no feature 'avx2'"),
        ("skylake-avx", "skylake-avx512"),
        ("", "known are"),
        ("cortex-a72-", "cortex-a72"),
    ],
)
def test_an_unknown_name_gets_one_line_with_the_nearest(name, word):
    with pytest.raises(UnknownTargetError, match="`tunefarm targets` lists all") as caught:
        targets.resolve(name)
    assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_features_more_and_less():
    assert targets.resolve("rasp5+nodotprod").features == ("fullfp16", "neon")
    assert targets.resolve("cortex-a53+dotprod").features == ("dotprod", "neon")
    assert targets.resolve("riscv64+v") == targets.resolve("riscv64-v")


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v2", "sandybridge", "x86-64-v3"])
@pytest.mark.parametrize("text", [SMALL, "layer_norm:m=3,n=29", "matmul:m=3,n=9,k=5,dtype=float16"])
def test_older_processors_of_this_kind_get_right_answers(target, text):
    if targets.resolve("local").arch != "x86_64":
        pytest.skip("this machine is no x86-64")
    parsed = workload.parse(text)
    bundle = build(parsed, target)
    assert dynamic_symbols(bundle.library(bundle.manifest.libraries[0]), defined=False) == set()
    run(bundle, parsed)


def test_text_that_llvm_refuses_is_told_in_a_line():
    with pytest.raises(BuildFailedError) as caught:
        emit_object("nonsense", targets.resolve("local"))
    assert len(str(caught.value).splitlines()) == 1
