"""Many random kernels of one operator, type and target: built, linked once, run once, compared."""

import itertools
import os
import random
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeAlias

import kernel_cases as cases
import kernel_machines as machines
import kernel_wild as wild
import numpy as np
from tunefarm_compiler import Schedule, default_schedule, targets, workload
from tunefarm_compiler.codegen import emit_object, module_text
from tunefarm_compiler.lower import function
from tunefarm_compiler.spaces import ScheduleRules
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload

CHUNK = 40  # shapes that one worker checks in one program
SPARE = 10  # more are drawn, so that those of very long code can be left out
AHEAD = 2  # jobs that are begun before they are asked for, so that no worker waits
SPACES = 8  # of so many shapes one is also run by a schedule of the tuner's space
WILD = 8  # of so many shapes one is also run by a schedule of no space, where one is accepted
LONGEST = 100_000  # characters of a kernel's text: larger ones take long to compile


@dataclass(frozen=True)
class Job:
    """So many random shapes of an operator in a type on a target, some by several schedules."""

    target: str
    name: str
    dtype: str
    count: int
    seed: int
    spaces: bool = True

    def __str__(self) -> str:
        return f"{self.seed} {self.target} {self.name} {self.dtype}"


@dataclass(frozen=True)
class Built:
    """A kernel's object, or why there is none."""

    text: str
    schedule: str
    object: bytes
    error: str = ""

    def __str__(self) -> str:
        return f"{self.text} by {self.schedule}"


def _shapes(target: str, texts: list[str], count: int) -> list[tuple[Workload, Schedule, str]]:
    """So many of them, with their default schedules and its code: the long ones only if need be."""
    spec, short, long = targets.resolve(target), [], []
    for text in texts:
        parsed = workload.parse(text)
        schedule = default_schedule(parsed, spec)
        code = _code(parsed, schedule, spec)
        (short if len(code) < LONGEST else long).append((parsed, schedule, code))
        if len(short) == count:
            break
    return (short + long)[:count]


def _code(parsed: Workload, schedule: Schedule, spec: TargetSpec) -> str:
    return module_text(function("kernel", parsed.output, schedule, spec), spec, timed=False)


def _build(
    target: str, texts: list[str], count: int, spaces: bool, rng: random.Random
) -> list[Built]:
    """The kernels k0, k1, ... of so many of these workloads."""
    spec, found = targets.resolve(target), []

    def add(parsed, schedule, code=""):
        try:
            code = code or _code(parsed, schedule, spec)
            if schedule is default or len(code) < LONGEST:
                named = code.replace("@kernel(", f"@k{len(found)}(")
                found.append(Built(str(parsed), schedule.to_json(), emit_object(named, spec)))
        except Exception as error:
            found.append(Built(str(parsed), schedule.to_json(), b"", f"not built: {error!r}"))

    for number, (parsed, default, code) in enumerate(_shapes(target, texts, count)):
        add(parsed, default, code)
        if spaces and number % SPACES == 0:
            add(parsed, ScheduleRules(parsed, spec).sample(rng))
        if spaces and number % WILD == 1:
            for schedule in wild.schedule(rng, parsed.output, spec):
                add(parsed, schedule)
    return found


def _check(
    target: str, texts: list[str], count: int, spaces: bool, seed: str
) -> tuple[int, list[str]]:
    """In a worker: calls made for so many of these workloads, and what is wrong."""
    spec, rng = targets.resolve(target), random.Random(seed)
    kernels = _build(target, texts, count, spaces, rng)
    wrong = [f"{one}: {one.error}" for one in kernels if one.error]
    good = [(f"k{n}", one) for n, one in enumerate(kernels) if not one.error]
    calls, expected = [], []
    for number, (_, one) in enumerate(good):
        parsed = workload.parse(one.text)
        inputs = parsed.inputs(rng.randrange(1 << 30))
        (want,) = parsed.reference(inputs)
        calls.append(machines.Call(number, inputs, want, rng.random() < 0.5))
        expected.append((parsed, want))
    names, objects = [name for name, _ in good], [one.object for _, one in good]
    outcomes = machines.run(spec, names, objects, calls)
    for (_, one), (parsed, want), got in zip(good, expected, outcomes, strict=True):
        if isinstance(got, str):
            wrong.append(f"{one}: {got}")
        elif not parsed.check([got], [want]):
            off = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
            wrong.append(f"{one}: off by {off}")
    return len(kernels), wrong


Given: TypeAlias = tuple[str, list[str], int, bool, str]


@dataclass
class _Part:
    """A part of a job and where it is worked on."""

    arguments: Given
    future: Future[tuple[int, list[str]]]


class Campaign:
    """Workers that build, run and compare, one for each processor. A context manager.

    `planned` are the jobs to come, in their order: some are begun before they are asked for.
    """

    def __init__(self, planned: list[Job] | None = None) -> None:
        self._planned = deque(planned or [])
        self._begun: dict[Job, list[_Part]] = {}
        self._workers = len(os.sched_getaffinity(0))
        self._pool = self._started(self._workers)

    @staticmethod
    def _started(workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, get_context("spawn"))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._pool.shutdown(cancel_futures=True)

    def run(self, *jobs: Job) -> tuple[int, list[str]]:
        """(calls made, what is wrong) of these jobs together."""
        for job in jobs:
            self._begin(job)
        while self._planned and len(self._begun) < len(jobs) + AHEAD:
            self._begin(self._planned.popleft())
        done = [self._result(part) for job in jobs for part in self._begun.pop(job)]
        return sum(calls for calls, _ in done), [line for _, wrong in done for line in wrong]

    def _begin(self, job: Job) -> None:
        if job in self._begun:
            return
        if job in self._planned:
            self._planned.remove(job)
        rng = random.Random(str(job))
        self._begun[job] = []
        sizes = [min(CHUNK, job.count - at) for at in range(0, job.count, CHUNK)]
        spare = SPARE if job.count > CHUNK else 0
        wanted = job.count + spare * len(sizes)
        drawn = (str(one) for one in cases.several(rng, job.name, job.dtype, wanted))
        for number, size in enumerate(sizes):
            texts = [*itertools.islice(drawn, size + spare)]
            given = (job.target, texts, size, job.spaces, f"{job} {number}")
            self._begun[job].append(_Part(given, self._submit(given)))

    def _submit(self, given: Given) -> Future[tuple[int, list[str]]]:
        try:
            return self._pool.submit(_check, *given)
        except BrokenProcessPool:
            self._pool = self._started(self._workers)
            return self._pool.submit(_check, *given)

    def _result(self, part: _Part) -> tuple[int, list[str]]:
        """What came of a part. LLVM ends the process over what it cannot select: then it, and the
        parts that only lost their workers by it, are run again, each alone."""
        try:
            return part.future.result()
        except BrokenProcessPool:
            pass
        with self._started(1) as pool:
            try:
                return pool.submit(_check, *part.arguments).result()
            except BrokenProcessPool:
                texts = part.arguments[1]
                return len(texts), [f"the compiler died on one of {'; '.join(texts)}"]
