"""The lease: who gets in, what its end leaves, and what survives the tracker and the server."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest
from device_harness import TOKEN, Client, DeviceProcess, FakeTracker, eventually, gone
from tunefarm_device import tracker_link
from tunefarm_device.building import Options
from tunefarm_device.server import start
from tunefarm_device.state import StateDir
from tunefarm_proto import errors
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import tracker_pb2 as tpb


def test_it_says_who_and_what_it_is(box):
    first = next(report for report in box.tracker.reports if report.HasField("facts"))
    assert first.key == "box" and first.device_id.startswith("box-")
    assert first.addresses[0].startswith("127.0.0.1:")
    assert first.facts.target.triple and first.facts.target.features
    assert first.facts.cpu_count >= 1 and first.facts.memory_bytes > 0
    assert not first.facts.emulated
    assert "own-process" in first.facts.isolation
    later = box.tracker.wait(lambda report: not report.HasField("facts"))
    assert later.HasField("conditions") and later.instance_id == first.instance_id


@pytest.mark.parametrize(
    ("lease_id", "token", "words"),
    [
        ("right", "wrong", "token"),
        ("other", TOKEN, "another lease"),
        ("", "", "names none"),
    ],
)
def test_only_lease_and_token_open_it(box, lease_id, token, words):
    box.tracker.want("right")
    box.tracker.wait(lambda report: report.lease_id == "right")
    calls = [
        lambda client: client.missing("0" * 64),
        lambda client: client.upload(b"data"),
        lambda client: client.session().empty(16),
        lambda client: client.measure([]),
    ]
    for call in calls[-1:] if lease_id == "other" else calls:  # a lease unknown is waited for
        client = Client(box.address, lease_id, token)
        with pytest.raises(errors.LeaseRefusedError, match=words):
            call(client)
        client.close()
    box.end()
    with pytest.raises(errors.LeaseRefusedError, match="not leased"):
        Client(box.address, "right").missing("0" * 64)


def test_a_client_may_come_before_the_grant(box):
    early = Client(box.address, "early")
    threading.Timer(0.3, box.tracker.want, ["early"]).start()
    assert early.missing("0" * 64) == 0
    early.close()
    box.end()


def test_a_withdrawn_lease_ends_its_kernel_and_is_reported_when_clean(box, kernels):
    idle = box.device.children()
    client = box.lease()
    client.upload(kernels.native.data)
    session = client.session()
    module, x = session.load(kernels.native.digest), session.empty(16)
    running = box.device.children() - idle
    assert len(running) == 1
    threading.Timer(0.3, box.tracker.want).start()
    with pytest.raises(errors.LeaseLostError):
        session.call(module, "loop", x)
    box.tracker.wait(lambda report: not report.lease_id)
    assert gone(running)
    assert list((box.device.state / "scratch").iterdir()) == []
    waiting = box.lease()
    idle_session = waiting.session()
    idle_session.empty(16)
    box.end()
    with pytest.raises(errors.LeaseLostError):
        idle_session.next()
    waiting.close()
    client.close()


def test_another_lease_takes_the_place_of_the_first(box):
    first = box.lease()
    session = first.session()
    session.empty(16)
    second = box.lease()
    assert second.missing("0" * 64) == 0
    with pytest.raises(errors.LeaseLostError):
        session.next()
    with pytest.raises(errors.LeaseRefusedError):
        first.missing("0" * 64)
    for client in (first, second):
        client.close()
    box.end()


def test_a_client_that_dies_leaves_no_runner(box, client):
    idle = box.device.children()
    session = client.session()
    session.empty(16)
    running = eventually(lambda: box.device.children() - idle)
    session.answers.cancel()
    eventually(lambda: gone(running))


def test_a_lower_fence_is_refused_even_after_a_restart(own_box):
    own_box.tracker.want("high", fence=7)
    own_box.tracker.wait(lambda report: report.lease_id == "high")
    own_box.tracker.want("low", fence=6)
    own_box.tracker.wait(lambda report: not report.lease_id and report.fence == 7)
    with pytest.raises(errors.LeaseRefusedError):
        Client(own_box.address, "low").missing("0" * 64)
    name = own_box.tracker.reports[-1].device_id
    assert own_box.device.stop() == 0
    instance = own_box.tracker.reports[-1].instance_id
    own_box.device = DeviceProcess(own_box.tracker.address, own_box.device.state)
    report = own_box.tracker.wait(lambda report: report.instance_id != instance)
    assert (report.fence, report.lease_id, report.device_id) == (7, "", name)


def test_work_goes_on_while_the_tracker_restarts(own_box, kernels):
    client = own_box.lease()
    client.upload(kernels.native.data)
    session = client.session()
    module, x = session.load(kernels.native.digest), session.empty(16)
    lease = own_box.tracker.wanted
    own_box.tracker.stop()
    session.call(module, "count", x)
    tracker = own_box.tracker = FakeTracker(own_box.tracker.port)
    tracker.wanted = lease
    report = tracker.wait(lambda report: True)
    assert report.lease_id == lease.lease.id and tracker.reports[0].HasField("facts")
    session.call(module, "count", x)
    assert session.read(x)[:4] == b"\x00\x00\x00\x40"  # 2.0
    client.close()


def test_a_killed_zygote_heals(own_box, kernels):
    client = own_box.lease()
    client.upload(kernels.native.data)
    session = client.session()
    module, x = session.load(kernels.native.digest), session.empty(16)
    zygote = own_box.device.zygote()
    below = own_box.device.children()
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: gone(below))
    with pytest.raises((errors.KernelCrashedError, errors.UnknownHandleError)):
        session.call(module, "count", x)
    session.load(kernels.native.digest)
    assert own_box.device.zygote() != zygote
    client.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_end_of_the_server_leaves_no_process(basic_box, kernels, number):
    client = basic_box.lease()
    client.upload(kernels.native.data)
    session = client.session()
    module, x = session.load(kernels.native.digest), session.empty(16)
    session.call(module, "fork_", x)
    call = dpb.CallFunction(module_id=module, function="loop", array_ids=[x])
    session.outgoing.put(dpb.SessionRequest(id=9, call=call))
    below = basic_box.device.children()
    assert len(below) >= 5  # zygote, runner, and what the kernel forked
    basic_box.device.process.send_signal(number)
    status = basic_box.device.process.wait(20)
    assert status == (-number if number == signal.SIGKILL else 0)
    eventually(lambda: gone(below))
    client.close()


@pytest.mark.parametrize("used", [False, True])
def test_a_lease_ends_where_the_tracker_stays_away_and_nobody_works(tmp_path, monkeypatch, used):
    monkeypatch.setattr(tracker_link, "AWAY_S", 0.0)

    async def run() -> str:
        tracker = FakeTracker()
        server = await start("solo", tracker.address, options=Options(state_dir=tmp_path))
        (device,) = server.devices
        client = Client(server.addresses[0], "only")
        tracker.want("only", ttl_s=0.2)
        await asyncio.to_thread(eventually, lambda: device.lease_id == "only")
        session = client.session()
        if used:
            await asyncio.to_thread(session.empty, 16)
        else:
            session.close()
        await asyncio.to_thread(tracker.stop)
        for _ in range(100 if used else 500):
            if not device.lease_id:
                break
            await asyncio.sleep(0.02)
        lease_id = device.lease_id
        client.close()
        await server.stop()
        return lease_id

    assert asyncio.run(run()) == ("only" if used else "")


def test_state_folders_of_one_key(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "tunefarm_device.state")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first, second = StateDir.open("pi", None), StateDir.open("pi", None)
    assert (first.path.name, second.path.name) == ("pi-0", "pi-1")
    assert first.device_id("pi") != second.device_id("pi")
    name = first.device_id("pi")
    first.close()
    again = StateDir.open("pi", None)
    assert (again.path.name, again.device_id("pi")) == ("pi-0", name)
    told = [line for line in caplog.messages if name in line]
    assert len(told) == 1 and f"--state {again.path}" in told[0]  # once, when it is new
    for each in (second, again):
        each.close()


@pytest.mark.parametrize(("key", "tracker"), [("a b", "127.0.0.1:9"), ("box", "nowhere")])
def test_bad_words_are_refused_in_one_line(tmp_path, key, tracker):
    words = [sys.executable, "-m", "tunefarm_device", "--state", str(tmp_path / "s")]
    done = subprocess.run(
        [*words, "--key", key, "--tracker", tracker],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_two_servers_do_not_share_a_folder(own_box):
    second = DeviceProcess(own_box.tracker.address, own_box.device.state)
    assert second.process.wait(20) == 2
    assert "another device server uses" in second.log.read_text()


def test_the_end_of_a_lease_that_was_never_heard_of_is_answered_at_once(own_box):
    tracker = own_box.tracker
    with tracker.changed:
        wanted = tpb.SynchronizeResponse(ended_lease_id="never-told")
        wanted.heartbeat_interval.FromSeconds(3600)
        tracker.wanted = wanted
        tracker.reports.clear()
        tracker.changed.notify_all()
    tracker.wait(lambda report: len(tracker.reports) >= 3 and report.lease_id == "")


def test_a_lease_that_ends_while_an_answer_goes_out_is_told_of(box):
    for _ in range(20):  # the answer is on its way, or just was
        client = box.lease()
        session = client.session()
        session.empty(16)
        box.tracker.want()
        with pytest.raises(errors.LeaseLostError):
            session.next()
        box.tracker.wait(lambda report: not report.lease_id)
        client.close()


def test_clients_that_do_not_read_when_their_lease_ends_harm_nobody(own_box):
    pid = own_box.device.process.pid
    for _ in range(6):
        client = own_box.lease()
        session = client.session()
        big = session.empty(1 << 24)
        session.id += 1
        read = dpb.ReadArray(array_id=big)
        session.outgoing.put(dpb.SessionRequest(id=session.id, read=read))
        next(session.answers)  # and no further: what comes next fills the window
        own_box.end()
        client.close()
    client = own_box.lease()
    assert client.session().empty(4)
    assert own_box.device.process.poll() is None and own_box.device.process.pid == pid
    client.close()
    assert "Traceback" not in own_box.device.log.read_text()
