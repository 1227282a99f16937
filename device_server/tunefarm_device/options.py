"""How a timing is asked for: the options of the wire, checked, with the device's defaults."""

import math
from typing import Any

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import common_pb2 as pb

TIMING_S = 600.0
MIN_REPEAT_S = 0.02
REPEAT = 10
MOST_REPEAT = 1_000_000
MOST_NUMBER = 1 << 40
MOST_PAUSE_S = 60.0
WARMUP_S, MOST_WARMUP_S = 0.2, 60.0
HOT, COLD = "hot", "cold"


def cooldown(options: pb.TimingOptions) -> float:
    """The rest before each round, in s. Raises: InvalidRequestError."""
    pause = options.cooldown.ToNanoseconds() * 1e-9 if options.HasField("cooldown") else 0.0
    if not 0 <= pause <= MOST_PAUSE_S:
        raise InvalidRequestError(
            f"a rest of {pause:g} s before each round is none", f"ask for 0 to {MOST_PAUSE_S:g} s"
        )
    return pause


def warmup(options: pb.TimingOptions) -> float:
    """The longest warm-up, in s. Raises: InvalidRequestError."""
    longest = options.warmup.ToNanoseconds() * 1e-9 if options.HasField("warmup") else WARMUP_S
    if not 0 <= longest <= MOST_WARMUP_S:
        raise InvalidRequestError(
            f"a warm-up of {longest:g} s is none", f"ask for 0 to {MOST_WARMUP_S:g} s"
        )
    return longest


def abandon_above(options: pb.TimingOptions) -> float:
    """Seconds of a call above which it is not timed on; 0: none. Raises: InvalidRequestError."""
    if not 0 <= options.abandon_above_s < math.inf:
        raise InvalidRequestError(
            f"to abandon above {options.abandon_above_s:g} s makes no sense", "ask for 0 or more"
        )
    return options.abandon_above_s


def check_number(number: int) -> int:
    """Calls a sample. Raises: InvalidRequestError."""
    if not 1 <= number <= MOST_NUMBER:
        raise InvalidRequestError(f"{number} calls are no sample", f"give 1 to {MOST_NUMBER}")
    return number


def timing_frame(options: pb.TimingOptions) -> dict[str, Any]:
    """The options with the device's defaults. Raises: InvalidRequestError."""
    repeat = options.repeat or REPEAT
    seconds = MIN_REPEAT_S
    if options.HasField("min_repeat"):
        seconds = options.min_repeat.seconds + options.min_repeat.nanos * 1e-9
    if repeat > MOST_REPEAT or options.number > MOST_NUMBER or not 0 <= seconds <= TIMING_S:
        raise InvalidRequestError(
            f"cannot time with number={options.number}, repeat={repeat}, min_repeat={seconds:g} s",
            f"at most {MOST_NUMBER} calls, {MOST_REPEAT} samples, {TIMING_S:g} s a sample",
        )
    cache = options.cache or HOT
    if cache not in (HOT, COLD):
        raise InvalidRequestError(f"{options.cache[:20]!r} is no state of a cache", "hot or cold")
    number = 1 if cache == COLD else options.number
    return {
        "number": number,
        "repeat": repeat,
        "min_repeat_s": seconds,
        "cache": cache,
        "pause_s": cooldown(options),
        "warmup_s": warmup(options),
        "abandon_above_s": abandon_above(options),
    }
