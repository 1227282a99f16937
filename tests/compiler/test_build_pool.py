"""Compiling in processes that may die."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tunefarm_compiler import Schedule, build, targets, workload
from tunefarm_compiler.building import Kernel, job
from tunefarm_compiler.pool import BuildPool
from tunefarm_proto.errors import (
    CompilerCrashedError,
    InvalidScheduleError,
    UnknownWorkloadError,
)

TEXT = "add:n=64"


@pytest.fixture
def spec():
    return targets.resolve("local")


def children_named(word):
    """Process ids of our children whose command line has the word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and word in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_build_is_the_same_as_in_this_process(spec):
    with BuildPool(workers=1) as pool:
        assert pool.submit(TEXT, spec).result().digest == build(TEXT, spec).digest
        assert len(children_named("tunefarm_compiler.worker")) == 1
    assert children_named("tunefarm_compiler.worker") == []


def test_errors_of_a_candidate_come_back_by_name(spec):
    with BuildPool(workers=1) as pool:
        wrong = pool.submit("matmul:m=4,n=4,k=4", spec, Schedule((("q", 4),), 4))
        with pytest.raises(InvalidScheduleError, match="q"):
            wrong.result()
        with pytest.raises(UnknownWorkloadError):
            pool.submit("nonsense", spec).result()
        assert pool.submit(TEXT, spec).result()


def test_a_worker_that_dies_takes_only_its_candidate(spec):
    with BuildPool(workers=1) as pool:
        pool.submit(TEXT, spec).result()
        (worker,) = children_named("tunefarm_compiler.worker")
        os.kill(worker, signal.SIGSTOP)
        lost = pool.submit(TEXT, spec)
        os.kill(worker, signal.SIGABRT)  # as LLVM does it
        os.kill(worker, signal.SIGCONT)
        with pytest.raises(CompilerCrashedError):
            lost.result(30)
        assert pool.submit(TEXT, spec).result(30)


def test_a_worker_that_somebody_kills_says_nothing_of_its_candidate(spec):
    with BuildPool(workers=1) as pool:
        pool.submit(TEXT, spec).result()
        (worker,) = children_named("tunefarm_compiler.worker")
        os.kill(worker, signal.SIGSTOP)
        again = pool.submit(TEXT, spec)
        os.kill(worker, signal.SIGKILL)
        assert again.result(30).digest == build(TEXT, spec).digest and again.seconds > 0


def test_a_worker_whose_tuner_was_killed_ends_in_silence():
    worker = subprocess.Popen(
        [sys.executable, "-m", "tunefarm_compiler.worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    worker.stdout.close()
    _, said = worker.communicate(job([Kernel(TEXT)], "local").to_json() + "\n", timeout=60)
    assert (worker.returncode, said) == (0, "")


def test_a_candidate_that_takes_too_long(spec):
    with BuildPool(workers=1, timeout=30) as pool:
        pool.submit(TEXT, spec).result()
        pool._timeout = 0.3
        (worker,) = children_named("tunefarm_compiler.worker")
        os.kill(worker, signal.SIGSTOP)
        with pytest.raises(CompilerCrashedError, match=r"0\.3 s"):
            pool.submit(TEXT, spec).result(30)


def test_every_named_target_compiles_in_the_pool():
    parsed = workload.parse("matmul:m=20,n=20,k=20")
    with BuildPool(workers=2) as pool:
        specs = {targets.resolve(name) for name in targets.NAMES}  # "local" has a name too, perhaps
        futures = [pool.submit(str(parsed), spec) for spec in specs]
        assert len({future.result().digest for future in futures}) == len(specs)
