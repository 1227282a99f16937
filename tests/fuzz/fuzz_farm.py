"""The farm that is fuzzed: a tracker with tokens, a device for the healthy, one for the fuzzer."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunefarm import Bundle, Tracker, request_device
from tunefarm.cli.processes import free_port
from tunefarm_compiler import build
from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.identity import Role
from tunefarm_proto.security import VARIABLES, Credentials
from tunefarm_tracker.accounts import Accounts

HERE = Path(__file__).parent
HEALTHY, VICTIM = "healthy", "victim"
READY_S = 60.0
SERVERS = ("tracker", HEALTHY, VICTIM)
# What no log may have: a handled error is one line.
FAILURE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit|Interrupt)\b.*")
FORBIDDEN = ("CRITICAL", "Exception in ", "Fatal", "Task was destroyed")
# Found in the tracker and not mended yet: an absurd Timestamp or Duration. To be taken out then.
OPEN = ("Timestamp is not valid", "Value out of range")
UNSEEN = "exception was never retrieved"
# Tracebacks without a frame of ours: at a path that is no UTF-8, or a peer that has gone.
GRPC = "/grpc/_cython/"


def make_tokens(state: Path) -> dict[str, str]:
    """A token of each role, and one for the healthy client."""
    accounts = Accounts(state)
    wanted = {role.value: role for role in (Role.OPERATOR, Role.USER, Role.VIEWER, Role.DEVICE)}
    wanted[HEALTHY] = Role.USER
    secrets = {name: accounts.create(name, role).result()[1] for name, role in wanted.items()}
    accounts.close()
    return secrets


def forbidden(log: Path) -> list[str]:
    """What a log has and must not have, each kind once, with how often."""
    found: Counter[str] = Counter()
    trace: list[str] | None = None
    unseen = 0
    for line in log.read_text(errors="replace").splitlines():
        found.update(word for word in FORBIDDEN if word in line)
        unseen += UNSEEN in line
        if line.startswith("Traceback"):
            trace = []
        elif trace is not None:
            if FAILURE.match(line):
                if any(word in line for word in OPEN):
                    trace = None
                    continue
                if all(GRPC in one for one in trace if "File" in one):
                    trace, unseen = None, max(unseen - 1, 0)
                    continue
                where = " <- ".join(one.strip()[:120] for one in reversed(trace) if "File" in one)
                found[f"{re.sub(r'[0-9]+', '0', line)[:200]} in {where[:400]}"] += 1
                trace = None
            else:
                trace.append(line)
    found.update([UNSEEN] * unseen)
    return [f"{count} x {what}" for what, count in found.items()]


@dataclass
class Size:
    """Of a process: resident memory in bytes, open descriptors, threads."""

    rss: int
    files: int

    @classmethod
    def of(cls, pid: int) -> "Size":
        """Now."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kib = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
        if not kib:  # it has ended
            return cls(0, 0)
        return cls(kib[0] * 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())))


@dataclass
class FuzzFarm:
    """The processes. A context manager."""

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> "FuzzFarm":
        self.tokens = make_tokens(self.folder / "tracker")
        self.ports = {name: free_port(0) for name in SERVERS}
        words = ["tracker", "--port", str(self.ports["tracker"])]
        self._start("tracker", "operator", *words, "--state", str(self.folder / "tracker"))
        for key in (HEALTHY, VICTIM):
            words = ["device", "--key", key, "--port", str(self.ports[key])]
            words += ["--tracker", self.address, "--state", str(self.folder / key)]
            self._start(key, "device", *words)
        self._wait()
        build("add:n=16", "local").write(self.folder / "add.tf")
        return self

    @property
    def address(self) -> str:
        """The tracker's."""
        return f"127.0.0.1:{self.ports['tracker']}"

    @property
    def bundle(self) -> Bundle:
        """Adds two arrays of 16."""
        return Bundle.read(self.folder / "add.tf")

    def credentials(self, name: str) -> Credentials:
        """With the token of that name."""
        return Credentials(self.tokens[name])

    def _start(self, name: str, token: str, *words: str) -> None:
        self._start_command(name, token, [sys.executable, "-m", "tunefarm", *words])

    def _start_command(self, name: str, token: str, command: list[str]) -> None:
        env = {one: value for one, value in os.environ.items() if one not in VARIABLES}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**env, "TUNEFARM_TOKEN": self.tokens[token]},
                start_new_session=True,
            )

    def _wait(self) -> None:
        limit = time.monotonic() + READY_S
        while True:
            try:
                with Tracker(self.address, self.credentials("operator")) as tracker:
                    if {one.key for one in tracker.devices()} == {HEALTHY, VICTIM}:
                        return
            except TunefarmError:
                pass
            assert time.monotonic() < limit, "the farm does not come up"
            time.sleep(0.1)

    def start_healthy(self) -> None:
        """The client that must not be harmed."""
        words = [self.address, HEALTHY, str(self.folder / "add.tf"), str(self.healthy_log)]
        self._start_command(
            "client", HEALTHY, [sys.executable, str(HERE / "fuzz_healthy.py"), *words]
        )

    @property
    def healthy_log(self) -> Path:
        """Its rounds."""
        return self.folder / "healthy.jsonl"

    def healthy_rounds(self) -> list[dict[str, Any]]:
        """What became of the healthy client's rounds."""
        if not self.healthy_log.exists():
            return []
        return [json.loads(line) for line in self.healthy_log.read_text().splitlines()]

    def lease_victim(self) -> Any:
        """The fuzzer's own lease, on a device of its own."""
        return request_device(
            VICTIM, tracker=self.address, timeout=30, credentials=self.credentials("user")
        )

    def sizes(self) -> dict[str, Size]:
        """Of the servers."""
        return {name: Size.of(self.processes[name].pid) for name in SERVERS}

    def problems(self) -> list[str]:
        """Servers that ended, and what their logs must not have."""
        found = []
        for name in SERVERS:
            if (code := self.processes[name].poll()) is not None:
                found.append(f"{name} ended with {code}")
            log = self.folder / f"{name}.log"
            found += [f"{name}: its log has {one}" for one in forbidden(log)]
        return found

    def end(self, name: str, seconds: float = 30.0) -> int | None:
        """SIGTERM, and how it ended; None where it did not in time."""
        process = self.processes[name]
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def __exit__(self, *exc: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)
