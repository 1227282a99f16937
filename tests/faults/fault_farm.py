"""A farm of real processes behind proxies: one tracker, devices, clients under load."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ziglang
from fault_proxy import Link, Network
from tunefarm import Tracker
from tunefarm.cli.processes import free_port
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

MARK = "TUNEFARM_FAULTS_MARK"
HERE = Path(__file__).parent
ZIG = Path(ziglang.__file__).parent / "zig"
READY_S = 60.0
# x[0]: milliseconds to take; x[1], x[2]: when it began and ended, in ns of the monotonic clock.
KERNEL = """
#include <stdint.h>
#include <time.h>
static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}
int32_t kernel(void *const *args) {
  int64_t *x = args[0];
  struct timespec t = {0, x[0] * 1000000LL};
  x[1] = now();
  nanosleep(&t, 0);
  x[2] = now();
  return 0;
}
"""


def until(holds: Callable[[], object], what: str, seconds: float = READY_S) -> None:
    """Poll until something holds."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"not in {seconds:g} s: {what}"
        time.sleep(0.05)


def build_kernel(folder: Path, target: pb.Target) -> Path:
    """The kernel as a bundle in a file."""
    source, library = folder / "kernel.c", folder / "kernel.so"
    source.write_text(KERNEL)
    command = [str(ZIG), "cc", "-shared", "-O1", "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    argument = bpb.ArgumentSignature(name="x", dtype="int64", shape=[4], output=True)
    function = bpb.FunctionSignature(name="kernel", arguments=[argument])
    manifest = bpb.BundleManifest(workload="clock", functions=[function])
    plain = pb.Target(triple=target.triple)
    path = folder / "kernel.tf"
    path.write_bytes(bundle_file.pack(manifest, [(plain, library.read_bytes())]).data)
    return path


@dataclass
class Member:
    """One process of the farm, started again and again with the same words."""

    name: str
    kind: str  # tracker, device, client
    words: list[str]
    log: Path
    mark: str
    links: dict[str, Link] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    def start(self) -> None:
        """Start it; its log goes on."""
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            log.write(f"--- start at {time.monotonic():.6f}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                self.words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, MARK: self.mark},
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it lives."""
        if self.alive and self.process is not None:
            self.process.send_signal(number)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None
        return self.process.pid


class FaultFarm:
    """The processes and the links between them. A context manager that leaves nothing behind."""

    def __init__(self, folder: Path, devices: int = 6, clients: int = 8) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(8)
        self.network = Network()
        self.members: dict[str, Member] = {}
        self._devices, self._clients = devices, clients
        self.port = free_port(0)
        self.address = f"127.0.0.1:{self.port}"
        self.clock_offset = time.time() - time.monotonic()

    def of_kind(self, kind: str) -> list[Member]:
        """Those of one kind."""
        return [one for one in self.members.values() if one.kind == kind]

    def _member(self, name: str, kind: str, words: list[str]) -> Member:
        log = self.folder / f"{name}.log"
        member = Member(name, kind, [sys.executable, *words], log, self.mark)
        self.members[name] = member
        return member

    def __enter__(self) -> "FaultFarm":
        self.network.__enter__()
        try:
            self._start_servers()
            bundle = self._bundle()
            for number in range(self._clients):
                self._start_client(number, bundle)
        except BaseException:
            self.close()
            raise
        return self

    def _start_servers(self) -> None:
        state = str(self.folder / "tracker")
        words = ["-m", "tunefarm", "tracker", "--port", str(self.port), "--state", state]
        self._member("tracker", "tracker", words).start()
        for number in range(self._devices):
            port, key = free_port(0), "even" if number % 2 == 0 else "odd"
            up, down = self.network.link(self.port), self.network.link(port)
            words = ["-m", "tunefarm", "device", "--key", key, "--port", str(port)]
            words += ["--tracker", f"127.0.0.1:{up.port}", "--advertise", f"127.0.0.1:{down.port}"]
            words += ["--state", str(self.folder / f"device-{number}")]
            device = self._member(f"device-{number}", "device", words)
            device.links = {"tracker": up, "clients": down}
            device.start()

    def _bundle(self) -> Path:
        until(lambda: len(self.devices()) == self._devices, "all devices known")
        return build_kernel(self.folder, self.devices()[0].facts.target)

    def _start_client(self, number: int, bundle: Path) -> None:
        link = self.network.link(self.port)
        steps = self.folder / f"client-{number}.jsonl"
        words = [str(HERE / "fault_client.py"), f"127.0.0.1:{link.port}", "even,odd"]
        client = self._member(f"client-{number}", "client", [*words, str(bundle), str(steps), "0"])
        client.links = {"tracker": link}
        client.start()

    def devices(self) -> list:
        """As the tracker knows them; none where it does not answer."""
        try:
            with Tracker(self.address) as tracker:
                return tracker.devices()
        except Exception:
            return []

    def device_id(self, member: Member) -> str:
        """A device server's name, from its own disk."""
        return (self.folder / member.name / "device-id").read_text().strip()

    def marked(self) -> Iterator[tuple[int, str]]:
        """Every process on this machine that comes from this farm, and its command."""
        wanted = f"{MARK}={self.mark}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (path / "environ").read_bytes().split(b"\0"):
                    command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    yield int(path.name), command
            except OSError:
                continue

    def runners(self) -> list[str]:
        """Runner processes: the children of zygotes."""
        zygotes = {pid for pid, command in self.marked() if "zygote.py" in command}
        return [
            f"{pid} {command}"
            for pid, command in self.marked()
            if "zygote.py" in command and parent(pid) in zygotes
        ]

    def close(self) -> None:
        """End every process."""
        for member in self.members.values():
            member.send(signal.SIGCONT)
            member.send(signal.SIGKILL)
            if member.process is not None:
                member.process.wait(20)
        until(lambda: not list(self.marked()), "all processes gone", 20)
        self.network.__exit__()

    def __exit__(self, *exc: object) -> None:
        self.close()


def parent(pid: int) -> int:
    """The parent of a process, 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
