"""The wire contract: errors, versions, bundles."""

import io
import json
import tarfile

import grpc
import pytest
import tunefarm.errors
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto import chunks, errors, rpc
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

DEVICE = pb.Target(triple="x86_64-unknown-linux-gnu", features=["avx2", "fma"])


def test_every_code_has_its_class_and_travels():
    for name, code in pb.ErrorCode.items():
        if code == pb.ERROR_CODE_UNSPECIFIED:
            continue
        cls = errors.CLASS_OF_CODE[code]
        back = errors.from_proto(cls("wrong", "right").to_proto())
        assert type(back) is cls, name
        assert (back.message, back.hint, str(back)) == ("wrong", "right", "wrong (right)")
        assert getattr(tunefarm.errors, cls.__name__) is cls
        assert cls.__name__ in errors.__doc__


def test_an_unknown_code_is_an_internal_error():
    assert type(errors.from_proto(pb.Error(code=9999, message="?"))) is errors.InternalError


@pytest.mark.parametrize("version", ["", "0.9", "2.0", "nonsense"])
def test_another_major_version_gets_one_line_naming_both(version):
    with pytest.raises(errors.ProtocolMismatchError) as caught:
        rpc.check_protocol(version, "the caller")
    assert len(str(caught.value).splitlines()) == 1
    assert f"{rpc.PROTOCOL_MAJOR}.{rpc.PROTOCOL_MINOR}" in str(caught.value)
    assert version in str(caught.value)


def test_a_higher_minor_version_is_welcome():
    rpc.check_protocol(f"{rpc.PROTOCOL_MAJOR}.999", "the caller")


def test_a_client_of_another_major_version_is_refused_by_a_real_tracker(farm_port):
    from tunefarm_proto.v1 import common_pb2_grpc, tracker_pb2, tracker_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{farm_port}") as channel:
        stub = tracker_pb2_grpc.TrackerServiceStub(channel)
        old = ((rpc.PROTOCOL_HEADER, "7.0"),)
        with pytest.raises(grpc.RpcError) as call:
            stub.ListDevices(tracker_pb2.ListDevicesRequest(), metadata=old)
        lost = errors.TrackerUnreachableError("unreachable")
        assert isinstance(rpc.error_of_call(call.value, lost), errors.ProtocolMismatchError)
        hello = common_pb2_grpc.HelloServiceStub(channel)
        with pytest.raises(grpc.RpcError) as call:
            peer = pb.Peer(protocol_major=7, component="client")
            hello.Hello(pb.HelloRequest(peer=peer), metadata=rpc.call_metadata())
        named = rpc.error_of_call(call.value, lost)
        assert isinstance(named, errors.ProtocolMismatchError)
        assert "7.0" in str(named)


@pytest.fixture
def farm_port(tmp_path):
    from tunefarm.cli.processes import LocalFarm, free_port

    port = free_port(0)
    with LocalFarm(tmp_path) as farm:
        farm.start("tracker", "tracker", "--port", str(port), "--state", str(tmp_path / "state"))
        farm.wait_for_tracker(f"127.0.0.1:{port}")
        yield port


def packed(*libraries):
    function = bpb.FunctionSignature(
        name="f", arguments=[bpb.ArgumentSignature(name="x", dtype="float32", shape=[4])]
    )
    return bundle_file.pack(bpb.BundleManifest(workload="w", functions=[function]), [*libraries])


def test_a_bundle_comes_back_as_packed(tmp_path):
    made = packed((DEVICE, b"code"))
    assert made.data == packed((DEVICE, b"code")).data
    made.write(tmp_path / "x.tf")
    read = Bundle.read(tmp_path / "x.tf")
    assert read.digest == made.digest
    assert read.library(read.manifest.libraries[0]) == b"code"
    with tarfile.open(fileobj=io.BytesIO(made.data)) as archive:
        assert archive.getnames() == ["manifest.json", "lib/0.so"]
        manifest = json.load(archive.extractfile("manifest.json"))
    assert manifest["functions"][0]["name"] == "f"


@given(st.data())
def test_a_damaged_bundle_is_refused_in_one_line_or_still_whole(data):
    made = bytearray(packed((DEVICE, b"code" * 50)).data)
    if data.draw(st.booleans()):
        made = made[: data.draw(st.integers(0, len(made) - 1))]
    else:
        made[data.draw(st.integers(0, len(made) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        manifest = Bundle(bytes(made)).manifest
    except errors.BundleInvalidError as error:
        assert len(str(error).splitlines()) == 1
    else:  # the harm was in padding, or in a name that nothing depends on
        for entry in manifest.libraries:
            assert Bundle(bytes(made)).library(entry) == b"code" * 50


def test_the_library_with_most_features_that_fit_is_chosen():
    plain = pb.Target(triple=DEVICE.triple)
    wide = pb.Target(triple=DEVICE.triple, features=["avx512f"])
    bundle = packed((plain, b"plain"), (DEVICE, b"fast"), (wide, b"wide"))
    chosen = bundle_file.choose_library(bundle.manifest, DEVICE)
    assert bundle.library(chosen) == b"fast"


def test_a_device_says_what_it_lacks():
    wide = pb.Target(triple=DEVICE.triple, cpu="znver4", features=["avx512f"])
    with pytest.raises(errors.TargetMismatchError, match="avx512f"):
        bundle_file.choose_library(packed((wide, b"")).manifest, DEVICE)
    arm = pb.Target(triple="aarch64-unknown-linux-gnu")
    with pytest.raises(errors.TargetMismatchError, match="aarch64"):
        bundle_file.choose_library(packed((arm, b"")).manifest, DEVICE)


def test_a_missing_function_lists_those_there_are():
    with pytest.raises(errors.UnknownFunctionError, match="it has f") as caught:
        bundle_file.find_function(packed().manifest, "g")
    assert isinstance(caught.value, KeyError)


@given(st.binary(max_size=400))
def test_a_chunk_travels_as_protobuf_would_have_it(data):
    message = dpb.UploadBlobRequest(chunk=data)
    assert chunks.encode(memoryview(data)) == message.SerializeToString()
    assert bytes(chunks.decode(chunks.encode(data))) == data


@given(st.binary(max_size=60).map(lambda data: b"\x12" + data) | st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them(data):
    try:
        meant = dpb.UploadBlobRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            chunks.decode(data)
        return
    found = chunks.decode(data)
    assert (found.chunk if isinstance(found, dpb.UploadBlobRequest) else found) == meant.chunk
    header = dpb.UploadBlobRequest(header=dpb.UploadHeader(digest="d", size_bytes=3))
    assert chunks.decode(chunks.encode(header)) == header


def test_a_bundle_is_shown_by_its_name_not_by_its_bytes():
    shown = repr(Bundle(bytes(1 << 20)))
    assert shown == f"<Bundle {Bundle(bytes(1 << 20)).digest[:16]}, 1048576 bytes>"
