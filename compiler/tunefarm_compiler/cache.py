"""Bundles that were built before, on disk, by what they were built from.

One file for each job, named by its digest: the sha256 of a bundle, then the bundle. Any number of
processes may use a folder: files appear whole, and one that is damaged or gone is built again.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tunefarm_proto.bundle import Bundle
from tunefarm_proto.errors import InvalidRequestError

LIMIT_BYTES = 512 << 20
FOLDER = "TUNEFARM_BUILD_CACHE"  # another folder, or "off"
_HEAD = 32
_SUFFIX = ".bundle"
_PARTS = 32  # one clean-up for each such part of the limit that was written


class BuildCache:
    """A folder of at most `limit` bytes; what was not used for longest goes first."""

    def __init__(self, folder: str | os.PathLike[str], limit: int = LIMIT_BYTES) -> None:
        self.folder = Path(folder)
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self._written = limit  # so that the first write of a process looks

    def get(self, digest: str) -> Bundle | None:
        """What is kept for a job's digest; None where there is nothing, or nothing whole."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except OSError:
            self.misses += 1
            return None
        bundle = Bundle(data[_HEAD:])
        if hashlib.sha256(bundle.data).digest() != data[:_HEAD]:
            path.unlink(missing_ok=True)
            self.misses += 1
            return None
        self.hits += 1
        with contextlib.suppress(OSError):
            os.utime(path)
        return bundle

    def put(self, digest: str, bundle: Bundle) -> None:
        """Keep it. A disk that is full or may not be written keeps nothing, and stops nobody."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=self.folder, prefix=".part-")
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(bytes.fromhex(bundle.digest) + bundle.data)
                Path(name).replace(self._path(digest))
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise
            self._written += len(bundle.data)
            if self._written >= self.limit // _PARTS:
                self._written = 0
                self._evict()

    def made(self, digest: Callable[[], str | None], make: Callable[[], Bundle]) -> Bundle:
        """What `make` makes of files that `digest` knows, or has made of the very same before.

        A digest of None is of what cannot be told the same again: it is always made. What changed
        while it was made is not kept.
        """
        known = digest()
        if known is not None and (found := self.get(known)):
            return found
        bundle = make()
        if known is not None and digest() == known:
            self.put(known, bundle)
        return bundle

    def clear(self) -> int:
        """Remove everything. Returns how many bundles that were."""
        return sum(self._remove(path) for path in self.folder.glob(f"*{_SUFFIX}"))

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}{_SUFFIX}"

    def _evict(self) -> None:
        """Down to the limit, by one process at a time."""
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            kept = []
            for entry in os.scandir(self.folder):
                with contextlib.suppress(FileNotFoundError):
                    about = entry.stat()
                    kept.append((about.st_mtime_ns, about.st_size, entry.path))
            total = sum(size for _, size, _ in kept)
            for _, size, path in sorted(kept):
                if total <= self.limit:
                    break
                if not path.endswith(".lock") and self._remove(Path(path)):
                    total -= size

    @staticmethod
    def _remove(path: Path) -> bool:
        try:
            path.unlink()
        except OSError:
            return False
        return True


def default_cache() -> BuildCache | None:
    """The user's own: under XDG_CACHE_HOME, or where TUNEFARM_BUILD_CACHE says; None for "off".

    Raises: InvalidRequestError for a folder that is not absolute.
    """
    given = os.environ.get(FOLDER, "")
    if given == "off":
        return None
    if given and not Path(given).is_absolute():
        raise InvalidRequestError(
            f"{FOLDER}={given} is no absolute path", "name a folder from / on, or say off"
        )
    if given:
        return BuildCache(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return BuildCache(root / "tunefarm" / "bundles")
