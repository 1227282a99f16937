"""Compiling in worker processes that may die."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Self

from tunefarm_proto.bundle import Bundle
from tunefarm_proto.errors import (
    BuildFailedError,
    CompilerCrashedError,
    InvalidRequestError,
    TunefarmError,
    from_proto,
)
from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_compiler.building import Asked, Job, Kernel, Schedules, Targets, job
from tunefarm_compiler.cache import BuildCache
from tunefarm_compiler.worker import compile_job

KILLED_TRIES = 3
END_S = 2.0


class Build(Future[Bundle]):
    """A bundle to come. `seconds` is how long it was compiled, without waiting."""

    seconds = 0.0


Made = Bundle | Job
_Work = Job | Callable[[], Made]
_Task = tuple[_Work, Build]


class BuildPool:
    """Compiles candidates side by side. A context manager; leaving it drops what has not begun.

    `workers` processes (one for each processor unless given) are started when first needed; one
    that dies takes only its candidate along. `timeout` is in seconds for one candidate. What
    `cache` has is not built again. An `executor`, a cluster's say, does the building where one is
    given: its processes need tunefarm[host], and the time limit is its own.
    Raises: InvalidRequestError for less than one worker.
    """

    def __init__(
        self,
        workers: int | None = None,
        timeout: float = 60.0,
        *,
        cache: BuildCache | None = None,
        executor: Executor | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise InvalidRequestError(f"{workers} workers", "give 1 or more, or leave it out")
        self._limit = workers or len(os.sched_getaffinity(0))
        self._timeout = timeout
        self._cache = cache
        self._executor = executor
        self._jobs: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def submit(
        self, workload: str, target: Targets, schedule: Schedules = None, tuned: Asked = True
    ) -> Build:
        """Compile, as `build` does: without a schedule by the best that is known to `tuned`.

        The future raises what `build` raises, or CompilerCrashedError.
        """
        return self.submit_many([Kernel(workload, schedule)], target, tuned)

    def call(self, function: Callable[[], Made]) -> Build:
        """Have a function make the bundle, on a thread of this process, as many at a time.

        It may also say by a `building.job` what is to be compiled, which a worker then does.
        """
        future = Build()
        self._enqueue(function, future)
        return future

    def submit_many(self, kernels: Sequence[Kernel], target: Targets, tuned: Asked = True) -> Build:
        """Compile several kernels into one bundle, as `compile_many` does, by one worker."""
        future = Build()
        try:
            asked = job(kernels, target, tuned)
        except (TunefarmError, OSError) as error:
            future.set_exception(error)
            return future
        if self._cache and (found := self._cache.get(asked.digest)):
            future.set_result(found)
        elif self._executor is not None:
            self._delegate(self._executor, asked, future)
        else:
            self._enqueue(asked, future)
        return future

    def _enqueue(self, work: _Work, future: Build) -> None:
        with self._lock:
            self._jobs.put((work, future))
            if len(self._threads) < self._limit:
                thread = threading.Thread(target=self._serve, name="tunefarm-build", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _delegate(self, executor: Executor, asked: Job, future: Build) -> None:
        def settle(done: "Future[tuple[dict[str, object], bytes]]") -> None:
            try:
                head, data = done.result()
            except (CancelledError, BrokenExecutor, OSError) as error:
                said = f"the executor lost it: {type(error).__name__} {error}".splitlines()[0]
                future.set_exception(CompilerCrashedError(said.strip(), "try another schedule"))
            except Exception as error:  # whatever an executor of somebody's raises
                future.set_exception(error)
            else:
                self._settle(asked, future, head, data)

        try:
            executor.submit(compile_job, asked.to_json()).add_done_callback(settle)
        except RuntimeError as error:  # broken or shut down
            future.set_exception(CompilerCrashedError(f"the executor takes no work: {error}"))

    def _settle(self, asked: Job, future: Build, head: dict[str, object], data: bytes) -> None:
        if "code" in head:
            error = pb.Error(
                code=pb.ErrorCode.ValueType(int(str(head["code"]))),
                message=str(head["message"]),
                hint=str(head["hint"]),
            )
            future.set_exception(from_proto(error))
            return
        bundle = Bundle(data)
        if self._cache:
            self._cache.put(asked.digest, bundle)
        future.set_result(bundle)

    def _serve(self) -> None:
        worker: subprocess.Popen[bytes] | None = None
        while (task := self._jobs.get()) is not None:
            asked, future = task
            if self._closing.is_set():
                future.cancel()
                continue
            if not isinstance(asked, Job):
                named = _call(asked, future)
                if named is None:
                    continue
                asked = named
                if self._cache and (found := self._cache.get(asked.digest)):
                    future.set_result(found)
                    continue
            for tried in range(KILLED_TRIES):
                if worker is None:
                    worker = _start()
                ended = self._run(worker, asked, future, last=tried == KILLED_TRIES - 1)
                if ended is not None:
                    worker = None
                if future.done():
                    break
        if worker is not None:
            assert worker.stdin is not None  # noqa: S101 (it was opened as a pipe)
            worker.stdin.close()
            worker.wait()

    def _run(
        self, worker: "subprocess.Popen[bytes]", asked: Job, future: Build, last: bool
    ) -> int | None:
        """Carry out one job. Returns how the worker ended, where it did.

        One that somebody else killed says nothing of the job, which is then left to be tried again.
        """
        slow = threading.Event()

        def give_up() -> None:
            slow.set()
            worker.kill()

        late, began = threading.Timer(self._timeout, give_up), time.perf_counter()
        late.start()
        try:
            head, data = _exchange(worker, asked.to_json().encode() + b"\n")
        except (OSError, ValueError):
            late.cancel()
            ended = _ended(worker)
            if last or slow.is_set() or ended != -signal.SIGKILL:
                future.set_exception(_crashed(ended, self._timeout if slow.is_set() else None))
            return ended
        late.cancel()
        future.seconds = time.perf_counter() - began
        self._settle(asked, future, head, data)
        return None


def _call(function: Callable[[], Made], future: Build) -> Job | None:
    """The job that it names, if any. What it raises is the candidate's failure."""
    began = time.perf_counter()
    try:
        found: object = function()
        if isinstance(found, Job):
            return found
        if not isinstance(found, Bundle):
            raise BuildFailedError(f"{type(found).__name__} is no bundle", "return a Bundle")
        _ = found.manifest  # raises where it is damaged
    except TunefarmError as error:
        future.set_exception(error)
    except (Exception, SystemExit) as error:  # of somebody's; nobody ends our thread
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        future.set_exception(BuildFailedError(said))
    else:
        future.seconds = time.perf_counter() - began
        future.set_result(found)
    return None


def _ended(worker: "subprocess.Popen[bytes]") -> int:
    """How it ended, or is ended here: its pipes may close a moment before it is gone."""
    try:
        return worker.wait(END_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
        return -signal.SIGPIPE  # its own doing, whatever it was


def _crashed(status: int, limit_s: float | None) -> CompilerCrashedError:
    why = f"ended with status {status}" if limit_s is None else f"took over {limit_s:g} s"
    return CompilerCrashedError(f"the compiler's process {why}", "try another schedule")


def _start() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tunefarm_compiler.worker"]
    # A group of its own: Ctrl-C is for who waits for it, and must not look like a crash.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)


def _exchange(worker: "subprocess.Popen[bytes]", line: bytes) -> tuple[dict[str, object], bytes]:
    if worker.stdin is None or worker.stdout is None:
        raise BuildFailedError("the worker has no pipes")
    worker.stdin.write(line)
    worker.stdin.flush()
    head: dict[str, object] = json.loads(worker.stdout.readline())
    size = int(str(head.get("size", 0)))
    data = worker.stdout.read(size)
    if len(data) != size:
        raise OSError("the worker ended in the middle of its answer")
    return head, data
