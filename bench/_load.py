"""Load for a tracker: many simulated devices or clients in one process, as light as may be.

Run as `python _load.py devices|clients ADDRESS JSON`; prints `ready` when all are there, then one
JSON line at its end (after SIGTERM for devices).
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
import uuid

import grpc
from tunefarm_proto import rpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

STREAMS_PER_CHANNEL = 250
OPTIONS = [*rpc.CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
FACTS = pb.DeviceFacts(
    target=pb.Target(triple="aarch64-unknown-linux-gnu", cpu="cortex-a53", features=["neon"]),
    cpu_model="simulated",
    cpu_count=4,
    memory_bytes=1 << 30,
    os="simulated",
)


class Device:
    """Obeys: serves the lease it is told of, and is clean at once when that ends."""

    def __init__(self, name: str, key: str) -> None:
        self.name, self.key = name, key
        self.lease_id, self.fence = "", 0
        self.instance = uuid.uuid4().hex
        self.heartbeat = 5.0
        self.reports = self.leases = self.reconnects = 0

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

    async def run(self, stub: tpb_grpc.TrackerServiceStub, there: asyncio.Event) -> None:
        """Keep a stream until cancelled."""
        while True:
            with contextlib.suppress(grpc.RpcError):
                await self.stream(stub, there)
            self.reconnects += 1
            await asyncio.sleep(random.uniform(0.2, 2.0))

    async def stream(self, stub: tpb_grpc.TrackerServiceStub, there: asyncio.Event) -> None:
        """One stream from its start to its end."""
        call = stub.Synchronize(metadata=rpc.call_metadata())
        beats = asyncio.create_task(self.beat(call))
        try:
            await call.write(self.report(facts=True))
            while (told := await call.read()) is not grpc.aio.EOF:
                there.set()
                self.heartbeat = told.heartbeat_interval.ToNanoseconds() * 1e-9
                wanted = told.lease.id
                if wanted != self.lease_id or told.ended_lease_id:
                    self.leases += bool(wanted)
                    self.lease_id, self.fence = wanted, max(self.fence, told.lease.fence)
                    if not wanted:  # a new lease is reported by the next heartbeat
                        await call.write(self.report())
        finally:
            beats.cancel()
            call.cancel()

    async def beat(self, call: grpc.aio.StreamStreamCall) -> None:
        """Heartbeats at the interval told, not all at once."""
        await asyncio.sleep(random.uniform(0, self.heartbeat))
        while True:
            await call.write(self.report())
            await asyncio.sleep(self.heartbeat)


async def devices(address: str, plan: dict) -> dict:
    """`count` devices named from `first` on, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    farm, tasks, there = [], [], []
    for start in range(0, plan["count"], STREAMS_PER_CHANNEL):
        stub = tpb_grpc.TrackerServiceStub(grpc.aio.insecure_channel(address, options=OPTIONS))
        for n in range(start, min(start + STREAMS_PER_CHANNEL, plan["count"])):
            number = plan["first"] + n
            device, event = Device(f"d{number}", f"k{number % plan['keys']}"), asyncio.Event()
            farm.append(device)
            there.append(event)
            tasks.append(asyncio.create_task(device.run(stub, event)))
        await there[-1].wait()
    for event in there:
        await event.wait()
    print("ready", flush=True)
    await stop.wait()
    for task in tasks:
        task.cancel()
    return {
        "leases": sum(one.leases for one in farm),
        "reports": sum(one.reports for one in farm),
        "reconnects": sum(one.reconnects for one in farm),
    }


class Clients:
    """Requests: at a rate, each on a stream of its own; or so many at a time, many in a stream."""

    def __init__(self, address: str, plan: dict) -> None:
        self.plan = plan
        self.stubs = [
            tpb_grpc.TrackerServiceStub(grpc.aio.insecure_channel(address, options=OPTIONS))
            for _ in range(plan.get("channels", 2))
        ]
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
            self.errors[type(error).__name__] = self.errors.get(type(error).__name__, 0) + 1

    async def granted(self, call: grpc.aio.StreamStreamCall, started: float) -> None:
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

    async def release(self, call: grpc.aio.StreamStreamCall) -> None:
        """Give it back and hear so."""
        await call.write(tpb.RequestDeviceRequest(release=tpb.Release()))
        while not (answer := await call.read()).HasField("ended"):
            if answer is grpc.aio.EOF:
                return

    async def open_loop(self, rate: float, seconds: float) -> None:
        """Requests at a rate, whether or not the earlier ones are served."""
        tasks, start, n = set(), time.perf_counter(), 0
        while (due := start + n / rate) < start + seconds:
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            task = asyncio.create_task(self.once())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            n += 1
        await asyncio.gather(*tasks)

    async def closed_loop(self, parallel: int, seconds: float) -> None:
        """So many at a time, in one stream for each channel."""
        until = time.perf_counter() + seconds
        streams = [Together(stub) for stub in self.stubs]
        await asyncio.gather(
            *(self.chain(streams[n % len(streams)], until) for n in range(parallel))
        )

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

    def __init__(self, stub: tpb_grpc.TrackerServiceStub) -> None:
        self.call = stub.RequestDevices(metadata=rpc.call_metadata())
        self.steps: list[tpb.RequestStep] = []
        self.waiting: dict[str, tuple[str, asyncio.Future]] = {}
        self.changed = asyncio.Event()
        self.tasks = [asyncio.create_task(self.write()), asyncio.create_task(self.read())]

    async def say(
        self, request_id: str, step: tpb.RequestDeviceRequest, until: str
    ) -> tpb.RequestDeviceResponse:
        """One step, and the answer that is waited for, or the end."""
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


async def clients(address: str, plan: dict) -> dict:
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
    work = {"devices": devices, "clients": clients}[kind]
    print(json.dumps(asyncio.run(work(address, plan))), flush=True)


if __name__ == "__main__":
    main()
