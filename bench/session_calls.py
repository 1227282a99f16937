"""Calls and uploads of a session beside what the network itself takes, in turns, in one run.

`python bench/session_calls.py [--rounds 10] [--json]`. Everything on this machine: a tracker, a
device server, an echo process. Needs the `host` extra, for a compiler of C.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import ziglang
from tunefarm import Bundle, Device, request_device
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

HERE = Path(__file__).parent
CALLS = 300  # of each kind in a round
PIPELINED = 64
BATCH = 20_000
UPLOAD_BYTES = 256 << 20
REQUEST_BYTES, ANSWER_BYTES = 21, 18  # of an empty call, with the length before it
SOURCE = """
#include <stdint.h>
int32_t empty(void *const *args) { return 0; }
"""


def empty_kernel(folder: Path, target: pb.Target) -> Bundle:
    """A bundle whose function does nothing with one array."""
    source, library = folder / "empty.c", folder / "empty.so"
    source.write_text(SOURCE)
    zig = str(Path(ziglang.__file__).parent / "zig")
    command = [zig, "cc", "-shared", "-O1", "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    x = bpb.ArgumentSignature(name="x", dtype="float32", shape=[16], output=True)
    manifest = bpb.BundleManifest(workload="empty")
    manifest.functions.add(name="empty", arguments=[x])
    return bundle_file.pack(manifest, [(pb.Target(triple=target.triple), library.read_bytes())])


@contextlib.contextmanager
def echo(*words: str) -> Iterator[int]:
    """An echo process; its port."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "_echo.py"), *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def times(action: Callable[[], object], number: int) -> list[float]:
    """Seconds of each."""
    taken = []
    for _ in range(number):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return taken


@contextlib.contextmanager
def on_other_processors() -> Iterator[None]:
    """This thread anywhere but on the first processor."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed - {min(allowed)} or allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


async def stream_times(port: int, message: bytes, number: int) -> list[float]:
    """Round trips on a bare gRPC stream, from asyncio: the least that gRPC takes in Python."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream("/bench.Echo/Echo")()
        taken = []
        for _ in range(number + 20):
            start = time.perf_counter()
            await call.write(message)
            await call.read()
            taken.append(time.perf_counter() - start)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    return taken[20:]


def call_rounds(device: Device, folder: Path, rounds: int) -> dict[str, float]:
    """Medians of round trips in microseconds, and calls a second."""
    module = device.load(empty_kernel(folder, device.target))
    empty, x = module["empty"], device.empty(16)
    message = b"x" * REQUEST_BYTES
    found: dict[str, list[float]] = {
        "raw_us": [], "raw_apart_us": [], "grpc_us": [], "call_us": [],
        "pipelined_per_s": [], "batched_per_s": [],
    }  # fmt: skip
    # One loop for all rounds: gRPC tells of the end of a stream after a loop of its own is closed.
    with echo("grpc") as grpc_port, asyncio.Runner() as runner:
        raw, apart = (connected(int(port)) for port in (folder / "port").read_text().split())

        def ping(connection: socket.socket) -> None:
            connection.sendall(message)
            connection.recv(ANSWER_BYTES, socket.MSG_WAITALL)

        def pipelined() -> None:
            with device.pipeline() as pipeline:
                for _ in range(PIPELINED):
                    pipeline.call(empty, x)

        def batched() -> None:
            batch = device.batch()
            for _ in range(BATCH):
                batch.call(empty, x)
            assert len(batch.run().elapsed) == BATCH

        times(lambda: empty(x), 100)
        for _ in range(rounds):
            found["raw_us"] += [t * 1e6 for t in times(lambda: ping(raw), CALLS)]
            with on_other_processors():
                found["raw_apart_us"] += [t * 1e6 for t in times(lambda: ping(apart), CALLS)]
            taken = runner.run(stream_times(grpc_port, message, CALLS))
            found["grpc_us"] += [t * 1e6 for t in taken]
            found["call_us"] += [t * 1e6 for t in times(lambda: empty(x), CALLS)]
            found["pipelined_per_s"] += [PIPELINED / t for t in times(pipelined, 5)]
            found["batched_per_s"] += [BATCH / t for t in times(batched, 2)]
    return {name: statistics.median(values) for name, values in found.items()}


def upload_rounds(device: Device, folder: Path, rounds: int) -> dict[str, float]:
    """Medians in MB/s of a fresh blob, and of a raw socket with the same hashing and writing."""
    found: dict[str, list[float]] = {"raw_copy_mb_s": [], "upload_mb_s": []}
    base = os.urandom(UPLOAD_BYTES)
    with echo("copy", str(folder / "copied")) as port:
        raw = connected(port)

        def copy(data: bytes, digest: str) -> None:
            raw.sendall(len(data).to_bytes(8, "little"))
            raw.sendall(data)
            assert raw.recv(32, socket.MSG_WAITALL).hex() == digest

        for index in range(rounds + 1):
            data = index.to_bytes(8, "little") + base[8:]
            digest = hashlib.sha256(data).hexdigest()
            actions = [("raw_copy_mb_s", copy), ("upload_mb_s", device.upload)]
            for name, action in actions[:: 1 if index % 2 else -1]:
                start = time.perf_counter()
                action(data, digest)
                if index:  # the first is to warm up
                    found[name].append(len(data) / 1e6 / (time.perf_counter() - start))
    ratios = [ours / raw for raw, ours in zip(*found.values(), strict=True)]
    medians = {name: statistics.median(values) for name, values in found.items()}
    return medians | {"upload_to_raw": statistics.median(ratios)}


def measure(rounds: int) -> dict[str, float]:
    """All figures of one run, with their ratios."""
    with tempfile.TemporaryDirectory() as name, LocalFarm(Path(name)) as farm:
        folder, address = Path(name), f"127.0.0.1:{free_port(0)}"
        port = address.rpartition(":")[2]
        farm.start("tracker", "tracker", "--port", port, "--state", str(folder / "t"))
        farm.wait_for_tracker(address)
        words = ["--key", "box", "--tracker", address, "--state", f"{name}/d"]
        sizes = [str(REQUEST_BYTES), str(ANSWER_BYTES), str(folder / "port")]
        command = [sys.executable, str(HERE / "_echo.py"), "device", *sizes, *words]
        farm.start_command("box", command)
        farm.wait_for_devices(address, ["box"])
        with request_device("box", tracker=address) as device:
            found = call_rounds(device, folder, rounds)
            found |= upload_rounds(device, folder, max(rounds // 2, 3))
    found["call_to_raw"] = found["call_us"] / found["raw_us"]
    found["call_to_raw_apart"] = found["call_us"] / found["raw_apart_us"]
    found["grpc_to_raw"] = found["grpc_us"] / found["raw_us"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    words: Any = parser.parse_args()
    found = measure(words.rounds)
    if words.json:
        print(json.dumps(found))
        return
    print(f"raw echo                 {found['raw_us']:10.1f} us")
    print(f"raw echo, two processors {found['raw_apart_us']:10.1f} us")
    print(f"bare gRPC stream         {found['grpc_us']:10.1f} us  {found['grpc_to_raw']:.2f} x raw")
    print(f"empty call in a session  {found['call_us']:10.1f} us  {found['call_to_raw']:.2f} x raw")
    print(f"{'':39} {found['call_to_raw_apart']:.2f} x raw on two processors")
    print(f"64 calls pipelined       {found['pipelined_per_s']:10.0f} calls/s")
    print(f"a batch in one message   {found['batched_per_s']:10.0f} calls/s")
    print(f"raw copy of 256 MiB      {found['raw_copy_mb_s']:10.0f} MB/s")
    share = f"{found['upload_to_raw']:.2f} x raw"
    print(f"upload of 256 MiB        {found['upload_mb_s']:10.0f} MB/s  {share}")


if __name__ == "__main__":
    main()
