"""Load for a tracker: many simulated devices or clients in one process, as light as may be.

Run as `python _load.py devices|holders|clients ADDRESS JSON`; prints `ready` when all are there
and one JSON line at its end. Reads words: `go` lets clients begin; `again` wants another `ready`
once all are there by a stream opened later; `stop` ends devices and holders.
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
import uvloop
from tunefarm_proto import rpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

FIRST_BACKOFF_S, MOST_BACKOFF_S = 0.2, 5.0  # as a device server's
PATIENCE_S = 120.0
ANSWER_S = 10.0
COUNTED = ("leases", "reports", "reconnects")
OPTIONS = [*rpc.CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
FACTS = pb.DeviceFacts(
    target=pb.Target(triple="aarch64-unknown-linux-gnu", cpu="cortex-a53", features=["neon"]),
    cpu_model="simulated",
    cpu_count=4,
    memory_bytes=1 << 30,
    os="simulated",
)

Stub: TypeAlias = "tpb_grpc.TrackerServiceAsyncStub"
Stream: TypeAlias = Any  # an open call, which only grpc.aio can name


class Device:
    """Obeys: serves the lease it is told of, and is clean at once when that ends."""

    def __init__(self, name: str, key: str) -> None:
        self.name, self.key = name, key
        self.lease_id, self.fence = "", 0
        self.instance = uuid.uuid4().hex
        self.heartbeat = 5.0
        self.reports = self.leases = self.reconnects = 0
        self.there = asyncio.Event()
        self.changed = asyncio.Event()  # the interval of the heartbeats
        self.beats: asyncio.Task[None]

    def report(self, facts: bool = False) -> tpb.SynchronizeRequest:
        """What is."""
        self.reports += 1
        return tpb.SynchronizeRequest(
            device_id=self.name,
            key=self.key,
            addresses=[f"{self.name}.test:1"],
            facts=FACTS if facts else None,
            lease_id=self.lease_id,
            fence=self.fence,
            instance_id=self.instance,
        )

    async def run(self, stub: Stub) -> None:
        """Keep a stream until cancelled."""
        backoff = FIRST_BACKOFF_S
        while True:
            with contextlib.suppress(grpc.RpcError):
                if await self.stream(stub):
                    backoff = FIRST_BACKOFF_S
            self.reconnects += 1
            await asyncio.sleep(backoff * random.uniform(0.5, 1.5))
            backoff = min(backoff * 2, MOST_BACKOFF_S)

    async def stream(self, stub: Stub) -> bool:
        """One stream from its start to its end; whether anything was heard."""
        call: Stream = stub.Synchronize(metadata=rpc.call_metadata())
        self.beats, heard = asyncio.create_task(self.beat(call)), False
        try:
            await call.write(self.report(facts=True))
            while (told := await call.read()) is not grpc.aio.EOF:
                if not heard:
                    heard = True
                    self.there.set()
                await self.obey(told, call)
        except grpc.RpcError:
            if not heard:
                raise
        finally:
            self.beats.cancel()
            call.cancel()
        return heard

    async def obey(self, told: tpb.SynchronizeResponse, call: Stream) -> None:
        """Take the lease, or drop it."""
        heartbeat = told.heartbeat_interval.ToNanoseconds() * 1e-9
        if heartbeat != self.heartbeat:
            self.heartbeat = heartbeat
            self.changed.set()
        if told.lease.id != self.lease_id or told.ended_lease_id:
            self.leases += bool(told.lease.id)
            self.lease_id, self.fence = told.lease.id, max(self.fence, told.lease.fence)
            if not self.lease_id:  # a new lease is reported by the next heartbeat
                await call.write(self.report())

    async def beat(self, call: Stream) -> None:
        """Heartbeats at the interval told, not all at once."""
        wait = random.uniform(0, self.heartbeat)
        while True:
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                # Never by cancelling this task: a cancelled write ends its whole stream.
                await asyncio.wait_for(self.changed.wait(), wait)
                wait = random.uniform(0, self.heartbeat)
                continue
            await call.write(self.report())
            wait = self.heartbeat


def stub_of(address: str) -> Stub:
    """A connection of its own."""
    return tpb_grpc.TrackerServiceStub(grpc.aio.insecure_channel(address, options=OPTIONS))


async def until_stopped(again: Callable[[], list[asyncio.Event]]) -> None:
    """Do as the words say; `again` has the events to wait for, cleared."""
    waiting = None
    while await asyncio.to_thread(sys.stdin.readline) == "again\n":
        waiting = asyncio.create_task(all_there(again()))
    if waiting is not None:
        waiting.cancel()


async def all_there(events: list[asyncio.Event]) -> None:
    """Say so when they are, or how many are not after so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            for event in events:
                await event.wait()
    missing = sum(not event.is_set() for event in events)
    print(f"{missing} of {len(events)} are missing" if missing else "ready", flush=True)


async def devices(address: str, plan: dict[str, Any]) -> dict[str, Any]:
    """`count` devices named from `first` on, `streams` on each connection."""
    farm = [
        Device(f"d{number}", f"k{number % plan['keys']}")
        for number in range(plan["first"], plan["first"] + plan["count"])
    ]
    tasks = []
    for start in range(0, len(farm), plan["streams"]):
        stub, some = stub_of(address), farm[start : start + plan["streams"]]
        tasks += [asyncio.create_task(device.run(stub)) for device in some]
        if not start % 250:
            await some[-1].there.wait()
    await all_there([device.there for device in farm])

    def again() -> list[asyncio.Event]:
        for device in farm:
            device.there.clear()
        return [device.there for device in farm]

    await until_stopped(again)
    for task in tasks:
        task.cancel()
    return {name: sum(getattr(one, name) for one in farm) for name in COUNTED}


class Holder:
    """Holds so many leases in one stream, and comes back with the same request ids."""

    def __init__(self, address: str, plan: dict[str, Any]) -> None:
        self.stub = stub_of(address)
        names = [uuid.uuid4().hex for _ in range(plan["leases"])]
        self.wishes = {
            name: tpb.DeviceRequest(request_id=name, key=f"k{n % plan['keys']}", user="holder")
            for n, name in enumerate(names)
        }
        self.there = {name: asyncio.Event() for name in names}
        self.leases: dict[str, str] = {}
        self.lost: dict[str, str] = {}

    def again(self) -> list[asyncio.Event]:
        """Wait for all grants to be told once more."""
        for event in self.there.values():
            event.clear()
        return list(self.there.values())

    async def run(self) -> None:
        """Keep a stream until cancelled."""
        while True:
            with contextlib.suppress(grpc.RpcError):
                await self.stream()
            await asyncio.sleep(random.uniform(0.25, 0.75))

    async def stream(self) -> None:
        """One stream: open all, then heartbeats."""
        call: Stream = self.stub.RequestDevices(metadata=rpc.call_metadata())
        steps = [
            tpb.RequestStep(request_id=name, step=tpb.RequestDeviceRequest(open=wish))
            for name, wish in self.wishes.items()
            if name not in self.lost
        ]
        await call.write(tpb.RequestDevicesRequest(steps=steps))
        beats = asyncio.create_task(self.beat(call))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                for one in message.answers:
                    self.hear(one.request_id, one.answer)
        finally:
            beats.cancel()
            call.cancel()

    def hear(self, name: str, answer: tpb.RequestDeviceResponse) -> None:
        """A grant is there, and must stay the same; any end is a loss."""
        if answer.HasField("granted"):
            lease_id = answer.granted.lease.id
            if self.leases.setdefault(name, lease_id) != lease_id:
                self.lost[name] = "another lease"
        elif answer.HasField("ended"):
            self.lost[name] = answer.ended.error.message
        else:
            return
        self.there[name].set()

    async def beat(self, call: Stream) -> None:
        """One heartbeat for all, each second."""
        step = tpb.RequestStep(step=tpb.RequestDeviceRequest(heartbeat=tpb.Heartbeat()))
        while True:
            await asyncio.sleep(1.0)
            await call.write(tpb.RequestDevicesRequest(steps=[step]))


async def holders(address: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Leases that are held throughout."""
    holder = Holder(address, plan)
    task = asyncio.create_task(holder.run())
    await all_there(list(holder.there.values()))
    await until_stopped(holder.again)
    task.cancel()
    return {
        "held": len(holder.leases),
        "lost": len(holder.lost),
        "why": sorted(set(holder.lost.values()))[:3],
    }


class Clients:
    """Requests: at a rate, each on a stream of its own; or so many at a time, many in a stream."""

    def __init__(self, address: str, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.stubs = [stub_of(address) for _ in range(plan.get("channels", 2))]
        self.latencies: list[float] = []
        self.errors: dict[str, int] = {}
        self.user = f"user{os.getpid()}"

    def wish(self) -> tpb.DeviceRequest:
        """A new request for a random key."""
        key = f"k{random.randrange(self.plan['keys'])}"
        return tpb.DeviceRequest(request_id=uuid.uuid4().hex, key=key, user=self.user)

    async def once(self) -> None:
        """One request on a stream of its own."""
        stub = random.choice(self.stubs)
        started = time.perf_counter()
        call = stub.RequestDevice(metadata=rpc.call_metadata())
        try:
            await call.write(tpb.RequestDeviceRequest(open=self.wish()))
            await self.granted(call, started)
            await asyncio.sleep(self.plan["hold"])
            await self.release(call)
        except (grpc.RpcError, RuntimeError) as error:
            name = str(error) or type(error).__name__
            self.errors[name] = self.errors.get(name, 0) + 1

    async def granted(self, call: Stream, started: float) -> None:
        """Wait for the grant."""
        while True:
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise RuntimeError("ended")
            if answer.HasField("granted"):
                self.latencies.append(time.perf_counter() - started)
                return
            if answer.HasField("ended"):
                raise RuntimeError(answer.ended.error.message)

    async def release(self, call: Stream) -> None:
        """Give it back and hear so."""
        await call.write(tpb.RequestDeviceRequest(release=tpb.Release()))
        while (answer := await call.read()) is not grpc.aio.EOF:
            if answer.HasField("ended"):
                return

    async def open_loop(self, rate: float, seconds: float) -> None:
        """Requests at a rate, whether or not the earlier ones are served."""
        tasks: set[asyncio.Task[None]] = set()
        start, n = time.perf_counter(), 0
        while (due := start + n / rate) < start + seconds:
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            task = asyncio.create_task(self.once())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            n += 1
        if tasks:
            _, unanswered = await asyncio.wait(tasks, timeout=ANSWER_S)
            if unanswered:
                self.errors["never answered"] = len(unanswered)

    async def closed_loop(self, parallel: int, seconds: float) -> None:
        """So many at a time, in one stream for each channel."""
        until = time.perf_counter() + seconds
        streams = [Together(stub) for stub in self.stubs]
        chains = [
            asyncio.create_task(self.chain(streams[n % len(streams)], until))
            for n in range(parallel)
        ]
        _, unanswered = await asyncio.wait(chains, timeout=seconds + ANSWER_S)
        if unanswered:
            self.errors["never answered"] = len(unanswered)

    async def chain(self, stream: "Together", until: float) -> None:
        """One request after another."""
        while time.perf_counter() < until:
            wish, started = self.wish(), time.perf_counter()
            answer = await stream.say(
                wish.request_id, tpb.RequestDeviceRequest(open=wish), "granted"
            )
            if answer.HasField("granted"):
                self.latencies.append(time.perf_counter() - started)
                release = tpb.RequestDeviceRequest(release=tpb.Release())
                await stream.say(wish.request_id, release, "ended")
            else:
                name = answer.ended.error.message
                self.errors[name] = self.errors.get(name, 0) + 1


class Together:
    """Many requests in one RequestDevices stream; steps that wait go together."""

    def __init__(self, stub: Stub) -> None:
        self.call: Stream = stub.RequestDevices(metadata=rpc.call_metadata())
        self.steps: list[tpb.RequestStep] = []
        self.waiting: dict[str, tuple[str, asyncio.Future[tpb.RequestDeviceResponse]]] = {}
        self.changed = asyncio.Event()
        self.tasks = [asyncio.create_task(self.write()), asyncio.create_task(self.read())]

    async def say(
        self, request_id: str, step: tpb.RequestDeviceRequest, until: str
    ) -> tpb.RequestDeviceResponse:
        """One step, and the answer that is waited for, or the end."""
        future: asyncio.Future[tpb.RequestDeviceResponse]
        future = asyncio.get_running_loop().create_future()
        self.waiting[request_id] = (until, future)
        self.steps.append(tpb.RequestStep(request_id=request_id, step=step))
        self.changed.set()
        return await future

    async def write(self) -> None:
        """Send what has gathered."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            steps, self.steps = self.steps, []
            await self.call.write(tpb.RequestDevicesRequest(steps=steps))

    async def read(self) -> None:
        """Hand out the answers."""
        while (message := await self.call.read()) is not grpc.aio.EOF:
            for one in message.answers:
                kind = one.answer.WhichOneof("message")
                until, future = self.waiting.get(one.request_id, ("", None))
                if future is not None and kind in (until, "ended"):
                    del self.waiting[one.request_id]
                    future.set_result(one.answer)


async def clients(address: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Requests as planned."""
    load = Clients(address, plan)
    await load.once()
    load.latencies.clear()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)  # all start together
    started = time.perf_counter()
    if "rate" in plan:
        await load.open_loop(plan["rate"], plan["seconds"])
    else:
        await load.closed_loop(plan["parallel"], plan["seconds"])
    return {
        "latencies": load.latencies,
        "seconds": time.perf_counter() - started,
        "errors": load.errors,
    }


def main() -> None:
    """The process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kind, address, plan = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    work = {"devices": devices, "holders": holders, "clients": clients}[kind]
    result = uvloop.run(work(address, plan))
    os.set_blocking(sys.stdout.fileno(), True)  # uvloop may leave it otherwise
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
