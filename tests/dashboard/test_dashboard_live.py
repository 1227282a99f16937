"""The stream of a page: what changes is sent, the tracker may go and come, nothing piles up."""

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fake_tracker import FakeTracker, ago, device, run
from tunefarm import errors
from tunefarm.awaited import COME_BACK_S, unheard, uptime
from tunefarm.farm import AsyncFarm
from tunefarm_dashboard.live import Live, Section, encode
from tunefarm_dashboard.server import create_app, serve
from tunefarm_dashboard.who import Viewer
from tunefarm_proto.identity import Role
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb


class Stream:
    """The sections of a page as its stream tells them."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.sections: dict[str, str] = {}

    def next(self) -> str:
        """Take one frame. Returns the topic's name, "" for a tick."""
        kind = ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data = json.loads(value)
                if kind == "tick":
                    return ""
                self.sections[data["topic"]] = data["html"]
                return str(data["topic"])
        raise AssertionError("the stream ended")

    def until(self, section: str, words: str, *, there: bool = True) -> None:
        """Read until the section has those words, or has them no more."""
        while section not in self.sections or (words in self.sections[section]) != there:
            self.next()


@contextmanager
def follow(url: str, *topics: str) -> Iterator[Stream]:
    query = {"topic": ["status", *topics]}
    with httpx.stream("GET", f"{url}/events", params=query, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer.iter_lines())


def test_one_stream_brings_every_section_that_is_asked_for(tracker: FakeTracker, url):
    with follow(url, "fleet", "tally", "queue", "results") as stream:
        stream.until("fleet", "local2-ab12cd")
        tracker.devices = [*tracker.devices, device("newcomer", "fresh")]
        tracker.tell(tpb.EVENT_KIND_DEVICE, "newcomer", "online")
        stream.until("fleet", "newcomer")
        stream.until("tally", ">6</a>")
        tracker.results = tracker.results[:1]
        tracker.tell(tpb.EVENT_KIND_RESULT)
        stream.until("results", "rasp3b", there=False)
        assert set(stream.sections) == {"status", "fleet", "tally", "queue", "results"}


def test_a_filtered_section_is_a_topic_of_its_own(tracker: FakeTracker, url):
    with follow(url, "fleet?state=idle", "fleet?q=rasp4b&state=offline") as stream:
        stream.until("fleet?state=idle", "local2-ab12cd")
        stream.until("fleet?q=rasp4b&state=offline", "rasp4b-9c40aa")
        tracker.devices[1].state = tpb.DEVICE_STATE_DRAINING
        tracker.tell(tpb.EVENT_KIND_DEVICE, "local2-ab12cd", "draining")
        stream.until("fleet?state=idle", "local2-ab12cd", there=False)


def test_what_changes_without_an_event_arrives_too(tracker: FakeTracker, url):
    with follow(url, "leases") as stream:
        stream.until("leases", "ada")
        tracker.leases = tracker.leases[1:]
        stream.until("leases", "ada", there=False)


def test_since_is_when_the_state_was_taken(tracker: FakeTracker, url):
    topic = "device?id=local2-ab12cd"
    with follow(url, topic) as stream:
        stream.until(topic, "idle")
        assert stream.sections[topic].count("<time") == 1  # when it was last heard of
        tracker.tell(tpb.EVENT_KIND_DEVICE, "local2-ab12cd", "idle")
        while stream.sections[topic].count("<time") < 2:
            stream.next()


def test_a_device_that_goes_is_said_to_be_gone(tracker: FakeTracker, url):
    topic = "device?id=local2-ab12cd"
    with follow(url, topic) as stream:
        stream.until(topic, "idle")
        tracker.devices[1].state = tpb.DEVICE_STATE_DRAINING
        tracker.tell(tpb.EVENT_KIND_DEVICE, "local2-ab12cd", "draining")
        stream.until(topic, "draining")
        del tracker.devices[1]
        stream.until(topic, "does not know this device")


def test_only_the_devices_that_changed_are_read_again(tracker: FakeTracker, url):
    with follow(url, "fleet") as stream:
        stream.until("fleet", "local2-ab12cd")
        tracker.asked.clear()
        tracker.devices[1].state = tpb.DEVICE_STATE_DRAINING
        tracker.tell(tpb.EVENT_KIND_DEVICE, "local2-ab12cd", "draining")
        stream.until("fleet", "draining")
        assert ["local2-ab12cd"] in tracker.asked or [] in tracker.asked


@pytest.mark.parametrize("topic", ["nonsense", "", "fleet/../status"])
def test_a_section_that_does_not_exist_is_not_followed(url, topic):
    assert httpx.get(f"{url}/events", params={"topic": topic}).status_code == 404


def test_a_lost_tracker_is_said_and_what_was_known_stays(tracker: FakeTracker, url):
    with follow(url, "fleet") as stream:
        stream.until("fleet", "local2-ab12cd")
        assert "out of reach" not in stream.sections["status"]
        tracker.stop()
        stream.until("status", "The tracker is out of reach")
        assert "the last known state" in stream.sections["status"]
        assert "local2-ab12cd" in httpx.get(url).text
        assert httpx.get(f"{url}/api/status").json()["connected"] is False
        tracker.devices = tracker.devices[:1]
        tracker.start()
        stream.until("fleet", "local2-ab12cd", there=False)
        stream.until("status", "out of reach", there=False)


def test_a_tracker_that_has_just_started_is_said_until_all_have_come(tracker: FakeTracker, url):
    silent = device("a-1", "a", tpb.DEVICE_STATE_OFFLINE, last_seen=None)
    others = tracker.devices
    with follow(url) as stream:
        tracker.stop()
        tracker.devices = [silent, *others]
        tracker.start()
        stream.until("status", "The tracker has just started")
        tracker.devices = [device("a-1", "a"), *others]
        tracker.tell(tpb.EVENT_KIND_DEVICE, silent.id, "online")
        stream.until("status", "just started", there=False)


def test_after_a_while_a_device_is_just_offline(tracker: FakeTracker):
    silent = device("a-1", "a", tpb.DEVICE_STATE_OFFLINE, last_seen=None)
    retired = device(
        "a-2", "a", tpb.DEVICE_STATE_OFFLINE, last_seen=None, health=tpb.DEVICE_HEALTH_RETIRED
    )
    lost = device("a-3", "a", tpb.DEVICE_STATE_OFFLINE)
    assert unheard([silent, retired, lost, device("a-4", "a")]) == 1
    said = pb.HelloResponse(at=ago(2), started_at=ago(40))
    assert COME_BACK_S < 38 - 0.1 < uptime(said) < 38.1
    assert uptime(pb.HelloResponse(at=ago(0))) == math.inf  # an older tracker does not tell


def section(words: list[str], needs: str = "x", varies: str = "") -> Section:
    """A section that says the last of the words, and counts how often it was asked."""

    async def say(query: dict[str, str], viewer: Viewer) -> str:
        words.append(words[-1])
        return words[-1] + (f" {viewer.name}" if varies == "name" else "")

    return Section(say, frozenset({needs}), varies)


def test_viewers_share_one_rendering_and_one_encoded_frame():
    async def check() -> None:
        live = Live()
        words = ["first"]
        live.sections["a"] = section(words)
        one = live.follow(["a"], Viewer("ada", Role.VIEWER))
        two = live.follow(["a"], Viewer("bob", Role.OPERATOR))
        frames = [await anext(one), await anext(two)]
        assert frames[0] == frames[1] and len(words) == 2
        words.append("second")
        await live.publish({"y"})  # nothing that it shows
        assert len(words) == 3
        await live.publish({"x"})
        assert len(words) == 4
        assert b"second" in await anext(one)
        assert b"second" in await anext(two)

    run(check())


def test_what_differs_with_the_viewer_is_not_shared():
    async def check() -> None:
        live = Live()
        live.sections["a"] = section(["x"], varies="name")
        streams = [live.follow(["a"], Viewer(name, Role.USER)) for name in ("ada", "bob")]
        assert [b"ada" in await anext(one) for one in streams] == [True, False]

    run(check())


def test_viewers_share_one_reader_of_the_tracker(tracker: FakeTracker, url):
    with follow(url, "fleet") as stream:
        stream.until("fleet", "local")
        before = tracker.calls
        with follow(url, "fleet") as another, follow(url, "fleet") as third:
            another.until("fleet", "local")
            third.until("fleet", "local")
        assert tracker.calls <= before + 1


def test_a_slow_viewer_gets_the_newest_and_nothing_piles_up():
    async def check() -> None:
        live = Live()
        words = ["first"]
        live.sections["a"] = section(words)
        viewer = live.follow(["a"], Viewer("", Role.VIEWER))
        await anext(viewer)
        for number in range(1000):
            words.append(f"version {number}")
            await live.publish({"x"})
            live.tick(number)
        frames = await anext(viewer)
        assert frames.count(b"event: section") == 1
        assert b"version 999" in frames
        assert len(frames) < 250
        live.close()
        with pytest.raises(StopAsyncIteration):
            await anext(viewer)
        assert not live.streams

    run(check())


def test_a_section_that_fails_does_not_stop_the_others(caplog):
    async def fail(query: dict[str, str], viewer: Viewer) -> str:
        if len(good) > 2:
            raise RuntimeError("no")
        return "fine"

    async def check() -> None:
        live = Live()
        live.sections["bad"] = Section(fail, frozenset({"x"}))
        live.sections["good"] = section(good)
        viewer = live.follow(["bad", "good"], Viewer("", Role.VIEWER))
        await anext(viewer)
        good.append("again")
        await live.publish({"x"})
        assert b"again" in await anext(viewer)

    good = ["good"]
    run(check())
    assert "rendering 'bad' failed" in caplog.text


def test_html_cannot_break_out_of_a_frame():
    frame = encode("section", {"html": "x\n\nevent: section\r\ndata: {}"})
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame


def test_the_async_farm_reads_what_the_tracker_says(tracker: FakeTracker):
    async def check() -> None:
        async with AsyncFarm(tracker.address) as farm:
            assert await farm.devices() == tracker.devices
            assert await farm.queue() == tracker.queue
            assert await farm.leases() == tracker.leases
            assert await farm.results(limit=2) == tracker.results[:2]
            assert (await farm.results(device_id="rasp3b-77be01"))[:1] == [tracker.results[1]]
            events = farm.watch()
            assert (await anext(events)).cursor == 1
            tracker.tell(tpb.EVENT_KIND_DEVICE, "x", "online")
            assert (await anext(events)).subject == "x"
            assert await farm.devices(ids=["local2-ab12cd"]) == [tracker.devices[1]]
            await asyncio.to_thread(tracker.stop)  # it waits for this very loop
            with pytest.raises(errors.TrackerUnreachableError):
                await anext(events)
            with pytest.raises(errors.TrackerUnreachableError, match=tracker.address):
                await farm.devices()

    run(check())


def test_the_async_farm_names_what_is_wrong_with_an_address(tracker: FakeTracker):
    async def enter(address: str) -> None:
        async with AsyncFarm(address):
            pass

    tracker.stop()
    with pytest.raises(errors.TrackerUnreachableError, match="no tracker answers"):
        run(enter(tracker.address))
    with pytest.raises(errors.InvalidRequestError, match="HOST:PORT"):
        create_app("nonsense")


def test_a_port_in_use_is_one_clear_line(tracker: FakeTracker):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(errors.InvalidRequestError, match="try another with --port"):
            serve(tracker.address, port=taken.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_at_once_though_pages_are_open(tracker: FakeTracker, number):
    program = (
        "import sys; from tunefarm_dashboard.server import serve\n"
        "serve(sys.argv[1], port=0, on_ready=lambda port: print(port, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tracker.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with follow(f"http://127.0.0.1:{port}", "fleet") as stream:
        stream.until("fleet", "local")
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (0, "")
