"""A session's own folder: its files, by names that cannot lead out of it.

Kernels write there too, so nothing in it is trusted: every step of a name is opened without
following links, and what is no plain file of its own is refused.
"""

import contextlib
import errno
import os
import stat
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

from tunefarm_proto.errors import FileRefusedError, UnknownFileError
from tunefarm_proto.rpc import CHUNK_BYTES

FOLDER_BYTES = 1 << 30  # of all files of a session
MOST_FILES = 10_000
MOST_NAME = 1024
MOST_STEP = 255
MOST_DEPTH = 16
_REMOVING = threading.Lock()
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: a kernel may have put a pipe there.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def check_name(name: str) -> list[str]:
    """The steps of a name. Raises: FileRefusedError."""
    steps = name.split("/")
    try:
        sizes = [len(os.fsencode(step)) for step in steps]
    except UnicodeError:
        raise _refused(name, "is no text", "use letters") from None
    if "\0" in name:
        raise _refused(name, "has a NUL in it", "use letters")
    if name.startswith("/"):
        raise _refused(name, "is an absolute path", "name it from the session's folder on")
    if any(step in ("", ".", "..") for step in steps):
        raise _refused(name, "has an empty step, '.' or '..' in it", "name it as in data/x.bin")
    if sum(sizes) + len(sizes) > MOST_NAME or max(sizes) > MOST_STEP or len(sizes) > MOST_DEPTH:
        raise _refused(
            name, "is too long",
            f"at most {MOST_DEPTH} steps of {MOST_STEP} bytes, {MOST_NAME} in all",
        )  # fmt: skip
    return steps


def _refused(name: str, why: str, hint: str) -> FileRefusedError:
    return FileRefusedError(f"the file name {name[:80]!a} {why}", hint)


class SessionFolder:
    """Files of one session, in a new folder under `parent`. Calls block; `remove` it in the end."""

    def __init__(self, parent: Path, limit_bytes: int = FOLDER_BYTES) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="session-", dir=parent)).absolute()
        self._limit = limit_bytes
        self._fd = os.open(self.path, _FOLDER)
        self._closing = threading.Lock()
        self._used = 0

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write a piece; at offset 0 the file begins anew. Raises: FileRefusedError."""
        if offset == 0:
            self._used = self.used_bytes()
        if self._used + len(data) > self._limit or offset > self._limit:
            raise FileRefusedError(
                f"the session's files would take more than {self._limit} bytes", "remove some"
            )
        with self._parent(name, make=True) as (folder, last):
            flags = os.O_WRONLY | os.O_CREAT | _FILE
            with self._opened(name, folder, last, flags) as file:
                if offset == 0:
                    os.ftruncate(file, 0)
                if offset > os.fstat(file).st_size:
                    raise FileRefusedError(
                        f"a piece of {name[:80]!a} starts behind the file's end",
                        "write it in order",
                    )
                view = memoryview(data)
                while view:
                    written = os.pwrite(file, view, offset)
                    offset, view = offset + written, view[written:]
        self._used += len(data)

    def read(self, name: str) -> Generator[bytes, None, None]:
        """The pieces of a file, at most 1 MiB each and at least one.

        Raises: FileRefusedError, UnknownFileError.
        """
        with (
            self._parent(name) as (folder, last),
            self._opened(name, folder, last, os.O_RDONLY | _FILE) as file,
        ):
            size = min(os.fstat(file).st_size, self._limit)  # it may grow under our hands
            for start in range(0, max(size, 1), CHUNK_BYTES):
                yield os.pread(file, min(CHUNK_BYTES, size - start), start)

    def remove(self, name: str) -> None:
        """Forget a file; of a link, the link. Raises: FileRefusedError, UnknownFileError."""
        with self._parent(name) as (folder, last):
            try:
                os.unlink(last, dir_fd=folder)
            except OSError as error:
                raise _named(name, error) from None

    def listing(self) -> list[tuple[str, int]]:
        """Names and sizes of the plain files, in order of names."""
        found: list[tuple[str, int]] = []
        for folder, entry in self._walk():
            details = _details(entry)
            if details is not None and _own(details) and _is_text(folder + entry.name):
                found.append((folder + entry.name, details.st_size))
        return sorted(found)

    def used_bytes(self) -> int:
        """Bytes of all that is there. Raises: FileRefusedError for too many files."""
        used = 0
        for count, (_, entry) in enumerate(self._walk()):
            if count >= MOST_FILES:
                raise FileRefusedError(
                    f"the session has more than {MOST_FILES} files", "remove some"
                )
            details = _details(entry)
            used += details.st_blocks * 512 if details is not None else 0
        return used

    def overfull(self) -> bool:
        """Whether more is there than may be: kernels write as they like."""
        try:
            return self.used_bytes() > self._limit
        except FileRefusedError:
            return True

    def _walk(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Everything there, with the folder it is in ("" or "a/b/"), without following links."""
        todo = [""]
        while todo:
            folder = todo.pop()
            try:
                fd = self._descend(folder.split("/")[:-1])
            except OSError:
                continue
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        yield folder, entry
                        if entry.is_dir(follow_symlinks=False) and folder.count("/") < MOST_DEPTH:
                            todo.append(f"{folder}{entry.name}/")
            except OSError:
                continue
            finally:
                os.close(fd)

    def _descend(self, steps: list[str], make: bool = False) -> int:
        fd = os.dup(self._fd)
        try:
            for step in steps:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(step, dir_fd=fd)
                below = os.open(step, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextlib.contextmanager
    def _parent(self, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
        *steps, last = check_name(name)
        try:
            fd = self._descend(steps, make)
        except OSError as error:
            raise _named(name, error) from None
        try:
            yield fd, last
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _opened(self, name: str, folder: int, last: str, flags: int) -> Iterator[int]:
        try:
            fd = os.open(last, flags, 0o600, dir_fd=folder)
        except OSError as error:
            raise _named(name, error) from None
        try:
            if not _own(os.fstat(fd)):
                raise _refused(name, "is no plain file of this session", "remove it first")
            try:
                yield fd
            except OSError as error:
                raise _named(name, error) from None
        finally:
            os.close(fd)

    def close(self) -> None:
        """Delete it with all that is in it. Doing it twice is fine, by two threads at once too."""
        with self._closing:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                remove_tree(self.path)


def _is_text(name: str) -> bool:
    """Whether it can travel: a kernel's name may be any bytes."""
    try:
        name.encode()
    except UnicodeError:
        return False
    return True


def _details(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None


def _own(details: os.stat_result) -> bool:
    """A plain file, and under no other name besides: that could be outside."""
    return stat.S_ISREG(details.st_mode) and details.st_nlink == 1


def _named(name: str, error: OSError) -> FileRefusedError | UnknownFileError:
    if error.errno == errno.ENOENT:
        return UnknownFileError(f"the session has no file {name[:80]!a}", "list those it has")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return _refused(name, "leads through a link or a file", "remove that first")
    if error.errno in (errno.ENXIO, errno.EISDIR):
        return _refused(name, "is no plain file", "give another name")
    return _refused(name, f"cannot be used: {error.strerror}", "give another name")


def remove_tree(path: Path) -> None:
    """Delete a folder that a kernel filled: of any depth, with any modes. What resists stays.

    One at a time: a session's end and its lease's would move folders under each other's hands.
    """
    with _REMOVING:
        _remove_tree(path)


def _remove_tree(path: Path) -> None:
    root = os.fspath(path)
    names = iter(range(1 << 62))
    moved = True
    while moved:
        moved = False
        for folder in _emptied(root):
            # One level up goes what is below: no path grows long, and nothing here is recursive.
            for below in _emptied(folder):
                with contextlib.suppress(OSError):
                    os.chmod(below, 0o700)  # noqa: PTH101 (or it cannot be moved)
                    Path(below).rename(f"{root}/.gone-{next(names)}")
                    moved = True
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def _emptied(folder: str) -> list[str]:
    """The folders in a folder, the rest of which is deleted."""
    below = []
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)  # noqa: PTH101 (a path of text, as all here)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        Path(entry.path).unlink()
    return below
