"""The checks of the fault campaign find what must not be, so that their silence means something."""

import json
import time

import pytest
from fault_evidence import (
    Evidence,
    Span,
    check_calls,
    check_requests,
    client_steps,
    device_spans,
)


def call(fence: int, start: float, end: float, **other: object) -> dict[str, object]:
    return {
        "what": "call", "pid": fence, "lease": f"l{fence}", "fence": fence, "device": "d",
        "sent": start, "start": start, "end": end, "heard": end, "at": end, **other,
    }  # fmt: skip


def problems_of(*calls: dict[str, object]) -> list[str]:
    spans = [Span("l1", 1, 0.0, 10.0), Span("l2", 2, 10.0, 20.0)]
    evidence = Evidence(spans={"d": spans}, steps={"c": list(calls)})
    assert check_calls(evidence) == len(calls)
    return evidence.problems


def test_calls_one_after_another_are_fine():
    assert problems_of(call(1, 1, 2), call(1, 3, 4), call(2, 11, 12)) == []


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([call(1, 8, 11), call(2, 10.5, 12)], "overlap"),
        ([call(2, 11, 12), call(1, 13, 14)], "succeeded after"),
        ([call(1, 11, 12)], "lies in no span"),
        ([call(3, 1, 2)], "lies in no span"),
        ([call(1, 1, 2), call(1, 3, 4, pid=7)], "share a fence"),
        ([call(1, 1, 2, heard=1.5)], "another time"),
    ],
)
def test_what_must_not_be_is_found(calls, words):
    assert any(words in one for one in problems_of(*calls))


def log_of(tmp_path, *lines: str):
    log = tmp_path / "device-0.log"
    log.write_text("".join(f"{line}\n" for line in lines))
    problems: list[str] = []
    return device_spans(log, time.time() - time.monotonic(), problems), problems


def line(what: str, lease: str, fence: int) -> str:
    return f"2026-01-01 10:00:0{fence},000 INFO lease {lease} {what}, fence {fence}, for x"


def test_a_device_that_serves_one_lease_after_another(tmp_path):
    spans, problems = log_of(
        tmp_path, line("begins", "a", 1), line("ends", "a", 1), line("begins", "b", 2),
        f"--- start at {time.monotonic()}", line("begins", "b", 2), line("ends", "b", 2),
    )  # fmt: skip
    assert [one.lease for one in spans] == ["a", "b", "b"] and problems == []


def test_two_leases_at_once_and_a_fence_that_falls_are_found(tmp_path):
    assert "begins within" in log_of(tmp_path, line("begins", "a", 1), line("begins", "b", 2))[1][0]
    falling = (line("begins", "a", 2), line("ends", "a", 2), line("begins", "b", 1))
    assert "not above" in log_of(tmp_path, *falling)[1][0]


def steps(*what: tuple[str, int, str]) -> list[dict[str, object]]:
    return [
        {"what": kind, "at": float(at), "pid": 1, "round": number, "error": error}
        for at, (kind, number, error) in enumerate(what)
    ]


def test_requests_that_hang_or_end_without_a_name_are_found():
    hanging = Evidence(steps={"c": steps(("ask", 1, ""), ("queued", 1, ""))})
    assert check_requests(hanging).asked == 1
    assert "never ended" in hanging.problems[0]
    hanging.problems.clear()
    assert check_requests(hanging, killed={1}).died == 1 and hanging.problems == []
    unnamed = Evidence(steps={"c": steps(("ask", 1, ""), ("end", 1, "unnamed KeyError: 1"))})
    check_requests(unnamed)
    assert "unnamed" in unnamed.problems[0]
    fine = Evidence(steps={"c": steps(("ask", 1, ""), ("end", 1, "RequestTimeoutError"))})
    assert check_requests(fine).errors == {"RequestTimeoutError": 1} and fine.problems == []


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "client.jsonl"
    path.write_text(json.dumps({"what": "ask"}) + '\n{"wha')
    assert client_steps(path) == [{"what": "ask"}]
