"""The stream of a page: what changes is sent, the tracker may go and come, nothing piles up."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fake_tracker import FakeTracker, device, run
from tunefarm import errors
from tunefarm.farm import AsyncFarm
from tunefarm_dashboard.live import Channel
from tunefarm_dashboard.server import create_app, serve
from tunefarm_proto.v1 import tracker_pb2 as tpb


class Stream:
    """The sections of a page as its stream tells them."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.sections: dict[str, str] = {}

    def next(self) -> str:
        """Take one frame. Returns the section's name, "" for a tick."""
        kind = ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data = json.loads(value)
                if kind == "tick":
                    return ""
                self.sections[data["section"]] = data["html"]
                return str(data["section"])
        raise AssertionError("the stream ended")

    def until(self, section: str, words: str, *, there: bool = True) -> None:
        """Read until the section has those words, or has them no more."""
        while section not in self.sections or (words in self.sections[section]) != there:
            self.next()


@contextmanager
def follow(url: str, query: str = "") -> Iterator[Stream]:
    with httpx.stream("GET", f"{url}/events{query}", timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer.iter_lines())


def test_a_change_arrives_without_a_reload(tracker: FakeTracker, url):
    with follow(url) as stream:
        stream.until("devices", "local2-ab12cd")
        tracker.devices = [*tracker.devices, device("newcomer", "fresh")]
        tracker.tell(tpb.EVENT_KIND_DEVICE, "newcomer", "online")
        stream.until("devices", "newcomer")
        stream.until("summary", "<b>6</b>")
        tracker.results = tracker.results[:1]
        tracker.tell(tpb.EVENT_KIND_RESULT)
        stream.until("results", "rasp3b", there=False)


def test_what_changes_without_an_event_arrives_too(tracker: FakeTracker, url):
    with follow(url) as stream:
        stream.until("leases", "ada")
        tracker.leases = tracker.leases[1:]
        stream.until("leases", "ada", there=False)


def test_since_is_when_the_state_was_taken(tracker: FakeTracker, url):
    with follow(url, "?device=local2-ab12cd") as stream:
        stream.until("device", "idle")
        assert "<time" not in stream.sections["device"]
        tracker.tell(tpb.EVENT_KIND_DEVICE, "local2-ab12cd", "idle")
        stream.until("device", "<time")


def test_a_devices_stream_has_its_own_sections(tracker: FakeTracker, url):
    with follow(url, "?device=local2-ab12cd") as stream:
        stream.until("device", "idle")
        tracker.devices[1].state = tpb.DEVICE_STATE_DRAINING
        tracker.tell(tpb.EVENT_KIND_DEVICE, "local2-ab12cd", "draining")
        stream.until("device", "draining")
        assert set(stream.sections) == {"status", "device", "facts", "results"}
        tracker.devices = tracker.devices[2:]
        tracker.tell(tpb.EVENT_KIND_DEVICE, "local2-ab12cd", "gone")
        stream.until("device", "does not know this device")


def test_a_lost_tracker_is_said_and_what_was_known_stays(tracker: FakeTracker, url):
    with follow(url) as stream:
        stream.until("devices", "local2-ab12cd")
        assert "out of reach" not in stream.sections["status"]
        tracker.stop()
        stream.until("status", "The tracker is out of reach")
        assert "the last known state" in stream.sections["status"]
        assert "local2-ab12cd" in httpx.get(url).text
        assert httpx.get(f"{url}/api/status").json()["tracker"]["connected"] is False
        tracker.devices = tracker.devices[:1]
        tracker.start()
        stream.until("devices", "local2-ab12cd", there=False)
        stream.until("status", "out of reach", there=False)


def test_viewers_share_one_encoded_frame_and_one_reader_of_the_tracker(tracker: FakeTracker, url):
    async def check() -> None:
        channel = Channel()
        channel.publish({"a": "1", "b": "2"})
        first, second = channel.follow(), channel.follow()
        assert await anext(first) == await anext(second)
        channel.publish({"a": "1", "b": "3"})
        frame = await anext(first)
        assert b'"3"' in frame
        assert b'"1"' not in frame
        assert await anext(second) == frame

    run(check())
    with follow(url) as stream:
        stream.until("devices", "local")
        before = tracker.calls
        with follow(url) as another, follow(url) as third:
            another.until("devices", "local")
            third.until("devices", "local")
        assert tracker.calls <= before + 1


def test_a_slow_viewer_gets_the_newest_and_nothing_piles_up():
    async def check() -> None:
        channel = Channel()
        channel.publish({"a": "first"})
        viewer = channel.follow()
        await anext(viewer)
        for number in range(10_000):
            channel.publish({"a": f"version {number}"})
            channel.tick(number)
        frames = await anext(viewer)
        assert frames.count(b"event: section") == 1
        assert b"version 9999" in frames
        assert len(frames) < 200
        channel.close()
        with pytest.raises(StopAsyncIteration):
            await anext(viewer)

    run(check())


def test_html_cannot_break_out_of_a_frame():
    async def check() -> None:
        channel = Channel()
        channel.publish({"a": "x\n\nevent: section\r\ndata: {}"})
        frame = await anext(channel.follow())
        assert frame.count(b"\n") == 3
        assert b"\r" not in frame

    run(check())


def test_the_async_farm_reads_what_the_tracker_says(tracker: FakeTracker):
    async def check() -> None:
        async with AsyncFarm(tracker.address) as farm:
            assert await farm.devices() == tracker.devices
            assert await farm.queue() == tracker.queue
            assert await farm.leases() == tracker.leases
            assert await farm.results(limit=2) == tracker.results[:2]
            assert await farm.results(device_id="rasp3b-77be01") == [tracker.results[1]]
            events = farm.watch()
            assert (await anext(events)).cursor == 1
            tracker.tell(tpb.EVENT_KIND_DEVICE, "x", "online")
            assert (await anext(events)).subject == "x"
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
    with follow(f"http://127.0.0.1:{port}") as stream:
        stream.until("devices", "local")
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (0, "")
