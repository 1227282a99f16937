"""A client that does nothing wrong: requests, calls and checks the answer; a JSON line a round.

Run as `python fuzz_healthy.py TRACKER KEY BUNDLE LOG`; SIGTERM lets it end after the round.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from tunefarm import request_device
from tunefarm_proto.bundle import Bundle


def work(tracker: str, key: str, bundle: Bundle) -> None:
    """One round. Raises whatever goes wrong."""
    with request_device(key, tracker=tracker, timeout=30) as device:
        function = device.load(bundle)["add"]
        ones = device.array(memoryview(b"\0\0\x80\x3f" * 16).cast("f"))
        total = device.empty(16)
        function(ones, ones, total)
        if total.tobytes() != b"\0\0\0\x40" * 16:
            raise ValueError(f"a wrong answer: {total.tobytes()!r}")


def main(tracker: str, key: str, path: str, log: str) -> None:
    """Until told to leave."""
    leaving: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: leaving.append(number))
    bundle = Bundle.read(Path(path))
    lines = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    while not leaving:
        began, error = time.monotonic(), ""
        try:
            work(tracker, key, bundle)
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        line = {"took": time.monotonic() - began, "error": error}
        os.write(lines, (json.dumps(line) + "\n").encode())
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
