"""A small farm of processes on this machine, for the demo."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tunefarm_proto.errors import InternalError, TunefarmError
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.tracker import Tracker

READY_S = 60.0
STOP_S = 5.0


def free_port(preferred: int) -> int:
    """The preferred port where it is free, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise InternalError("no free port on 127.0.0.1")


class LocalFarm:
    """Processes of one farm, with their logs in a folder; all are ended when the block ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self, name: str, *words: str) -> None:
        """Start `tunefarm WORDS` as a process of that name."""
        self.start_command(name, [sys.executable, "-m", "tunefarm", *words])

    def start_command(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        """Start any command as a process of that name. It gets its own process group."""
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """End one process as a power cut does."""
        process = self._processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self, name: str) -> None:
        """Ask one process to end, and wait until it has."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(READY_S)

    def stop(self) -> None:
        """End every process: asked first, then killed."""
        running = list(reversed(self._processes.values()))
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        limit = time.monotonic() + STOP_S
        for process in running:
            try:
                process.wait(max(limit - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._processes.clear()

    def check(self) -> None:
        """Raise InternalError, with the end of its log, where a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                lines = self._log(name).read_text(errors="replace").strip().splitlines()
                raise InternalError(f"{name} ended: {lines[-1] if lines else 'it said nothing'}")

    def wait_for_tracker(self, address: str) -> None:
        """Block until the tracker answers."""
        limit = time.monotonic() + READY_S
        while True:
            self.check()
            try:
                Tracker(address).close()
            except TunefarmError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.1)
            else:
                return

    def wait_for_devices(self, address: str, keys: Sequence[str]) -> None:
        """Block until a device of each key is free."""
        limit = time.monotonic() + READY_S
        with Tracker(address) as tracker:
            while True:
                self.check()
                free = {d.key for d in tracker.devices() if d.state == tpb.DEVICE_STATE_IDLE}
                missing = sorted(set(keys) - free)
                if not missing:
                    return
                if time.monotonic() > limit:
                    raise InternalError(f"no free device of {', '.join(missing)} after {READY_S} s")
                time.sleep(0.1)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"
