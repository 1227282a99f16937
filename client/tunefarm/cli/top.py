"""tunefarm top: what the devices do, and for whom"""

import argparse
import sys
from typing import Any

from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.cli.live import Screen, repeat
from tunefarm.cli.output import add_json, add_tracker, is_terminal, table
from tunefarm.cli.parsing import number, whole
from tunefarm.cli.status import format_age, health_name, state_name
from tunefarm.tracker import Tracker

ROWS = 40
_ORDER = ("leased", "cleaning", "draining", "idle", "offline")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_tracker(parser)
    parser.add_argument(
        "--every", type=number(0.1), default=2.0, metavar="SECONDS", help="how often (default 2)"
    )
    parser.add_argument(
        "-n",
        "--count",
        type=whole(1),
        metavar="N",
        help="so many times (default: until interrupted; once where the output is no terminal)",
    )
    add_json(parser)


def _device(device: tpb.Device, now: float) -> dict[str, Any]:
    at, lease = device.conditions, device.lease if device.HasField("lease") else None
    return {
        "id": device.id,
        "key": device.key,
        "state": state_name(device),
        "health": health_name(device),
        "holder": lease.holder if lease else "",
        "purpose": lease.purpose if lease else "",
        "held_s": round(max(now - lease.granted_at.ToNanoseconds() * 1e-9, 0)) if lease else None,
        "temperature_celsius": at.temperature_celsius
        if at.HasField("temperature_celsius")
        else None,
        "frequency_hz": at.frequency_hz if at.HasField("frequency_hz") else None,
        "load_average": at.load_average if at.HasField("load_average") else None,
        "throttled": _throttled(at),
        "emulated": device.facts.emulated,
    }


def _throttled(at: pb.Conditions) -> bool | None:
    """None where the device does not tell."""
    if at.throttle_reasons:
        return True
    told = at.HasField("throttle_bits") or at.HasField("power_watts")
    return bool(at.throttle_bits & 0xF) if told else None


def read(tracker: Tracker) -> dict[str, Any]:
    """Devices, those in use first; what waits by key; users, those who hold most first."""
    known, queue = tracker.devices(), tracker.queue()
    now = max((d.last_seen.ToNanoseconds() * 1e-9 for d in known), default=0.0)
    devices = [_device(device, now) for device in known]
    devices.sort(key=lambda d: (_ORDER.index(d["state"]) if d["state"] in _ORDER else 9, d["id"]))
    users: list[dict[str, Any]] = [
        {"name": u.name, "devices": u.devices, "waiting": u.waiting, "recent_use_s": u.recent_use_s}
        for u in tracker.users()
    ]
    users.sort(key=lambda u: (-u["devices"], -u["waiting"], -u["recent_use_s"], u["name"]))
    return {"devices": devices, "waiting": len(queue), "users": users}


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def write(found: dict[str, Any]) -> str:
    """The text of a screen."""
    devices = found["devices"]
    states = [d["state"] for d in devices]
    counts = ", ".join(f"{states.count(one)} {one}" for one in _ORDER if one in states)
    lines = [f"devices: {counts or 'none'}; requests that wait: {found['waiting']}", ""]
    rows = [
        [
            d["id"],
            d["state"],
            d["health"],
            d["holder"],
            "" if d["held_s"] is None else format_age(d["held_s"]),
            _number(d["temperature_celsius"], "{:.1f} C"),
            _number(d["frequency_hz"] and d["frequency_hz"] / 1e6, "{:.0f} MHz"),
            _number(d["load_average"], "{:.2f}"),
            " ".join(
                word
                for word, on in (("throttled", d["throttled"]), ("emulated", d["emulated"]))
                if on
            ),
            d["purpose"],
        ]
        for d in devices[:ROWS]
    ]
    head = ["DEVICE", "STATE", "HEALTH", "HOLDER", "HELD", "TEMP", "CLOCK", "LOAD", "MARKS", "FOR"]
    lines.append(table(head, rows) if rows else "no devices")
    if len(devices) > ROWS:
        lines.append(f"and {len(devices) - ROWS} more: `tunefarm status` lists all")
    people = [
        [u["name"], u["devices"], u["waiting"], format_age(u["recent_use_s"])]
        for u in found["users"][:10]
    ]
    if people:
        lines += ["", table(["USER", "DEVICES", "WAITING", "LATELY"], people)]
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Show it until interrupted."""
    count = arguments.count
    if count is None and not arguments.json and not is_terminal(sys.stdout):
        count = 1
    screen = Screen("tunefarm top", json=arguments.json)
    repeat(arguments.tracker, screen, arguments.every, read, write, count=count)
    return 0
