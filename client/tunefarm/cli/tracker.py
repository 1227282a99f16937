"""tunefarm tracker"""

import argparse
from pathlib import Path

from tunefarm_proto.security import ServerTls

from tunefarm.cli.output import add_server_tls, host_port


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: local)")
    parser.add_argument("--port", type=int, default=9190, help="port (default 9190; 0: any free)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where its memory is kept")
    add_server_tls(parser)
    parser.add_argument(
        "--tls-client-ca", metavar="FILE", help="callers must show a certificate of this CA (PEM)"
    )
    parser.add_argument(
        "--require-tokens", action="store_true", help="want a token even while there is none"
    )
    parser.add_argument(
        "--operations", type=Path, metavar="FILE", help="recovery steps, notices, retention (TOML)"
    )
    parser.add_argument("--metrics", metavar="HOST:PORT", help="answer Prometheus there")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info")


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from tunefarm_tracker.operations import Operations, read_operations
    from tunefarm_tracker.server import serve

    operations = Operations()
    if arguments.operations is not None:
        operations = read_operations(arguments.operations)
    serve(
        arguments.host,
        arguments.port,
        arguments.state,
        tls=ServerTls.read(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca),
        insecure=arguments.insecure,
        require_tokens=arguments.require_tokens,
        operations=operations,
        metrics=host_port(arguments.metrics) if arguments.metrics else None,
        log_format=arguments.log_format,
        log_level=arguments.log_level,
    )
    return 0
