"""The content-addressed cache on disk: uploads resumed, verified, bounded."""

import asyncio
import collections
import hashlib
import os
import re
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from tunefarm_proto.errors import (
    InvalidRequestError,
    OutOfMemoryError,
    UnknownDigestError,
    UploadCorruptError,
)

CACHE_BYTES = 4 << 30
AHEAD = 3  # chunks that wait to be hashed and written
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobCache:
    """Blobs named by their sha256, in one folder; the least recently used make room."""

    def __init__(self, folder: Path, limit_bytes: int = CACHE_BYTES) -> None:
        self._blobs = folder / "blobs"
        self._partial = folder / "partial"
        self._limit = limit_bytes
        # One lock for each upload under way.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        for path in (self._blobs, self._partial):
            path.mkdir(parents=True, exist_ok=True)

    def held_bytes(self, digest: str) -> int | None:
        """Bytes held of a blob that is missing; None where it is whole."""
        check_digest(digest)
        if (self._blobs / digest).exists():
            return None
        try:
            return (self._partial / digest).stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, digest: str) -> bytes:
        """A blob, verified: what a kernel altered on disk is dropped.

        Raises: UnknownDigestError.
        """
        path = self._blobs / check_digest(digest)
        hint = "upload it first"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise UnknownDigestError(f"the device does not hold {digest}", hint) from None
        if hashlib.sha256(data).hexdigest() != digest:
            path.unlink(missing_ok=True)
            raise UnknownDigestError(f"{digest} was altered on the device's disk", hint)
        os.utime(path)
        return data

    async def receive(
        self, digest: str, size: int, offset: int, chunks: AsyncIterator[bytes | memoryview]
    ) -> int | None:
        """Take a blob from `offset` on. Returns the bytes that came; None where it was held.

        What came of a broken upload is kept, to be continued; what is altered is dropped.
        Raises: UploadCorruptError, InvalidRequestError, OutOfMemoryError.
        """
        check_digest(digest)
        async with self._locks.setdefault(digest, asyncio.Lock()):
            held = self.held_bytes(digest)
            if held is None:
                return None
            if offset > held:
                raise InvalidRequestError(
                    f"the upload starts at byte {offset} and the device holds {held}",
                    "ask FindMissingDigests where to go on",
                )
            self._make_room(digest, size)
            partial = self._partial / digest
            try:
                partial.touch()
                actual, received = await _append(partial, size, offset, chunks)
            except OSError as error:
                raise OutOfMemoryError(
                    f"the device cannot write the blob to its disk: {error.strerror}"
                ) from None
            if actual != digest:
                partial.unlink()
                raise UploadCorruptError(
                    f"what arrived has sha256 {actual}, announced was {digest}", "send it again"
                )
            partial.replace(self._blobs / digest)
            return received

    def _make_room(self, digest: str, size: int) -> None:
        if size > self._limit:
            raise OutOfMemoryError(
                f"a blob of {size} bytes does not fit into the cache of {self._limit} bytes"
            )
        used = 0
        kept: list[tuple[float, int, Path]] = []
        for folder in (self._blobs, self._partial):
            for path in folder.iterdir():
                if path.name != digest:
                    stat = path.stat()
                    used += stat.st_size
                    kept.append((stat.st_mtime, stat.st_size, path))
        for _, bytes_, path in sorted(kept):
            if used + size <= self._limit:
                return
            if path.name not in self._locks:
                path.unlink(missing_ok=True)
                used -= bytes_


async def _append(
    path: Path, size: int, offset: int, chunks: AsyncIterator[bytes | memoryview]
) -> tuple[str, int]:
    """Write the chunks; sha256 of the whole and the bytes that came."""
    received, loop = 0, asyncio.get_running_loop()
    with path.open("r+b", buffering=0) as file:
        file.truncate(offset)
        digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
        file.seek(offset)
        # A thread that hashes, in order, and one that writes, while more comes in.
        hasher, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        working: collections.deque[asyncio.Future[object]] = collections.deque()
        try:
            async for chunk in chunks:
                received += len(chunk)
                while len(working) > 2 * AHEAD:
                    await working.popleft()
                if offset + received > size:
                    if working:  # or what is still to be written would come after
                        await asyncio.wait(working)
                    file.truncate(0)
                    raise UploadCorruptError(
                        f"more than the announced {size} bytes arrived", "send it again"
                    )
                working.append(loop.run_in_executor(hasher, digest.update, chunk))
                working.append(loop.run_in_executor(writer, _write, file, chunk))
            while working:
                await working.popleft()
        finally:
            if working:
                await asyncio.wait(working)
                for work in working:
                    work.exception()  # seen, or asyncio would tell of it in the log
            hasher.shutdown()
            writer.shutdown()
    if offset + received < size:
        raise UploadCorruptError(
            f"the upload ended after {offset + received} of {size} bytes", "send the rest"
        )
    return digest.hexdigest(), received


def _write(file: IO[bytes], chunk: bytes | memoryview) -> None:
    left = memoryview(chunk)
    while left:
        left = left[file.write(left) :]


def check_digest(digest: str) -> str:
    """The digest itself. Raises: InvalidRequestError for anything but a sha256 in hex."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequestError(f"{digest[:80]!r} is no sha256 in lower-case hex")
    return digest
