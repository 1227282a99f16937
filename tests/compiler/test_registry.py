"""Operators of users' own: files, packages, expressions, and what an edit does."""

import importlib
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from kernel_harness import evaluate, loaded, run
from tunefarm_compiler import Kernel, Schedule, build, registry, te, use_operators, workload
from tunefarm_compiler.building import job
from tunefarm_compiler.cache import BuildCache
from tunefarm_compiler.identity import identity
from tunefarm_compiler.pool import BuildPool
from tunefarm_proto.errors import (
    InvalidRequestError,
    OperatorInvalidError,
    UnknownWorkloadError,
)

FILE = """
import numpy as np
from tunefarm_compiler import operator, te
@operator(
    operations=lambda m, n: m * n,
    reference=lambda x, **_: FACTOR * np.outer(*x),
    terms=lambda **_: 2,
)
def outer(m: int, n: int = 8) -> te.Tensor:
    a, b = te.placeholder("A", (m,)), te.placeholder("B", (n,))
    return te.compute("C", (("i", m), ("j", n)), lambda i, j: FACTOR * (a[i] * b[j]))
FACTOR = 1.0
"""
TEXT = "outer:m=5,n=9"


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "own.py"
    path.write_text(FILE)
    monkeypatch.setenv("TUNEFARM_OPERATORS", str(path))
    return path


def edit(path, old="FACTOR = 1.0", new="FACTOR = 2.0"):
    """Other text of the same length, at the same time by the file's clock."""
    about = path.stat()
    path.write_text(path.read_text().replace(old, new))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_an_operator_of_a_file_is_one_of_all(file):
    parsed = workload.parse(TEXT)
    assert str(parsed) == f"outer:m=5,n=9,dtype=float32,source={parsed.source}"
    assert workload.parse(str(parsed)) == parsed == pickle.loads(pickle.dumps(parsed))
    assert workload.parse("outer:m=5").sizes == (("m", 5), ("n", 8))
    assert parsed.operations == 45
    run(build(TEXT, "local"), parsed)
    with pytest.raises(UnknownWorkloadError, match=r"did you mean outer:m=N\?"):
        workload.parse("outr:m=5")
    with pytest.raises(UnknownWorkloadError, match="m not given"):
        workload.parse("outer:n=5")


def test_an_edit_is_another_workload(file, tmp_path):
    before, cache = workload.parse(TEXT), BuildCache(tmp_path / "cache")
    with BuildPool(1, cache=cache) as pool:
        first = pool.submit(TEXT, "local").result()
        assert pool.submit(TEXT, "local").result().digest == first.digest and cache.hits == 1
        edit(file)
        second = pool.submit(TEXT, "local").result()  # by the process that knew the first
        assert cache.hits == 1
        after = workload.parse(TEXT)
        run(second, after)
        with pytest.raises(AssertionError, match="off by"):
            run(first, after)
        assert after != before and after.source != before.source
        run(build(before, "local"), before)  # what was parsed stays what it was
        with pytest.raises(UnknownWorkloadError, match=rf"own.py it is source={after.source}"):
            pool.submit(str(before), "local").result()
        edit(file, "FACTOR = 2.0", "FACTOR = 1.0")
        assert pool.submit(TEXT, "local").result().digest == first.digest and cache.hits == 2


def test_what_is_no_part_of_the_expression_changes_nothing(file):
    before = job([Kernel(TEXT)], "local").digest
    file.write_text("# a remark\n" + FILE.replace("m * n,", "m * n * 1,"))
    assert job([Kernel(TEXT)], "local").digest == before
    file.write_text(FILE.replace("m * n,", "m * n * 2,"))  # a bundle says that
    assert job([Kernel(TEXT)], "local").digest != before


def test_processes_that_know_nothing_of_the_environment_build_it(file, monkeypatch):
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as executor:
        monkeypatch.delenv("TUNEFARM_OPERATORS")
        executor.submit(int).result()  # it runs
        monkeypatch.setenv("TUNEFARM_OPERATORS", str(file))
        with BuildPool(executor=executor) as pool:
            assert pool.submit(TEXT, "local").result().digest == build(TEXT, "local").digest


def test_files_are_named_in_python(file, monkeypatch, tmp_path):
    monkeypatch.delenv("TUNEFARM_OPERATORS")
    with pytest.raises(UnknownWorkloadError, match="known are"):
        workload.parse(TEXT)
    with pytest.raises(UnknownWorkloadError, match="name its file by --operators"):
        workload.parse(f"{TEXT},source=12")
    monkeypatch.chdir(tmp_path)
    use_operators("own.py")
    use_operators("own.py")
    assert os.environ["TUNEFARM_OPERATORS"] == str(file)
    assert workload.parse(TEXT).files == (str(file),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("x = 1", "defines no operator"),
        ("x = 1\ny = (", r"own.py:2: SyntaxError"),
        ("import nothing_of_that_name", r"own.py:1: ModuleNotFoundError"),
        ("raise SystemExit(3)", r"own.py:1: SystemExit"),
        (FILE + "from tunefarm_compiler import build\nbuild('outer:m=2', 'local')", "__main__"),
        (FILE.replace("def outer", "def matmul"), "matmul is one of tunefarm's own"),
        (FILE.replace("n: int = 8", "n: str = 'a'"), "fields="),
        (FILE.replace("n: int = 8", "dtype: int"), "no names of fields"),
        (FILE.replace("n: int = 8", "*n"), "no name of its own"),
        (
            FILE.replace("import operator", "import Field, operator").replace(
                "    terms", "    fields=[Field('m', like='n'), Field('n')], terms"
            ),
            "m is like n, which is no field before it",
        ),
        (FILE.replace("    terms", "    dtypes=['float8'], terms"), "known are float32"),
        (FILE.replace("    terms=lambda **_: 2,", ""), r"own.py:4: TypeError.*terms"),
        (FILE.replace("a[i] * b[j]", "a[i] * b[j].nothing"), r"own.py:11: AttributeError"),
        (FILE.replace("a[i] * b[j]", "a[i + 1] * b[j]"), "it reads A"),
        (FILE.replace("a[i] * b[j]", "max(a[i], b[j])"), r"own.py:11: Python asks .*choose by sel"),
        (FILE.replace('"B", (n,)', '"B", n'), r"own.py:10: 9 is no shape of B \(give \(4,\)"),
        (FILE.replace("operations=lambda m, n", "operations=lambda m"), "own.py: TypeError"),
        (FILE.replace("return te", "print(te"). replace("j]))", "j])))"), "no computed tensor"),
        (FILE.replace("FACTOR *", "next(ROUND) *") + "ROUND = iter(range(9))", "each time"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(file, text, said):
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises((OperatorInvalidError, InvalidRequestError), match=said) as caught:
        workload.parse(TEXT)
    if caught.type is OperatorInvalidError:
        assert str(file) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_reference_must_have_the_shape_of_the_expression(file):
    file.write_text(FILE.replace("np.outer(*x)", "x[0]"))
    parsed = workload.parse(TEXT)
    with pytest.raises(OperatorInvalidError, match=r"own.py.* gives \(5,\), its .* \(5, 9\)"):
        parsed.reference(parsed.inputs(0))
    file.write_text(FILE.replace("np.outer(*x)", "x[7]"))
    parsed = workload.parse(TEXT)
    with pytest.raises(OperatorInvalidError, match=r"own.py:6: IndexError"):
        parsed.reference(parsed.inputs(0))


def test_two_files_must_not_define_one_name(file, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(FILE)
    with pytest.raises(OperatorInvalidError, match=r"outer is in .*, too"):
        use_operators(other)
    assert os.environ["TUNEFARM_OPERATORS"] == str(file)


def test_a_package_names_its_operators(tmp_path, monkeypatch):
    (tmp_path / "own_package.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    about = tmp_path / "own_package-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[tunefarm.operators]\nfilters = own_package\n")
    importlib.invalidate_caches()
    registry._installed.cache_clear()
    try:
        parsed = workload.parse(TEXT)
        assert parsed.files == ()
        run(build(TEXT, "local"), parsed)
        (about / "entry_points.txt").write_text("[tunefarm.operators]\nno = own_package:nothing\n")
        importlib.invalidate_caches()
        registry._installed.cache_clear()
        assert workload.parse("add:n=8")  # nothing is looked for
        with pytest.raises(OperatorInvalidError, match="own_package:nothing of own-package"):
            workload.parse(TEXT)
    finally:
        registry._installed.cache_clear()


def scaled(factor, shared=True):
    a = te.placeholder("A", (70,))

    def each(i):
        one = a[i] * factor
        return one + (one if shared else a[i] * factor)

    return te.compute("scaled", (("i", 70),), each)


def test_an_expression_is_built_here():
    bundle = build(scaled(3.0), ["local", "rasp3b"], Schedule((), 1), name="mine")
    (function,) = bundle.manifest.functions
    assert function.name == "mine" and [list(one.shape) for one in function.arguments] == [[70]] * 2
    assert loaded(bundle.library(bundle.manifest.libraries[0]))["mine"]
    assert build(scaled(3.0), "local").manifest.functions[0].name == "scaled"
    assert build(scaled(3.0), "local").digest != build(scaled(3.5), "local").digest
    data = np.arange(70, dtype=np.float32)
    assert (evaluate(scaled(3.0), data) == 6 * data).all()
    for text in (lambda: workload.parse(scaled(3.0)), lambda: job_of(scaled(3.0))):
        with pytest.raises(InvalidRequestError, match=r"scaled is an expression.*docs/adding"):
            text()
    with pytest.raises(InvalidRequestError, match="A is an input"):
        build(te.placeholder("A", (4,)), "local")
    with pytest.raises(InvalidRequestError, match="names no function"):
        build(scaled(3.0), "local", name="a b")


def job_of(expression):
    with BuildPool(1) as pool:
        return pool.submit(expression, "local").result()


def test_the_identity_of_an_expression_is_all_that_it_is_made_of():
    made = [scaled(3.0), scaled(3.0000000000000004), scaled(3.0, shared=False)]
    assert len({identity(one) for one in made}) == 3
    assert identity(scaled(3.0)) == identity(scaled(3.0))
