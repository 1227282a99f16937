"""Files in C become bundles: signatures, one-line errors, the same bytes each time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_harness import call, loaded
from tunefarm_compiler import targets
from tunefarm_compiler.cache import BuildCache
from tunefarm_compiler.codegen import emit_object
from tunefarm_compiler.elf import dynamic_symbols
from tunefarm_compiler.foreign import build_c, parse_arguments, zig_processor
from tunefarm_compiler.linker import link
from tunefarm_proto import errors
from tunefarm_proto.bundle import ITEM_BYTES

AXPY = """
#include <math.h>
#include <stdint.h>
#include "scale.h"
int32_t axpy(void *const *args) {
  const float *x = args[0]; float *y = args[1];
  for (int i = 0; i < 1000; ++i) y[i] = SCALE * x[i] + expf(y[i]);
  return 0;
}
"""
ARGS = "x:float32[1000] y:out:float32[1000]"

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
shapes = st.lists(st.integers(1, 99), max_size=4)
words = st.tuples(names, st.booleans(), st.sampled_from(sorted(ITEM_BYTES)), shapes)


@pytest.fixture
def axpy(tmp_path: Path) -> Path:
    (tmp_path / "scale.h").write_text("#define SCALE 3\n")
    (tmp_path / "axpy.c").write_text(AXPY)
    return tmp_path / "axpy.c"


@given(st.lists(words, max_size=6, unique_by=lambda word: word[0]), st.sampled_from(["", " "]))
def test_every_signature_is_read_as_it_was_meant(given_words, space):
    def text(name, out, dtype, shape):
        axes = f"[{space}{f'{space},{space}'.join(map(str, shape))}{space}]" if shape else ""
        return f"{name}:{'out:' if out else ''}{dtype}{axes}"

    read = parse_arguments("  ".join(text(*word) for word in given_words))
    assert [(a.name, a.output, a.dtype, list(a.shape)) for a in read] == given_words


@given(st.text(alphabet="ab:[],0139 outfloat32-\n\0é½", max_size=30) | st.text(max_size=30))
def test_any_other_text_is_refused_in_one_line(text):
    try:
        read = parse_arguments(text)
    except errors.InvalidRequestError as error:
        assert len(str(error).splitlines()) == 1 and error.hint
    else:
        assert all(a.dtype in ITEM_BYTES and all(a.shape) for a in read)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "'a' is no argument"),
        ("a:float31[4]", "unknown dtype 'float31'"),
        ("a:in:float32[4]", "is no argument"),
        ("1a:float32[4]", "no name of an argument"),
        ("a:float32[0]", r"no shape \[0\]"),
        ("a:float32[-1]", r"no shape \[-1\]"),
        ("a:float32[]", r"no shape \[\]"),
        ("a:float32[2][3]", "is no argument"),
        ("a:float32[2] a:int8", "two arguments are named a"),
        ("a:float32[999999999,999999999]", "more memory than any device"),
    ],
)
def test_a_bad_signature_is_named(text, said):
    with pytest.raises(errors.InvalidRequestError, match=said):
        parse_arguments(text)


@pytest.mark.parametrize("target", [t for t in targets.NAMES if not targets.resolve(t).gpu])
def test_it_compiles_for_every_target_to_the_same_bytes(axpy, tmp_path, target):
    first = build_c(axpy, target, ARGS)
    elsewhere = tmp_path / "another folder"
    elsewhere.mkdir()
    for name in ("axpy.c", "scale.h"):
        (elsewhere / name).write_text((tmp_path / name).read_text())
    assert build_c(elsewhere / "axpy.c", target, ARGS).data == first.data
    (entry,) = first.manifest.libraries
    assert entry.target == targets.resolve(target).to_proto()
    library = first.library(entry)
    (function,) = first.manifest.functions
    assert function.name == "axpy" and [a.output for a in function.arguments] == [False, True]
    if target == "wasm":  # test_wasm_kernels.py runs it
        return
    assert {"axpy", "tunefarm_repeat"} <= dynamic_symbols(library)
    assert dynamic_symbols(library, defined=False) <= {"expf"}  # zig has one of its own for ARM


def test_flags_and_source_are_part_of_the_name(axpy):
    plain = build_c(axpy, "rasp4b", ARGS)
    assert build_c(axpy, "rasp4b", ARGS, flags="-O1").digest != plain.digest
    (axpy.parent / "scale.h").write_text("#define SCALE 4\n")
    assert build_c(axpy, "rasp4b", ARGS).digest != plain.digest


def test_zig_knows_the_processors():
    assert zig_processor(targets.resolve("rasp3b")) == "cortex_a53+neon"
    old = targets.TargetSpec("armv7-unknown-linux-gnueabihf", "generic", ("neon", "vfp4"))
    assert zig_processor(old) == "generic+v7a+neon+vfp4"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("int32_t f(void) { return 1 }", r"f\.c:2: expected ';'"),
        (
            "int32_t f(void *const *args) { return g(); }",
            r"f\.c:2: call to undeclared function 'g'",
        ),
        ("int g(void); int32_t f(void *const *args) { return g(); }", r"f\.c: undefined symbol: g"),
        ('#include "absent.h"', r"f\.c:2: 'absent.h' file not found"),
        ("static int32_t f(void *const *args) { return 0; }", "no function f in it"),
        (
            "int32_t f(void *const *args) { return 0; }"
            " int32_t tunefarm_repeat(void *f, void *args, int64_t n) { return 0; }",
            "duplicate symbol: tunefarm_repeat",
        ),
        ("", "no function f in it"),
    ],
)
@pytest.mark.parametrize("target", ["local", "wasm"])
def test_the_first_error_is_one_line(tmp_path, source, said, target):
    file, logged = tmp_path / "f.c", []
    file.write_text(f"#include <stdint.h>\n{source}\n")
    with pytest.raises(errors.CompileError, match=said) as caught:
        build_c(file, target, "a:float32[4]", log=logged.append)
    assert len(str(caught.value).splitlines()) == 1
    if "no function" not in said:
        assert logged[0] in caught.value.__notes__ and "error" in logged[0]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunefarm", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_the_command_writes_what_python_builds(axpy, tmp_path):
    out = tmp_path / "axpy.tf"
    done = run("build", str(axpy), "--target", "rasp4b", "--args", ARGS, "-o", str(out))
    assert done.returncode == 0 and "axpy.c for rasp4b" in done.stdout
    assert out.read_bytes() == build_c(axpy, "rasp4b", ARGS).data


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["axpy.c"], "needs its arguments"),
        (["axpy.c", "--args", "x"], "'x' is no argument"),
        (["axpy.c", "--args", ARGS, "--function", "a b"], "no name of a C function"),
        (["axpy.c", "--args", ARGS, "--flags", "'"], "close the quotes"),
        (["axpy.c", "--args", ARGS, "--flags=-DSCALE=oops"], "--verbose shows all"),
        (["axpy.c", "--args", ARGS, "--target", "vax"], "no target 'vax'"),
        (["absent.c", "--args", ARGS], "absent.c"),
        (["add:n=16", "--args", ARGS], "is of files and"),
        (["axpy.c", "--args", ARGS, "--schedule", "{}"], "is of workloads"),
        (["axpy.c", "add:n=3", "--args", ARGS], "build them apart"),
        (["axpy.c", "--args", ARGS, "--target", "rasp4b,rasp4b"], "named once"),
    ],
)
def test_wrong_words_get_one_line(axpy, monkeypatch, words, said):
    monkeypatch.chdir(axpy.parent)
    (axpy.parent / "scale.h").write_text("#ifndef SCALE\n#define SCALE 3\n#endif\n")
    done = run("build", *words, "-o", "out.tf")
    assert done.returncode in (2, 7) and said in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not Path("out.tf").exists()


def test_verbose_shows_all_that_the_compiler_says(tmp_path):
    (tmp_path / "f.c").write_text("int f(void) { return 1 }\nint g(void) { return x; }\n")
    done = run("build", str(tmp_path / "f.c"), "--args", "", "-o", "f.tf", "--verbose")
    assert done.returncode == 7 and "2 errors generated" in done.stderr


TEXT = """
define i32 @twice(ptr %args) {
  %slot = getelementptr ptr, ptr %args, i64 1
  %in = load ptr, ptr %args
  %out = load ptr, ptr %slot
  %x = load float, ptr %in
  %y = fadd float %x, %x
  store float %y, ptr %out
  ret i32 0
}
"""
WORDS = "x:float32[1] y:out:float32[1]"


@pytest.mark.parametrize("form", [".ll", ".o", ".so"])
def test_text_objects_and_libraries_become_bundles(tmp_path, form):
    path = tmp_path / f"twice{form}"
    spec = targets.resolve("local")
    made = emit_object(f'target triple = "{spec.triple}"\n{TEXT}', spec)
    path.write_bytes({".ll": TEXT.encode(), ".o": made, ".so": link([made], spec)}[form])
    bundle = build_c(path, "local", WORDS)
    assert bundle.digest == build_c(path, "local", WORDS).digest
    library = loaded(bundle.library(bundle.manifest.libraries[0]))
    got = call(library, "twice", [np.array([1.5], np.float32)], np.zeros(1, np.float32))
    assert got.tolist() == [3.0]
    if form != ".ll":
        with pytest.raises(errors.BuildFailedError, match="is not an ELF file for riscv64"):
            build_c(path, "riscv64", WORDS)
        with pytest.raises(errors.BuildFailedError, match="is not a WebAssembly module"):
            build_c(path, "wasm", WORDS)
    with pytest.raises(errors.BuildFailedError, match="thrice"):
        build_c(path, "local", WORDS, "thrice")


def test_one_file_for_several_targets(axpy):
    bundle = build_c(axpy, ["rasp4b", "rasp3b-32"], ARGS)
    assert [entry.target.cpu for entry in bundle.manifest.libraries] == ["cortex-a72", "cortex-a53"]
    assert len({bundle.library(entry) for entry in bundle.manifest.libraries}) == 2


def test_what_was_built_before_is_taken_from_the_cache(axpy, tmp_path):
    cache = BuildCache(tmp_path / "cache")

    def built(target="rasp4b", **more):
        before = cache.hits
        bundle = build_c(axpy, target, ARGS, cache=cache, **more)
        assert bundle.data == build_c(axpy, target, ARGS, **more).data
        return bundle.digest, cache.hits > before

    first, hit = built()
    assert not hit and built() == (first, True)
    # Whatever has a part in it: a header, a flag, a target, the words, the file itself.
    (axpy.parent / "scale.h").write_text("#define SCALE 4\n")
    other, hit = built()
    assert not hit and other != first and built() == (other, True)
    for more in ({"flags": "-DN=1"}, {"target": "rasp5"}, {"target": ["rasp4b", "rasp5"]}):
        assert not built(**more)[1] and built(**more)[1]
    longer = build_c(axpy, "rasp4b", "x:float32[1000] z:out:float32[1000]", cache=cache)
    assert longer.manifest.functions[0].arguments[1].name == "z"
    axpy.write_text(AXPY.replace("expf", "-"))
    changed, hit = built()
    assert not hit and changed not in (first, other)
    (axpy.parent / "scale.h").write_text("#define SCALE 3\n")
    axpy.write_text(AXPY)
    assert built() == (first, True)


def test_what_takes_other_files_is_always_compiled(axpy, tmp_path):
    cache = BuildCache(tmp_path / "cache")
    data = axpy.parent / "data.bin"
    raw = r'__asm__(".section .rodata\n.globl raw\nraw: .incbin \"data.bin\"\n");'
    axpy.write_text(f"{AXPY}{raw}\n")
    digests = []
    for content in (b"one", b"two"):
        data.write_bytes(content)
        digests.append(build_c(axpy, "local", ARGS, cache=cache).digest)
    axpy.write_text(AXPY)
    assert len(set(digests)) == 2
    for flags in ("-lm", "-Wl,-O1", "-L."):
        build_c(axpy, "local", ARGS, flags=flags, cache=cache)
    assert not cache.hits and not list((tmp_path / "cache").glob("*.bundle"))


def test_the_command_takes_files_from_the_cache(axpy, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEFARM_BUILD_CACHE", str(tmp_path / "cache"))
    words = ("build", str(axpy), "--target", "rasp4b", "--args", ARGS, "-o", str(tmp_path / "x.tf"))
    assert run(*words, "--no-cache").returncode == 0 and not (tmp_path / "cache").exists()
    assert run(*words).returncode == 0
    (kept,) = (tmp_path / "cache").glob("*.bundle")
    good = (tmp_path / "x.tf").read_bytes()
    # Another bundle in its place, as nothing but the cache would give it.
    other = build_c(axpy, "rasp5", ARGS)
    kept.write_bytes(bytes.fromhex(other.digest) + other.data)
    assert run(*words).returncode == 0 and (tmp_path / "x.tf").read_bytes() == other.data
    for more in ("--no-cache", "--verbose"):
        assert run(*words, more).returncode == 0 and (tmp_path / "x.tf").read_bytes() == good
