"""tunefarm check"""

import argparse
import time
from dataclasses import asdict

from tunefarm_proto.errors import UnknownDeviceError

from tunefarm.cli.output import add_json, add_tracker, print_json
from tunefarm.cli.parsing import number
from tunefarm.tracker import Tracker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("devices", nargs="*", metavar="DEVICE", help="ids (default: every device)")
    parser.add_argument("--key", default="", help="only devices of this key")
    parser.add_argument("--every", type=number(0.1), metavar="SECONDS", help="again and again")
    parser.add_argument(
        "--wait",
        type=number(0, above=True),
        default=30.0,
        help="seconds to wait for a busy one (default 30)",
    )
    add_tracker(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check, and print how each did. Exit status 1 where one failed."""
    from tunefarm_tuner.health import Check, check_all

    words = {True: "passed", False: "FAILED", None: "not checked"}

    def show(check: Check) -> None:
        if not arguments.json:
            print(f"{check.device_id}: {words[check.passed]}: {check.detail}", flush=True)

    with Tracker(arguments.tracker) as tracker:
        known = {device.id for device in tracker.devices(arguments.key)}
        if strange := sorted(set(arguments.devices) - known):
            raise UnknownDeviceError(
                f"there is no device {', '.join(strange)}",
                "`tunefarm status` lists those there are",
            )
        chosen = set(arguments.devices) or None
        while True:
            checks = check_all(
                tracker,
                lambda d: (chosen is None or d.id in chosen) and arguments.key in ("", d.key),
                show,
                arguments.wait,
            )
            if arguments.json:
                done = [asdict(check) for check in checks]
                print_json(done, line=arguments.every is not None)
            if arguments.every is None:
                return 1 if any(check.passed is False for check in checks) else 0
            time.sleep(arguments.every)
