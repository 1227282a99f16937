"""The tracker as a process: killed outright, started again, and what its store refuses."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tunefarm_proto import errors, rpc
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc
from tunefarm_tracker.core.effects import SaveLease
from tunefarm_tracker.core.records import Lease
from tunefarm_tracker.sqlite import SqliteStore
from tunefarm_tracker.store import ResultQuery, ResultRecord
from tunefarm_tracker.testing import SimulatedClient, SimulatedDevice

SERVE = """
import sys
from pathlib import Path
from tunefarm_tracker.server import serve
serve(port=0, state_dir=Path(sys.argv[1]), on_ready=lambda port: print(port, flush=True))
"""


@contextlib.contextmanager
def tracker_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", SERVE, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


async def in_stub(address: str, test) -> None:
    async with (
        asyncio.timeout(30),
        grpc.aio.insecure_channel(address, options=rpc.CLIENT_OPTIONS) as channel,
    ):
        await test(tpb_grpc.TrackerServiceStub(channel))


def test_kill_9_and_restart_keep_queue_and_lease(tmp_path):
    kept: dict[str, tpb.Grant] = {}

    async def before(stub, process) -> None:
        wishes = [
            tpb.DeviceRequest(request_id=name, key="k", priority=priority)
            for name, priority in (("holder", 0), ("low", 0), ("high", 3))
        ]
        device, holder = SimulatedDevice(stub, "d1", "k"), SimulatedClient(stub, wishes[0])
        low, high = (SimulatedClient(stub, wish) for wish in wishes[1:])
        async with device, holder, low, high:
            kept["grant"] = await holder.granted()
            await low.queued()
            await high.queued()
            process.kill()
            process.wait()

    async def after(stub) -> None:
        queue = await stub.ListQueue(tpb.ListQueueRequest(), metadata=rpc.call_metadata())
        assert [one.request.request_id for one in queue.requests] == ["high", "low"]
        lease = kept["grant"].lease
        device = SimulatedDevice(stub, "d1", "k", lease_id=lease.id, fence=lease.fence)
        holder = SimulatedClient(stub, tpb.DeviceRequest(request_id="holder", key="k"))
        async with device, holder:
            again = await holder.granted()
            assert (again.lease.id, again.token) == (lease.id, kept["grant"].token)
            await holder.release()
            # Nobody has come back yet: the first in the queue is served, whoever comes first.
            for name in ("low", "high"):
                wish = tpb.DeviceRequest(request_id=name, key="k")
                async with SimulatedClient(stub, wish) as client:
                    if name == "high":
                        assert (await client.granted()).lease.fence == lease.fence + 1
                    else:
                        await client.queued()

    with tracker_process(tmp_path) as (process, address):
        asyncio.run(in_stub(address, lambda stub: before(stub, process)))
    with tracker_process(tmp_path) as (_, address):
        asyncio.run(in_stub(address, after))


def test_a_tracker_ends_cleanly_on_sigterm(tmp_path):
    with tracker_process(tmp_path) as (process, address):

        async def one_stream_open(stub) -> None:
            async with SimulatedDevice(stub, "d1", "k"):
                process.terminate()
                assert await asyncio.to_thread(process.wait, 20) == 0

        asyncio.run(in_stub(address, one_stream_open))


def test_it_runs_on_the_base_install(tmp_path):
    blocked = "import sys\nfor name in ('numpy', 'llvmlite', 'fastapi'): sys.modules[name] = None\n"
    check = blocked + "import tunefarm_tracker.server\nprint('runs')"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "runs\n"


def test_the_store_refuses_a_second_lease_on_a_device(tmp_path):
    store = SqliteStore(tmp_path / "s.sqlite")
    first = Lease("l1", "r1", "d1", "k", "ann", "", 0, 1, 0.0, 6.0, 6.0)
    second = Lease("l2", "r2", "d1", "k", "bob", "", 0, 2, 0.0, 6.0, 6.0)
    store.write([SaveLease(first)]).result()
    with pytest.raises(errors.InternalError, match="cannot keep its state"):
        store.write([SaveLease(second)]).result()
    store.close()
    assert [lease.id for lease in SqliteStore(tmp_path / "s.sqlite").load().leases] == ["l1"]


def test_a_store_of_another_version_is_left_alone(tmp_path):
    path = tmp_path / "s.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
        other.commit()
    with pytest.raises(errors.InvalidRequestError, match="schema version 99"):
        SqliteStore(path)
    path.write_bytes(b"no database at all, but rather more than a header's worth of it" * 40)
    with pytest.raises(errors.InvalidRequestError, match="cannot be used"):
        SqliteStore(path)


def test_results_survive_and_many_writes_share_commits(tmp_path):
    store = SqliteStore(tmp_path / "s.sqlite")
    futures = [
        store.add_result(ResultRecord(f"r{n}", "w", "d", "k", "ann", b"%d" % n)) for n in range(500)
    ]
    store.close()
    assert all(future.result() for future in futures)
    again = SqliteStore(tmp_path / "s.sqlite")
    assert again.results(ResultQuery(workload="w", limit=2)).result() == [b"499", b"498"]
    assert again.results(ResultQuery(id="r7")).result() == [b"7"]
    assert again.results(ResultQuery(id="r7", workload="v")).result() == []
    again.close()
