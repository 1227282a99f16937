"""tunefarm tls: a CA and certificates, to try TLS out and for small farms"""

import argparse
from pathlib import Path

from tunefarm.cli.output import add_json, print_json
from tunefarm.cli.parsing import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make certificates; the CA where there is none yet")
    create.add_argument("--dir", type=Path, required=True, metavar="DIR", help="where they go")
    create.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME_OR_IP",
        help="a machine to make a certificate for; several names of one machine by commas",
    )
    create.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="NAME",
        help="a client to make a certificate for, for mutual TLS",
    )
    create.add_argument(
        "--days",
        type=whole(1, 36500),
        default=365,
        metavar="N",
        help="how long they hold (default 365)",
    )
    add_json(create)


def run(arguments: argparse.Namespace) -> int:
    """Make what is asked for."""
    from tunefarm.certificates import create

    made = create(arguments.dir, arguments.host, arguments.client, arguments.days)
    if arguments.json:
        print_json({"files": [str(path) for path in made]})
    else:
        print(*made, sep="\n")
    return 0
