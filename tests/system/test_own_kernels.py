"""A kernel in C, from its file to an answer and a timing of a real device."""

import numpy as np
import pytest
from tunefarm import request_device
from tunefarm_compiler.foreign import build_c

SOURCE = """
#include <stdint.h>
#include <string.h>
int32_t gemm(void *const *args) {
  const float *a = args[0], *b = args[1]; float *c = args[2]; int64_t *calls = args[3];
  memset(c, 0, 24 * 40 * sizeof *c);
  for (int i = 0; i < 24; ++i) for (int k = 0; k < 32; ++k) for (int j = 0; j < 40; ++j)
    c[i * 40 + j] += a[i * 32 + k] * b[k * 40 + j];
  ++*calls;
  return 0;
}
"""
ARGS = "a:float32[24,32] b:float32[32,40] c:out:float32[24,40] calls:out:int64"


@pytest.fixture(scope="module")
def gemm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "gemm.c").write_text(SOURCE)
    return folder / "gemm.c"


def test_its_answer_is_that_of_numpy(farm, gemm):
    numbers = np.random.default_rng(1)
    a = numbers.random((24, 32), dtype="float32")
    b = numbers.random((32, 40), dtype="float32")
    with request_device("one", tracker=farm.address, timeout=30) as device:
        module = device.load(build_c(gemm, "local", ARGS))
        c, calls = device.empty((24, 40)), device.empty((), "int64")
        module["gemm"](device.array(a), device.array(b), c, calls)
        np.testing.assert_allclose(c.numpy(), a @ b, rtol=1e-5)
        assert calls.numpy() == 1


def test_a_bundle_is_timed_and_its_answer_is_not_judged(farm, gemm, tmp_path):
    out = tmp_path / "gemm.tf"
    build_c(gemm, "local", ARGS).write(out)
    quick = ["--device", "one", "--repeat", "3", "--number", "2"]
    told = farm.json("bench", str(out), *quick, "--seed", "3")
    assert told["correct"] is None and told["gflops"] is None
    assert told["workload"] == "gemm.c" and len(told["samples_s"]) == 3
    shown = farm.run("bench", str(out), *quick, "--fill", "zeros", "--function", "gemm")
    assert shown.returncode == 0 and "answer not checked" in shown.stdout
    results = farm.json("results", "--workload", "gemm.c")
    assert [one["correct"] for one in results] == [None, None]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["absent.tf"], "absent.tf"),
        (["gemm.tf", "--function", "other"], "no function 'other'"),
        (["gemm.tf", "--seed", "-1"], "0 or more"),
        (["gemm.tf", "--schedule", "{}"], "is of workloads"),
        (["add:n=16", "--fill", "zeros"], "is of bundles"),
    ],
)
def test_wrong_words_get_one_line(farm, gemm, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    build_c(gemm, "local", ARGS).write("gemm.tf")
    done = farm.run("bench", *words, "--device", "one")
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_a_core_reaches_is_recorded_as_peak(farm):
    told = farm.json("bench", "peak", "--device", "one", "--repeat", "3", "--number", "1")
    assert told["workload"] == "peak" and told["gflops"] > 0
    (kept,) = farm.json("results", "--workload", "peak", "--device", told["device"])
    assert kept["id"] == told["result_id"]
    wrong = farm.run("bench", "peak", "--device", "one", "--threads", "2")
    assert wrong.returncode != 0 and "leave it out" in wrong.stderr
    nobody = farm.run("bench", "peak", "--device", "nobody")
    assert nobody.returncode != 0 and "no device has the key nobody" in nobody.stderr
