"""Blobs by their sha256, on disk, with broken uploads kept for going on."""

import hashlib
import os
import re
from pathlib import Path

from tunefarm_proto.bundle import Bundle, choose_library
from tunefarm_proto.errors import InvalidRequestError, UnknownDigestError, UploadCorruptError
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobCache:
    """A folder of blobs, at most `limit` bytes of them: the longest unused go first."""

    def __init__(self, folder: Path, limit: int = 4 << 30) -> None:
        self._folder = folder
        self._limit = limit
        for part in ("blobs", "partial", "libraries"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def _path(self, part: str, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise InvalidRequestError(f"{digest[:80]!r} is no sha256 in lower-case hex")
        return self._folder / part / digest

    def has(self, digest: str) -> bool:
        """Whether the whole blob is there; marks it as used."""
        path = self._path("blobs", digest)
        if not path.exists():
            return False
        os.utime(path)
        return True

    def held_bytes(self, digest: str) -> int:
        """Bytes of a broken upload."""
        partial = self._path("partial", digest)
        return partial.stat().st_size if partial.exists() else 0

    def read(self, digest: str) -> bytes:
        """The blob. Raises: UnknownDigestError."""
        try:
            return self._path("blobs", digest).read_bytes()
        except FileNotFoundError:
            raise UnknownDigestError(
                f"the device has no blob {digest[:16]}", "upload it first"
            ) from None

    def library(self, digest: str, device: pb.Target) -> tuple[bpb.BundleManifest, pb.Target, Path]:
        """A bundle's manifest, and the library for this device, as a file of its own.

        Raises: UnknownDigestError, BundleInvalidError, TargetMismatchError.
        """
        bundle = Bundle(self.read(digest))
        entry = choose_library(bundle.manifest, device)
        path = self._path("libraries", entry.sha256)
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_bytes(bundle.library(entry))
            part.replace(path)
        return bundle.manifest, entry.target, path

    def begin(self, digest: str, size: int, offset: int) -> "Upload":
        """Take an upload from `offset` on. Raises: UploadCorruptError, InvalidRequestError."""
        partial = self._path("partial", digest)
        if size > self._limit:
            raise InvalidRequestError(
                f"a blob of {size} bytes is over the limit", f"{self._limit} bytes is the most"
            )
        held = self.held_bytes(digest)
        if offset not in (0, held):
            raise UploadCorruptError(
                f"the upload goes on at {offset}, {held} bytes are here", "ask what is missing"
            )
        return Upload(partial, self._path("blobs", digest), digest, size, offset, self._trim)

    def _trim(self) -> None:
        files = [
            (path.stat().st_mtime, path.stat().st_size, path)
            for part in ("blobs", "partial", "libraries")
            for path in (self._folder / part).iterdir()
        ]
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files)[:-1]:
            if total <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= size


class Upload:
    """One blob on its way in."""

    def __init__(  # noqa: PLR0917 (made by the cache alone)
        self, partial: Path, final: Path, digest: str, size: int, offset: int, trim: object
    ) -> None:
        self._partial, self._final = partial, final
        self._digest, self._size = digest, size
        self._trim = trim
        self.received = 0
        self._hash = hashlib.sha256()
        self._file = partial.open("r+b" if offset else "wb")
        while piece := self._file.read(1 << 20) if offset else b"":
            self._hash.update(piece)

    def add(self, data: bytes) -> None:
        """The next bytes. Raises: UploadCorruptError where they are too many."""
        self.received += len(data)
        if self._file.tell() + len(data) > self._size:
            self._drop()
            raise UploadCorruptError(
                f"more than the announced {self._size} bytes came", "send the blob again"
            )
        self._hash.update(data)
        self._file.write(data)

    def suspend(self) -> None:
        """Keep what came, for going on later."""
        self._file.close()

    def finish(self) -> None:
        """Check and keep. Raises: UploadCorruptError; what is short is kept, what is wrong not."""
        size = self._file.tell()
        if size < self._size:
            self.suspend()
            raise UploadCorruptError(
                f"{size} of {self._size} bytes came", "send the rest: ask what is missing"
            )
        if self._hash.hexdigest() != self._digest:
            self._drop()
            raise UploadCorruptError(
                f"what came is not {self._digest[:16]}: it was altered on the way",
                "send the blob again",
            )
        self._file.close()
        self._partial.replace(self._final)
        if callable(self._trim):
            self._trim()

    def _drop(self) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)
