"""tunefarm device"""

import argparse
from pathlib import Path

from tunefarm.channel import tracker_address
from tunefarm.cli.output import add_tracker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--key", required=True, help='what it is requested by, as in "rasp3b"')
    add_tracker(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: local)")
    parser.add_argument("--port", type=int, default=0, help="port (default 0: any free)")
    parser.add_argument("--advertise", metavar="HOST:PORT", help="where clients reach it")
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where its cache and name are kept"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from tunefarm_device.server import serve

    serve(
        arguments.key,
        tracker_address(arguments.tracker),
        host=arguments.host,
        port=arguments.port,
        advertise=arguments.advertise,
        state_dir=arguments.state,
    )
    return 0
