"""The dashboard under load: many viewers, many devices, and how soon a page is there.

    .venv/bin/python bench/dashboard.py [--viewers 200] [--devices 1000] [--large 10000] [--json]

Everything is real but the devices' kernels: tracker, dashboard, the devices' streams, and the
viewers, which are a process of their own that reads the streams of server-sent events. All share
this machine. Goals are said to be met or not, never asserted.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _farm import TICK, TrackerProcess, devices
from tunefarm import Tracker
from tunefarm.cli.processes import free_port
from tunefarm_proto.v1 import tracker_pb2 as tpb

KEYS = 10
RATE = 10.0  # events a second
SECONDS = 12.0
PROBE = re.compile(rb"probe (\d+)")
VIEWER_TOPICS = ("status", "tally", "fleet", "device?id=d0")
PAINTED = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
DELAY_GOAL_S, PAGE_GOAL_S, PAINT_GOAL_S = 1.0, 0.2, 1.0


def percentile(values: list[float], share: float) -> float:
    """The value below which such a share lies; nan of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


class Dashboard:
    """A dashboard process on a tracker."""

    def __init__(self, tracker: str) -> None:
        self.port = free_port(0)
        self.url = f"http://127.0.0.1:{self.port}"
        words = ["dashboard", "--tracker", tracker, "--port", str(self.port)]
        self.process = subprocess.Popen([sys.executable, "-m", "tunefarm", *words])
        limit = time.monotonic() + 60
        while True:
            try:
                if get(f"{self.url}/api/status")["connected"]:
                    return
            except OSError:
                pass
            if time.monotonic() > limit or self.process.poll() is not None:
                raise SystemExit("the dashboard did not start")
            time.sleep(0.1)

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def get(url: str) -> Any:
    """What an address answers: JSON, else bytes."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        content = answer.read()
        kind = answer.headers.get("Content-Type", "")
    return json.loads(content) if "json" in kind else content


# The viewers, in a process of their own.


async def view(port: int, seen: dict[int, float], counts: list[int]) -> None:
    """One viewer: notes when it first saw each probe or a later one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    query = "&".join(f"topic={urllib.request.quote(one)}" for one in VIEWER_TOPICS)
    writer.write(f"GET /events?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    latest, tail = -1, b""
    while chunk := await reader.read(1 << 18):
        counts[0] += len(chunk)
        found = PROBE.findall(tail + chunk)
        tail = chunk[-16:]
        newest = max(map(int, found), default=-1)
        for number in range(latest + 1, newest + 1):
            seen[number] = time.time()
        latest = max(latest, newest)


async def viewers(port: int, count: int) -> None:
    """Many viewers until `stop` is read; prints what they saw."""
    seen: list[dict[int, float]] = [{} for _ in range(count)]
    counts = [0]
    tasks = [asyncio.create_task(view(port, one, counts)) for one in seen]
    await asyncio.sleep(3)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for task in tasks:
        task.cancel()
    print(json.dumps({"seen": [sorted(one.items()) for one in seen], "bytes": counts[0]}))


@contextmanager
def watching(port: int, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process with so many viewers."""
    command = [sys.executable, __file__, "--as-viewers", f"{port}:{count}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def many_viewers(tracker: str, page: Dashboard, count: int) -> dict[str, float]:
    """Events at RATE a second, each an operator's act on a device that all look at."""
    sent: list[float] = []
    with watching(page.port, count) as process, Tracker(tracker) as operator:
        used, began = page.cpu_s(), time.monotonic()
        while (now := time.monotonic()) < began + SECONDS:
            sent.append(time.time())
            words = f"probe {len(sent) - 1} "
            operator.manage("d0", tpb.DEVICE_ACTION_QUARANTINE, words)
            time.sleep(max(0.0, now + 1 / RATE - time.monotonic()))
        share = (page.cpu_s() - used) / (time.monotonic() - began)
        time.sleep(2)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("stop\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        operator.manage("d0", tpb.DEVICE_ACTION_ENABLE)
    delays = [at - sent[number] for one in answer["seen"] for number, at in one]
    missed = len(sent) * count - len(delays)
    return {
        "events": len(sent), "delay_p50": percentile(delays, 0.5),
        "delay_p99": percentile(delays, 0.99), "delay_most": max(delays),
        "missed": missed, "cores": share, "megabytes_s": answer["bytes"] / SECONDS / 1e6,
    }  # fmt: skip


def pages(page: Dashboard, count: int) -> dict[str, float]:
    """How long pages and filters of the fleet take, one after another."""
    random.seed(1)
    kinds = {
        "page": lambda: f"/?page={random.randint(1, max(count // 96, 1))}",
        "words": lambda: f"/?q=d{random.randint(0, count // 10)}",
        "key_and_state": lambda: f"/?key=k{random.randint(0, KEYS - 1)}&state=idle",
        "nothing": lambda: f"/?q=nothing{random.randint(0, 99)}",
    }
    taken: dict[str, float] = {}
    for name, address in kinds.items():
        times = []
        for _ in range(20):
            began = time.monotonic()
            get(page.url + address())
            times.append(time.monotonic() - began)
        taken[name] = statistics.median(times)
        taken[f"{name}_most"] = max(times)
    return taken


def first_paint(page: Dashboard) -> float | None:
    """Seconds until a browser has painted the fleet: the median of five; None without a browser."""
    from selenium import webdriver

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        times = []
        try:
            for _ in range(5):
                chrome.get(page.url)
                time.sleep(1)
                script = (
                    "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
                )
                times.append(chrome.execute_script(script) / 1000)
                chrome.get("about:blank")
        finally:
            chrome.quit()
    return statistics.median(times)


@contextmanager
def farm(count: int) -> Iterator[tuple[str, Dashboard]]:
    """A tracker with so many devices, and its dashboard."""
    with (
        tempfile.TemporaryDirectory() as folder,
        TrackerProcess(Path(folder)) as tracker,
        devices(tracker.address, count, KEYS, 100, 2),
    ):
        page = Dashboard(tracker.address)
        try:
            limit = time.monotonic() + 60
            while get(f"{page.url}/api/status")["devices"] < count and time.monotonic() < limit:
                time.sleep(0.2)
            yield tracker.address, page
        finally:
            page.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--as-viewers", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_viewers:
        port, _, count = given.as_viewers.partition(":")
        asyncio.run(viewers(int(port), int(count)))
        return
    with farm(given.devices) as (tracker, page):
        found: dict[str, Any] = {"first_paint": first_paint(page)}
        found["viewers"] = many_viewers(tracker, page, given.viewers)
    with farm(given.large) as (tracker, page):
        used, began = page.cpu_s(), time.monotonic()
        time.sleep(10)
        found["idle_cores_large"] = (page.cpu_s() - used) / (time.monotonic() - began)
        found["pages"] = pages(page, given.large)
    if given.json:
        print(json.dumps(found))
        return
    paint, seen, taken = found["first_paint"], found["viewers"], found["pages"]
    print(f"on {os.cpu_count()} processors")
    print(f"{given.devices} devices, first paint: {paint} s (goal {PAINT_GOAL_S})")
    print(f"{given.viewers} viewers: {seen} (goal: delay below {DELAY_GOAL_S} s)")
    print(f"{given.large} devices: {taken} (goal: {PAGE_GOAL_S} s)")
    print(f"the dashboard of {given.large} idle devices: {found['idle_cores_large']:.0%} of a core")


if __name__ == "__main__":
    main()
