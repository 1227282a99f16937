"""tunefarm dashboard"""

import argparse

from tunefarm.channel import tracker_address
from tunefarm.cli.output import add_tracker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_tracker(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: local)")
    parser.add_argument("--port", type=int, default=9191, help="port (default 9191)")


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from tunefarm_dashboard.server import serve

    serve(tracker_address(arguments.tracker), arguments.host, arguments.port)
    return 0
