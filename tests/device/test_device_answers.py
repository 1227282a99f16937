"""A runner's answers are what a kernel may have written: each is right or is refused."""

import asyncio
import contextlib
import json
import os
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunefarm_device import answers
from tunefarm_device.backend import RunnerError
from tunefarm_device.processes import Runner
from tunefarm_device.runner import PREFIX, encode
from tunefarm_proto.errors import KernelCrashedError, KernelTimeoutError

TIME = {"do": "time", "id": 7, "number": 0, "repeat": 2}
TIMED = {
    "id": 7, "samples_s": [1e-6, 2e-6], "switches": 0, "number": 5, "first_call_s": 0.1,
    "warmup_calls": 9, "counters": {"cycles": 2.5}, "lost": 0.25,
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def refused(asked: dict[str, Any], answer: dict[str, Any], payload: bytes = b"") -> bool:
    try:
        answers.check(asked, answer, payload)
    except ValueError:
        return True
    return False


def test_the_right_answers_are_right():
    turns = {"do": "turns", "id": 7, "repeat": 1, "order": [0, 1]}
    assert not refused(turns, TIMED) and refused({**turns, "order": [0]}, TIMED)
    assert not refused(TIME, TIMED)
    assert not refused({**TIME, "number": 5}, TIMED)
    assert not refused({"do": "call", "id": 1}, {"id": 1, "elapsed_s": 0})
    assert not refused({"do": "read", "id": 1, "start": 2, "end": 5}, {"id": 1}, b"abc")
    assert not refused({"do": "free", "id": 1}, {"id": 1})
    assert not refused({"do": "call", "id": 1}, {"id": 1, "failed": "status", "text": "7"})


def test_digests_and_abandoned_timings_are_those_asked_for():
    asked, digest = {"do": "digest", "id": 1, "outputs": [[1, 4]]}, "0a" * 32
    assert not refused(asked, {"id": 1, "digest": digest})
    for bad in (None, "", digest.upper(), digest + "\n", digest[1:], 5):
        assert refused(asked, {"id": 1, "digest": bad})
    ended = {**TIMED, "samples_s": [1.0], "number": 1, "abandoned": True, "busy_s": 2.0}
    assert not refused({**TIME, "number": 5, "abandon_above_s": 0.1}, ended)
    assert refused({**TIME, "number": 5, "abandon_above_s": 0.0}, ended)
    assert refused(TIME, ended) and refused(TIME, {**TIMED, "busy_s": -1})


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize(
    "value", [None, "x", -1, True, float("nan"), float("inf"), 10**400, [], [1.0], [-1.0, 1.0], {}]
)
def test_a_field_that_lies_is_refused(name, value):
    if (name, value) == ("counters", {}):
        return  # there may be none
    assert refused(TIME, {**TIMED, name: value})
    assert refused(TIME, {key: value for key, value in TIMED.items() if key != name})


@pytest.mark.parametrize(
    ("asked", "answer", "payload"),
    [
        ({"do": "call", "id": 2}, {"id": 1, "elapsed_s": 1.0}, b""),
        ({"do": "call", "id": 2}, {"id": 2, "elapsed_s": 1.0}, b"more"),
        ({"do": "read", "id": 2, "start": 0, "end": 4}, {"id": 2}, b"abc"),
        ({"do": "call", "id": 2}, {"id": 2, "failed": "nonsense", "text": ""}, b""),
        ({"do": "call", "id": 2}, {"id": 2, "failed": ["status"], "text": ""}, b""),
        ({"do": "call", "id": 2}, {"id": 2, "failed": "status"}, b""),
        ({**TIME, "number": 4}, TIMED, b""),
        (TIME, {**TIMED, "number": 0}, b""),
    ],
)
def test_what_was_not_asked_for_is_refused(asked, answer, payload):
    assert refused(asked, answer, payload)


MANY = {"do": "many", "id": 7, "count": 3, "keep_going": False}
SECONDS = struct.pack("=3d", 1e-6, 2e-6, 0.0)


@pytest.mark.parametrize(
    ("failed", "payload", "wrong"),
    [
        ([], SECONDS, False),
        ([[1, "status", "9"]], SECONDS[:16], False),
        ([], SECONDS[:16], True),  # fewer without a reason
        ([], SECONDS[:15], True),
        ([], SECONDS + SECONDS[:8], True),
        ([], struct.pack("=3d", 1.0, -1.0, 1.0), True),
        ([], struct.pack("=3d", 1.0, float("nan"), 1.0), True),
        ([[3, "status", "9"]], SECONDS, True),
        ([[0, "crash", "9"]], SECONDS, True),
        ([[0, "status", 9]], SECONDS, True),
        ([[0, "status", "\ud800"]], SECONDS, True),  # no text that can travel
        ([[0, "status"]], SECONDS, True),
        ([None], SECONDS, True),
        (None, SECONDS, True),
    ],
)
def test_the_answer_to_a_batch(failed, payload, wrong):
    assert refused(MANY, {"id": 7, "failed_calls": failed}, payload) == wrong


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        ([1, "f", 2, 0.5, 0.1, 0.4, {"cycles": 7}], False),
        ([1, "f", 2, 0.5, 0.1, 0.4, {"cycles": -7}], True),
        ([1, "f", -2, 0.5, 0.1, 0.4, {}], True),
        ([1, "f", 2, float("inf"), 0.1, 0.4, {}], True),
        ([1, 1, 2, 0.5, 0.1, 0.4, {}], True),
        ([1, "\ud800", 2, 0.5, 0.1, 0.4, {}], True),
        ([1, "f"], True),
        ({}, True),
    ],
)
def test_the_answer_to_a_profile(function, wrong):
    asked = {"do": "profile", "id": 7, "begin": False}
    assert refused(asked, {"id": 7, "functions": [function]}) == wrong
    assert refused(asked, {"id": 7})


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_header_is_an_object_or_refused(text):
    with contextlib.suppress(ValueError):
        assert isinstance(answers.parse(text), dict)


FIELDS = [*TIMED, "failed", "text", "failed_calls", "functions"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.binary(max_size=24))
def test_no_answer_breaks_the_check(answer, payload):
    load, read = {"do": "load", "id": 7}, {"do": "read", "id": 7, "start": 0, "end": 3}
    for asked in (TIME, load, read, MANY, {"do": "profile", "id": 7}):
        refused(asked, {**answer, "id": 7}, payload)


@given(st.text())
def test_words_fit_a_line(text):
    assert answers.printable(text).isprintable()


def exchange(frame: bytes, limit_s: float = 5.0) -> Any:
    """What the server makes of these bytes as the answer to a call."""

    async def run() -> Any:
        runner = Runner(os.memfd_create("output"), 0.0)
        ours, theirs = socket.socketpair()
        theirs.sendall(encode({"ready": True}))
        await runner.attach(ours)
        runner.ended.set_result(0)
        theirs.sendall(frame)
        try:
            return await runner.request({"do": "call"}, limit_s=limit_s)
        finally:
            theirs.close()
            await runner.close()

    return asyncio.run(run())


def test_an_answer_in_turn_is_taken():
    assert exchange(encode({"id": 1, "elapsed_s": 0.5}))[0]["elapsed_s"] == 0.5
    with pytest.raises(RunnerError, match=r"^a b$"):
        exchange(encode({"id": 1, "failed": "status", "text": "a\nb\x1b"}))


@pytest.mark.parametrize(
    "frame",
    [
        b"garbage of some length",
        PREFIX.pack(0xFFFFFFFF, 0),
        PREFIX.pack(2, 1 << 40) + b"{}",
        PREFIX.pack(9000, 0) + b"[" * 9000,
        encode({"id": 2, "elapsed_s": 0.5}),
        encode({"id": 1, "elapsed_s": -0.5}),
        encode({"id": 1, "elapsed_s": "0.5"}),
    ],
)
def test_a_lie_is_a_crash_by_name(frame):
    with pytest.raises(KernelCrashedError, match="answer what no runner answers"):
        exchange(frame)


def test_half_an_answer_runs_into_the_time_limit():
    with pytest.raises(KernelTimeoutError):
        exchange(encode({"id": 1, "elapsed_s": 0.5})[:-3], limit_s=0.1)
