"""Many random kernels of one operator, type and target: built, linked once, run once, compared."""

import os
import random
from concurrent.futures import ProcessPoolExecutor
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

CHUNK = 16
SPACES = 4  # of so many shapes one is also run by a schedule of the tuner's space
WILD = 8  # of so many shapes one is also run by a schedule of no space, where one is accepted
LONGEST = 200_000  # characters of a kernel's text: larger ones take long to compile


@dataclass(frozen=True)
class Built:
    """A kernel's object, or why there is none."""

    text: str
    schedule: str
    object: bytes
    error: str = ""


def _build(target: str, first: int, texts: list[str], spaces: bool, seed: int) -> list[Built]:
    """In a worker: the kernels k{first}, k{first + 1}, ... of these workloads."""
    spec, rng, found = targets.resolve(target), random.Random(seed), []
    for number, text in enumerate(texts):
        parsed = workload.parse(text)
        schedules = [default_schedule(parsed, spec)]
        if spaces and number % SPACES == 0:
            schedules.append(ScheduleRules(parsed, spec).sample(rng))
        if spaces and number % WILD == 1:
            schedules += wild.schedule(rng, parsed.output, spec)
        for schedule in schedules:
            name = f"k{first + len(found)}"
            try:
                code = module_text(function(name, parsed.output, schedule, spec), spec, timed=False)
                if schedule is schedules[0] or len(code) < LONGEST:
                    found.append(Built(text, schedule.to_json(), emit_object(code, spec)))
            except Exception as error:
                found.append(Built(text, schedule.to_json(), b"", f"not built: {error!r}"))
    return found


class Campaign:
    """Workers that compile, one for each processor. A context manager."""

    def __init__(self) -> None:
        self._start()

    def _start(self):
        workers = len(os.sched_getaffinity(0))
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._pool.shutdown()

    def run(self, target, name, dtype, count, seed, spaces=True):
        """(calls made, what is wrong): `count` random shapes, some by several schedules."""
        spec = targets.resolve(target)
        rng = random.Random(f"{seed} {target} {name} {dtype}")
        texts = [str(one) for one in cases.several(rng, name, dtype, count)]
        room = 2 * CHUNK  # names for each chunk
        jobs = [
            self._pool.submit(
                _build, target, room * n, texts[CHUNK * n : CHUNK * (n + 1)], spaces, seed + n
            )
            for n in range(-(-count // CHUNK))
        ]
        try:
            chunks = [job.result() for job in jobs]
        except BrokenProcessPool:  # LLVM ends the process over what it cannot select
            self._start()
            return count, [f"the compiler died on one of {'; '.join(texts)}"]
        names, kernels = [], []
        for n, chunk in enumerate(chunks):
            for at, built in enumerate(chunk):
                names.append(f"k{room * n + at}")
                kernels.append(built)
        wrong = [f"{one.text} by {one.schedule}: {one.error}" for one in kernels if one.error]
        good = [(n, one) for n, one in zip(names, kernels, strict=True) if not one.error]
        wrong += self._compare(spec, rng, good)
        return len(kernels), wrong

    @staticmethod
    def _compare(spec, rng, kernels):
        calls, expected = [], []
        for number, (_, one) in enumerate(kernels):
            parsed = workload.parse(one.text)
            inputs = parsed.inputs(rng.randrange(1 << 30))
            (want,) = parsed.reference(inputs)
            calls.append(machines.Call(number, inputs, want, rng.random() < 0.5))
            expected.append((parsed, want))
        names, objects = [name for name, _ in kernels], [one.object for _, one in kernels]
        wrong = []
        outcomes = machines.run(spec, names, objects, calls)
        for (_, one), (parsed, want), got in zip(kernels, expected, outcomes, strict=True):
            told = f"{one.text} by {one.schedule}"
            if isinstance(got, str):
                wrong.append(f"{told}: {got}")
            elif not parsed.check([got], [want]):
                off = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
                wrong.append(f"{told}: off by {off}")
        return wrong
