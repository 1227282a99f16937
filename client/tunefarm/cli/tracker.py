"""tunefarm tracker"""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefarm_proto import serving
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.security import ServerTls

from tunefarm.cli import service
from tunefarm.cli.output import add_json, add_server_tls, host_port, print_json
from tunefarm.cli.parsing import port

if TYPE_CHECKING:
    from tunefarm.cli.units import Unit

NAME = "tunefarm-tracker"
_SECRETS = {"tls_cert": "cert", "tls_key": "key", "tls_client_ca": "clientca"}


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )
    parser.add_argument("--port", type=port, default=9190, help="port (default 9190; 0: any free)")
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
    parser.add_argument(
        "--dashboard",
        default="",
        metavar="URL",
        help="where the farm's dashboard is, told to users",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info")
    add_json(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    _add_server(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    install = verbs.add_parser("install", help="make it a service of this machine (systemd)")
    _add_server(install)
    install.set_defaults(parser=install)
    service.add_arguments(install, NAME)
    service.add_removal(verbs.add_parser("uninstall", help="take the service away"), NAME)
    backup = verbs.add_parser("backup", help="copy its state into a file, while it runs or not")
    backup.add_argument("file", type=Path, metavar="FILE", help="a new file, as in farm.tar.gz")
    restore = verbs.add_parser("restore", help="make its state what a backup says; it must not run")
    restore.add_argument("file", type=Path, metavar="FILE", help="what `backup` wrote")
    restore.add_argument(
        "--replace", action="store_true", help="move aside what the folder holds now"
    )
    for one in (backup, restore):
        one.add_argument(
            "--state",
            type=Path,
            metavar="DIR",
            help=f"the state folder (default: that of the service, /var/lib/{NAME}, if there is "
            "one, else the user's own)",
        )
        add_json(one)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted, install what does, or save and restore its state."""
    verbs = {
        "install": _install,
        "uninstall": service.remove,
        "backup": _backup,
        "restore": _restore,
        None: _serve,
    }
    return verbs[arguments.verb](arguments)


def _checked_url(url: str) -> str:
    if url and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", url):
        raise InvalidRequestError(
            f"--dashboard {url} is no address of a page", "write it as in http://tracker.lab:9191"
        )
    return url.rstrip("/")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the tracker is started with. Raises: InvalidRequestError."""
    from tunefarm_tracker.operations import Operations, read_operations

    operations = Operations()
    if arguments.operations is not None:
        operations = read_operations(arguments.operations)
    return {
        "tls": ServerTls.read(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca),
        "insecure": arguments.insecure,
        "require_tokens": arguments.require_tokens,
        "operations": operations,
        "metrics": host_port(arguments.metrics) if arguments.metrics else None,
        "dashboard": _checked_url(arguments.dashboard),
    }


def _serve(arguments: argparse.Namespace) -> int:
    from tunefarm_tracker.server import serve

    def ready(bound: int) -> None:
        if arguments.json:
            print_json({"address": f"{arguments.host}:{bound}", "pid": os.getpid()}, line=True)

    serve(
        arguments.host,
        arguments.port,
        arguments.state,
        **_options(arguments),
        log_format=arguments.log_format,
        log_level=arguments.log_level,
        on_ready=ready,
    )
    return 0


def _install(given: argparse.Namespace) -> int:
    return service.install(unit_of(given), given)


def unit_of(given: argparse.Namespace) -> "Unit":
    """The unit of a tracker with these arguments.

    Raises: InvalidRequestError for what the tracker itself would refuse.
    """
    from tunefarm.cli.units import Unit

    options = _options(given)
    if given.state is not None:
        raise InvalidRequestError(
            f"a service keeps its state in /var/lib/{given.name}", "leave --state out"
        )
    accounts = given.root / f"var/lib/{given.name}/accounts.sqlite"
    guarded = given.require_tokens or accounts.exists()
    serving.check_exposure(given.host, options["tls"], guarded=guarded, insecure=given.insecure)
    if given.operations is not None:
        given.operations = given.operations.absolute()
    secrets = {
        name: Path(getattr(given, dest)) for dest, name in _SECRETS.items() if getattr(given, dest)
    }
    named = ["--" + dest.replace("_", "-") for dest in _SECRETS]
    shown = dict(zip(named, _SECRETS.values(), strict=True))
    return Unit(
        name=given.name,
        what="tracker",
        command=[
            *(sys.executable, "-Im", "tunefarm", "tracker", "--state", "${STATE_DIRECTORY}"),
            *service.words_of(given.parser, given, named),
            *(
                word
                for option, name in shown.items()
                if name in secrets
                for word in (option, f"${{CREDENTIALS_DIRECTORY}}/{name}")
            ),
        ],
        credentials=secrets,
        python=service.python_folders(),
    )


def _state_of(arguments: argparse.Namespace) -> Path:
    from tunefarm_tracker.server import default_state_dir

    if arguments.state is not None:
        return Path(arguments.state)
    of_service = Path("/var/lib") / NAME
    return of_service if of_service.is_dir() else default_state_dir()


def _backup(arguments: argparse.Namespace) -> int:
    from tunefarm_tracker.backup import backup

    state = _state_of(arguments)
    return _tell(arguments, "wrote", backup(state, arguments.file), state)


def _restore(arguments: argparse.Namespace) -> int:
    from tunefarm_tracker.backup import restore

    state = _state_of(arguments)
    done = restore(arguments.file, state, replace=arguments.replace)
    return _tell(arguments, "restored", done, state)


def _tell(arguments: argparse.Namespace, word: str, manifest: Any, state: Path) -> int:
    if arguments.json:
        print_json(
            {
                "file": str(arguments.file),
                "state": str(state),
                "made_at": manifest.made_at,
                "software": manifest.software,
                "counts": manifest.counts,
            }
        )
        return 0
    counts = ", ".join(f"{number} {name}" for name, number in manifest.counts.items())
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.made_at))
    where = f"{arguments.file}" if word == "wrote" else f"{state} from {arguments.file}"
    print(f"{word} {where}: {counts}; as it was at {at}, tunefarm {manifest.software}")
    return 0
