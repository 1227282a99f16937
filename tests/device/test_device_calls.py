"""Many calls of a session: pipelined, in one message, by a lane; profiles, output, the log."""

import array
import socket
import struct
import threading

import pytest
from device_harness import eventually, gone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tunefarm_proto import errors
from tunefarm_proto.v1 import device_pb2 as dpb


@pytest.fixture
def module(session, kernels):
    return session.load(kernels.native.digest)


def number(session, x):
    return array.array("f", session.read(x))[0]


def call_of(module, name, *arrays):
    return dpb.CallFunction(module_id=module, function=name, array_ids=arrays)


def send(session, **operation):
    session.id += 1
    session.outgoing.put(dpb.SessionRequest(id=session.id, **operation))
    return session.id


def receive(session):
    with session.client.named():
        return next(session.answers)


def many(session, calls, order=(), keep_going=False, timeout=None):
    request = dpb.CallMany(calls=calls, order=order, keep_going=keep_going)
    return session.ask(timeout, call_many=request).many_returned


def test_pipelined_calls_are_answered_in_order_each_with_its_own_error(session, module):
    x = session.empty(16)
    names = ["count", "status", "count", "nothing_of_the_kind", "count"] * 40
    sent = [send(session, call=call_of(module, name, x)) for name in names]
    answers = [receive(session) for _ in sent]
    assert [answer.id for answer in answers] == sent
    failed = {"status": "returned status 7", "nothing_of_the_kind": "nothing_of_the_kind"}
    for name, answer in zip(names, answers, strict=True):
        assert answer.HasField("error") == (name in failed)
        assert failed.get(name, "") in answer.error.message
    assert number(session, x) == names.count("count")


def test_a_crash_amid_a_pipeline_is_told_of_by_every_call_after_it(session, module):
    x = session.empty(16)
    for name in ("count", "segfault", "count"):
        send(session, call=call_of(module, name, x))
    first, crashed, after = (receive(session) for _ in range(3))
    assert first.returned.elapsed_s > 0
    assert type(errors.from_proto(crashed.error)) is errors.KernelCrashedError
    assert type(errors.from_proto(after.error)) is errors.UnknownHandleError
    assert "lost when the kernel crashed" in after.error.message


def test_the_end_of_the_lease_cuts_a_pipeline_off(box, kernels):
    idle = box.device.children()
    client = box.lease()
    client.upload(kernels.native.data)
    session = client.session()
    module, x = session.load(kernels.native.digest), session.empty(16)
    for name in ("count", "loop", "count"):
        send(session, call=call_of(module, name, x))
    assert receive(session).HasField("returned")
    threading.Timer(0.2, box.tracker.want).start()
    with pytest.raises(errors.LeaseLostError):
        receive(session)
    box.tracker.wait(lambda report: not report.lease_id)
    assert gone(box.device.children() - idle)
    assert list((box.device.state / "scratch").iterdir()) == []
    client.close()


def test_a_batch_runs_back_to_back_and_times_each_call(session, module):
    x, y = session.empty(16), session.empty(16)
    calls = [call_of(module, "count", x), call_of(module, "count", y)]
    done = many(session, calls, order=[0, 1, 0, 0] * 1000)
    assert len(done.elapsed_s) == 4000 and min(done.elapsed_s) > 0 and not done.failed
    assert (number(session, x), number(session, y)) == (3000, 1000)
    assert len(many(session, calls).elapsed_s) == 2
    assert not many(session, []).elapsed_s


def test_a_batch_stops_at_the_first_failure_unless_told_otherwise(session, module):
    x = session.empty(16)
    calls = [call_of(module, "fourth_fails", x)]
    done = many(session, calls, order=[0] * 9)
    assert [(one.index, one.error.message) for one in done.failed] == [
        (3, "the kernel returned status 9, 0 is success")
    ]
    assert len(done.elapsed_s) == 4 and number(session, x) == 4
    y = session.empty(16)
    calls = [call_of(module, "fourth_fails", y), call_of(module, "status", y)]
    done = many(session, calls, order=[0, 0, 1, 0, 0, 0], keep_going=True)
    assert [one.index for one in done.failed] == [2, 4]
    assert len(done.elapsed_s) == 6 and number(session, y) == 5


@pytest.mark.parametrize(
    ("calls", "order", "kind", "words"),
    [
        ([("count", 0), ("count", 1)], [], errors.ArgumentMismatchError, "call 1: argument 0"),
        ([("count", 0)], [0, 1], errors.InvalidRequestError, "names call 1 of 1"),
        ([("count", 99)], [], errors.UnknownHandleError, "no array"),
        ([("absent", 0)], [], errors.UnknownFunctionError, "absent"),
        ([("count", 0)], [0] * 500_001, errors.InvalidRequestError, "too large"),
    ],
)
def test_a_batch_with_a_mistake_in_it_calls_nothing(session, module, calls, order, kind, words):
    x = [session.empty(16), session.empty(17)]
    wanted = [call_of(module, name, x[at] if at < 2 else 4711) for name, at in calls]
    with pytest.raises(kind, match=words):
        many(session, wanted, order)
    assert number(session, x[0]) == 0


def test_a_crash_or_the_time_limit_ends_all_of_a_batch(session, kernels, module):
    x = session.empty(16)
    calls = [call_of(module, name, x) for name in ("count", "loop")]
    with pytest.raises(errors.KernelTimeoutError, match="the batch ran longer"):
        many(session, calls, timeout=0.3)
    module, x = session.load(kernels.native.digest), session.empty(16)
    with pytest.raises(errors.KernelCrashedError, match="the batch ended its process"):
        many(session, [call_of(module, name, x) for name in ("count", "abort_")])


def test_a_freed_array_is_not_called_with_again(session, module):
    x, y = session.empty(16), session.empty(16)
    for _ in range(3):
        session.call(module, "count", x)
    session.ask(free=dpb.FreeArray(array_id=x))
    with pytest.raises(errors.UnknownHandleError):
        session.call(module, "count", x)
    session.call(module, "count", y)
    assert number(session, y) == 1


def test_a_profile_counts_by_function(session, module):
    x, big = session.empty(16), session.empty(1 << 16)
    session.ask(profile=dpb.ProfileCalls(begin=True))
    for _ in range(3):
        session.call(module, "count", x)
    many(session, [call_of(module, "count", x), call_of(module, "walk", big)], order=[0, 1, 0])
    told = session.ask(profile=dpb.ProfileCalls(begin=False)).profile.functions
    count, walk = sorted(told, key=lambda f: f.function)
    assert (count.function, count.calls, walk.function, walk.calls) == ("count", 5, "walk", 1)
    assert 0 < count.min_s <= count.max_s < count.total_s
    assert walk.min_s == walk.max_s == walk.total_s
    assert {"page_faults", "context_switches", "user_s"} <= set(count.counters)
    assert not session.ask(profile=dpb.ProfileCalls(begin=False)).profile.functions


def log(session, source):
    return session.ask(log=dpb.ReadLog(source=source)).data.data.decode()


def test_output_of_the_runners_is_kept_past_a_crash(session, kernels, module):
    x = session.empty(16)
    assert log(session, dpb.ReadLog.SOURCE_RUNNER) == ""
    session.call(module, "leave_file", x)
    with pytest.raises(errors.KernelCrashedError):
        session.call(module, "leave_and_die", x)
    assert log(session, dpb.ReadLog.SOURCE_RUNNER) == "it wrote\nit dies\n"
    with pytest.raises(errors.InvalidRequestError, match="no log"):
        log(session, 0)


def test_the_log_tells_of_this_lease_only(box, kernels):
    for _ in range(2):
        client = box.lease()
        client.upload(kernels.native.data)
        session = client.session()
        module, x = session.load(kernels.native.digest), session.empty(16)
        with pytest.raises(errors.KernelCrashedError):
            session.call(module, "segfault", x)
        text = log(session, dpb.ReadLog.SOURCE_DEVICE)
        assert text.count("begins, fence") == 1
        assert kernels.native.digest in text and "SIGSEGV" in text
        client.close()
        box.end()


def framed(**operation):
    data = dpb.SessionRequest(**operation).SerializeToString()
    return struct.pack("<I", len(data)) + data


def answer_from(lane):
    (size,) = struct.unpack("<I", lane.recv(4, socket.MSG_WAITALL))
    return dpb.SessionResponse.FromString(lane.recv(size, socket.MSG_WAITALL))


def lane_of(session):
    lane = session.ask(open_lane=dpb.OpenLane()).lane
    connection = socket.create_connection(("127.0.0.1", lane.port), 10)
    connection.sendall(lane.key)
    assert connection.recv(1) == b"\x01"
    return connection, lane


def test_a_lane_leads_into_the_same_session(session, module):
    x = session.empty(16)
    lane, _ = lane_of(session)
    calls = b"".join(framed(id=i, call=call_of(module, "count", x)) for i in range(1000))
    lane.sendall(calls)
    assert [answer_from(lane).id for _ in range(1000)] == list(range(1000))
    assert number(session, x) == 1000
    piece = bytes(range(256)) * 4096
    big = session.empty(1 << 24, dtype="uint8")
    for offset in range(0, 1 << 24, 1 << 20):  # more than the device reads ahead
        write = dpb.WriteArray(array_id=big, offset=offset, data=piece)
        lane.sendall(framed(id=7, write=write))
    assert all(answer_from(lane).HasField("done") for _ in range(16))
    assert session.read(big) == piece * 16


def test_a_lane_opens_once_and_by_its_key_only(session):
    lane, told = lane_of(session)
    for key in (told.key, bytes(32), b"GET / HTTP/1.1\r\nHost: device\r\n\r\n!!"):
        with socket.create_connection(("127.0.0.1", told.port), 10) as stranger:
            stranger.sendall(key)
            assert not closed_with(stranger)
    lane.sendall(framed(id=1, list_files=dpb.ListFiles()))
    assert answer_from(lane).HasField("files")


def closed_with(connection):
    """What came before the other side closed it."""
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("nonsense", [b"\xff\xff\xff\xff", struct.pack("<I", 3) + b"\xff\xff\xff"])
def test_nonsense_on_a_lane_ends_the_session_by_name(session, nonsense):
    lane, _ = lane_of(session)
    lane.sendall(nonsense)
    with pytest.raises(errors.InvalidRequestError):
        receive(session)
    assert not closed_with(lane)


def test_a_lane_ends_with_its_stream_and_the_lease_with_both(box, kernels):
    idle = box.device.children()
    client = box.lease()
    client.upload(kernels.native.data)
    session = client.session()
    module, x = session.load(kernels.native.digest), session.empty(16)
    lane, _ = lane_of(session)
    lane.sendall(framed(id=1, call=call_of(module, "loop", x)))
    eventually(lambda: box.device.children() - idle)
    box.end()
    assert not closed_with(lane)
    with pytest.raises(errors.LeaseLostError):
        receive(session)
    eventually(lambda: gone(box.device.children() - idle))
    client.close()


FRAMES = st.lists(st.binary(max_size=40).map(lambda data: struct.pack("<I", len(data)) + data))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200) | FRAMES.map(b"".join))
def test_any_bytes_on_a_lane_end_the_session_by_name_and_harm_nothing(client, data):
    session = client.session()
    lane, _ = lane_of(session)
    lane.sendall(data)
    lane.shutdown(socket.SHUT_WR)
    with pytest.raises((errors.InvalidRequestError, errors.DeviceLostError)):
        receive(session)
    lane.close()
    healthy = client.session()
    assert healthy.ask(list_files=dpb.ListFiles()).files.files == []
    healthy.close()


def test_many_short_calls_on_a_lane_leave_others_their_turn(box, session, module):
    x = session.empty(16)
    lane, _ = lane_of(session)
    lane.sendall(b"".join(framed(id=i, call=call_of(module, "count", x)) for i in range(20_000)))
    threading.Timer(0.3, box.tracker.want).start()  # the lease ends in the middle of it
    box.tracker.wait(lambda report: not report.lease_id)
    with pytest.raises(errors.LeaseLostError):
        receive(session)
    lane.close()
