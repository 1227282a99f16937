"""Forks runners: `python -I zygote.py MODE FOLDER BACKEND CORES UNIT ADDRESSES NICE`.

Standard library alone. MODE is "full" or "basic", which leaves out what the sandbox module does;
FOLDER is what runners may read besides the system; BACKEND is loaded once, here, and may import
more than that library; UNIT names the one of its units that is used, or is empty. CORES, as in
"0,1", are the processors that all this stays on; empty for those of the server. ADDRESSES is
"fixed" or "random", NICE a niceness or 0.

Standard input is a SOCK_SEQPACKET socket: each packet is an id as text and the folder to work in,
with two descriptors: the runner's end of its socket, and a file for its output. End of file ends
everything. Standard output tells, a JSON object a line: `ready` with the isolation primitives that
hold here and what is `steadied`, `spawned`
(`id`, `pid`), `exited` (`pid`, `status` as of waitpid). What runners leave behind is killed here.
"""

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CONTROL_FD = 0
REPORT_FD = 1
PACKET_BYTES = 4096 + 32  # a path and a number
STRAYS_S = 5.0


def make_importable() -> None:
    """This folder as the package it is: -I leaves it out of the search path."""
    folder = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(
        "tunefarm_device", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None  # noqa: S101 (for the type checker)
    sys.modules["tunefarm_device"] = importlib.util.module_from_spec(spec)


class Zygote:
    """The one loop: requests to fork, and children that ended."""

    def __init__(
        self,
        runner: ModuleType,
        sandbox: ModuleType,
        full: bool,
        folder: str,
        backend: Any,
        *,
        nice: int,
        steadied: list[str],
    ) -> None:
        self.nice = nice
        self.steadied = steadied
        self.runner = runner
        self.sandbox = sandbox
        self.primitives: list[str] = sandbox.probe() if full else []
        self.folder = folder
        self.backend = backend
        backend.prepare()
        self.children: set[int] = set()
        self.server = os.getppid()
        self.leaving = False
        self.wake_read, self.wake_write = os.pipe()
        self.prctl = ctypes.CDLL(None).prctl

    def run(self) -> None:
        """Serve until the server goes away."""
        os.set_blocking(self.wake_write, False)
        os.set_blocking(self.wake_read, False)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
        # Never raises: the server's end closes the socket first and signals a moment later, when
        # an exception would cut off kill_all.
        signal.signal(signal.SIGTERM, self.leave)
        holds = [*self.runner.ISOLATION, *self.primitives]
        if self.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) == 0:
            holds.append("parent-death-signal")
        if self.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0:
            holds.append("subreaper")
        try:
            self.tell(ready=True, isolation=sorted(holds), steadied=self.steadied)
            self.loop()
        except BrokenPipeError:
            pass
        finally:
            self.kill_all()

    def loop(self) -> None:
        """Until end of file on the control socket."""
        poll = select.poll()
        poll.register(CONTROL_FD, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        with socket.socket(fileno=os.dup(CONTROL_FD)) as control:
            while not self.leaving and os.getppid() == self.server:
                for fd, _ in poll.poll():
                    if fd == self.wake_read:
                        self.reap()
                    elif not self.take(control):
                        return

    def leave(self, number: int, frame: FrameType | None) -> None:
        """At SIGTERM; the wake-up descriptor ends the poll."""
        self.leaving = True

    def take(self, control: socket.socket) -> bool:
        """Fork one runner; False at the end of file."""
        packet, fds, _, _ = socket.recv_fds(control, PACKET_BYTES, 2)
        if not packet:
            return False
        identity, _, own_folder = os.fsdecode(packet).partition(" ")
        own = os.getpid()
        pid = os.fork()
        if pid == 0:
            self.become_runner(control, fds, own, own_folder)
        for fd in fds:
            os.close(fd)
        self.children.add(pid)
        self.tell(spawned=int(identity), pid=pid)
        return True

    def become_runner(
        self, control: socket.socket, fds: list[int], parent: int, folder: str
    ) -> None:
        """In the child. Never returns."""
        status = 70
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            control.close()
            os.close(self.wake_read)
            os.close(self.wake_write)
            session, output = fds
            null = os.open(os.devnull, os.O_RDWR)
            for old, new in ((null, 0), (output, 1), (output, 2)):
                os.dup2(old, new)
            os.close(null)
            os.close(output)
            if self.nice:  # a child has lost it
                steady.go_first(self.nice)
            self.runner.main(session, parent, lambda: self.shut_in(folder), self.backend)
            status = 0
        except Exception as error:  # its last words, which the server reads
            os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
        finally:
            os._exit(status)

    def shut_in(self, folder: str) -> None:
        """In the child: apply what holds here. It works in `folder`, and writes nowhere else."""
        readable = [self.folder, *self.backend.readable()]
        own = [folder] if folder else []
        backend = self.backend
        self.sandbox.enter(self.primitives, readable, own, backend.devices(), driver=backend.driver)
        os.chdir(folder or "/")

    def reap(self) -> None:
        """Report children that ended, and kill what they left."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_read, 4096)
        ended: dict[int, int] = {}
        while (pid := ended_child()) is not None:
            if pid in self.children:
                kill_group(pid)  # while it is a zombie its id is not used again
            _, status = os.waitpid(pid, 0)
            if pid in self.children:
                self.children.discard(pid)
                ended[pid] = status
        self.end_strays()
        for pid, status in ended.items():
            self.tell(exited=pid, status=status)

    def end_strays(self) -> None:
        """Kill orphans of runners, and wait until they and what they leave are gone."""
        limit = time.monotonic() + STRAYS_S
        while (strays := self.kill_strays()) and time.monotonic() < limit:
            time.sleep(0.001)
            for pid in strays:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def kill_strays(self) -> set[int]:
        """Kill what the kernel has made our children when their parents ended, and all below.

        Returns those of them that are our children.
        """
        strays = children_of(os.getpid()) - self.children
        todo = set(strays)
        seen: set[int] = set()
        while todo:
            pid = todo.pop()
            seen.add(pid)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGSTOP)  # or it has more children than we can list
            todo |= children_of(pid) - seen
        for pid in seen:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return strays

    def kill_all(self) -> None:
        """Leave nothing."""
        for pid in self.children:
            kill_group(pid)
        self.children.clear()
        for _ in range(1000):  # orphans come one generation at a time
            self.kill_strays()
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def tell(self, **words: Any) -> None:
        """One line to the server."""
        os.write(REPORT_FD, (json.dumps(words) + "\n").encode())


def children_of(pid: int) -> set[int]:
    """Its children, of each of its threads."""
    found: set[int] = set()
    for task in Path("/proc", str(pid), "task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, task.read_text().split()))
    return found


def ended_child() -> int | None:
    """A child that is a zombie now."""
    with contextlib.suppress(ChildProcessError):
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return ended.si_pid if ended is not None else None
    return None


def kill_group(pid: int) -> None:
    """Kill a runner and its process group."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)


def _ignore(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor does the work."""


if __name__ == "__main__":
    make_importable()
    from tunefarm_device import steady

    mode, folder, name, cores, unit, addresses, nice = sys.argv[1:]
    steadied = (
        ["fixed-addresses"] if addresses == "fixed" and steady.fix_addresses(sys.argv) else []
    )
    if int(nice) and steady.go_first(int(nice)):
        steadied.append(f"nice {int(nice)}")
    steady.stay_awake(alone=True)
    from tunefarm_device import backend, runner, sandbox

    if cores:
        os.sched_setaffinity(0, {int(cpu) for cpu in cores.split(",")})
    kind = backend.find(name)
    kind.unit = unit
    zygote = Zygote(
        runner, sandbox, mode == "full", folder, kind, nice=int(nice), steadied=steadied
    )
    gc.collect()
    gc.freeze()
    zygote.run()
    sys.exit(0)
