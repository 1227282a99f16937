"""A tracker with ten thousand devices: latency of grants, its cost, durable grants a second.

    python bench/tracker_scale.py [--devices 10000] [--seconds 15] [--repeat 3] [--json]

Everything is real but the devices' kernels: the tracker's process with SQLite at synchronous=FULL,
gRPC streams of every device, clients in processes of their own, all on this machine, whose cores
they share. Numbers are medians over the repeats.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tunefarm import Tracker, errors
from tunefarm.cli.processes import free_port
from tunefarm_proto.v1 import tracker_pb2 as tpb

LOAD = Path(__file__).with_name("_load.py")
TICK = os.sysconf("SC_CLK_TCK")
KEYS = 10


class TrackerProcess:
    """A tracker of its own on a state folder; `kill` and `start` again keep the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port(0)
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start and wait until it answers."""
        words = ["--port", str(self.port), "--state", str(self.folder), "--log-level", "warning"]
        self.process = subprocess.Popen([sys.executable, "-m", "tunefarm", "tracker", *words])
        limit = time.monotonic() + 60
        while True:
            try:
                return Tracker(self.address).close()
            except errors.TunefarmError:
                if time.monotonic() > limit or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


class Load:
    """A load process."""

    def __init__(self, kind: str, address: str, plan: dict) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(LOAD), kind, address, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        """Wait until all of it is there."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "ready\n":
            raise SystemExit(f"a load process ended: {line!r}")

    def go(self) -> None:
        """Let clients begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self, stop: bool = False) -> dict:
        """What it measured."""
        if stop:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        self.process.wait()
        return answer


def start_devices(address: str, count: int, keys: int, processes: int = 4) -> list[Load]:
    """So many devices in several processes, connected."""
    share = -(-count // processes)
    plans = [
        {"first": first, "count": min(share, count - first), "keys": keys}
        for first in range(0, count, share)
    ]
    loads = [Load("devices", address, plan) for plan in plans]
    for load in loads:
        load.ready()
    return loads


def run_clients(address: str, processes: int, plan: dict) -> list[dict]:
    """Clients in several processes, started together."""
    loads = [Load("clients", address, plan) for _ in range(processes)]
    for load in loads:
        load.ready()
    for load in loads:
        load.go()
    return [load.result() for load in loads]


def percentile(values: list[float], share: float) -> float:
    """The value below which such a share lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def many_devices(folder: Path, devices: int, seconds: float, rate: float) -> dict:
    """Latency and cost with all devices connected, then the storm after a kill -9."""
    tracker = TrackerProcess(folder / "many")
    empty = tracker.rss()
    started = time.monotonic()
    loads = start_devices(tracker.address, devices, KEYS)
    connected = time.monotonic() - started
    time.sleep(5.0)
    idle = cpu_share(tracker, 10.0)
    before, began = tracker.cpu_s(), time.monotonic()
    plan = {"keys": KEYS, "hold": 0.02, "rate": rate / 2, "seconds": seconds}
    results = run_clients(tracker.address, 2, plan)
    busy = (tracker.cpu_s() - before) / (time.monotonic() - began)
    latencies = [one for result in results for one in result["latencies"]]
    rss = tracker.rss()
    storm = reconnect(tracker, devices)
    for load in loads:
        load.result(stop=True)
    tracker.kill()
    return {
        "connect_s": connected,
        "idle_cpu": idle,
        "busy_cpu": busy,
        "bytes_a_device": (rss - empty) / devices,
        "grants": len(latencies),
        "errors": sum(sum(result["errors"].values()) for result in results),
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p90_ms": percentile(latencies, 0.9) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "storm_s": storm,
    }


def cpu_share(tracker: TrackerProcess, seconds: float) -> float:
    """Cores used over a time."""
    before = tracker.cpu_s()
    time.sleep(seconds)
    return (tracker.cpu_s() - before) / seconds


def reconnect(tracker: TrackerProcess, devices: int) -> float:
    """Kill and restart it; seconds until every device is online again."""
    tracker.kill()
    started = time.monotonic()
    tracker.start()
    with Tracker(tracker.address) as connection:
        while True:
            online = sum(
                device.state != tpb.DEVICE_STATE_OFFLINE for device in connection.devices()
            )
            if online == devices:
                return time.monotonic() - started
            if time.monotonic() > started + 120:
                return float("inf")
            time.sleep(0.25)


def throughput(folder: Path, seconds: float, processes: int, parallel: int) -> dict:
    """Durable grants a second: clients that request and release as fast as they can."""
    tracker = TrackerProcess(folder / "throughput")
    loads = start_devices(tracker.address, 4 * processes * parallel, 1, processes=2)
    before, began = tracker.cpu_s(), time.monotonic()
    plan = {"keys": 1, "hold": 0.0, "parallel": parallel, "seconds": seconds}
    results = run_clients(tracker.address, processes, plan)
    busy = (tracker.cpu_s() - before) / (time.monotonic() - began)
    for load in loads:
        load.result(stop=True)
    tracker.kill()
    latencies = [one for result in results for one in result["latencies"]]
    return {
        "grants_a_second": sum(len(r["latencies"]) / r["seconds"] for r in results),
        "errors": sum(sum(result["errors"].values()) for result in results),
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "cpu": busy,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--processes", type=int, default=2, help="client processes for throughput")
    parser.add_argument("--parallel", type=int, default=32, help="requests in flight in each")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=("many", "throughput"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    many, fast = [], []
    for _ in range(given.repeat):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if given.only != "throughput":
                many.append(many_devices(folder, given.devices, given.seconds, given.rate))
            if given.only != "many":
                fast.append(throughput(folder, given.seconds, given.processes, given.parallel))
    report = {"many": median_of(many), "throughput": median_of(fast), "cores": os.cpu_count()}
    print(json.dumps(report, indent=2) if given.json else text_of(report, given))


def median_of(runs: list[dict]) -> dict:
    """Medians, field by field."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} if runs else {}


def text_of(report: dict, given: argparse.Namespace) -> str:
    """For people, with what was asked for beside it."""
    lines = [f"{report['cores']} cores, {given.repeat} repeats, medians"]
    if many := report["many"]:
        lines += [
            f"{given.devices} devices connected in {many['connect_s']:.1f} s;"
            f" {many['bytes_a_device'] / 1024:.1f} KiB each; tracker at"
            f" {many['idle_cpu']:.0%} of a core idle, {many['busy_cpu']:.0%} at {given.rate:g}/s",
            f"grant latency p50 {many['p50_ms']:.1f}, p90 {many['p90_ms']:.1f},"
            f" p99 {many['p99_ms']:.1f} ms (asked: p99 under 50);"
            f" {many['grants']:.0f} grants, {many['errors']:.0f} errors",
            f"after kill -9 and restart all are online again in {many['storm_s']:.1f} s",
        ]
    if fast := report["throughput"]:
        lines.append(
            f"{fast['grants_a_second']:.0f} durable grants/s (asked: 3000), p50"
            f" {fast['p50_ms']:.1f} ms, tracker at {fast['cpu']:.0%} of a core,"
            f" {fast['errors']:.0f} errors"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
