"""The operator's file, recovery steps, notices, metrics, the log: the tracker seen from outside."""

import asyncio
import contextlib
import http.server
import json
import logging
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from tunefarm_proto import errors, rpc
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc
from tunefarm_tracker.core import Config
from tunefarm_tracker.logs import JsonFormatter
from tunefarm_tracker.operations import read_operations
from tunefarm_tracker.server import RunningTracker, start
from tunefarm_tracker.testing import SimulatedClient, SimulatedDevice


def operations(tmp_path: Path, text: str):
    path = tmp_path / "operations.toml"
    path.write_text(text)
    return read_operations(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("recovery = 3", "recovery"),
        ("keep_results_days = 0", "keep_results_days"),
        ("keep = 1", "keep; known are"),
        ("[[recovery]]\ncommand = ['true']", "no name"),
        ("[[recovery]]\nname = 'x'\ncommand = 'rm -rf /'", "'x' is no list"),
        ("[[recovery]]\nname = 'x'\ncommand = ['a', '{hots}']", "{hots}"),
        ("[[recovery]]\nname = 'x'\ncommand = ['a']\nwait_s = -1", "wait_s"),
        ("[notify]\nwebhook = 'file:///etc/passwd'", "webhook"),
        ("not toml", "operations.toml"),
    ],
)
def test_nonsense_in_the_file_is_one_line_naming_the_entry(tmp_path, text, named):
    with pytest.raises(errors.InvalidRequestError) as caught:
        operations(tmp_path, text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def hook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A webhook's other end: its address, and what it was told."""
    told: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Silent."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", told
    server.shutdown()
    thread.join()
    server.server_close()


@contextlib.asynccontextmanager
async def running(
    folder: Path, **more
) -> AsyncIterator[tuple[RunningTracker, tpb_grpc.TrackerServiceStub]]:
    tracker = await start(port=0, state_dir=folder, **more)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{tracker.port}", options=rpc.CLIENT_OPTIONS)
    async with asyncio.timeout(30), channel:
        yield tracker, tpb_grpc.TrackerServiceStub(channel)
    await tracker.stop()


async def until(holds) -> None:
    while not holds():  # noqa: ASYNC110 (a webhook's thread has no event of ours)
        await asyncio.sleep(0.02)


def test_the_ladder_runs_the_operators_commands_then_quarantines_and_notifies(tmp_path):
    async def test(address: str, told: list[dict[str, str]]) -> None:
        text = f"""
            recover_after_s = 0.05
            [[recovery]]
            name = "restart"
            command = ["sh", "-c", "echo {{device}} {{host}} {{label_rack}} >> {tmp_path}/ran"]
            wait_s = 0.3
            [[recovery]]
            name = "power"
            command = ["{tmp_path}/nosuch", "{{key}}"]
            wait_s = 0.3
            [notify]
            webhook = "{address}"
            command = ["sh", "-c", "echo '{{text}}' >> {tmp_path}/ran"]
        """
        async with running(tmp_path / "t", operations=operations(tmp_path, text)) as (
            tracker,
            stub,
        ):
            async with SimulatedDevice(stub, "d1", "k", labels={"rack": "7"}):
                pass
            state = tracker.hub.scheduler.state
            await until(lambda: told)
            reason = state.devices["d1"].health_reason
        assert reason == "offline, and did not come back after: restart, power"
        assert told == [
            {"device": "d1", "key": "k", "text": f"device d1 (k) is quarantined: {reason}"}
        ]
        lines = (tmp_path / "ran").read_text().splitlines()
        assert lines == ["d1 d1.test 7", told[0]["text"]]
        recovering = [e.detail for e in tracker.hub.events.after(0) if e.action == "recovering"]
        assert any("nosuch cannot be run: No such file" in one for one in recovering)

    with hook() as (address, told):
        asyncio.run(test(address, told))


def test_metrics_tell_devices_queue_and_waits(tmp_path):
    async def test() -> None:
        async with running(tmp_path, metrics=("127.0.0.1", 0)) as (tracker, stub):
            wishes = [tpb.DeviceRequest(request_id=name, key="k") for name in ("a", "b")]
            device = SimulatedDevice(stub, "d1", "k")
            holder, waiter = (SimulatedClient(stub, wish) for wish in wishes)
            async with device, holder, waiter:
                await holder.granted()
                await waiter.queued()
                address = f"http://127.0.0.1:{tracker.metrics.port}/metrics"
                text = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read())
        lines = text.decode().splitlines()
        assert 'tunefarm_devices{key="k",state="leased"} 1.0' in lines
        assert 'tunefarm_queue_length{key="k"} 1.0' in lines
        assert "tunefarm_leases 1.0" in lines
        assert 'tunefarm_grant_wait_seconds_count{key="k"} 1.0' in lines
        assert 'tunefarm_events_total{action="granted",kind="lease"} 1.0' in lines

    asyncio.run(test())


def test_old_results_are_forgotten(tmp_path):
    async def test() -> None:
        config = operations(tmp_path, "keep_results_days = 7")
        async with running(tmp_path / "t") as (_, stub):
            for name, day in (("old", 1), ("new", 20_000)):
                result = tpb.Result(id=name, workload="w")
                result.recorded_at.FromSeconds(day * 86400 if name == "old" else 4_000_000_000)
                await stub.RecordResult(
                    tpb.RecordResultRequest(result=result), metadata=rpc.call_metadata()
                )
        async with running(tmp_path / "t", operations=config) as (_, stub):
            while True:
                answer = await stub.ListResults(
                    tpb.ListResultsRequest(), metadata=rpc.call_metadata()
                )
                if [one.id for one in answer.results] == ["new"]:
                    return
                await asyncio.sleep(0.02)

    asyncio.run(test())


def test_the_log_names_request_lease_and_device(tmp_path, caplog):
    async def test() -> None:
        async with running(tmp_path, config=Config()) as (_, stub):
            device = SimulatedDevice(stub, "d1", "k")
            client = SimulatedClient(stub, tpb.DeviceRequest(request_id="r1", key="k"))
            async with device, client:
                await client.granted()

    with caplog.at_level(logging.INFO):
        asyncio.run(test())
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    (granted,) = [one for one in lines if one.get("action") == "granted"]
    assert (granted["request_id"], granted["device_id"]) == ("r1", "d1")
    assert granted["lease_id"] in granted["message"]


def test_a_metrics_port_in_use_is_one_line(tmp_path):
    async def test() -> None:
        async with running(tmp_path / "a", metrics=("127.0.0.1", 0)) as (tracker, _):
            with pytest.raises(errors.InvalidRequestError, match="for metrics"):
                await start(
                    port=0, state_dir=tmp_path / "b", metrics=("127.0.0.1", tracker.metrics.port)
                )

    asyncio.run(test())
