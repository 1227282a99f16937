"""Processes of a benchmark: a tracker, and what puts load on it (`_load.py`)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from tunefarm import Tracker, errors
from tunefarm.cli.processes import free_port

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
STARTED_S = 60.0


class TrackerProcess:
    """A tracker of its own on a state folder; `kill` and `start` again keep the folder."""

    def __init__(self, folder: Path, durable: bool = True) -> None:
        self.folder = folder
        self.port = free_port(0)
        self.address = f"127.0.0.1:{self.port}"
        self.how = ["-m", "tunefarm"] if durable else [str(HERE / "_memory_tracker.py")]
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start and wait until it answers."""
        words = ["--port", str(self.port), "--state", str(self.folder), "--log-level", "warning"]
        self.process = subprocess.Popen([sys.executable, *self.how, "tracker", *words])
        limit = time.monotonic() + STARTED_S
        while True:
            try:
                return Tracker(self.address).close()
            except errors.TunefarmError:
                if time.monotonic() > limit or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE


class Meter:
    """The share of a core that a tracker uses, from here on."""

    def __init__(self, tracker: TrackerProcess) -> None:
        self.tracker = tracker
        self.used, self.began = tracker.cpu_s(), time.monotonic()

    def share(self) -> float:
        """Since the start."""
        return (self.tracker.cpu_s() - self.used) / (time.monotonic() - self.began)


class Load:
    """A load process. It ends with the block that it is used in, however that ends."""

    def __init__(self, kind: str, address: str, plan: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "_load.py"), kind, address, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        """Wait until all of it is there."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "ready\n":
            raise SystemExit(f"a load process ended: {line!r}")

    def say(self, word: str) -> None:
        """`go` lets clients begin, `again` wants `ready` for new streams, `stop` ends."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What it measured, at its end."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.process.wait()
        return answer


class Loads:
    """Several load processes that do the same."""

    def __init__(self, kind: str, address: str, plans: list[dict[str, Any]]) -> None:
        self.all = [Load(kind, address, plan) for plan in plans]

    def __enter__(self) -> Self:
        self.ready()
        return self

    def __exit__(self, *_: object) -> None:
        for load in self.all:
            load.process.send_signal(signal.SIGKILL)
            load.process.wait()

    def ready(self) -> None:
        """Wait until all of them are."""
        for load in self.all:
            load.ready()

    def say(self, word: str) -> None:
        """Tell all of them."""
        for load in self.all:
            load.say(word)

    def results(self) -> list[dict[str, Any]]:
        """What each measured."""
        return [load.result() for load in self.all]


def devices(address: str, count: int, keys: int, streams: int, processes: int) -> Loads:
    """So many devices of so many keys in several processes, so many streams on a connection."""
    share = -(-count // processes)
    plans = [
        {"first": first, "count": min(share, count - first), "keys": keys, "streams": streams}
        for first in range(0, count, share)
    ]
    return Loads("devices", address, plans)
