"""A device server in a process of its own, a tracker that does as it is told, and a client."""

import hashlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tunefarm_proto import errors, rpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

WAIT_S = 30.0
TOKEN = "open sesame"


class FakeTracker(tpb_grpc.TrackerServiceServicer, pb_grpc.HelloServiceServicer):
    """Tells one device what the test wants, and keeps what it reports."""

    def __init__(self, port: int = 0) -> None:
        self.changed = threading.Condition()
        self.reports: list[tpb.SynchronizeRequest] = []
        self.wanted = tpb.SynchronizeResponse()
        self.wanted.heartbeat_interval.FromMilliseconds(200)
        self.fence = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=rpc.SERVER_OPTIONS)
        tpb_grpc.add_TrackerServiceServicer_to_server(self, self._server)
        pb_grpc.add_HelloServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def Hello(self, request: Any, context: Any) -> pb.HelloResponse:  # noqa: N802
        return pb.HelloResponse(peer=rpc.this_peer("tracker"))

    def Synchronize(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        def read() -> None:
            try:
                for report in request_iterator:
                    with self.changed:
                        self.reports.append(report)
                        self.changed.notify_all()
            except grpc.RpcError:
                pass

        threading.Thread(target=read, daemon=True).start()
        while context.is_active():
            with self.changed:
                wanted = self.wanted
            yield wanted
            with self.changed:  # at every change, and now and then
                self.changed.wait(0.2)

    def stop(self) -> None:
        self._server.stop(0).wait()

    def want(self, lease_id: str = "", *, fence: int | None = None, ttl_s: float = 30) -> None:
        """State a lease, or none."""
        with self.changed:
            wanted = tpb.SynchronizeResponse(heartbeat_interval=self.wanted.heartbeat_interval)
            if lease_id:
                self.fence = self.fence + 1 if fence is None else fence
                wanted.lease.id, wanted.lease.fence = lease_id, self.fence
                wanted.lease.ttl.FromNanoseconds(int(ttl_s * 1e9))
                wanted.token_sha256 = hashlib.sha256(TOKEN.encode()).hexdigest()
            self.wanted = wanted
            self.changed.notify_all()

    def wait(self, what: Callable[[tpb.SynchronizeRequest], bool]) -> tpb.SynchronizeRequest:
        """Block until the last report is so."""
        with self.changed:
            ok = self.changed.wait_for(
                lambda: bool(self.reports) and what(self.reports[-1]), WAIT_S
            )
            assert ok, f"last report: {self.reports[-1:]}"
            return self.reports[-1]


class DeviceProcess:
    """`python -m tunefarm_device`, or another `command` that starts one."""

    def __init__(
        self,
        tracker: str,
        state: Path,
        *words: str,
        command: list[str] | None = None,
        **env: str,
    ) -> None:
        self.state = state
        self.log = state.with_suffix(".log")
        python = [sys.executable, "-m", "tunefarm_device", "--key", "box", "--tracker", tracker]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command or [*python, "--state", str(state), *words],
                stderr=log,
                env={**os.environ, **env},
                start_new_session=True,
            )

    def children(self) -> set[int]:
        """Every process that descends from it or carries its zygote's mark, alive now."""
        found, todo = set(), [self.process.pid]
        while todo:
            below = {pid for pid in _children(todo.pop()) if pid not in found}
            found |= below
            todo += below
        return found

    def zygote(self) -> int:
        (pid,) = _children(self.process.pid)
        return pid

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found |= {int(word) for word in task.read_text().split()}
        except OSError:
            continue
    return found


def eventually(what: Callable[[], Any]) -> Any:
    """Poll real processes until it is so."""
    limit = time.monotonic() + WAIT_S
    while not (value := what()):
        assert time.monotonic() < limit, "it did not come about"
        time.sleep(0.02)
    return value


def gone(pids: set[int]) -> bool:
    """Whether none of them runs (a zombie has ended)."""
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            return False
    return True


class Client:
    """A lease's holder at the device."""

    def __init__(self, address: str, lease_id: str, token: str = TOKEN) -> None:
        self.channel = grpc.insecure_channel(address, options=rpc.CLIENT_OPTIONS)
        self.stub = dpb_grpc.DeviceServiceStub(self.channel)
        self.metadata = rpc.call_metadata(lease_id, token)
        self.fault = errors.DeviceLostError("the device is away")

    def missing(self, digest: str) -> int | None:
        """Bytes held of a missing blob; None where it is there."""
        request = dpb.FindMissingDigestsRequest(digests=[digest])
        with self.named():
            found = self.stub.FindMissingDigests(request, metadata=self.metadata).missing
        return found[0].held_bytes if found else None

    def upload(
        self, data: bytes, *, digest: str = "", size: int | None = None, offset: int = 0
    ) -> dpb.UploadBlobResponse:
        digest = digest or hashlib.sha256(data).hexdigest()
        header = dpb.UploadHeader(
            digest=digest, size_bytes=len(data) if size is None else size, offset=offset
        )
        pieces = [dpb.UploadBlobRequest(header=header)]
        for start in range(offset, len(data), rpc.CHUNK_BYTES):
            pieces.append(dpb.UploadBlobRequest(chunk=data[start : start + rpc.CHUNK_BYTES]))
        with self.named():
            return self.stub.UploadBlob(iter(pieces), metadata=self.metadata)

    def named(self) -> "Named":
        return Named(self.fault)

    def session(self) -> "SessionClient":
        return SessionClient(self)

    def measure(self, requests: list[dpb.MeasureRequest]) -> list[dpb.MeasureResponse]:
        with self.named():
            return list(self.stub.Measure(iter(requests), metadata=self.metadata))

    def close(self) -> None:
        self.channel.close()


class Named:
    """Turns gRPC's errors into ours."""

    def __init__(self, fault: errors.ConnectionFailedError) -> None:
        self.fault = fault

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, grpc.RpcError):
            raise rpc.error_of_call(error, self.fault) from None


class SessionClient:
    """One session stream, one operation at a time."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.outgoing: queue.SimpleQueue[dpb.SessionRequest | None] = queue.SimpleQueue()
        self.answers = client.stub.Session(iter(self.outgoing.get, None), metadata=client.metadata)
        self.id = 0

    def ask(self, timeout: float | None = None, **operation: Any) -> dpb.SessionResponse:
        self.id += 1
        request = dpb.SessionRequest(id=self.id, **operation)
        if timeout is not None:
            request.timeout.FromNanoseconds(int(timeout * 1e9))
        self.outgoing.put(request)
        return self.next()

    def next(self) -> dpb.SessionResponse:
        with self.client.named():
            answer = next(self.answers)
        assert answer.id == self.id
        if answer.HasField("error"):
            raise errors.from_proto(answer.error)
        return answer

    def load(self, digest: str) -> int:
        return self.ask(load=dpb.LoadModule(digest=digest)).loaded.module_id

    def empty(self, *shape: int, dtype: str = "float32") -> int:
        return self.ask(allocate=dpb.AllocateArray(dtype=dtype, shape=shape)).allocated.array_id

    def write(self, array: int, data: bytes, offset: int = 0) -> None:
        self.ask(write=dpb.WriteArray(array_id=array, offset=offset, data=data))

    def read(self, array: int) -> bytes:
        answer = self.ask(read=dpb.ReadArray(array_id=array))
        pieces = [answer.data.data]
        while not answer.data.last:
            answer = self.next()
            pieces.append(answer.data.data)
        return b"".join(pieces)

    def call(self, module: int, name: str, *arrays: int, timeout: float | None = None) -> float:
        call = dpb.CallFunction(module_id=module, function=name, array_ids=arrays)
        return self.ask(timeout, call=call).returned.elapsed_s

    def time(
        self, module: int, name: str, *arrays: int, timeout: float | None = None, **options: Any
    ) -> pb.Timing:
        call = dpb.CallFunction(module_id=module, function=name, array_ids=arrays)
        time_ = dpb.TimeFunction(call=call, options=pb.TimingOptions(**options))
        return self.ask(timeout, time=time_).timing

    def close(self) -> None:
        self.outgoing.put(None)
        self.answers.cancel()


@dataclass
class Box:
    """A device server with a tracker; `lease()` makes a client of a fresh lease."""

    tracker: FakeTracker
    device: DeviceProcess
    address: str

    def lease(self) -> Client:
        lease_id = uuid.uuid4().hex
        self.tracker.want(lease_id)
        return Client(self.address, lease_id)

    def end(self) -> None:
        self.tracker.want()
        self.tracker.wait(lambda report: not report.lease_id)


def boxed(folder: Path, *words: str, **env: str) -> Iterator[Box]:
    tracker = FakeTracker()
    device = DeviceProcess(tracker.address, folder / "state", *words, **env)
    box = Box(tracker, device, "")
    try:
        box.address = tracker.wait(lambda report: True).addresses[0]
        yield box
    finally:  # a test may have put others in their place
        box.device.kill()
        box.tracker.stop()
