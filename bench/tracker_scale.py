"""A tracker with ten thousand devices: latency of grants, its cost, durable grants a second.

    .venv/bin/python bench/tracker_scale.py [--devices 10000] [--seconds 10] [--repeat 3] [--json]

Everything is real but the devices' kernels: the tracker's process with SQLite at synchronous=FULL,
gRPC streams of every device, clients in processes of their own, all on this machine, whose cores
they share. Numbers are medians over the repeats; goals are said to be met or not, never asserted.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _farm import Loads, Meter, TrackerProcess, devices
from tunefarm import Tracker
from tunefarm_proto.v1 import tracker_pb2 as tpb

KEYS = 10
HELD = 200  # leases that are held through the storm
HOLD_S = 0.02
IDLE_S = 10.0
SETTLE_S = 12.0  # longer than the grace that everybody has after a restart
LATENCY_GOAL_MS, GRANTS_GOAL = 50.0, 3000.0


def percentile(values: list[float], share: float) -> float:
    """The value below which such a share lies; nan of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def run_clients(address: str, processes: int, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Clients in several processes, started together."""
    with Loads("clients", address, [plan] * processes) as clients:
        clients.say("go")
        return clients.results()


def latencies_of(results: list[dict[str, Any]]) -> dict[str, float]:
    """What the clients measured, in ms."""
    latencies = [1e3 * one for result in results for one in result["latencies"]]
    for message in sorted({name for result in results for name in result["errors"]})[:3]:
        print(f"refused: {message}", file=sys.stderr)
    return {
        "grants": len(latencies),
        "errors": sum(sum(result["errors"].values()) for result in results),
        **{f"p{n}_ms": percentile(latencies, n / 100) for n in (50, 90, 99)},
    }


def many_devices(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Cost and latency with all devices connected, then the storm after a kill -9."""
    with TrackerProcess(folder) as tracker:
        empty, started = tracker.rss(), time.monotonic()
        with devices(tracker.address, given.devices, KEYS, given.streams, 4) as farm:
            connected = time.monotonic() - started
            time.sleep(5.0)
            idle = Meter(tracker)
            time.sleep(IDLE_S)
            idle_share = idle.share()
            busy = Meter(tracker)
            plan = {"keys": KEYS, "hold": HOLD_S, "rate": given.rate / 2, "seconds": given.seconds}
            results = run_clients(tracker.address, 2, plan)
            return {
                "connect_s": connected,
                "idle_cpu": idle_share,
                "busy_cpu": busy.share(),
                "kib_a_device": (tracker.rss() - empty) / given.devices / 1024,
                **latencies_of(results),
                **storm(tracker, farm, given.devices),
            }


def storm(tracker: TrackerProcess, farm: Loads, count: int) -> dict[str, float]:
    """kill -9 and restart: seconds until every device has an answer again; what leases are lost."""
    held = min(HELD, count // 2)
    with Loads("holders", tracker.address, [{"leases": held, "keys": KEYS}]) as holders:
        tracker.kill()
        started = time.monotonic()
        farm.say("again")
        holders.say("again")
        tracker.start()
        restarted = time.monotonic() - started
        farm.ready()
        back = time.monotonic() - started
        holders.ready()
        time.sleep(max(started + SETTLE_S - time.monotonic(), 0))
        with Tracker(tracker.address) as connection:
            offline = sum(one.state == tpb.DEVICE_STATE_OFFLINE for one in connection.devices())
        holders.say("stop")
        (result,) = holders.results()
        for reason in result["why"]:
            print(f"lease lost: {reason}", file=sys.stderr)
        return {
            "restart_s": restarted,
            "storm_s": back,
            "offline": offline,
            "leases_held": held,
            "leases_lost": result["lost"],
        }


def throughput(folder: Path, given: argparse.Namespace, durable: bool) -> dict[str, float]:
    """Grants a second: clients that request and release as fast as they can."""
    count = 4 * given.processes * given.parallel
    plan = {"keys": 1, "hold": 0.0, "parallel": given.parallel, "seconds": given.seconds}
    with (
        TrackerProcess(folder, durable) as tracker,
        devices(tracker.address, count, 1, given.streams, 2),
    ):
        busy = Meter(tracker)
        results = run_clients(tracker.address, given.processes, plan)
        cpu = busy.share()
    rate = sum(len(one["latencies"]) / one["seconds"] for one in results)
    return {"grants_a_second": rate, "cpu": cpu, **latencies_of(results)}


def both(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Durable grants, and the same with a store that forgets."""
    durable = throughput(folder / "durable", given, durable=True)
    memory = throughput(folder / "memory", given, durable=False)["grants_a_second"]
    ratio = durable["grants_a_second"] / memory
    return {**durable, "in_memory_a_second": memory, "of_in_memory": ratio}


def median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """Medians, field by field."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} if runs else {}


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--streams", type=int, default=250, help="device streams on a connection")
    parser.add_argument("--processes", type=int, default=2, help="client processes for throughput")
    parser.add_argument("--parallel", type=int, default=48, help="requests in flight in each")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=("many", "throughput"))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    given = arguments()
    many, fast = [], []
    for _ in range(given.repeat):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if given.only != "throughput":
                many.append(many_devices(folder / "many", given))
            if given.only != "many":
                fast.append(both(folder, given))
    report = {
        "cores": os.cpu_count(),
        "asked": vars(given),
        "many": median_of(many),
        "throughput": median_of(fast),
        "runs": {"many": many, "throughput": fast},
    }
    print(json.dumps(report, indent=2) if given.json else text_of(report, given))


def text_of(report: dict[str, Any], given: argparse.Namespace) -> str:
    """For people."""
    lines = [f"{report['cores']} cores shared with all load, {given.repeat} repeats, medians"]
    if many := report["many"]:
        lines += many_lines(many, given)
    if fast := report["throughput"]:
        lines += [
            row("durable grants/s", f"{fast['grants_a_second']:.0f}"),
            goal(f"  at least {GRANTS_GOAL:.0f}", fast["grants_a_second"] >= GRANTS_GOAL),
            row(
                "  of those with a store in memory",
                f"{fast['of_in_memory']:.0%} of {fast['in_memory_a_second']:.0f}",
            ),
            row("  latency p50 / p99, ms", f"{fast['p50_ms']:.1f} / {fast['p99_ms']:.1f}"),
            row("  tracker, of a core", f"{fast['cpu']:.0%}"),
        ]
    return "\n".join(lines)


def many_lines(many: dict[str, float], given: argparse.Namespace) -> list[str]:
    """The part about many devices."""
    latency = " / ".join(f"{many[f'p{n}_ms']:.1f}" for n in (50, 90, 99))
    lost = f"{many['leases_lost']:.0f} of {many['leases_held']:.0f}"
    whole = not many["leases_lost"] and not many["offline"]
    return [
        row(f"{given.devices} devices connected in", f"{many['connect_s']:.1f} s"),
        row("  memory for each", f"{many['kib_a_device']:.1f} KiB"),
        row("  tracker, of a core, idle", f"{many['idle_cpu']:.0%}"),
        row(f"  at {given.rate:g} requests/s", f"{many['busy_cpu']:.0%}"),
        row("grant latency p50 / p90 / p99, ms", latency),
        goal(f"  p99 under {LATENCY_GOAL_MS:.0f} ms", many["p99_ms"] < LATENCY_GOAL_MS),
        row("  grants, errors", f"{many['grants']:.0f}, {many['errors']:.0f}"),
        row("kill -9, until it answers", f"{many['restart_s']:.1f} s"),
        row("  until every device is back", f"{many['storm_s']:.1f} s"),
        row("  leases lost", lost),
        goal("  nothing is lost", whole),
    ]


def row(what: str, value: str) -> str:
    """A line of the table."""
    return f"{what:38} {value}"


def goal(what: str, met: bool) -> str:
    """Whether it is reached."""
    return row(what, "met" if met else "NOT met")


if __name__ == "__main__":
    main()
