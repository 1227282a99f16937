"""A process that thinks: strategies and their models live there, beside what the farm is fed by.

`Proposer` starts it when a strategy is first asked for candidates. It is made to be lost: what a
strategy was told is kept here, and told again to the next process.

    python -m tunefarm_tuner.proposer    lines of JSON on stdin, an answer to each `ask` on stdout
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Self

from tunefarm_compiler import workload
from tunefarm_compiler.targets import TargetSpec
from tunefarm_proto.errors import InternalError, TunefarmError, from_proto
from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_tuner.search import (
    Candidate,
    Experience,
    Observation,
    ScheduleSpace,
    Strategy,
    strategy,
    warm_start,
)

KILLED_TRIES = 5  # processes in a row that end without an answer
END_S = 2.0
NICENESS = 5  # devices, builds and streams come first where processors are few


@dataclass(frozen=True)
class Search:
    """What a strategy is made from. `known` are candidates of other workloads and targets."""

    workload: str
    spec: TargetSpec
    strategy: str
    seed: int
    known: Sequence[Experience] = ()
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        known = [
            [
                str(one.workload),
                _target(one.spec),
                one.candidate,
                one.cost_s,
                one.device,
                one.threads,
            ]
            for one in self.known
        ]
        return {
            "workload": self.workload, "target": _target(self.spec), "strategy": self.strategy,
            "seed": self.seed, "known": known, "threads": self.threads,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Search":
        """As `to_json` wrote it."""
        known = [
            Experience(workload.parse(text), _spec(target), candidate, cost, device, threads)
            for text, target, candidate, cost, device, threads in data["known"]
        ]
        spec = _spec(data["target"])
        return cls(data["workload"], spec, data["strategy"], data["seed"], known, data["threads"])

    def begin(self) -> Strategy:
        """The strategy, that knows nothing of its own yet."""
        space = ScheduleSpace(workload.parse(self.workload), self.spec, self.threads)
        return strategy(
            self.strategy, space, self.seed, warm_start(space, self.known, seed=self.seed)
        )


def _target(spec: TargetSpec) -> list[Any]:
    return [spec.triple, spec.cpu, list(spec.features)]


def _spec(data: list[Any]) -> TargetSpec:
    return TargetSpec(data[0], data[1], tuple(data[2]))


class Elsewhere:
    """A strategy that lives in a proposer's process. `note` is what it has to say of itself."""

    def __init__(self, proposer: "Proposer", search: Search, number: int) -> None:
        self.search = search
        self.number = number
        self.told: list[Observation] = []  # all of it, for another process
        self.known = 0  # how many of those the process knows
        self.note = ""
        self._proposer = proposer

    def observe(self, results: Sequence[Observation]) -> None:
        """Learn: told with the next question."""
        self.told += results

    def propose(self, count: int) -> list[Candidate]:
        """Ask. Raises: what the strategy raises, InternalError where no process can think."""
        return self._proposer.ask(self, count)


class Proposer:
    """The process, and its strategies. A context manager. One question at a time, of any thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._begun: set[int] = set()  # strategies that are in this process
        self._count = 0
        self._asking = threading.Lock()
        self._starting = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._starting:
            self._closed, process = True, self._process
        if process is not None:
            process.kill()  # it has nothing to lose; who still asks gets nothing
            process.wait()

    def strategy(self, search: Search) -> Elsewhere:
        """A strategy of that search."""
        self._count += 1
        return Elsewhere(self, search, self._count)

    def start(self) -> "subprocess.Popen[bytes]":
        """Have the process, before it is asked. Raises: OSError where all is over."""
        with self._starting:
            if self._closed:
                raise OSError("closed")
            if self._process is None:
                self._process = _start()
                self._begun.clear()
            return self._process

    def ask(self, one: Elsewhere, count: int) -> list[Candidate]:
        """What that strategy proposes; nothing where all is over."""
        ended = 0
        with self._asking:
            for _ in range(KILLED_TRIES):
                try:
                    answer = self._exchange(one, count)
                except (OSError, ValueError):
                    if self._closed:
                        return []
                    ended = self._lost()
                    continue
                one.note = answer.get("note", "")
                if "code" in answer:
                    raise _error(answer)
                return list(answer["found"])
        raise InternalError(
            f"the proposer's process ended {KILLED_TRIES} times, at last with status {ended}",
            "the records are kept; `--strategy random` does without it",
        )

    def _exchange(self, one: Elsewhere, count: int) -> dict[str, Any]:
        process = self.start()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 (its pipes)
        question: dict[str, Any] = {"ask": one.number, "count": count}
        news = one.told[one.known :]
        if one.number not in self._begun:
            question["begin"], news = one.search.to_json(), one.told
        question["news"] = [[seen.candidate, seen.cost_s, seen.error] for seen in news]
        _write(process.stdin, question)
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        self._begun.add(one.number)
        one.known = len(one.told)
        return answer

    def _lost(self) -> int:
        """The process is gone, or will be: how it ended."""
        with self._starting:
            process, self._process = self._process, None
        assert process is not None  # noqa: S101 (it was asked)
        try:
            return process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _start() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tunefarm_tuner.proposer"]
    # A group of its own: Ctrl-C is for the tuner, which ends it.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)


def _write(pipe: IO[bytes], data: dict[str, Any]) -> None:
    pipe.write(json.dumps(data).encode() + b"\n")
    pipe.flush()


def _error(answer: dict[str, Any]) -> TunefarmError:
    code = pb.ErrorCode.ValueType(answer["code"])
    return from_proto(pb.Error(code=code, message=answer["message"], hint=answer["hint"]))


# The process.


def serve(lines: Iterable[str], answers: IO[bytes]) -> None:
    """Answer each line, until they end."""
    searches: dict[int, Strategy] = {}
    for line in lines:
        data = json.loads(line)
        try:
            if "begin" in data:
                searches[data["ask"]] = Search.from_json(data["begin"]).begin()
            found = _asked(searches[data["ask"]], data)
        except TunefarmError as error:
            found = {"code": error.code, "message": error.message, "hint": error.hint}
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            found = {"code": InternalError.code, "message": f"the strategy: {said}", "hint": ""}
        _write(answers, found)


def _asked(one: Strategy, data: dict[str, Any]) -> dict[str, Any]:
    if data["news"]:
        one.observe([Observation(*row) for row in data["news"]])
    return {"found": one.propose(data["count"]), "note": getattr(one, "note", "")}


def main() -> None:
    """Think until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not reach the answers
    try:
        serve(sys.stdin, answers)
    except BrokenPipeError:  # the tuner was killed meanwhile
        os._exit(0)


if __name__ == "__main__":
    main()
