"""Emulated Raspberry Pis: a small Debian root for another processor, run by qemu-user.

`build_root` makes the root once and keeps it in the user's cache; `command` says how to start the
real device server in it. No privilege and no binfmt registration is needed to run one.

What is emulated is the instruction set. Timings say nothing about a real board, /proc is the
host's, and RLIMIT_AS, seccomp and perf do nothing in the guest.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tunefarm_proto.errors import InternalError, InvalidRequestError

SUITE = "bookworm"
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgcc-s1")
GUEST_PYTHON = "311"
EMULATOR = "qemu-user"


@dataclass(frozen=True)
class Board:
    """What differs between the emulated boards."""

    qemu: str
    # What qemu is told to be. qemu-arm has no 32-bit Cortex-A53; "max" runs all of its code.
    qemu_cpu: str
    cpu: str
    wheel_platforms: tuple[str, ...]


BOARDS = {
    "arm64": Board(
        qemu="qemu-aarch64-static",
        qemu_cpu="cortex-a53",
        cpu="cortex-a53",
        wheel_platforms=("manylinux2014_aarch64", "manylinux_2_28_aarch64"),
    ),
    "armhf": Board(
        qemu="qemu-arm-static",
        qemu_cpu="max",
        cpu="cortex-a53",
        wheel_platforms=("manylinux2014_armv7l", "manylinux_2_31_armv7l", "linux_armv7l"),
    ),
}


def available(arch: str) -> str | None:
    """None where `arch` can be emulated here, else one line: what lacks and what installs it.

    Raises: InvalidRequestError for an architecture that is not known.
    """
    board = _board(arch)
    if shutil.which(board.qemu) is None:
        return f"{board.qemu} is missing; `apt-get install qemu-user-static` installs it"
    if _root_path(arch).is_dir():
        return None
    if shutil.which("mmdebstrap") is None:
        return "mmdebstrap is missing; `apt-get install mmdebstrap` installs it"
    if importlib.util.find_spec("pip") is None:
        return f"pip is missing; `{sys.executable} -m ensurepip` installs it"
    return None


def build_root(arch: str, progress: Callable[[str], None] = print) -> Path:
    """The root for `arch` ("arm64", "armhf"), built where the cache does not have it yet.

    Packages come from this machine's own apt sources, wheels from pip's. Takes seconds to a minute.
    Raises: InternalError with the failing tool's last words; InvalidRequestError.
    """
    root = _root_path(arch)
    root.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root.with_name(root.name + ".lock"), progress):
        if root.is_dir():
            return root
        if lacking := available(arch):
            raise InternalError(f"cannot build the emulated {arch} root: {lacking}")
        # Built beside its place and renamed: a root that is there is whole.
        building = root.with_name(root.name + ".building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        try:
            progress(f"building the emulated {arch} root: Debian packages")
            _unpack_debian(arch, building)
            progress(f"building the emulated {arch} root: Python packages")
            _install_wheels(_board(arch), building)
            building.rename(root)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    progress(f"the emulated {arch} root is in {root}")
    return root


def command(
    arch: str, root: Path, key: str, tracker: str, state_dir: Path, *more: str
) -> tuple[list[str], dict[str, str]]:
    """How to start the device server in the guest: its words, and what to add to the environment.

    `more` are further words for `python -m tunefarm_device`. Links to our packages are made in
    `state_dir`: the host's own site-packages, built for another processor, stay out of sight.
    """
    board = _board(arch)
    qemu = shutil.which(board.qemu)
    if qemu is None:
        raise InternalError(f"cannot emulate {arch}: {available(arch)}")
    python = [qemu, "-L", str(root), str(root / "usr/bin/python3")]
    environment = {
        "QEMU_CPU": board.qemu_cpu,
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": os.pathsep.join([str(root / "site"), str(_link_packages(state_dir))]),
        "TUNEFARM_PYTHON": shlex.join(python),
        "TUNEFARM_EMULATED": EMULATOR,
        "TUNEFARM_CPU": board.cpu,
    }
    words = ["--key", key, "--tracker", tracker, "--state", str(state_dir), *more]
    return [*python, "-m", "tunefarm_device", *words], environment


def _board(arch: str) -> Board:
    if arch not in BOARDS:
        raise InvalidRequestError(
            f"no emulated board of architecture {arch!r}", f"known are {', '.join(BOARDS)}"
        )
    return BOARDS[arch]


def _requirements() -> list[str]:
    """What the base install of tunefarm needs, as pip reads it."""
    lines = importlib.metadata.requires("tunefarm") or []
    return sorted(line for line in lines if "extra ==" not in line)


def _root_path(arch: str) -> Path:
    """Where the root is kept: another recipe is another folder."""
    recipe = [SUITE, PACKAGES, GUEST_PYTHON, asdict(_board(arch)), _requirements()]
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "tunefarm" / "emulated-pi" / f"{arch}-{digest}"


@contextmanager
def _locked(path: Path, progress: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that builds the same root")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack_debian(arch: str, into: Path) -> None:
    # A tar file, unpacked by ourselves: its files are ours, whoever we are, and hold no devices.
    archive = into / "root.tar"
    _run(
        "mmdebstrap",
        "--quiet",
        "--skip=check/qemu",  # no guest program runs while it is built
        "--variant=extract",
        "--mode=chrootless",  # the one mode that needs neither root nor user namespaces
        "--aptopt=Acquire::Retries 3",
        f"--architectures={arch}",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        str(archive),
        *_debian_sources(),
    )
    _run("tar", "-x", "-f", str(archive), "-C", str(into), "--no-same-owner", "--exclude=./dev/*")
    archive.unlink()


def _debian_sources() -> list[str]:
    """The Debian mirror that apt uses here; none found: mmdebstrap takes its own default."""
    asked = "$(CREATED_BY)|$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    try:
        lines = _run("apt-get", "indextargets", "--format", asked).splitlines()
    except InternalError:
        return []
    places = {
        line.rpartition("|")[2] for line in lines if line.startswith("Packages|Debian|Debian|")
    }
    return [f"deb {place} {SUITE} main" for place in sorted(places)[:1]]


def _install_wheels(board: Board, root: Path) -> None:
    platforms = [f"--platform={name}" for name in (*board.wheel_platforms, "any")]
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--target", str(root / "site"), "--only-binary=:all:", "--no-compile"),
        *("--python-version", GUEST_PYTHON, "--implementation", "cp"),
        *("--abi", f"cp{GUEST_PYTHON}", "--abi", "abi3", "--abi", "none"),
        *platforms,
        *_requirements(),
    )


def _run(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InternalError(f"{words[0]} could not be started: {error.strerror}") from None
    if done.returncode != 0:
        raise InternalError(f"{Path(words[0]).name} failed: {_reason(done.stderr.splitlines())}")
    return done.stdout


def _reason(lines: Sequence[str]) -> str:
    """The line that tells why: the first marked as an error, else the last one."""
    marked = [line for line in lines if line.startswith(("E:", "ERROR:"))]
    return (marked or list(lines[-1:]) or ["it said nothing"])[0].strip()


def _link_packages(state_dir: Path) -> Path:
    """A folder that shows the guest our two packages and nothing else."""
    folder = state_dir.absolute() / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tunefarm_device", "tunefarm_proto"):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise InternalError(f"{name} is not installed beside this program")
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(Path(spec.submodule_search_locations[0]).absolute())
    return folder
