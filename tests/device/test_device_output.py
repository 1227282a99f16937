"""What a lease's kernels printed, as the device tells it when the lease has ended."""

import pytest
from device_harness import FakeTracker, eventually
from hypothesis import given
from hypothesis import strategies as st
from tunefarm_device.lease_output import LeaseOutput
from tunefarm_proto import errors
from tunefarm_proto.plain import plain_tail


def printed(box, kernels, *names, stays=False):
    """Run kernels under a lease that ends, its session still open where it `stays`."""
    client = box.lease()
    client.upload(kernels.native.data)
    session = client.session()
    for name in names:
        module, x = session.load(kernels.native.digest), session.empty(16)
        try:
            session.call(module, name, x)
        except errors.KernelCrashedError:
            assert name in ("babble", "floods")
    lease_id = dict(client.metadata)["tunefarm-lease-id"]
    if not stays:
        session.close()
    box.tracker.wait(lambda report: report.lease_id == lease_id)
    before = len(box.tracker.reports)
    box.end()
    told = [report.output for report in box.tracker.reports[before:] if report.HasField("output")]
    client.close()
    return lease_id, told


@pytest.mark.parametrize("stays", [False, True])
def test_it_is_told_once_and_as_plain_text(box, kernels, stays):
    lease_id, (told,) = printed(box, kernels, "prints", stays=stays)
    assert told.lease_id == lease_id
    assert told.text == "<script>alert(1)</script> [31m red\n\ufffd\ufffd bad"
    assert printed(box, kernels, "count", stays=stays)[1] == []


def test_a_flood_is_cut_and_what_comes_after_a_crash_is_kept(box, kernels):
    _, (told,) = printed(box, kernels, "floods")
    assert len(told.text.encode()) <= 4096 and set(told.text[:4000]) == {"x"}
    _, (told,) = printed(box, kernels, "babble", "prints")
    assert told.text.startswith("put of a kernel") or "endless output of a kernel" in told.text
    assert told.text.endswith("bad") and len(told.text.encode()) <= 4096


def test_a_tracker_that_starts_anew_is_told_again(own_box, kernels):
    _, (told,) = printed(own_box, kernels, "prints")
    port = own_box.tracker.port
    own_box.tracker.stop()
    own_box.tracker = FakeTracker(port)
    own_box.tracker.fence = 1
    eventually(lambda: own_box.tracker.reports)
    assert own_box.tracker.reports[0].output == told


def test_what_a_session_prints_after_its_lease_is_nobodys():
    output = LeaseOutput()
    early, late = object(), object()
    output.open(early, lambda: b"early\n")
    output.open(late, lambda: b"late\n")
    output.close(early)
    assert output.take() == "early\nlate"
    output.close(late)
    assert output.take() == ""


@given(st.binary() | st.text().map(str.encode))
def test_whatever_is_printed_is_short_and_plain(data):
    for some in (data, data * 4096):
        text = plain_tail(some)
        assert len(text.encode()) <= 4096
        assert all(line.isprintable() for line in text.split("\n"))
        assert plain_tail(text.encode()) == text
