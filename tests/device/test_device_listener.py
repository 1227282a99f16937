"""Requests that are none: a device goes on listening, and its log has a line for each at most."""

import socket

import grpc
import pytest
from device_harness import Client, DeviceProcess, FakeTracker, eventually
from tunefarm_proto import rpc
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc
from tunefarm_proto.v1 import device_pb2 as dpb

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = "/tunefarm.v1.HelloService/Hello"


@pytest.fixture
def tracker():
    fake = FakeTracker()
    yield fake
    fake.stop()


@pytest.fixture
def device(tracker, tmp_path):
    process = DeviceProcess(tracker.address, tmp_path / "device")
    try:
        tracker.wait(lambda report: bool(report.addresses))
        yield process, tracker.reports[-1].addresses[0]
    finally:
        process.kill()


def literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    header = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return header + payload


def call_with(address: str, path: bytes, *more: tuple[bytes, bytes]) -> None:
    """A call as HTTP/2 frames of our own; returns when the server has done with it."""
    head = b"\x83\x86" + literal(b":path", path) + literal(b":authority", b"x")
    head += literal(b"te", b"trailers") + literal(b"content-type", b"application/grpc")
    head += b"".join(literal(*one) for one in more)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as line:
        line.sendall(
            PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, head) + frame(0, 1, 1, bytes(5))
        )
        line.settimeout(10)
        while line.recv(4096).find(b"grpc-status") < 0:
            pass


def hello(address: str) -> str:
    """Who answers there."""
    with grpc.insecure_channel(address, options=rpc.CLIENT_OPTIONS) as channel:
        stub = pb_grpc.HelloServiceStub(channel)
        request = pb.HelloRequest(peer=rpc.this_peer("client"))
        metadata = rpc.call_metadata()
        return stub.Hello(request, metadata=metadata, timeout=20).peer.component


def test_a_path_that_is_no_text(device):
    process, address = device
    for _ in range(3):
        call_with(address, b"/\xbc")
        assert hello(address) == "device"
    eventually(lambda: "path is no text" in process.log.read_text())
    assert "Traceback" not in process.log.read_text()
    assert process.stop() == 0, process.log.read_text()


def test_a_session_does_not_notice(device, tracker):
    _, address = device
    tracker.want("lease-1")
    client = Client(address, "lease-1")
    session = client.session()
    session.empty(4)
    call_with(address, b"/\xbc")
    assert hello(address) == "device"
    assert session.read(session.empty(4)) == bytes(16)
    session.close()
    client.close()


def test_metadata_that_is_no_text_is_one_line_without_the_value(device):
    process, address = device
    call_with(address, HELLO.encode(), (b"authorization", b"Bearer secret\xbc"))
    assert hello(address) == "device"
    eventually(lambda: "no text" in process.log.read_text())
    assert "secret" not in process.log.read_text()
    assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x07", b"\x0a\x02\xff\xfe"])
def test_a_message_that_cannot_be_read_is_an_invalid_request(device, data):
    process, address = device
    with grpc.insecure_channel(address, options=rpc.CLIENT_OPTIONS) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(HELLO)(data, metadata=rpc.call_metadata(), timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in process.log.read_text()


def test_calls_cut_off_when_the_server_stops_leave_no_traceback(device, tracker):
    process, address = device
    tracker.want("lease-1")
    client = Client(address, "lease-1")
    session = client.session()
    session.empty(4)
    waiting = Client(address, "a lease that does not come")
    call = waiting.stub.FindMissingDigests.future(
        dpb.FindMissingDigestsRequest(), metadata=waiting.metadata
    )
    eventually(lambda: not call.done())
    assert process.stop() == 0
    assert "Traceback" not in process.log.read_text()
    client.close()
    waiting.close()
