"""tunefarm dashboard"""

import argparse

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.security import is_loopback

from tunefarm.channel import tracker_address
from tunefarm.cli.output import add_json, add_operators, add_tracker, print_json
from tunefarm.cli.parsing import port


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_tracker(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="host name of a proxy in front, which passes it on in Host",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="listen beyond this machine in plaintext",
    )
    parser.add_argument("--port", type=port, default=9191, help="port (default 9191; 0: any free)")
    add_operators(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from tunefarm_dashboard.server import serve

    if not (arguments.insecure or is_loopback(arguments.host)):
        raise InvalidRequestError(
            f"listening on {arguments.host or 'every address'}, beyond this machine, needs TLS, "
            "which the dashboard has by a proxy in front of it",
            "put one on this machine and name it by --name, or say --insecure where whoever "
            "reaches it may see the farm",
        )
    tracker = tracker_address(arguments.tracker)
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host

    def ready(port: int) -> None:
        url = f"http://{host}:{port}/"
        if arguments.json:
            print_json({"url": url}, line=True)
        else:
            print(f"the dashboard of {tracker} is at {url}", flush=True)

    serve(tracker, arguments.host, arguments.port, ready, names=arguments.name)
    return 0
