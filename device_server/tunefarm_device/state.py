"""What a device server keeps on disk: its name, the highest fence, its cache."""

import contextlib
import fcntl
import logging
import os
import re
import secrets
from pathlib import Path
from typing import IO

from tunefarm_proto.errors import InvalidRequestError

from tunefarm_device.files import remove_tree

MOST_DEVICES = 1000

_log = logging.getLogger(__name__)


class StateDir:
    """A folder that one device server at a time owns."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock
        self.scratch = path / "scratch"
        self.clean()

    @classmethod
    def open(cls, key: str, path: str | os.PathLike[str] | None) -> "StateDir":
        """Take the folder; without one, the first free of KEY-0, KEY-1, ... of this user.

        Raises: InvalidRequestError where another device server has it.
        """
        if path is not None:
            owned = _take(Path(path))
            if owned is None:
                raise InvalidRequestError(
                    f"another device server uses {path}", "give each a folder of its own"
                )
            return owned
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", key)
        for number in range(MOST_DEVICES):
            owned = _take(home / "tunefarm/devices" / f"{plain}-{number}")
            if owned is not None:
                return owned
        raise InvalidRequestError(f"{MOST_DEVICES} device servers with key {key} run here already")

    def device_id(self, key: str) -> str:
        """The device's stable name: made once for each key."""
        file = self.path / "device-id"
        with contextlib.suppress(OSError):
            name = file.read_text().strip()
            if re.fullmatch(re.escape(key) + "-[0-9a-f]{6}", name):
                return name
        name = f"{key}-{secrets.token_hex(3)}"
        _write(file, name)
        _log.info(
            "device %s is new here: with --state %s it is the same one again", name, self.path
        )
        return name

    @property
    def fence(self) -> int:
        """The highest fence ever seen."""
        try:
            return int((self.path / "fence").read_text())
        except (OSError, ValueError):
            return 0

    def keep_fence(self, fence: int) -> None:
        """Remember it across restarts."""
        _write(self.path / "fence", str(fence))

    def clean(self) -> None:
        """Empty the scratch folder: nothing of a lease outlives it."""
        remove_tree(self.scratch)
        self.scratch.mkdir(exist_ok=True)

    def close(self) -> None:
        """Let another server have it."""
        remove_tree(self.scratch)
        self._lock.close()


def _write(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    part.write_text(text + "\n")
    part.replace(file)


def _take(path: Path) -> StateDir | None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("w")
    except OSError as error:
        raise InvalidRequestError(
            f"cannot keep state in {path}: {error.strerror}", "give another folder with --state"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return StateDir(path, lock)
