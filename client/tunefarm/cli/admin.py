"""tunefarm admin"""

import argparse

from tunefarm_proto.exits import Exit
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.cli.output import add_json, add_tracker, print_json, table
from tunefarm.cli.parsing import whole
from tunefarm.cli.status import health_name, state_name
from tunefarm.tracker import Tracker

ACTIONS = {
    "drain": (tpb.DEVICE_ACTION_DRAIN, "let it finish its lease, then give it no other"),
    "enable": (tpb.DEVICE_ACTION_ENABLE, "call it good and grant it again"),
    "quarantine": (tpb.DEVICE_ACTION_QUARANTINE, "do not trust it until it is enabled"),
    "retire": (tpb.DEVICE_ACTION_RETIRE, "take it out for good"),
    "forget": (tpb.DEVICE_ACTION_FORGET, "know it no more, once it is offline; results stay"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (_, summary) in ACTIONS.items():
        verb = verbs.add_parser(name, help=summary)
        verb.add_argument(
            "devices", nargs="+", metavar="DEVICE", help="id, as `tunefarm status` shows"
        )
        _common(verb, reason=True)
    revoke = verbs.add_parser("revoke", help="end somebody's lease and cut off what runs")
    revoke.add_argument("lease", metavar="LEASE", help="id of the lease or of its device")
    _common(revoke, reason=True)
    cancel = verbs.add_parser("cancel", help="end a waiting request")
    cancel.add_argument("request", metavar="REQUEST", help="id, as `tunefarm status --json` tells")
    _common(cancel)
    quota = verbs.add_parser("quota", help="limit what a user may have at a time")
    quota.add_argument("user", metavar="USER")
    quota.add_argument(
        "--max-devices", type=whole(0), metavar="N", help="devices held (else no limit)"
    )
    quota.add_argument(
        "--max-requests", type=whole(0), metavar="N", help="requests (else the default)"
    )
    _common(quota)
    _common(verbs.add_parser("users", help="who holds, waits, has used devices or has a quota"))


def _common(parser: argparse.ArgumentParser, reason: bool = False) -> None:
    if reason:
        parser.add_argument("--reason", default="", help="why, in one line; people read it")
    add_tracker(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it, and print what has become of it. Exit status 1: there was nothing to end."""
    with Tracker(arguments.tracker) as tracker:
        if arguments.verb in ACTIONS:
            return _manage(tracker, arguments)
        if arguments.verb == "revoke":
            return _revoke(tracker, arguments)
        if arguments.verb == "cancel":
            done = tracker.cancel(arguments.request)
            text = "cancelled" if done else "no such request waits"
            return _say(arguments, {"cancelled": done}, text, done)
        if arguments.verb == "quota":
            return _quota(tracker, arguments)
        return _users(tracker, arguments)


def _say(arguments: argparse.Namespace, value: object, text: str, done: bool = True) -> int:
    if arguments.json:
        print_json(value)
    else:
        print(text)
    return Exit.DONE if done else Exit.NO


def _manage(tracker: Tracker, arguments: argparse.Namespace) -> int:
    action, _ = ACTIONS[arguments.verb]
    done = [tracker.manage(one, action, arguments.reason) for one in arguments.devices]
    gone = arguments.verb == "forget"
    rows = [
        {
            "id": d.id,
            "state": "forgotten" if gone else state_name(d),
            "health": health_name(d),
            "reason": d.health_reason,
        }
        for d in done
    ]
    lines = [[row["id"], row["state"], row["health"], row["reason"]] for row in rows]
    return _say(arguments, rows, table(["DEVICE", "STATE", "HEALTH", "REASON"], lines))


def _revoke(tracker: Tracker, arguments: argparse.Namespace) -> int:
    held = {lease.device_id: lease.id for lease in tracker.leases()}
    lease_id = held.get(arguments.lease, arguments.lease)
    done = tracker.revoke(lease_id, arguments.reason)
    return _say(arguments, {"revoked": done}, "revoked" if done else "no such lease is live", done)


def _quota(tracker: Tracker, arguments: argparse.Namespace) -> int:
    tracker.set_quota(arguments.user, arguments.max_devices, arguments.max_requests)
    return _say(arguments, {"user": arguments.user}, f"the quota of {arguments.user} is set")


def _users(tracker: Tracker, arguments: argparse.Namespace) -> int:
    users = [
        {
            "name": user.name,
            "devices": user.devices,
            "waiting": user.waiting,
            "recent_use_s": round(user.recent_use_s, 1),
            "max_devices": user.max_devices if user.HasField("max_devices") else None,
            "max_requests": user.max_requests if user.HasField("max_requests") else None,
        }
        for user in tracker.users()
    ]
    rows = [["" if value is None else value for value in user.values()] for user in users]
    head = ["USER", "DEVICES", "WAITING", "RECENT USE (S)", "MOST DEVICES", "MOST REQUESTS"]
    return _say(arguments, users, table(head, rows) if rows else "nobody yet")
