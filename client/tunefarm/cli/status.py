"""tunefarm status"""

import argparse
import datetime
import time
from typing import Any

from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.awaited import COME_BACK_S, unheard, uptime
from tunefarm.cli.links import dashboard_of, hello, link
from tunefarm.cli.live import Screen, repeat
from tunefarm.cli.output import add_json, add_tracker, clean, print_json, table
from tunefarm.cli.parsing import number
from tunefarm.tracker import Tracker, wanted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_tracker(parser)
    parser.add_argument(
        "--watch", action="store_true", help="show it again as it changes, until interrupted"
    )
    parser.add_argument(
        "--every",
        type=number(0.1),
        default=1.0,
        metavar="SECONDS",
        help="with --watch: how often to ask (default 1)",
    )
    add_json(parser)


def state_name(device: tpb.Device) -> str:
    """The state in one lower-case word."""
    return tpb.DeviceState.Name(device.state).removeprefix("DEVICE_STATE_").lower()


def health_name(device: tpb.Device) -> str:
    """The health in one lower-case word."""
    return tpb.DeviceHealth.Name(device.health).removeprefix("DEVICE_HEALTH_").lower()


def as_dict(
    devices: list[tpb.Device],
    queue: list[tpb.QueuedRequest],
    leases: list[pb.Lease],
    awaited: int = 0,
) -> dict[str, Any]:
    """What --json prints. `awaited` devices have yet to come back to a new tracker."""
    return {
        "awaited": awaited,
        "devices": [
            {
                "id": device.id,
                "key": device.key,
                "address": device.addresses[0] if device.addresses else "",
                "state": state_name(device),
                "health": health_name(device),
                "health_reason": device.health_reason,
                "holder": device.lease.holder,
                "purpose": device.lease.purpose,
                "held_since": device.lease.granted_at.ToJsonString()
                if device.HasField("lease")
                else None,
                "target": f"{device.facts.target.triple} {device.facts.target.cpu}".strip(),
                "emulated": device.facts.emulated,
                "attributes": dict(device.attributes),
            }
            for device in devices
        ],
        "queue": [
            {
                "request_id": waiting.request.request_id,
                "key": wanted(waiting.request),
                "user": waiting.request.user,
                "purpose": waiting.request.purpose,
                "priority": waiting.request.priority,
                "position": waiting.position.position,
                "reason": waiting.position.reason,
                "estimate_s": waiting.position.estimate.ToTimedelta().total_seconds()
                if waiting.position.HasField("estimate")
                else None,
                "queued_at": waiting.queued_at.ToJsonString(),
            }
            for waiting in queue
        ],
        "leases": [
            {
                "id": lease.id,
                "device": lease.device_id,
                "device_key": lease.device_key,
                "holder": lease.holder,
                "purpose": lease.purpose,
                "granted_at": lease.granted_at.ToJsonString(),
                "deadline": lease.deadline.ToJsonString(),
            }
            for lease in leases
        ],
    }


def format_age(seconds: float) -> str:
    """Seconds as people read them: 42 s, 12 min, 5 h, 3 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def read(tracker: Tracker) -> dict[str, Any]:
    """What the tracker knows now."""
    devices = tracker.devices()
    awaited = unheard(devices)
    if awaited and uptime(hello(tracker)) > COME_BACK_S:
        awaited = 0  # they do not come
    return as_dict(devices, tracker.queue(), tracker.leases(), awaited)


def _since(moment: str | None) -> str:
    if moment is None:
        return ""
    began = datetime.datetime.fromisoformat(moment.replace("Z", "+00:00"))
    return format_age(time.time() - began.timestamp())


def devices_text(status: dict[str, Any]) -> str:
    """A table of the devices, and why some are not trusted."""
    rows = []
    for device in status["devices"]:
        target = device["target"] + (" [emulated]" if device["emulated"] else "")
        columns = [device[name] for name in ("id", "key", "state", "health", "holder")]
        since = _since(device["held_since"])
        rows.append([*columns, since, device["purpose"], device["address"], target])
    head = ["DEVICE", "KEY", "STATE", "HEALTH", "HOLDER", "SINCE", "FOR", "ADDRESS", "TARGET"]
    if not rows:
        return "no devices (start one with `tunefarm device --key KEY`)"
    why = [
        f"{d['id']}: {clean(d['health_reason'])}" for d in status["devices"] if d["health_reason"]
    ]
    if awaited := status["awaited"]:
        of = f"{awaited} of {len(rows)} devices"
        why.append(f"the tracker has just started and has yet to hear of {of}")
    return "\n".join([table(head, rows), *why])


def queue_text(status: dict[str, Any]) -> str:
    """A table of what waits; "" where nothing does."""
    waiting = [
        [
            q["position"],
            q["key"],
            q["user"],
            q["priority"],
            "" if q["estimate_s"] is None else f"~{format_age(q['estimate_s'])}",
            q["reason"],
        ]
        for q in status["queue"]
    ]
    head = ["PLACE", "KEY", "USER", "PRIORITY", "MAY TAKE", "WAITS BECAUSE"]
    return "\n\n" + table(head, waiting) if waiting else ""


def run(arguments: argparse.Namespace) -> int:
    """Print the state of the farm, once or as it changes."""
    if arguments.watch:
        screen = Screen("tunefarm status", json=arguments.json)
        repeat(
            arguments.tracker,
            screen,
            arguments.every,
            read,
            lambda status: devices_text(status) + queue_text(status),
        )
    with Tracker(arguments.tracker) as tracker:
        status = read(tracker)
        page = link(dashboard_of(tracker), "farm")
    if arguments.json:
        print_json({**status, "url": page})
        return 0
    print(devices_text(status) + queue_text(status))
    if page:
        print(f"\ndashboard: {page}")
    return 0
