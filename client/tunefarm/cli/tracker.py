"""tunefarm tracker"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: local)")
    parser.add_argument("--port", type=int, default=9190, help="port (default 9190; 0: any free)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where its memory is kept")


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from tunefarm_tracker.server import serve

    serve(arguments.host, arguments.port, arguments.state)
    return 0
