"""Measure streams: results in order, errors as values, outputs of the first call."""

import array
import asyncio
import hashlib
from itertools import pairwise

import pytest
from tunefarm_device import measure
from tunefarm_proto import errors
from tunefarm_proto.seeded import seeded_bytes
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


def test_arguments_are_made_from_a_seed(client, digest):
    given = [dpb.ArgumentData(seeded=dpb.SeededData(seed=seed)) for seed in (3, 4)]
    add = candidate(1, digest, "add", arguments=[*given, dpb.ArgumentData()], return_outputs=True)
    (answer,) = client.measure([add])
    left, right = (array.array("f", seeded_bytes(seed, "float32", 64)) for seed in (3, 4))
    right_sum = array.array("f", [a + b for a, b in zip(left, right, strict=True)])
    assert answer.outputs[0] == right_sum.tobytes()
    assert answer.outputs_digest == hashlib.sha256(right_sum.tobytes()).hexdigest()


@pytest.mark.parametrize(("room", "kept"), [(2048, True), (2047, False)])
def test_what_seeds_make_is_made_once_where_there_is_room(room, kept):
    contents = measure.Contents(room)

    async def made() -> list[bytes]:
        return [await contents.of(seed, "float32", 1024) for seed in (0, 1, 0)]

    first, _, again = asyncio.run(made())
    assert first == again == seeded_bytes(0, "float32", 1024)
    assert (first is again) == kept


@pytest.mark.parametrize(("free", "kept"), [(1 << 29, 64), (1 << 32, 256), (1 << 40, 1024)])
def test_a_large_machine_keeps_more_of_what_seeds_make(monkeypatch, free, kept):
    monkeypatch.setattr(measure, "available_memory", lambda: free)
    assert measure.kept_bytes() == kept << 20


def test_outputs_that_are_known_do_not_travel(client, digest):
    add = candidate(1, digest, "add", return_outputs=True)
    (first,) = client.measure([add])
    add.known_outputs.append(first.outputs_digest)
    (second,) = client.measure([add])
    assert len(first.outputs) == 1 and not second.outputs
    assert second.outputs_digest == first.outputs_digest


def test_a_kernel_that_answers_otherwise_when_called_again_is_wrong(client, digest):
    good = candidate(1, digest, "add", return_outputs=True, repeatable=True)
    counts = candidate(2, digest, "count", return_outputs=True, repeatable=True)
    first, second = client.measure([good, counts])
    assert first.HasField("timing")
    assert isinstance(errors.from_proto(second.error), errors.WrongAnswerError)
    assert not second.outputs and not second.HasField("timing")


def test_a_slow_candidate_is_given_up_after_two_calls(client, digest):
    slow, fast = candidate(1, digest), candidate(2, digest)
    slow.options.abandon_above_s, fast.options.abandon_above_s = 1e-12, 100.0
    slow.return_outputs = fast.return_outputs = True
    for request in (slow, fast):
        request.options.warmup.FromNanoseconds(0)
    first, second = client.measure([slow, fast])
    assert first.timing.abandoned and len(first.timing.samples_s) == 1 and first.timing.number == 1
    assert not second.timing.abandoned and len(second.timing.samples_s) == 3
    assert second.timing.warmup_calls == 0


def test_the_device_accounts_for_its_time(client, digest):
    answers = client.measure([candidate(index, digest) for index in range(4)])
    turns = [(one.use.turn_began_s, one.use.turn_ended_s) for one in answers]
    assert turns == sorted(turns) and all(a[1] <= b[0] for a, b in pairwise(turns))
    for one in answers:
        assert 0 < one.use.busy_s <= one.use.turn_ended_s - one.use.turn_began_s
        assert one.use.load_s > 0
