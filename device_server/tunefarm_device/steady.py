"""What makes timings of one device comparable: where code lies, and who goes first.

Standard library, and run by the zygote before anything else; runners inherit it.
"""

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
