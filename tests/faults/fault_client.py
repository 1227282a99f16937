"""A client under load: request, upload, call, release, again and again; a JSON line for each step.

Run as `python fault_client.py TRACKER KEYS BUNDLE LOG SEED`; SIGTERM lets it end after the round,
SIGUSR1 tells where it is. Times are of the monotonic clock, which all processes share.
"""

import faulthandler
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunefarm import request_device
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.errors import TunefarmError

WAIT_S = 20.0


class Log:
    """Lines that outlive a SIGKILL."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, what: str, **words: Any) -> None:
        """Write one line."""
        line = {"what": what, "at": time.monotonic(), "pid": os.getpid(), **words}
        os.write(self._file, (json.dumps(line) + "\n").encode())


class Load:
    """One client."""

    def __init__(self, tracker: str, keys: str, bundle: str, log: str, seed: str) -> None:
        self.tracker, self.keys = tracker, keys.split(",")
        self.bundle = Bundle.read(Path(bundle))
        self.log = Log(log)
        self.random = random.Random(f"{seed}:{os.getpid()}")
        self.leaving = False

    def leave(self, *_: object) -> None:
        """At SIGTERM."""
        self.leaving = True

    def run(self) -> None:
        """Until told to leave."""
        self.log("start")
        rounds = 0
        while not self.leaving:
            rounds += 1
            self.log("ask", round=rounds)
            try:
                self.round(rounds)
            except TunefarmError as error:
                self.log("end", round=rounds, error=type(error).__name__, text=str(error)[:300])
                time.sleep(self.random.uniform(0.05, 0.3))
            except Exception as error:
                self.log("end", round=rounds, error=f"unnamed {type(error).__name__}: {error}")
            else:
                self.log("end", round=rounds, error="")
        self.log("leave")

    def round(self, number: int) -> None:
        """A request and what is done with it."""

        def waits(position: Any) -> None:
            self.log("queued", round=number)

        key = self.random.choice(self.keys)
        wanted = request_device(
            key, tracker=self.tracker, timeout=WAIT_S, user=f"load-{os.getpid()}", on_wait=waits
        )
        with wanted as device:
            lease = {"lease": device.lease.id, "fence": device.lease.fence, "device": device.id}
            self.log("granted", round=number, **lease)
            if self.random.random() < 0.3:
                blob = self.random.randbytes(self.random.randrange(1 << 20))
                device.upload(blob, hashlib.sha256(blob).hexdigest())
            for start, end, sent, heard in self.calls(device):
                self.log("call", sent=sent, heard=heard, start=start, end=end, **lease)
        self.log("released", round=number)

    def calls(self, device: Any) -> Iterator[tuple[float, float, float, float]]:
        """Kernel's own start and end, and when it was asked for and known."""
        function = device.load(self.bundle)["kernel"]
        for _ in range(self.random.randrange(1, 12)):
            wish = [self.random.randrange(1, 40), 0, 0, 0]
            x = device.array(memoryview(b"".join(n.to_bytes(8, "little") for n in wish)).cast("q"))
            sent = time.monotonic()
            function(x)
            heard = time.monotonic()
            words = memoryview(x.tobytes()).cast("q")
            yield words[1] * 1e-9, words[2] * 1e-9, sent, heard
            time.sleep(self.random.uniform(0, 0.03))


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    load = Load(*sys.argv[1:])
    signal.signal(signal.SIGTERM, load.leave)
    load.run()
