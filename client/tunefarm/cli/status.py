"""tunefarm status"""

import argparse
import time
from typing import Any

from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.cli.output import add_json, add_tracker, print_json, table
from tunefarm.tracker import Tracker, wanted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_tracker(parser)
    add_json(parser)


def state_name(device: tpb.Device) -> str:
    """The state in one lower-case word."""
    return tpb.DeviceState.Name(device.state).removeprefix("DEVICE_STATE_").lower()


def health_name(device: tpb.Device) -> str:
    """The health in one lower-case word."""
    return tpb.DeviceHealth.Name(device.health).removeprefix("DEVICE_HEALTH_").lower()


def as_dict(
    devices: list[tpb.Device], queue: list[tpb.QueuedRequest], leases: list[pb.Lease]
) -> dict[str, Any]:
    """What --json prints."""
    return {
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


def run(arguments: argparse.Namespace) -> int:
    """Ask the tracker and print what it knows."""
    with Tracker(arguments.tracker) as tracker:
        status = as_dict(tracker.devices(), tracker.queue(), tracker.leases())
        leases = tracker.leases()
    if arguments.json:
        print_json(status)
        return 0
    held = {lease.device_id: lease for lease in leases}
    rows = []
    for device in status["devices"]:
        lease = held.get(device["id"])
        since = format_age(time.time() - lease.granted_at.seconds) if lease else ""
        target = device["target"] + (" [emulated]" if device["emulated"] else "")
        columns = [device[name] for name in ("id", "key", "state", "health", "holder")]
        rows.append([*columns, since, device["purpose"], device["address"], target])
    head = ["DEVICE", "KEY", "STATE", "HEALTH", "HOLDER", "SINCE", "FOR", "ADDRESS", "TARGET"]
    print(table(head, rows) if rows else "no devices (start one with `tunefarm device --key KEY`)")
    for device in status["devices"]:
        if device["health_reason"]:
            print(f"{device['id']}: {device['health_reason']}")
    if status["queue"]:
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
        print(
            "\n" + table(["PLACE", "KEY", "USER", "PRIORITY", "MAY TAKE", "WAITS BECAUSE"], waiting)
        )
    return 0
