"""Uploads: kept once, continued, verified; and what a full cache gives up."""

import asyncio
import hashlib
import os

import grpc
import pytest
from tunefarm_device.blobs import BlobCache
from tunefarm_proto import errors
from tunefarm_proto.v1 import device_pb2 as dpb

MIB = 1 << 20


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def data() -> bytes:
    return os.urandom(5 * MIB // 2)


def test_a_blob_is_sent_once(client, data):
    assert client.missing(digest_of(data)) == 0
    first = client.upload(data)
    assert (first.received_bytes, first.already_held) == (len(data), False)
    assert client.missing(digest_of(data)) is None
    second = client.upload(data)
    assert (second.received_bytes, second.already_held) == (0, True)


def test_a_broken_upload_goes_on_where_it_stopped(client, data):
    with pytest.raises(errors.UploadCorruptError, match=f"{MIB} of {len(data)}"):
        client.upload(data[:MIB], digest=digest_of(data), size=len(data))
    held = client.missing(digest_of(data))
    assert held == MIB
    assert client.upload(data, offset=held).received_bytes == len(data) - MIB
    assert client.missing(digest_of(data)) is None


def test_a_cancelled_upload_keeps_what_came(client, data):
    def pieces():
        header = dpb.UploadHeader(digest=digest_of(data), size_bytes=len(data))
        yield dpb.UploadBlobRequest(header=header)
        yield dpb.UploadBlobRequest(chunk=data[:MIB])
        call.cancel()

    future = client.stub.UploadBlob.future
    call = future(pieces(), metadata=client.metadata)
    with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
        call.result()
    held = client.missing(digest_of(data))
    assert held in (0, MIB)
    assert client.upload(data, offset=held).received_bytes == len(data) - held


def test_an_altered_blob_is_refused_and_dropped(client, data):
    altered = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(errors.UploadCorruptError, match="sha256"):
        client.upload(altered, digest=digest_of(data))
    assert client.missing(digest_of(data)) == 0
    client.upload(data)
    assert client.missing(digest_of(data)) is None


def test_more_than_was_announced_is_refused(client, data):
    with pytest.raises(errors.UploadCorruptError, match="more than"):
        client.upload(data, size=MIB)
    assert client.missing(digest_of(data)) == 0


def test_a_gap_is_refused(client, data):
    with pytest.raises(errors.InvalidRequestError, match="holds 0"):
        client.upload(data, offset=MIB)


def test_what_is_no_digest_is_refused(client):
    for wrong in ("../../etc/passwd", "abc", "G" * 64, ""):
        with pytest.raises(errors.InvalidRequestError, match="sha256"):
            client.missing(wrong)


def test_what_was_altered_on_the_disk_is_not_loaded(session, client, box, kernels):
    digest = kernels.plain.digest
    blob = box.device.state / "blobs" / digest
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.UnknownDigestError, match="altered"):
        session.load(digest)
    assert client.missing(digest) == 0
    client.upload(kernels.plain.data)
    session.load(digest)


def test_the_least_recently_used_blobs_make_room(tmp_path):
    async def fill() -> list[bool]:
        cache = BlobCache(tmp_path, limit_bytes=100)
        blobs = [bytes([index]) * 40 for index in range(3)]

        async def chunks(data: bytes):
            yield data

        for index, blob in enumerate(blobs[:2]):
            await cache.receive(digest_of(blob), 40, 0, chunks(blob))
            os.utime(tmp_path / "blobs" / digest_of(blob), (index, index))
        assert cache.read(digest_of(blobs[0])) == blobs[0]  # used just now
        await cache.receive(digest_of(blobs[2]), 40, 0, chunks(blobs[2]))
        with pytest.raises(errors.OutOfMemoryError, match="100"):
            await cache.receive("0" * 64, 101, 0, chunks(b""))
        return [cache.held_bytes(digest_of(blob)) is None for blob in blobs]

    assert asyncio.run(fill()) == [True, False, True]
