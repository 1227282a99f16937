"""What a runner may answer. A kernel shares its process, so any frame may be the kernel's own."""

import json
import re
import struct
from collections.abc import Mapping
from typing import Any

PLAIN_BYTES = 16 << 10  # of a header without samples
SAMPLE_BYTES = 32  # of one sample in a header
MOST_TEXT = 1000
MOST_COUNT = 1 << 62
MOST_AMOUNT = 1e18
MOST_COUNTERS = 32
MOST_FAILED = 1000  # calls of a batch that are told of one by one
FAILED_BYTES = 64
MOST_PROFILED = 1000  # functions of a profile
PROFILED_BYTES = 1000
SECONDS = struct.Struct("=d")
HEX_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
FAILURES = frozenset(("status", "memory", "library", "crash", "timeout"))
# Of each kind of frame: seconds and counts that its answer has.
_SECONDS: dict[str, tuple[str, ...]] = {
    "load": ("load_s",),
    "call": ("elapsed_s",),
    "time": ("first_call_s",),
}
_COUNTS: dict[str, tuple[str, ...]] = {
    "time": ("switches", "number", "warmup_calls"),
    "sample": ("switches",),
    "turns": ("switches",),
}


def most_header(asked: Mapping[str, Any]) -> int:
    """Bytes of the longest header that may answer this one."""
    return PLAIN_BYTES + SAMPLE_BYTES * samples_of(asked)


def samples_of(asked: Mapping[str, Any]) -> int:
    """How many samples, or other items as small, the answer has."""
    if asked.get("do") == "turns":
        return len(asked["order"])
    if asked.get("do") == "profile":
        return MOST_PROFILED * PROFILED_BYTES // SAMPLE_BYTES
    if asked.get("do") == "many":
        return MOST_FAILED * FAILED_BYTES // SAMPLE_BYTES
    return int(asked.get("repeat", 0))


def most_payload(asked: Mapping[str, Any]) -> int:
    """Bytes of the longest payload that may answer this one."""
    if asked.get("do") == "many":
        return int(asked["count"]) * SECONDS.size
    return int(asked["end"]) - int(asked["start"]) if asked.get("do") == "read" else 0


def parse(text: bytes) -> dict[str, Any]:
    """A header. Raises ValueError for what no runner sends."""
    try:
        header = json.loads(text)
    except (RecursionError, ValueError):
        raise ValueError("it is no JSON") from None
    if not isinstance(header, dict):
        raise ValueError("it is no object")
    return header


def check(asked: Mapping[str, Any], answer: Mapping[str, Any], payload: bytes) -> None:
    """Raises ValueError where the answer is none to what was asked: wrong turn, types or range."""
    if answer.get("id") != asked.get("id"):
        raise ValueError("it answers another frame")
    if "failed" in answer:
        kind, text = answer["failed"], answer.get("text")
        known = isinstance(kind, str) and kind in FAILURES and not payload
        if not known or not isinstance(text, str):
            raise ValueError("it is no failure that there is")
        return
    kind = str(asked.get("do"))
    if kind == "many":
        _check_batch(asked, answer, payload)
    elif len(payload) != most_payload(asked):
        raise ValueError("its payload has another size")
    if kind == "profile":
        _check_profile(answer)
    _check_numbers(kind, answer)
    if kind == "digest" or "outputs" in asked:
        _check_digest(answer.get("digest"))
    if kind in ("time", "sample", "turns"):
        _check_round(asked, answer)
    if kind == "time":
        _check_number(asked, answer)


def _check_numbers(kind: str, answer: Mapping[str, Any]) -> None:
    for name in (*_SECONDS.get(kind, ()), *(("busy_s",) if "busy_s" in answer else ())):
        if not is_amount(answer.get(name)):
            raise ValueError(f"{name} is no time")
    for name in _COUNTS.get(kind, ()):
        if not is_count(answer.get(name)):
            raise ValueError(f"{name} is no count")


def _check_number(asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    wanted = asked["number"]
    if not _abandoned(asked, answer) and (
        answer["number"] < 1 or wanted not in (0, answer["number"])
    ):
        raise ValueError("it has not the number of calls asked for")


def _abandoned(asked: Mapping[str, Any], answer: Mapping[str, Any]) -> bool:
    """Whether it is a timing that ended with one call, as it was allowed to."""
    return bool(answer.get("abandoned")) and asked.get("abandon_above_s", 0) > 0


def _check_digest(digest: object) -> None:
    if not isinstance(digest, str) or not HEX_DIGEST.fullmatch(digest):
        raise ValueError("its digest is none")


def _check_round(asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    samples = answer.get("samples_s")
    wanted = 1 if _abandoned(asked, answer) else samples_of(asked)
    if not isinstance(samples, list) or len(samples) != wanted:
        raise ValueError("it has not the samples asked for")
    if not all(is_amount(sample) for sample in samples):
        raise ValueError("a sample is no time")
    if not is_amount(answer.get("lost")) or answer["lost"] > 1:
        raise ValueError("what it lost is no share")
    if not are_counters(answer.get("counters")):
        raise ValueError("its counters are none")


def _check_batch(asked: Mapping[str, Any], answer: Mapping[str, Any], payload: bytes) -> None:
    failed = answer.get("failed_calls")
    whole, rest = divmod(len(payload), SECONDS.size)
    if rest or whole > asked["count"] or not isinstance(failed, list) or len(failed) > MOST_FAILED:
        raise ValueError("it has not the calls asked for")
    if not all(is_amount(seconds) for (seconds,) in SECONDS.iter_unpack(payload)):
        raise ValueError("a call took no time that there is")
    for one in failed:
        if not isinstance(one, list) or len(one) != 3 or not is_count(one[0]):
            raise ValueError("a failed call is none")
        if one[0] >= whole or one[1] not in ("status", "memory") or not is_text(one[2]):
            raise ValueError("a failed call is none of the batch")
    if whole < asked["count"] and (asked["keep_going"] or not failed):
        raise ValueError("it ended early without a reason")


def _check_profile(answer: Mapping[str, Any]) -> None:
    functions = answer.get("functions")
    if not isinstance(functions, list) or len(functions) > MOST_PROFILED:
        raise ValueError("its functions are none")
    for one in functions:
        if not isinstance(one, list) or len(one) != 7 or not is_text(one[1]):
            raise ValueError("a profile is none")
        numbers_hold = is_count(one[0]) and is_count(one[2]) and all(map(is_amount, one[3:6]))
        if not numbers_hold or not are_counters(one[6]):
            raise ValueError("a profile's numbers are none")


def is_amount(value: object) -> bool:
    """Whether it is a time in seconds, or a number of events, that can be."""
    return (
        isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < MOST_AMOUNT
    )


def are_counters(value: object) -> bool:
    """Whether these are counters of the processor by name."""
    return (
        isinstance(value, dict)
        and len(value) <= MOST_COUNTERS
        and all(len(name) <= 40 and name.isascii() for name in value)
        and all(is_amount(count) for count in value.values())
    )


def is_text(value: object) -> bool:
    """Whether it is words of one line that can travel."""
    return isinstance(value, str) and len(value) <= MOST_TEXT and value.isprintable()


def is_count(value: object) -> bool:
    """Whether it is a number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_COUNT


def printable(text: str) -> str:
    """A kernel's words, fit for one line."""
    return "".join(c if c.isprintable() else " " for c in text[:MOST_TEXT]).strip()
