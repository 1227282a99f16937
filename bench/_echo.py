"""What sessions are measured against: raw sockets and bare gRPC streams, in another process.

`_echo.py device SIZE ANSWER FILE WORDS`: a device server started with these words, and a blocking
echo in a thread of it, so that both are measured between the same two processes. `grpc`: a bare
grpc.aio stream. `copy FILE`: takes bytes, hashes them and writes them.
"""

import asyncio
import hashlib
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from tunefarm.cli import main


def raw(server: socket.socket, size: int, answer: int, cpus: set[int]) -> None:
    """Answers each message of `size` bytes by one of `answer` bytes, on these processors."""
    os.sched_setaffinity(threading.get_native_id(), cpus)
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    said = b"x" * answer
    while connection.recv(size, socket.MSG_WAITALL):
        connection.sendall(said)


def copy(path: str) -> None:
    """Takes a length of 8 bytes and so many bytes into a new file; their sha256 back."""
    connection = _accepted()
    number = 0
    while head := connection.recv(8, socket.MSG_WAITALL):
        left, digest = int.from_bytes(head, "little"), hashlib.sha256()
        piece = bytearray(1 << 20)
        number += 1
        with Path(f"{path}{number}").open("wb", buffering=0) as file:
            while left:
                view = memoryview(piece)[: min(left, len(piece))]
                got = connection.recv_into(view, len(view), socket.MSG_WAITALL)
                digest.update(view[:got])
                file.write(view[:got])
                left -= got
        connection.sendall(digest.digest())


def _accepted() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request

        return grpc.stream_stream_rpc_method_handler(echo)


async def serve_grpc() -> None:
    """A bare stream that answers each message by itself."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def serve_device(size: int, answer: int, file: str, words: list[str]) -> None:
    """A device server with two echoes beside it, on any processor and on the first; their ports go
    into the file.
    """
    ports = []
    everywhere = os.sched_getaffinity(0)
    for cpus in (everywhere, {min(everywhere)}):
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=raw, args=(server, size, answer, cpus), daemon=True).start()
        ports.append(str(server.getsockname()[1]))
    Path(file).write_text(" ".join(ports))
    sys.exit(main(["device", *words]))


if __name__ == "__main__":
    if sys.argv[1] == "device":
        serve_device(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
    elif sys.argv[1] == "copy":
        copy(sys.argv[2])
    else:
        asyncio.run(serve_grpc())
