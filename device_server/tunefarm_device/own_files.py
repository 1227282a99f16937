"""A file system of a runner's own: what it may read, its folder, and nothing else.

Standard library alone. Made of a mount namespace, as sandboxes of containers are: an empty root in
memory, and in it read-only views of the paths that are given. Linux 5.12, and the right to mount
in a namespace, which `CLONE_NEWUSER` gives where the system allows it.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x4000, 1 << 18, 2
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # alike on every machine
_CLONE, _CLOEXEC, _RECURSIVE, _EMPTY_PATH, _HERE = 1, 0o2000000, 0x8000, 0x1000, -100
_FROM_EMPTY_PATH = 4
_READ_ONLY, _NO_SUID = 1, 2
_COVERED = "/usr"  # any folder that there is everywhere: the new root begins on top of it

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _call(number: int, *words: int | bytes) -> int:
    long = [ctypes.c_long(word) if isinstance(word, int) else word for word in words]
    return _check(_libc.syscall(ctypes.c_long(number), *long))


def show_only(readable: Iterable[str], own: Iterable[str]) -> None:
    """Leave only these paths in sight, those of `own` writable. Paths that are not are passed over.

    In a mount namespace of this process. Raises: OSError where it does not hold.
    """
    _check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    with ExitStack() as stack:
        trees: list[tuple[str, int]] = []
        paths = {str(Path(path).absolute()) for path in readable}
        links = [(path, Path(path).readlink()) for path in paths if Path(path).is_symlink()]
        for path, writable in _outermost({str(Path(path).resolve()) for path in paths}, own):
            if (tree := _view(path, writable)) is not None:
                stack.callback(os.close, tree)
                trees.append((path, tree))
        options = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        _check(_libc.mount(b"tmpfs", _COVERED.encode(), b"tmpfs", options, b"mode=755"))
        os.chdir(_COVERED)
        for path, tree in trees:
            _place(path.lstrip("/"), tree)
        for path, to in links:
            if not os.path.lexists(path.lstrip("/")):
                Path(path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                Path(path.lstrip("/")).symlink_to(to)
    _set(_HERE, b".", _READ_ONLY, recursive=False)
    _check(_libc.pivot_root(b".", b"."))
    _check(_libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


def _outermost(readable: Iterable[str], own: Iterable[str]) -> list[tuple[str, bool]]:
    """The outer ones first, and whether to write; without what is inside of another anyway."""
    kept: list[str] = []
    for path in sorted(readable):
        if not any(path.startswith(f"{outer}/") for outer in kept):
            kept.append(path)
    return [(path, False) for path in kept] + [(str(Path(path).absolute()), True) for path in own]


def _view(path: str, writable: bool) -> int | None:
    """A view of what is at a path, as a descriptor; None where there is nothing."""
    try:
        flags = _CLONE | _CLOEXEC | _RECURSIVE
        tree = _call(_OPEN_TREE, _HERE, os.fsencode(path), flags)
    except FileNotFoundError:
        return None
    try:
        _set(tree, b"", _NO_SUID if writable else _READ_ONLY | _NO_SUID, recursive=True)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _set(folder: int, path: bytes, bits: int, *, recursive: bool) -> None:
    attributes = struct.pack("QQQQ", bits, 0, 0, 0)
    flags = (_RECURSIVE if recursive else 0) | (0 if path else _EMPTY_PATH)
    _call(_MOUNT_SETATTR, folder, path, flags, attributes, len(attributes))


def _place(path: str, tree: int) -> None:
    """Put a view at its path under the working directory."""
    if os.fstat(tree).st_mode & 0o170000 == 0o040000:
        Path(path).mkdir(parents=True, exist_ok=True)
    elif not Path(path).exists():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    _call(_MOVE_MOUNT, tree, b"", _HERE, os.fsencode(path), _FROM_EMPTY_PATH)
