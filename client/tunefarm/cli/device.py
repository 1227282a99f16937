"""tunefarm device"""

import argparse
from pathlib import Path

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.security import Access, Credentials, ServerTls

from tunefarm.channel import tracker_address
from tunefarm.cli.output import add_server_tls, add_tracker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--key",
        required=True,
        action="append",
        metavar="NAME[:OPTION=VALUE,...]",
        help="a device: what it is requested by, as in rasp3b; may be given again, as in "
        "x86:cores=0-3 (options: cores, backend, unit, label.NAME)",
    )
    add_tracker(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: local)")
    parser.add_argument("--port", type=int, default=0, help="port (default 0: any free)")
    parser.add_argument("--advertise", metavar="HOST:PORT", help="where clients reach it")
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where its cache and name are kept"
    )
    add_server_tls(parser)
    parser.add_argument(
        "--anchor-interval",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="between two timings of the anchors, which show drift (default 1800; 0: never)",
    )
    parser.add_argument(
        "--isolation",
        choices=("full", "basic"),
        default="full",
        help="what shuts kernels in: all that this system has, or only what every system has",
    )
    parser.add_argument(
        "--backend",
        default="native",
        metavar="NAME",
        help="kind of device: native (default), wasm, or the path of a file that defines one",
    )
    parser.add_argument(
        "--random-addresses",
        action="store_true",
        help="let libraries lie elsewhere after each start, as systems do",
    )
    parser.add_argument(
        "--nice",
        type=int,
        default=0,
        metavar="N",
        help="niceness of kernels, as in -10; negative ones need the right to it (default 0)",
    )
    parser.add_argument(
        "--time-together",
        action="store_true",
        help="devices with cores of their own may time at the same moment",
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what it can be asked for by, as in lab=berlin; may be given again",
    )


def labels_of(words: list[str]) -> dict[str, str]:
    """Labels by name. Raises: InvalidRequestError."""
    labels: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value) or "," in word:
            raise InvalidRequestError(f"--label {word} is no label", "write it as in lab=berlin")
        labels[name] = value
    return labels


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from tunefarm_device.building import Options
    from tunefarm_device.server import serve

    serve(
        arguments.key,
        tracker_address(arguments.tracker),
        host=arguments.host,
        port=arguments.port,
        advertise=arguments.advertise,
        options=Options(
            state_dir=arguments.state,
            labels=labels_of(arguments.label),
            time_together=arguments.time_together,
            isolation=arguments.isolation,
            backend=arguments.backend,
            fixed_addresses=not arguments.random_addresses,
            nice=arguments.nice,
            anchor_interval_s=arguments.anchor_interval,
        ),
        access=Access(
            Credentials.from_environment(),
            ServerTls.read(arguments.tls_cert, arguments.tls_key),
            arguments.insecure,
        ),
    )
    return 0
