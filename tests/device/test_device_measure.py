"""Measure streams: results in order, errors as values, outputs of the first call."""

import array
import hashlib

import pytest
from tunefarm_proto import errors
from tunefarm_proto.v1 import device_pb2 as dpb


def candidate(identity: int, digest: str, function: str = "count", **more) -> dpb.MeasureRequest:
    request = dpb.MeasureRequest(id=identity, bundle_digest=digest, function=function, **more)
    request.options.number, request.options.repeat = 2, 3
    return request


@pytest.fixture
def digest(client, kernels):
    client.upload(kernels.native.data)
    return kernels.native.digest


def test_results_come_in_order_and_errors_are_values(client, digest):
    loop = candidate(4, digest, "loop")
    loop.timeout.FromMilliseconds(300)
    requests = [
        candidate(1, digest),
        candidate(2, digest, "segfault"),
        candidate(3, "0" * 64),
        loop,
        candidate(5, digest, "status"),
        candidate(6, digest, "absent"),
        candidate(7, digest, arguments=[dpb.ArgumentData()] * 2),
        candidate(8, digest),
    ]
    answers = client.measure(requests)
    assert [answer.id for answer in answers] == list(range(1, 9))
    kinds = [
        type(errors.from_proto(answer.error)).__name__ if answer.HasField("error") else "timed"
        for answer in answers
    ]
    assert kinds == [
        "timed", "KernelCrashedError", "UnknownDigestError", "KernelTimeoutError",
        "KernelFailedError", "UnknownFunctionError", "ArgumentMismatchError", "timed",
    ]  # fmt: skip
    for answer in answers:
        assert answer.HasField("timing") != answer.HasField("error")
        assert len(answer.timing.samples_s) == (3 if answer.HasField("timing") else 0)


def test_arguments_come_from_blobs_and_outputs_from_the_first_call(client, digest):
    ones = array.array("f", [1.0] * 16).tobytes()
    name = hashlib.sha256(ones).hexdigest()
    client.upload(ones)
    blob = dpb.ArgumentData(blob_digest=name)
    add = candidate(1, digest, "add", arguments=[blob, blob, dpb.ArgumentData()])
    add.return_outputs = True
    count = candidate(2, digest, arguments=[blob], return_outputs=True)
    first, second = client.measure([add, count])
    assert [list(array.array("f", out)) for out in first.outputs] == [[2.0] * 16]
    assert array.array("f", second.outputs[0])[0] == 2.0
    assert first.timing.first_call_s > 0 and len(second.timing.samples_s) == 3


def test_a_blob_of_the_wrong_size_is_named(client, digest):
    client.upload(b"short")
    blob = dpb.ArgumentData(blob_digest=hashlib.sha256(b"short").hexdigest())
    (answer,) = client.measure([candidate(1, digest, arguments=[blob])])
    error = errors.from_proto(answer.error)
    assert isinstance(error, errors.ArgumentMismatchError)
    assert "64 bytes" in error.message and "5" in error.message


def test_no_runner_is_left(client, digest, box):
    idle = box.device.children()
    client.measure([candidate(index, digest) for index in range(5)])
    assert box.device.children() == idle
