"""Strategies in a process of their own: as they are in this one, whatever is killed."""

import subprocess
import sys

import pytest
from tunefarm_compiler import targets, workload
from tunefarm_proto.errors import InternalError, UnknownWorkloadError
from tunefarm_tuner import proposer as module
from tunefarm_tuner.proposer import Proposer, Search
from tunefarm_tuner.search import Experience, Observation, ScheduleSpace

SPEC = targets.resolve("znver4")
NEAR = workload.parse("matmul:m=64,n=64,k=64")


def search(text: str = "matmul:m=96,n=64,k=64", seed: int = 0, name: str = "evolution") -> Search:
    space = ScheduleSpace(NEAR, SPEC)
    known = [
        Experience(NEAR, SPEC, one, 1.0 + len(one) if number else float("inf"), "board")
        for number, (one, _) in enumerate(zip(space.candidates(), range(12), strict=False))
    ]
    return Search(text, SPEC, name, seed, known if name == "model" else known[:1])


def results(candidates: list[str]) -> list[Observation]:
    """Some of them failed."""
    good = [len(one) % 5 for one in candidates]
    return [
        Observation(one, len(one) / 7 if worked else float("inf"), "" if worked else "Failed")
        for one, worked in zip(candidates, good, strict=True)
    ]


def walked(one: module.Strategy, batches: int) -> list[str]:
    found: list[str] = []
    for _ in range(batches):
        batch = one.propose(8)
        found += batch
        one.observe(results(batch))
    return found


def kill(proposer: Proposer) -> None:
    process = proposer.start()
    process.kill()
    process.wait()


def test_it_proposes_what_the_strategy_proposes_here_and_goes_on_when_it_is_killed():
    with Proposer() as proposer:
        one, other = (
            proposer.strategy(search()),
            proposer.strategy(search(seed=1, name="model")),
        )
        first = walked(one, 4)
        assert first == walked(search().begin(), 4)
        assert walked(other, 3) == walked(search(seed=1, name="model").begin(), 3)
        kill(proposer)
        # The next process knows all that this one was told, and what it was told meanwhile.
        resumed = search().begin()
        resumed.observe(results(first))
        more = walked(one, 2)
        assert more == walked(resumed, 2) and not {*first} & {*more}
        assert walked(other, 1)


def test_what_a_strategy_raises_is_raised_here():
    with Proposer() as proposer, pytest.raises(UnknownWorkloadError, match="nosuch"):
        proposer.strategy(search("nosuch:m=1")).propose(1)
    with Proposer() as proposer:
        odd = Search("add:n=16", SPEC, "model", [])  # type: ignore[arg-type]
        with pytest.raises(InternalError, match="the strategy: TypeError"):
            proposer.strategy(odd).propose(1)


def test_where_no_process_can_think_it_says_so(monkeypatch):
    def broken() -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", "import sys; sys.exit(7)"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(module, "_start", broken)
    monkeypatch.setattr(module, "KILLED_TRIES", 2)
    with Proposer() as proposer, pytest.raises(InternalError, match=r"2 times, .* status 7"):
        proposer.strategy(search()).propose(1)


def test_when_all_is_over_there_is_nothing():
    proposer = Proposer()
    one = proposer.strategy(search())
    with proposer:
        proposer.start()
    assert one.propose(3) == []
