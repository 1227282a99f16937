"""Many random kernels of one operator, type and target: built, linked once, run once, compared."""

import os
import random
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import kernel_cases as cases
import kernel_machines as machines
import kernel_wild as wild
import numpy as np
from tunefarm_compiler import default_schedule, targets, workload
from tunefarm_compiler.codegen import emit_object, module_text
from tunefarm_compiler.lower import function
from tunefarm_compiler.spaces import ScheduleRules

CHUNK = 40  # shapes that one worker checks in one program
AHEAD = 2  # jobs that are begun before they are asked for, so that no worker waits
SPACES = 4  # of so many shapes one is also run by a schedule of the tuner's space
WILD = 8  # of so many shapes one is also run by a schedule of no space, where one is accepted
LONGEST = 200_000  # characters of a kernel's text: larger ones take long to compile


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


def _build(target: str, texts: list[str], spaces: bool, rng: random.Random) -> list[Built]:
    """The kernels k0, k1, ... of these workloads."""
    spec, found = targets.resolve(target), []
    for number, text in enumerate(texts):
        parsed = workload.parse(text)
        schedules = [default_schedule(parsed, spec)]
        if spaces and number % SPACES == 0:
            schedules.append(ScheduleRules(parsed, spec).sample(rng))
        if spaces and number % WILD == 1:
            schedules += wild.schedule(rng, parsed.output, spec)
        for schedule in schedules:
            name = f"k{len(found)}"
            try:
                code = module_text(function(name, parsed.output, schedule, spec), spec, timed=False)
                if schedule is schedules[0] or len(code) < LONGEST:
                    found.append(Built(text, schedule.to_json(), emit_object(code, spec)))
            except Exception as error:
                found.append(Built(text, schedule.to_json(), b"", f"not built: {error!r}"))
    return found


def _check(target: str, texts: list[str], spaces: bool, seed: str) -> tuple[int, list[str]]:
    """In a worker: calls made for these workloads, and what is wrong."""
    spec, rng = targets.resolve(target), random.Random(seed)
    kernels = _build(target, texts, spaces, rng)
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


@dataclass
class _Part:
    """A part of a job and where it is worked on."""

    arguments: tuple[str, list[str], bool, str]
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
        texts = [str(one) for one in cases.several(rng, job.name, job.dtype, job.count)]
        self._begun[job] = []
        for at in range(0, job.count, CHUNK):
            given = (job.target, texts[at : at + CHUNK], job.spaces, f"{job} {at}")
            self._begun[job].append(_Part(given, self._submit(given)))

    def _submit(self, given: tuple[str, list[str], bool, str]) -> Future[tuple[int, list[str]]]:
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
