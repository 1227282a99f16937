"""tunefarm device"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunefarm_proto import serving
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.security import TLS_CA, TOKEN_FILE, Credentials, ServerTls, host_of, is_loopback

from tunefarm.channel import tracker_address
from tunefarm.cli import service
from tunefarm.cli.output import add_tracker

if TYPE_CHECKING:
    from tunefarm.cli.units import Unit

NAME, PORT = "tunefarm-device", 9200
EVERYWHERE = "0.0.0.0"  # noqa: S104 (with TLS, or where that is asked for in so many words)
_OF_A_SERVICE = {
    "host": "address to listen on (default 0.0.0.0; 127.0.0.1 where the tracker is here)",
    "port": f"port (default {PORT})",
    "state": argparse.SUPPRESS,
}
_SECRETS = {"token_file": "token", "tls_ca": "ca", "tls_cert": "cert", "tls_key": "key"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from tunefarm_device import arguments as of_server

    add_tracker(parser)
    of_server.add_arguments(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    install = verbs.add_parser("install", help="make it a service of this machine (systemd)")
    add_tracker(install)
    of_server.add_arguments(install)
    # A service is for others, and for firewalls its port must not change.
    install.set_defaults(host=None, port=PORT, parser=install)
    for action in install._actions:
        action.help = _OF_A_SERVICE.get(action.dest, action.help)
    service.add_arguments(install, NAME)
    service.add_removal(verbs.add_parser("uninstall", help="take the service away"), NAME)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted, or install what does."""
    from tunefarm_device import arguments as of_server

    if arguments.verb == "uninstall":
        return service.remove(arguments)
    tracker = tracker_address(arguments.tracker)
    if arguments.verb == "install":
        return service.install(unit_of(arguments, tracker), arguments)
    return of_server.run(arguments, tracker)


def unit_of(given: argparse.Namespace, tracker: str) -> "Unit":
    """The unit of a device server with these arguments.

    Raises: InvalidRequestError for what the server itself would refuse.
    """
    from tunefarm_device.arguments import options_of
    from tunefarm_device.keys import parse_key

    from tunefarm.cli.units import Unit

    if given.host is None:
        given.host = "127.0.0.1" if is_loopback(host_of(tracker)) else EVERYWHERE
    if not given.key:
        raise InvalidRequestError("a device server needs a key", "give --key, as in rasp3b")
    if given.state is not None:
        raise InvalidRequestError(
            f"a service keeps its state in /var/lib/{given.name}", "leave --state out"
        )
    keys = [parse_key(word) for word in given.key]
    options = options_of(given)
    credentials = Credentials.from_environment()
    credentials.check_tracker(tracker)
    tls = ServerTls.read(given.tls_cert, given.tls_key)
    serving.check_exposure(given.host, tls, guarded=True, insecure=given.insecure)
    kinds = {key.backend_of(options.backend) for key in keys}
    secrets, words = _secrets(given)
    if credentials.token and "token" not in secrets:
        raise InvalidRequestError("a service reads its token from a file", "give --token-file")
    given.backend = str(Path(given.backend).absolute()) if "/" in given.backend else given.backend
    asked = service.words_of(given.parser, given, ("--tracker", *_option_names()))
    return Unit(
        name=given.name,
        what="device",
        command=[
            *(sys.executable, "-Im", "tunefarm", "device", "--tracker", tracker),
            *("--state", "${STATE_DIRECTORY}", "--port", str(given.port), "--host", given.host),
            *_without(asked, ("--port", "--host")),
            *words,
        ],
        credentials=secrets,
        environment={"TUNEFARM_INSECURE": "1"} if credentials.insecure else {},
        python=service.python_folders(),
        devices=not kinds <= {"native", "wasm"},
        nice=given.nice,
    )


def _option_names() -> list[str]:
    return ["--" + name.replace("_", "-") for name in _SECRETS]


def _without(words: list[str], options: tuple[str, ...]) -> list[str]:
    """Words without these options and their values."""
    kept: list[str] = []
    for i, word in enumerate(words):
        if word not in options and (i == 0 or words[i - 1] not in options):
            kept.append(word)
    return kept


def _secrets(given: argparse.Namespace) -> tuple[dict[str, Path], list[str]]:
    """Files that the service is to have, and the words by which it finds them.

    The token and the CA may be named by the environment too, as for the server itself.
    """
    files: dict[str, Path] = {}
    words: list[str] = []
    variables = {"token_file": TOKEN_FILE, "tls_ca": TLS_CA}
    for dest, name in _SECRETS.items():
        path = getattr(given, dest) or os.environ.get(variables.get(dest, ""), "")
        if path:
            files[name] = Path(path)
            words += ["--" + dest.replace("_", "-"), f"${{CREDENTIALS_DIRECTORY}}/{name}"]
    return files, words
