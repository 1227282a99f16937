"""tunefarm status"""

import argparse
import time
from typing import Any

from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.cli.output import add_json, add_tracker, print_json, table
from tunefarm.tracker import Tracker


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
                "holder": device.lease.holder,
                "target": f"{device.facts.target.triple} {device.facts.target.cpu}".strip(),
                "emulated": device.facts.emulated,
            }
            for device in devices
        ],
        "queue": [
            {
                "request_id": waiting.request.request_id,
                "key": waiting.request.key,
                "user": waiting.request.user,
                "purpose": waiting.request.purpose,
                "priority": waiting.request.priority,
                "position": waiting.position.position,
                "reason": waiting.position.reason,
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
        since = f"{time.time() - lease.granted_at.seconds:.0f} s" if lease else ""
        target = device["target"] + (" [emulated]" if device["emulated"] else "")
        columns = [device[name] for name in ("id", "key", "state", "health", "holder")]
        rows.append([*columns, since, device["address"], target])
    head = ["DEVICE", "KEY", "STATE", "HEALTH", "HOLDER", "SINCE", "ADDRESS", "TARGET"]
    print(table(head, rows) if rows else "no devices (start one with `tunefarm device --key KEY`)")
    if status["queue"]:
        waiting = [
            [q["position"], q["key"], q["user"], q["priority"], q["reason"]]
            for q in status["queue"]
        ]
        print("\n" + table(["PLACE", "KEY", "USER", "PRIORITY", "WAITS BECAUSE"], waiting))
    return 0
