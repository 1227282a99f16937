"""Where code lies, so that timings of one device are comparable, and who goes first.

Standard library. The zygote runs it before anything else.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Sequence

ADDR_NO_RANDOMIZE = 0x0040000
ASK = 0xFFFFFFFF
MARK = "TUNEFARM_ADDRESSES_FIXED"


def fix_addresses(words: Sequence[str]) -> bool:
    """Have libraries and memory lie at the same addresses in every session, after restarts too.

    Starts this program anew, with `words`, where they were random. Returns whether they are fixed:
    some systems refuse it, and an emulator cannot start its own Python again.
    Source: personality(2).
    """
    personality = ctypes.CDLL(None).personality
    personality.argtypes = [ctypes.c_ulong]
    now = personality(ASK)
    if now < 0 or os.environ.get("TUNEFARM_PYTHON"):
        return False
    if now & ADDR_NO_RANDOMIZE:
        os.environ.pop(MARK, None)
        return True
    if MARK in os.environ or personality(now | ADDR_NO_RANDOMIZE) < 0:
        return False
    os.environ[MARK] = "1"
    try:
        os.execv(sys.executable, [sys.executable, "-I", *words])  # noqa: S606 (itself)
    except OSError:
        personality(now)
    return False


def go_first(nice: int) -> bool:
    """Take that niceness, as in -10; negative ones need the right to. Whether it was given."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError:
        return False
    return True


def stay_awake(*, alone: bool = False) -> None:
    """Run before all usual processes, where we may: whatever kernels start, we can end it.

    Five hundred processes of one kernel would else leave a server seconds between its turns.
    `alone`: children are usual processes again, of niceness 0. Source: sched(7).
    """
    policy = os.SCHED_RR | (os.SCHED_RESET_ON_FORK if alone else 0)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, policy, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
