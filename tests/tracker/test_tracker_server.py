"""The tracker over real gRPC on loopback, with simulated devices and clients."""

import asyncio
import contextlib
import hashlib
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tunefarm_proto import errors, rpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc
from tunefarm_tracker.core import Config
from tunefarm_tracker.server import start
from tunefarm_tracker.testing import UNREACHABLE, SimulatedClient, SimulatedDevice

# Graces that a test can wait out, and nothing that runs out by itself on a slow machine.
QUICK = Config(holder_grace=0.05, device_grace=0.05, restart_grace=60.0, places_interval=0.01)
PATIENT = replace(QUICK, ttl=600.0, min_silence=600.0)


class Tracker:
    """A running tracker and a stub for it."""

    def __init__(self, stub: Any, channel: grpc.aio.Channel, port: int) -> None:
        self.stub, self.channel, self.port = stub, channel, port

    def device(self, name: str = "d1", key: str = "k", **more: Any) -> SimulatedDevice:
        return SimulatedDevice(self.stub, name, key, **more)

    def client(self, request_id: str, key: str = "k", **more: Any) -> SimulatedClient:
        wish = tpb.DeviceRequest(request_id=request_id, key=key, **more)
        return SimulatedClient(self.stub, wish)

    async def call(self, name: str, request: Any) -> Any:
        try:
            return await getattr(self.stub, name)(request, metadata=rpc.call_metadata())
        except grpc.RpcError as error:
            raise rpc.error_of_call(error, UNREACHABLE) from None

    async def record(self, name: str, **more: Any) -> bool:
        result = tpb.Result(id=name, **more)
        return (await self.call("RecordResult", tpb.RecordResultRequest(result=result))).added


@contextlib.asynccontextmanager
async def running(folder: Path, config: Config = PATIENT) -> AsyncIterator[Tracker]:
    tracker = await start(port=0, state_dir=folder, config=config)
    address = f"127.0.0.1:{tracker.port}"
    async with grpc.aio.insecure_channel(address, options=rpc.CLIENT_OPTIONS) as channel:
        yield Tracker(tpb_grpc.TrackerServiceStub(channel), channel, tracker.port)
    await tracker.stop()


@pytest.fixture
def farm(tmp_path: Path) -> Callable[[Callable[[Tracker], Awaitable[None]]], None]:
    """Run a test's coroutine against a tracker."""

    def run(test: Callable[[Tracker], Awaitable[None]]) -> None:
        async def all_of_it() -> None:
            async with asyncio.timeout(20), running(tmp_path) as tracker:
                await test(tracker)

        asyncio.run(all_of_it())

    return run


def test_grant_heartbeat_release(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.device() as device, tracker.client("r1", user="ann") as client:
            grant = await client.granted()
            assert list(grant.addresses) == ["d1.test:1"]
            assert grant.facts.os == "simulated"
            await device.until(lambda: device.lease_id == grant.lease.id)
            await client.heartbeat()
            deadline = (await client.renewed()).deadline
            assert deadline.ToNanoseconds() > grant.lease.deadline.ToNanoseconds()
            (listed,) = (await tracker.call("ListLeases", tpb.ListLeasesRequest())).leases
            assert (listed.holder, listed.fence) == ("ann", 1)
            await client.release()
            await device.until(lambda: device.lease_id == "")

    farm(test)


def test_the_device_is_told_the_digest_of_the_token_that_the_client_got(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.device() as device, tracker.client("r1") as client:
            grant = await client.granted()
            await device.until(lambda: device.lease_id != "")
            digest = hashlib.sha256(grant.token.encode()).hexdigest()
            assert digest in [answer.token_sha256 for answer in device.told]

    farm(test)


def test_priority_order_and_places(farm):
    async def test(tracker: Tracker) -> None:
        async with contextlib.AsyncExitStack() as stack:
            enter = stack.enter_async_context
            await enter(tracker.device())
            first = await enter(tracker.client("first"))
            await first.granted()
            low = await enter(tracker.client("low"))
            assert (await low.queued()).position == 1
            high = await enter(tracker.client("high", priority=5))
            assert (await high.queued()).position == 1
            moved = await low.queued()
            assert (moved.position, moved.waiting) == (2, 2)
            queue = (await tracker.call("ListQueue", tpb.ListQueueRequest())).requests
            assert [one.request.request_id for one in queue] == ["high", "low"]
            await first.release()
            await high.granted()
            await high.release()
            await low.granted()

    farm(test)


def test_an_unknown_key_lists_the_keys(farm):
    async def test(tracker: Tracker) -> None:
        async with (
            tracker.device("d1", "rasp3b"),
            tracker.device("d2", "local"),
            tracker.client("r1", "nosuch") as client,
        ):
            error = await client.ended()
            assert isinstance(error, errors.UnknownKeyError)
            assert "local, rasp3b" in str(error)

    farm(test)


def test_waiting_times_out(farm):
    async def test(tracker: Tracker) -> None:
        wish = tpb.DeviceRequest(request_id="r1", key="k", wait_for_key=True)
        wish.wait_timeout.FromMilliseconds(50)
        async with SimulatedClient(tracker.stub, wish) as client:
            assert isinstance(await client.ended(), errors.RequestTimeoutError)

    farm(test)


def test_the_same_request_id_is_the_same_lease_and_token(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.device():
            async with tracker.client("r1") as client:
                first = await client.granted()
                async with tracker.client("r1") as again:
                    second = await again.granted()
                    assert isinstance(await client.ended(), errors.InvalidRequestError)
                    await again.release()
            assert (second.lease.id, second.token) == (first.lease.id, first.token)
            async with tracker.client("r1") as late:
                assert await late.ended() is None

    farm(test)


def test_a_released_lease_cannot_be_renewed(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.device(), tracker.client("r1") as client:
            grant = await client.granted()
            mine = {"lease_id": grant.lease.id, "token": grant.token}
            renewed = await tracker.call("RenewLease", tpb.RenewLeaseRequest(**mine))
            assert renewed.lease.id == grant.lease.id
            await tracker.call("ReleaseLease", tpb.ReleaseLeaseRequest(**mine))
            assert await client.ended() is None
            with pytest.raises(errors.LeaseLostError):
                await tracker.call("RenewLease", tpb.RenewLeaseRequest(**mine))
            await tracker.call("ReleaseLease", tpb.ReleaseLeaseRequest(**mine))
            wrong = tpb.RenewLeaseRequest(lease_id=grant.lease.id, token="guess")
            with pytest.raises(errors.LeaseRefusedError):
                await tracker.call("RenewLease", wrong)

    farm(test)


def test_a_broken_stream_frees_the_device(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.device() as device:
            async with tracker.client("r1") as client:
                await client.granted()
                await device.until(lambda: device.lease_id != "")
            await device.until(lambda: device.lease_id == "")
            async with tracker.client("r1") as late:
                assert isinstance(await late.ended(), errors.LeaseLostError)
            async with tracker.client("r2") as following:
                assert (await following.granted()).lease.fence == 2

    farm(test)


def test_a_device_that_is_still_cleaning_is_not_granted(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.device(obey=False) as device, tracker.client("r1") as client:
            lease = (await client.granted()).lease.id
            await device.until(lambda: device.lease_id == lease)
            await client.release()
            async with tracker.client("r2") as following:
                await following.queued()
                (listed,) = (await tracker.call("ListDevices", tpb.ListDevicesRequest())).devices
                assert listed.state == tpb.DEVICE_STATE_CLEANING
                device.obey, device.lease_id = True, ""
                device.report()
                await following.granted()

    farm(test)


def test_a_lost_device_ends_its_lease_by_name(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.device() as device, tracker.client("r1") as client:
            await client.granted()
            await device.cut()
            assert isinstance(await client.ended(), errors.DeviceLostError)
            (listed,) = (await tracker.call("ListDevices", tpb.ListDevicesRequest())).devices
            assert listed.state == tpb.DEVICE_STATE_OFFLINE

    farm(test)


def test_of_two_device_servers_with_one_name_the_older_is_closed_with_a_reason(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.device() as old, tracker.device(instance_id="second") as new:
            await old.until(lambda: False)
            assert "another device server has taken over the name d1" in str(old.error)
            assert new.error is None

    farm(test)


def test_cancel(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.client("r1", wait_for_key=True) as client:
            await client.queued()
            cancel = tpb.CancelRequestRequest(request_id="r1")
            assert (await tracker.call("CancelRequest", cancel)).cancelled
            assert isinstance(await client.ended(), errors.RequestCancelledError)
            assert not (await tracker.call("CancelRequest", cancel)).cancelled

    farm(test)


def test_events_resume_from_a_cursor(farm):
    async def test(tracker: Tracker) -> None:
        async def watch(after: int, count: int) -> list[tpb.WatchEventsResponse]:
            request = tpb.WatchEventsRequest(after=after)
            stream = tracker.stub.WatchEvents(request, metadata=rpc.call_metadata())
            seen = [await stream.read() for _ in range(count)]
            stream.cancel()
            return seen[1:]  # the first says where it begins

        async with tracker.device(), tracker.client("r1") as client:
            await client.granted()
            await client.release()
        seen = await watch(1, 4)
        assert [event.cursor for event in seen] == [2, 3, 4]
        assert [event.action for event in seen] == ["queued", "granted", "released"]
        assert [event.action for event in await watch(3, 2)] == ["released"]

    farm(test)


def test_results_are_kept_once_and_found(farm):
    async def test(tracker: Tracker) -> None:
        assert await tracker.record("a", workload="w1", device_id="d1", user="ann")
        assert await tracker.record("b", workload="w2", device_id="d1", user="bob")
        assert not await tracker.record("a", workload="other")

        async def found(**where: Any) -> list[str]:
            answer = await tracker.call("ListResults", tpb.ListResultsRequest(**where))
            assert all(one.recorded_at.seconds for one in answer.results)
            return [one.id for one in answer.results]

        assert await found() == ["b", "a"]
        assert await found(limit=1) == ["b"]
        assert await found(workload="w1") == await found(user="ann") == ["a"]
        assert await found(device_key="nosuch") == []
        with pytest.raises(errors.InvalidRequestError):
            await tracker.record("")

    farm(test)


def test_another_protocol_version_gets_one_line(farm):
    async def test(tracker: Tracker) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            await tracker.stub.ListDevices(
                tpb.ListDevicesRequest(), metadata=((rpc.PROTOCOL_HEADER, "9.0"),)
            )
        assert "\n" not in str(rpc.error_of_call(caught.value, UNREACHABLE))
        assert "protocol 9.0" in str(rpc.error_of_call(caught.value, UNREACHABLE))
        hello = pb_grpc.HelloServiceStub(tracker.channel).Hello
        mine = pb.HelloRequest(peer=rpc.this_peer("client"))
        assert (await hello(mine, metadata=rpc.call_metadata())).peer.component == "tracker"

    farm(test)


@pytest.mark.parametrize(
    ("report", "named"),
    [
        ({"key": "k", "instance_id": "i"}, "device id"),
        ({"device_id": "d", "instance_id": "i"}, "key"),
        ({"device_id": "d", "key": "two\nlines", "instance_id": "i"}, "key"),
        ({"device_id": "d", "key": "k", "instance_id": "i", "fence": 1 << 63}, "nonsense"),
    ],
)
def test_a_senseless_report_is_refused_and_hurts_nobody(farm, report, named):
    async def test(tracker: Tracker) -> None:
        stream = tracker.stub.Synchronize(metadata=rpc.call_metadata())
        await stream.write(tpb.SynchronizeRequest(**report))
        with pytest.raises(grpc.RpcError) as caught:
            await stream.read()
        error = rpc.error_of_call(caught.value, UNREACHABLE)
        assert isinstance(error, errors.InvalidRequestError)
        assert named in str(error)
        async with tracker.device(), tracker.client("r1") as client:
            await client.granted()

    farm(test)


def test_a_second_tracker_on_the_same_state_gets_one_line(farm, tmp_path, capfd):
    async def test(tracker: Tracker) -> None:
        with pytest.raises(errors.InvalidRequestError, match="another tracker is running"):
            await start(port=0, state_dir=tmp_path)
        with pytest.raises(errors.InvalidRequestError, match="cannot listen"):
            await start(port=tracker.port, state_dir=tmp_path / "other")
        assert "add_port" not in capfd.readouterr().err  # gRPC has lines of its own
        assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600

    farm(test)


def test_a_restart_keeps_lease_token_and_queue(tmp_path):
    async def test() -> None:
        async with (
            running(tmp_path) as tracker,
            tracker.device() as device,
            tracker.client("holder") as holder,
        ):
            before = await holder.granted()
            await device.until(lambda: device.lease_id != "")
            async with tracker.client("waits") as waits:
                await waits.queued()
        async with running(tmp_path) as tracker:
            held = {"lease_id": before.lease.id, "fence": before.lease.fence}
            (listed,) = (await tracker.call("ListDevices", tpb.ListDevicesRequest())).devices
            assert listed.state == tpb.DEVICE_STATE_OFFLINE
            async with tracker.device(**held), tracker.client("holder") as holder:
                after = await holder.granted()
                assert (after.lease.id, after.token) == (before.lease.id, before.token)
                async with tracker.client("waits") as waits:
                    await waits.queued()
                    await holder.release()
                    assert (await waits.granted()).lease.fence == before.lease.fence + 1

    asyncio.run(test())


def test_a_path_that_is_no_text_does_not_end_the_tracker(farm):
    async def test(tracker: Tracker) -> None:
        async with tracker.device(), tracker.client("r1") as client:
            await client.granted()
            broken = tracker.channel.unary_unary(b"/tunefarm.v1.\xff\xfe/X")
            with contextlib.suppress(grpc.RpcError):
                await broken(b"", timeout=5)
            await client.heartbeat()
            await client.renewed()  # what was under way goes on
        while True:  # and new callers are heard
            try:
                await tracker.call("ListDevices", tpb.ListDevicesRequest())
            except errors.TrackerUnreachableError:
                await asyncio.sleep(0.05)
            else:
                return

    farm(test)


def test_many_requests_in_one_stream(farm):
    async def test(tracker: Tracker) -> None:
        stream = tracker.stub.RequestDevices(metadata=rpc.call_metadata())

        async def say(**steps: tpb.RequestDeviceRequest) -> None:
            each = [tpb.RequestStep(request_id=name, step=step) for name, step in steps.items()]
            await stream.write(tpb.RequestDevicesRequest(steps=each))

        heard: list[tuple[str, str]] = []

        async def until(*wanted: tuple[str, str]) -> None:
            while not set(wanted) <= set(heard):
                for one in (await stream.read()).answers:
                    heard.append((one.request_id, one.answer.WhichOneof("message")))

        def opens(name: str) -> tpb.RequestDeviceRequest:
            return tpb.RequestDeviceRequest(open=tpb.DeviceRequest(request_id=name, key="k"))

        release = tpb.RequestDeviceRequest(release=tpb.Release())
        async with tracker.device("d1"), tracker.device("d2"):
            await say(a=opens("a"), b=opens("b"), c=opens("c"))
            await until(("a", "granted"), ("b", "granted"), ("c", "queued"))
            heartbeat = tpb.RequestStep(step=tpb.RequestDeviceRequest(heartbeat=tpb.Heartbeat()))
            await stream.write(tpb.RequestDevicesRequest(steps=[heartbeat]))
            await until(("a", "renewed"), ("b", "renewed"))
            await say(a=release)
            await until(("a", "ended"), ("c", "granted"))
            await say(a=release, nosuch=release)  # ended, and never opened: nothing to be said
            stream.cancel()  # without a word: the others end by their grace
            while (await tracker.call("ListLeases", tpb.ListLeasesRequest())).leases:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    farm(test)


@pytest.mark.parametrize(
    "step",
    [
        tpb.RequestStep(request_id="a"),
        tpb.RequestStep(
            request_id="a",
            step=tpb.RequestDeviceRequest(open=tpb.DeviceRequest(request_id="b", key="k")),
        ),
    ],
)
def test_a_senseless_step_ends_its_stream_with_a_line(farm, step):
    async def test(tracker: Tracker) -> None:
        stream = tracker.stub.RequestDevices(metadata=rpc.call_metadata())
        await stream.write(tpb.RequestDevicesRequest(steps=[step]))
        with pytest.raises(grpc.RpcError) as caught:
            while await stream.read() is not grpc.aio.EOF:
                pass
        assert isinstance(rpc.error_of_call(caught.value, UNREACHABLE), errors.InvalidRequestError)

    farm(test)
