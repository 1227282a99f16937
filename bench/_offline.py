"""Candidates of one workload measured on this machine alone: no farm, and each only once ever.

A worker process times the kernels by the processor time that they take, which others on the machine
disturb less. Before and after each sample multiply-adds are timed that use no memory: where these
are slow, because a neighbour shares the core, the sample does not count. Costs, the least of the
samples, are kept in a file, so that searches which meet the same candidates see the same costs.
"""

import ctypes
import json
import math
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from peak import load
from tunefarm_compiler import targets, workload
from tunefarm_compiler.peak import peak_bundle
from tunefarm_compiler.pool import BuildPool
from tunefarm_compiler.schedule import Schedule
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.errors import TunefarmError
from tunefarm_tuner.search.base import Observation

ROUNDS = 2  # undisturbed samples of each
MOST_ROUNDS = 8
QUIET = 1.05  # how much slower multiply-adds may be than they were lately
LATELY = 60
SAMPLE_S, ANCHOR_S = 0.003, 0.0005
SLOW = 1.5  # times as slow as the fastest so far: one sample is enough
LEAST = 3  # of the samples in turns the third shortest counts: less luck than the shortest
TIMEOUT_S = 60


def cpu_timer(bundle: Bundle, arrays: list[Any], sample_s: float = SAMPLE_S) -> Callable[[], float]:
    """Something that times one sample of the bundle's function: processor seconds of one call."""
    library, name = load(bundle), bundle.manifest.functions[0].name
    kernel = ctypes.cast(library[name], ctypes.c_void_p)
    repeat = library.tunefarm_repeat
    repeat.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    arguments = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))

    def sample(number: int) -> float:
        started = time.thread_time()
        if repeat(kernel, arguments, number) != 0:
            raise RuntimeError(f"{name} failed")
        return (time.thread_time() - started) / number

    sample(1)
    number = max(1, round(sample_s / sample(1)))

    def timed(kept: Any = arrays) -> float:
        return sample(number)

    return timed


def _serve(pipe: Connection, text: str, peak: bytes) -> None:
    """The worker: bundles and a number of rounds in, a (seconds, error) for each out."""
    parsed = workload.parse(text)
    inputs = parsed.inputs(0)
    expected = parsed.reference(inputs)
    halves, lanes = np.full(2, 0.5, np.float32), np.zeros(64, np.float32)
    anchor = cpu_timer(Bundle(peak), [halves, lanes], ANCHOR_S)
    lately = deque((anchor() for _ in range(LATELY)), LATELY)
    fastest = math.inf

    def prepared(data: bytes) -> tuple[Callable[[], float], bool]:
        outputs = [np.full_like(array, 77) for array in expected]
        run = cpu_timer(Bundle(data), [*inputs, *outputs])
        return run, bool(parsed.check(outputs, expected))

    def quiet() -> bool:
        lately.append(anchor())
        return lately[-1] < QUIET * min(lately)

    def screened(run: Callable[[], float]) -> float:
        """The least undisturbed sample; the least at all if there is none."""
        nonlocal fastest
        good, every, before = list[float](), list[float](), quiet()
        for _ in range(MOST_ROUNDS):
            every.append(run())
            after = quiet()
            if before and after:
                good.append(every[-1])
            before = after
            if len(good) == ROUNDS or (len(good) == 1 and good[0] > SLOW * fastest):
                break
        fastest = min(fastest, *good, math.inf)
        return min(good or every)

    def in_turns(runs: list[Callable[[], float]], rounds: int) -> list[float]:
        taken = [[run() for run in runs] for _ in range(rounds)]
        return [sorted(column)[LEAST - 1] for column in zip(*taken, strict=True)]

    while True:
        bundles, rounds = pipe.recv()
        made = [prepared(data) for data in bundles]
        if rounds:
            pipe.send([(cost, "") for cost in in_turns([run for run, _ in made], rounds)])
            continue
        wrong = (math.inf, "WrongAnswerError")
        pipe.send([(screened(run), "") if right else wrong for run, right in made])


class Offline:
    """Measures candidates of a workload; a context manager."""

    def __init__(self, text: str, folder: Path, workers: int = 2) -> None:
        self.parsed = workload.parse(text)
        self.spec = targets.resolve("local")
        self.path = folder / (str(self.parsed).translate(str.maketrans(":,=", "___")) + ".jsonl")
        folder.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, Observation] = {}
        self.found: dict[str, str] = {}  # by whom a candidate was found
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                row = json.loads(line)
                self.found[row["candidate"]] = row.pop("found", "")
                seen = Observation(**row)
                self.known[seen.candidate] = seen
        self._pool = BuildPool(workers)
        self._worker: tuple[multiprocessing.process.BaseProcess, Connection] | None = None

    def __enter__(self) -> "Offline":
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.__exit__(*exc)
        if self._worker:
            self._worker[0].kill()

    def _started(self) -> Connection:
        if self._worker is None or not self._worker[0].is_alive():
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe()
            peak = peak_bundle(self.spec)
            process = context.Process(
                target=_serve, args=(there, str(self.parsed), peak.data), daemon=True
            )
            process.start()
            there.close()
            self._worker = process, here
        return self._worker[1]

    def measure(self, candidates: Sequence[str], found: str = "") -> list[Observation]:
        """What became of each; `found` says by whom those were found that are new."""
        builds: dict[str, Future[Bundle]] = {
            one: self._pool.submit(str(self.parsed), self.spec, Schedule.from_json(one))
            for one in dict.fromkeys(candidates)
            if one not in self.known
        }
        for one, build in builds.items():
            self.known[one] = seen = self._measure(one, build)
            self.found[one] = found
            with self.path.open("a") as file:
                file.write(json.dumps({**vars(seen), "found": found}) + "\n")
        return [self.known[one] for one in candidates]

    def _measure(self, candidate: str, build: Future[Bundle]) -> Observation:
        try:
            data = build.result().data
        except TunefarmError as error:
            return Observation(candidate, math.inf, type(error).__name__)
        try:
            ((cost, error),) = self._timed([data], 0)
        except (EOFError, OSError):
            assert self._worker is not None
            self._worker[0].kill()
            self._worker[0].join()
            return Observation(candidate, math.inf, "KernelCrashedError")
        return Observation(candidate, cost, error)

    def _timed(self, bundles: list[bytes], rounds: int) -> list[tuple[float, str]]:
        pipe = self._started()
        pipe.send((bundles, rounds))
        if not pipe.poll(TIMEOUT_S * (1 + rounds)):
            raise EOFError
        found: list[tuple[float, str]] = pipe.recv()
        return found

    def retimed(self, candidates: Sequence[str], rounds: int = 25) -> dict[str, float]:
        """Seconds of candidates that work, timed in turns."""
        builds = [
            self._pool.submit(str(self.parsed), self.spec, Schedule.from_json(one))
            for one in candidates
        ]
        timed = self._timed([build.result().data for build in builds], rounds)
        return {one: cost for one, (cost, _) in zip(candidates, timed, strict=True)}
