"""System V objects that a kernel left, where runners have no such namespace of their own.

They outlive their makers. Those that were not there before a lease's first runner, belong to this
user, and whose processes are gone are taken to be the kernels': a device server that shares its
user with other makers of such objects wants the namespace, or a user of its own.
"""

import contextlib
import ctypes
import os
from pathlib import Path

_KINDS = ("shm", "sem", "msg")
_REMOVE = 0  # IPC_RMID
# Columns of /proc/sysvipc that name processes, and that of the owner.
_PIDS = {"shm": ("cpid", "lpid"), "sem": (), "msg": ("lspid", "lrpid")}

Object = tuple[str, int]


def system_v(root: Path = Path("/proc/sysvipc")) -> dict[Object, dict[str, int]]:
    """Every object there is: kind and id, with its columns."""
    found = {}
    for kind in _KINDS:
        with contextlib.suppress(OSError):
            head, *lines = (line.split() for line in (root / kind).read_text().splitlines())
            for words in lines:
                row = dict(zip(head, map(int, words), strict=False))
                found[kind, row[{"shm": "shmid", "sem": "semid", "msg": "msqid"}[kind]]] = row
    return found


def left(before: set[Object], now: dict[Object, dict[str, int]], user: int) -> list[Object]:
    """Those that are new, of this user, and used by no process."""
    return [
        (kind, identity)
        for (kind, identity), row in now.items()
        if (kind, identity) not in before
        and row["uid"] == user
        and not row.get("nattch")
        and not any(_alive(row[column]) for column in _PIDS[kind])
    ]


def _alive(pid: int) -> bool:
    return pid > 0 and Path("/proc", str(pid)).exists()


def remove(objects: list[Object]) -> None:
    """Remove them; those that are gone already do not matter."""
    libc = ctypes.CDLL(None)
    for kind, identity in objects:
        if kind == "shm":
            libc.shmctl(identity, _REMOVE, None)
        elif kind == "sem":
            libc.semctl(identity, 0, _REMOVE, 0)
        else:
            libc.msgctl(identity, _REMOVE, None)


class Sweeper:
    """Remembers what was there before the first runner of a lease; sweeps after the last."""

    def __init__(self) -> None:
        self._before: set[Object] | None = None

    def begin(self) -> None:
        """Before a runner is made; the first one counts."""
        if self._before is None:
            self._before = set(system_v())

    def sweep(self) -> None:
        """When no runner is left."""
        if self._before is not None:
            remove(left(self._before, system_v(), os.getuid()))
            self._before = None
