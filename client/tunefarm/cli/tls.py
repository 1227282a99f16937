"""tunefarm tls: a CA and certificates, to try TLS out and for small farms"""

import argparse
from pathlib import Path


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
    create.add_argument("--days", type=int, default=365, help="how long they hold (default 365)")


def run(arguments: argparse.Namespace) -> int:
    """Make what is asked for."""
    from tunefarm.certificates import create

    for path in create(arguments.dir, arguments.host, arguments.client, arguments.days):
        print(path)
    return 0
