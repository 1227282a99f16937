"""Files of a session on a device."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunefarm_proto import rpc
from tunefarm_proto.v1 import device_pb2 as dpb

if TYPE_CHECKING:
    from tunefarm.session import Session


@dataclass(frozen=True)
class RemoteFile:
    """A file in a session's folder: its name, with "/" between folders, and its size in bytes."""

    name: str
    size: int


class Files:
    """`device.files`: a folder on the device which kernels have as their working directory.

    It is this session's alone, outlives a crash of the kernel, and ends with the session. Names are
    relative; "..", absolute paths and links are refused with FileRefusedError. 1 GiB in all.
    """

    def __init__(self, session: "Session") -> None:
        self._session = session

    def upload(
        self, source: bytes | bytearray | memoryview | str | os.PathLike[str], name: str
    ) -> None:
        """Put bytes, or the contents of the local file at a path, into a file of that name.

        What it held is gone. Raises: FileRefusedError, OSError for the local file.
        """
        if isinstance(source, bytes | bytearray | memoryview):
            self._session.pipelined(_writes(name, _cut(memoryview(source).cast("B"))))
            return
        with Path(source).open("rb") as file:
            self._session.pipelined(_writes(name, iter(lambda: file.read(rpc.CHUNK_BYTES), b"")))

    def download(self, name: str, to: str | os.PathLike[str] | None = None) -> bytes:
        """The contents of a file; with `to`, into the local file at that path, and b"" is returned.

        Raises: UnknownFileError, FileRefusedError, OSError for the local file.
        """
        operation = dpb.SessionRequest(read_file=dpb.ReadFile(name=name))
        pieces = self._session.pieces(operation)
        if to is None:
            return b"".join(list(pieces))
        first = next(pieces)  # where there is no such file, none is made here
        with Path(to).open("wb") as file:
            file.write(first)
            for piece in pieces:
                file.write(piece)
        return b""

    def list(self) -> list[RemoteFile]:
        """All files, those that kernels wrote too, by name."""
        answer = self._session.request(dpb.SessionRequest(list_files=dpb.ListFiles()))
        return [RemoteFile(file.name, file.size_bytes) for file in answer.files.files]

    def remove(self, name: str) -> None:
        """Delete a file. Raises: UnknownFileError, FileRefusedError."""
        operation = dpb.SessionRequest(remove_file=dpb.RemoveFile(name=name))
        self._session.request(operation)


def _cut(data: memoryview) -> Iterator[bytes]:
    return (bytes(data[at : at + rpc.CHUNK_BYTES]) for at in range(0, len(data), rpc.CHUNK_BYTES))


def _writes(name: str, pieces: Iterator[bytes]) -> Iterator[dpb.SessionRequest]:
    offset = 0
    for piece in pieces:
        yield dpb.SessionRequest(write_file=dpb.WriteFile(name=name, offset=offset, data=piece))
        offset += len(piece)
    if not offset:
        yield dpb.SessionRequest(write_file=dpb.WriteFile(name=name))
