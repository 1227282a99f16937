"""A fresh Debian root with Python and systemd and nothing else, booted in namespaces of its own.

It is a system as a board has it: systemd is its first process, units run in its cgroups, and its
network is a loopback alone, so that nothing can be fetched. Root is needed, and a cgroup2 that root
may write to.
"""

import os
import shutil
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
BOOT_S = 60.0
PATHS = "/usr/sbin:/usr/bin:/sbin:/bin"

_BOOT = """\
set -eu
echo $$ > "$2/cgroup.procs"
exec unshare --pid --fork --kill-child --mount --uts --ipc --net --cgroup sh -c '
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys"
for one in run tmp dev; do mount -t tmpfs tmpfs "$1/$one"; done
for one in null zero random urandom full tty; do
  touch "$1/dev/$one"
  mount --bind "/dev/$one" "$1/dev/$one"
done
mkdir -p "$1/dev/pts" "$1/dev/shm" "$1/before"
mount -t devpts devpts "$1/dev/pts" -o newinstance,ptmxmode=0666
ln -s pts/ptmx "$1/dev/ptmx"
mount -t tmpfs tmpfs "$1/dev/shm"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
cd "$1"
pivot_root . before
umount -l /before
exec env -i container=tunefarm PATH=%s /lib/systemd/systemd --system --show-status=0
' sh "$1"
"""


def lacking() -> str:
    """What keeps this machine from booting a root, "" where nothing does."""
    if os.geteuid() != 0:
        return "booting a root needs root"
    for tool in ("mmdebstrap", "unshare", "nsenter", "pivot_root"):
        if shutil.which(tool) is None:
            return f"{tool} is missing; `apt-get install mmdebstrap util-linux` installs it"
    if _cgroups() is None:
        return "there is no cgroup2 here that root may write to"
    return ""


def _cgroups() -> Path | None:
    for place in CGROUPS:
        mine = place / f"tunefarm-{os.getpid()}"
        if (place / "cgroup.procs").exists():
            with suppress(OSError):
                mine.mkdir(exist_ok=True)
                return mine
    return None


def build(folder: Path, packages: Sequence[str] = ("python3", "systemd")) -> Path:
    """A new root from this machine's own apt sources."""
    asked = ["--format", "deb $(REPO_URI) bookworm main", "Created-By: Packages", "Origin: Debian"]
    found = subprocess.run(
        ["apt-get", "indextargets", *asked], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    archive, root = folder / "root.tar", folder / "root"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
    subprocess.run([*command, "bookworm", str(archive), *found[:1]], check=True, timeout=900)
    root.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", root, "--exclude=./dev/*"], check=True)
    archive.unlink()
    return root


class System:
    """A root that has booted."""

    def __init__(self, root: Path, first: int) -> None:
        self.root = root
        self.first = first

    def run(self, *words: str, check: bool = True) -> str:
        """Run a command in it as root. Returns what it printed."""
        enter = ["nsenter", "-t", str(self.first), "-a", "-r", "env", "-i", f"PATH={PATHS}"]
        done = subprocess.run(
            [*enter, *words], capture_output=True, text=True, timeout=120, check=False
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def from_outside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine's in its network."""
        enter = ["nsenter", "-t", str(self.first), "-n"]
        return subprocess.run(
            [*enter, *words], capture_output=True, text=True, timeout=120, check=False
        )

    def show(self, unit: str, what: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "-p", what, "--value", unit).strip()


@contextmanager
def booted(root: Path) -> Iterator[System]:
    """Boot it; end all of it afterwards."""
    group = _cgroups()
    assert group is not None
    boot = root.with_name("boot.sh")
    boot.write_text(_BOOT % PATHS)
    process = subprocess.Popen(["sh", str(boot), str(root), str(group)])
    first = 0
    try:
        first = _first_process(process.pid)
        system = System(root, first)
        _wait_until_up(system)
        system.run("python3", "-c", textwrap.dedent(_LOOPBACK_UP))
        yield system
    finally:
        # With the first process all others in there go. (`unshare` itself ignores SIGTERM.)
        os.kill(first or process.pid, signal.SIGKILL)
        process.wait(30)
        for _ in range(50):
            with suppress(OSError):
                for one in sorted(group.rglob("*"), reverse=True):
                    if one.is_dir():
                        one.rmdir()
                group.rmdir()
                break
            time.sleep(0.1)


_LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14s", b"lo", 1, b""))
"""


def _first_process(parent: int) -> int:
    """The child of `unshare`, which is the first process in there."""
    limit = time.monotonic() + BOOT_S
    children = Path(f"/proc/{parent}/task/{parent}/children")
    while time.monotonic() < limit:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        time.sleep(0.05)
    raise AssertionError("systemd has not started")


def _wait_until_up(system: System) -> None:
    limit = time.monotonic() + BOOT_S
    while system.run("systemctl", "is-system-running", check=False).strip() not in (
        "running",
        "degraded",
    ):
        assert time.monotonic() < limit, system.run("systemctl", "--failed", check=False)
        time.sleep(0.2)
