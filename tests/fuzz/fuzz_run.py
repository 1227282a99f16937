"""Random, broken and absurd inputs, by seed, at a tracker's and a device's port.

`python tests/fuzz/fuzz_run.py --inputs 100000 --seed 1` (or `make fuzz`). Input N of a seed is the
same bytes whenever it is sent; `--first N --inputs 1` sends it alone.
"""

import argparse
import asyncio
import contextlib
import hashlib
import logging
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from fuzz_farm import HEALTHY, OPEN, SERVERS, VICTIM, FuzzFarm, Size
from fuzz_lane import LaneInput
from fuzz_messages import Messages, Words, methods, path_of
from fuzz_raw import RawInput, Recording
from google.protobuf.descriptor import MethodDescriptor
from tunefarm_proto import rpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

AT_ONCE = 32
UNARY_S = 10.0
STREAM_S = 0.25
RAW_SHARE = 0.15
LANE_SHARE = 0.15  # of what a device gets
TRACKER_SHARE = 0.6
FIRST_SHARE = 0.2  # of the inputs; memory is looked at then
LONG = 10_000  # inputs: then after each fifth
ALLOWED_RSS = 32 << 20
ALLOWED_FILES = 8
REST_S = 3.5
TRACKER_SERVICES = ("HelloService", "TrackerService", "AccountService")
DEVICE_SERVICES = ("HelloService", "DeviceService")
CREDENTIALS = {"": 2, "nonsense": 1, "viewer": 1, "user": 8, "device": 4, "operator": 4}
LEASES = {"none": 1, "strange": 1, "wrong token": 2, "right": 12}


@dataclass
class Outcome:
    """What came of it."""

    seed: int
    inputs: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    sizes: list[dict[str, Size]] = field(default_factory=list)
    healthy: list[float] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """A few lines for people."""
        lines = [
            f"seed {self.seed}: {self.inputs} inputs in {self.seconds:.0f} s",
            f"kinds: {dict(sorted(self.kinds.items()))}",
            f"statuses: {dict(self.statuses.most_common())}",
            f"the healthy client: {len(self.healthy)} rounds, "
            f"the longest took {max(self.healthy, default=0):.2f} s",
        ]
        for name in SERVERS:
            rss = ", ".join(f"{sizes[name].rss / 2**20:.1f}" for sizes in self.sizes)
            files = ", ".join(f"{sizes[name].files}" for sizes in self.sizes)
            lines.append(f"{name}: {rss} MiB, {files} descriptors")
        lines += [f"first {what}: {where}" for what, where in self.examples.items()]
        return "\n".join([*lines, *(f"PROBLEM {one[:1000]}" for one in self.problems[:40])])


class Fuzzer:
    """Sends inputs to one farm."""

    def __init__(self, farm: FuzzFarm, outcome: Outcome, lease: Any) -> None:
        self.farm, self.outcome = farm, outcome
        self.lease = lease.lease.id
        self.token = dict(lease._metadata)[rpc.LEASE_TOKEN_HEADER]
        self.words = Words(pools=self._pools(lease))
        self.strangers = Words(pools={**self.words.pools, "lease_id": ["strange"], "token": ["x"]})
        self.frames: dict[str, list[bytes]] = {}
        self.channels: dict[str, list[grpc.aio.Channel]] = {}
        self.methods = {"tracker": methods(*TRACKER_SERVICES), VICTIM: methods(*DEVICE_SERVICES)}
        self.methods[HEALTHY] = self.methods[VICTIM]

    def _pools(self, lease: Any) -> dict[str, list[Any]]:
        digest = self.farm.bundle.digest
        few = [f"fuzz-{number}" for number in range(12)]
        return {
            "device_id": few, "key": ["fuzz", "absent"], "keys": ["fuzz", "absent"],
            "request_id": [f"r{number}" for number in range(200)], "instance_id": ["i1", "i2"],
            "lease_id": [self.lease, "0123456789abcdef", *few], "token": [self.token, "f" * 64],
            "user": ["fuzz"], "name": ["fuzz"], "before_id": few, "id": [*few, 1, 2],
            "digest": [digest, hashlib.sha256(b"").hexdigest()], "bundle_digest": [digest],
            "digests": [digest, "0" * 64], "function": ["add"], "dtype": ["float32", "int8"],
            "shape": [16, 1], "array_id": [1, 2, 3, 4], "array_ids": [1, 2, 3, 4],
            "module_id": [1, 2], "nanos": [0, 1], "seconds": [0, 1, 5], "protocol_major": [1],
            "map_key": ["memory_mb", "cpu", "labels", "x"], "map_value": [">=1", "*", "a=b", "[z"],
            "offset": [0, 16], "size_bytes": [0, 1, len(self.farm.bundle.data)],
            "repeat": [1], "number": [1],
        }  # fmt: skip

    async def open(self) -> None:
        """Record what real clients send, and connect."""
        for name in SERVERS:
            port = self.farm.ports[name]
            self.frames[name] = await self._record(port, name)
            self.channels[name] = [
                grpc.aio.insecure_channel(
                    f"127.0.0.1:{port}",
                    options=[("grpc.use_local_subchannel_pool", 1), *rpc.CLIENT_OPTIONS],
                )
                for _ in range(4)
            ]

    async def _record(self, port: int, name: str) -> list[bytes]:
        async with Recording(port) as recording:
            channel = grpc.aio.insecure_channel(
                f"127.0.0.1:{recording.port}", options=rpc.CLIENT_OPTIONS
            )
            metadata = self._metadata(name, "user", "right")
            hello = pb.HelloRequest(peer=rpc.this_peer("client")).SerializeToString()
            call = channel.unary_unary("/tunefarm.v1.HelloService/Hello")
            await call(hello, metadata=metadata, timeout=20)
            if name == "tracker":
                asked = tpb.RequestDeviceRequest(open=tpb.DeviceRequest(request_id="r0", key="x"))
                stream = channel.stream_stream("/tunefarm.v1.TrackerService/RequestDevice")
                with contextlib.suppress(grpc.RpcError):
                    await stream(_each([asked.SerializeToString()]), metadata=metadata).read()
            await channel.close()
            return recording.frames()

    async def close(self) -> None:
        """Let go."""
        for channels in self.channels.values():
            for channel in channels:
                await channel.close()

    async def run(self, first: int, last: int) -> None:
        """Send these inputs, many at once."""
        numbers = iter(range(first, last))

        async def work() -> None:
            for number in numbers:
                await self.send(number)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def send(self, number: int) -> None:
        """One input."""
        draw = random.Random(f"{self.outcome.seed}:{number}")
        name = draw.choices(SERVERS, [TRACKER_SHARE, 0.05, 0.35])[0]
        if draw.random() < RAW_SHARE:
            kind = await RawInput(draw, self.farm.ports[name], self.frames[name]).send()
        elif name == VICTIM and draw.random() < LANE_SHARE:
            kind = await self._lane(draw)
        else:
            method = draw.choice(self.methods[name])
            kind = f"{name}: {method.name}"
            status = await self._call(draw, name, method)
            self._count(number, kind, status)
        self.outcome.kinds[kind] += 1
        self.outcome.inputs += 1

    async def _lane(self, draw: random.Random) -> str:
        """A session of the fuzzer's own lease, and a lane into it."""
        (session,) = (one for one in self.methods[VICTIM] if one.name == "Session")
        given = LaneInput(draw, Messages(draw, self.words), session)
        channel = draw.choice(self.channels[VICTIM])
        kind = await given.send(channel, path_of(session), self._metadata(VICTIM, "user", "right"))
        self.outcome.statuses["hangs"] += kind == "lane: hangs"
        return kind

    def _count(self, number: int, kind: str, status: str) -> None:
        short = status.partition(":")[0]
        short = "open" if any(word in status for word in OPEN) else short
        self.outcome.statuses[short] += 1
        if short in ("UNKNOWN", "INTERNAL", "hangs"):
            what = re.sub(r"[0-9]+", "0", status)[:160]
            self.outcome.examples.setdefault(f"{kind}: {what}", f"input {number}")

    def _metadata(self, name: str, credentials: str, lease: str) -> tuple[tuple[str, str], ...]:
        metadata: list[tuple[str, str]] = [(rpc.PROTOCOL_HEADER, "1.0")]
        if credentials:
            token = self.farm.tokens.get(credentials, "tf_nonsense")
            metadata.append(("authorization", f"Bearer {token}"))
        if name != "tracker" and lease != "none":
            identity = "strange" if lease == "strange" else self.lease
            token = self.token if lease == "right" else "wrong ~!"
            metadata += [(rpc.LEASE_ID_HEADER, identity), (rpc.LEASE_TOKEN_HEADER, token)]
        return tuple(metadata)

    async def _call(self, draw: random.Random, name: str, method: MethodDescriptor) -> str:
        """One call of a method. Returns its status, and the words of a failure."""
        credentials = draw.choices(list(CREDENTIALS), list(CREDENTIALS.values()))[0]
        lease = draw.choices(list(LEASES), list(LEASES.values()))[0]
        metadata = self._metadata(name, credentials, lease)
        if draw.random() < 0.02:
            metadata = ((rpc.PROTOCOL_HEADER, draw.choice(("", "2.0", "x" * 5000))), *metadata[1:])
        # With the right words these would end the fuzzer's own lease.
        lawful = method.name in ("RevokeLease", "ReleaseLease")
        messages = Messages(draw, self.strangers if lawful else self.words)
        channel = draw.choice(self.channels[name])
        count = draw.choice((0, 1, 1, 2, 3, 8)) if method.client_streaming else 1
        made = [messages.of(method) for _ in range(count)]
        made = [flip for one in made for flip in ([one, one] if draw.random() < 0.05 else [one])]
        try:
            if method.client_streaming or method.server_streaming:
                return await self._stream(draw, channel, method, made, metadata)
            call = channel.unary_unary(path_of(method))
            await call(made[0], metadata=metadata, timeout=UNARY_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"hangs: {error.details()}"
            # What gRPC says on this side where the other has closed while we still send.
            if error.details() == "Internal error from Core":
                return "cut"
            return f"{error.code().name}: {error.details()}"
        return "OK"

    async def _stream(
        self,
        draw: random.Random,
        channel: grpc.aio.Channel,
        method: MethodDescriptor,
        made: list[bytes],
        metadata: tuple[tuple[str, str], ...],
    ) -> str:
        """A stream: messages in any order, then its end, or a broken line."""
        ends = draw.random() < 0.5
        kind = f"{'stream' if method.client_streaming else 'unary'}_" + (
            "stream" if method.server_streaming else "unary"
        )
        given: Any = _each(made, 0 if ends else STREAM_S) if method.client_streaming else made[0]
        call = getattr(channel, kind)(path_of(method))(given, metadata=metadata)
        try:
            async with asyncio.timeout(STREAM_S * draw.random()):
                if not method.server_streaming:
                    await call
                else:
                    async for _ in call:
                        pass
        except TimeoutError:
            return "cut"
        except asyncio.CancelledError:
            if call.cancelled():
                return "CANCELLED"
            raise
        finally:
            call.cancel()
        return "OK"

    async def healthy(self) -> None:
        """The servers still answer who asks well."""
        hello = pb.HelloRequest(peer=rpc.this_peer("client")).SerializeToString()
        for name in SERVERS:
            call = self.channels[name][0].unary_unary("/tunefarm.v1.HelloService/Hello")
            try:
                await call(hello, metadata=self._metadata(name, "user", "none"), timeout=UNARY_S)
            except grpc.aio.AioRpcError as error:
                self.outcome.problems.append(f"{name} answers no more: {error.details()}")


async def _each(messages: list[bytes], wait: float = 0.0) -> AsyncIterator[bytes]:
    for one in messages:
        yield one
    await asyncio.sleep(wait)


async def _fuzz(
    farm: FuzzFarm, outcome: Outcome, lease: Any, first: int, count: int, say: Callable[[str], None]
) -> None:
    fuzzer = Fuzzer(farm, outcome, lease)
    await fuzzer.open()
    step = max(int(count * FIRST_SHARE), 1)
    try:
        for start in range(first, first + count, step):
            await fuzzer.run(start, min(start + step, first + count))
            say(f"{outcome.inputs} inputs")
            if count >= LONG or start in (first, max(range(first, first + count, step))):
                await asyncio.sleep(REST_S)  # what was broken off is given up by then
                outcome.sizes.append(farm.sizes())
        await fuzzer.healthy()
    finally:
        await fuzzer.close()


def fuzz(
    folder: Path,
    seed: int,
    inputs: int,
    *,
    first: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """A farm in a folder, and what it makes of these inputs."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # writing to a cut line is our trade
    outcome = Outcome(seed)
    with FuzzFarm(folder) as farm:
        began = time.monotonic()
        with farm.lease_victim() as lease:
            lease.upload(farm.bundle.data, farm.bundle.digest)
            farm.start_healthy()
            asyncio.run(_fuzz(farm, outcome, lease, first, inputs, say))
            if lease._lost() is not None:
                outcome.problems.append(f"the fuzzer lost its own lease: {lease._lost()}")
        outcome.seconds = time.monotonic() - began
        _judge(farm, outcome)
    return outcome


def _judge(farm: FuzzFarm, outcome: Outcome) -> None:
    if farm.end("client") != 0:
        outcome.problems.append("the healthy client hangs or died")
    rounds = farm.healthy_rounds()
    outcome.healthy = [one["took"] for one in rounds]
    outcome.problems += [f"the healthy client: {one['error']}" for one in rounds if one["error"]]
    if not rounds:
        outcome.problems.append("the healthy client did nothing")
    # Memory goes up and down by tens of MiB with the largest messages; what leaks only goes up.
    half = len(outcome.sizes) // 2
    first, last = outcome.sizes[:half], outcome.sizes[-half:]
    for name in SERVERS:
        was, now = max(one[name].rss for one in first), min(one[name].rss for one in last)
        if now > was + ALLOWED_RSS:
            outcome.problems.append(f"{name} grew from {was} to {now} bytes")
        had, has = max(one[name].files for one in first), min(one[name].files for one in last)
        if has > had + ALLOWED_FILES:
            outcome.problems.append(f"{name} has {has} descriptors open, it had {had}")
    for status in ("UNKNOWN", "INTERNAL", "hangs"):
        if outcome.statuses[status]:
            outcome.problems.append(f"{outcome.statuses[status]} calls ended with {status}")
    outcome.problems += farm.problems()
    for name in reversed(SERVERS):
        if farm.processes[name].poll() is None and (code := farm.end(name)) != 0:
            outcome.problems.append(f"{name} ended with {code} on SIGTERM")


def main() -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tunefarm-fuzz-"))
    print(f"seed {given.seed}, logs in {folder}", flush=True)
    outcome = fuzz(
        folder, given.seed, given.inputs, first=given.first,
        say=lambda text: print(text, flush=True),
    )  # fmt: skip
    print(outcome.summary())
    if not outcome.problems:
        shutil.rmtree(folder)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
