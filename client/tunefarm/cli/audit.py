"""tunefarm audit: who did what"""

import argparse

from tunefarm.accounts import Accounts
from tunefarm.cli.output import add_json, add_tracker, print_json, table
from tunefarm.cli.parsing import whole
from tunefarm.cli.token import moment
from tunefarm.tracker import Tracker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_tracker(parser)
    parser.add_argument(
        "--after",
        type=whole(0),
        metavar="CURSOR",
        help="entries after this one (default: the newest)",
    )
    parser.add_argument(
        "--limit", type=whole(1), default=100, metavar="N", help="at most so many (default 100)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a part of the log, oldest first."""
    newest = arguments.after is None
    with Tracker(arguments.tracker) as tracker:
        found = Accounts(tracker).audit(arguments.after or 0, arguments.limit, newest=newest)
    entries = [
        {
            "cursor": one.cursor,
            "at": moment(one.at),
            "who": one.who,
            "role": one.role,
            "action": one.action,
            "subject": one.subject,
            "outcome": one.outcome,
        }
        for one in found
    ]
    if arguments.json:
        print_json(entries)
    else:
        head = ["CURSOR", "AT", "WHO", "ROLE", "ACTION", "SUBJECT", "OUTCOME"]
        print(table(head, [list(one.values()) for one in entries]))
    return 0
