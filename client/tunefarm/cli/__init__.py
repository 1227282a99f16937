"""The `tunefarm` command line: one module for each command; each loads its part when it runs.

How a command ends is told by its exit status: `tunefarm_proto.exits`.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tunefarm_proto import extras
from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.exits import Exit, exit_of
from tunefarm_proto.rpc import software_version
from tunefarm_proto.security import TLS_CA, TOKEN_FILE

from tunefarm.cli.parsing import Parser

COMMANDS = {
    "tracker": "run the tracker that brokers the devices; install it, back its state up",
    "device": "run the device server of this machine, or install it",
    "status": "show devices, queue and leases",
    "build": "compile workloads, or your own kernel, into a bundle",
    "targets": "show what can be compiled for",
    "top": "watch what the devices do, and for whom",
    "logs": "show what has happened on the farm, or follow it",
    "bench": "build a workload, run it on a device, check and time it",
    "compare": "say which of two kernels is faster on a device, and how sure that is",
    "results": "show or export what was measured",
    "check": "check the health of devices by a known kernel",
    "admin": "drain, enable, quarantine, retire, forget devices; revoke leases; set quotas",
    "tune": "search the fastest schedules of workloads on devices",
    "best": "show, import and export the best schedules known",
    "token": "say who may use the farm",
    "audit": "show who did what, and who was refused",
    "tls": "make certificates to try TLS out, and for small farms",
    "dashboard": "show the farm in a browser",
    "demo": "try all of it on this machine",
    "doctor": "say what this machine and the farm can do, and what is missing",
    "completion": "print what lets a shell complete these commands",
}
DEBUG = "TUNEFARM_DEBUG"
OPERATORS = "TUNEFARM_OPERATORS"  # files of users' own operators


@contextmanager
def _environment_of(arguments: argparse.Namespace) -> Iterator[None]:
    """Let --token-file, --tls-ca and --operators hold as if the environment said so: paths alone.

    So the processes that a command starts know them, too.
    """
    given = {TOKEN_FILE: "token_file", TLS_CA: "tls_ca"}
    named = {name: str(path) for name, o in given.items() if (path := getattr(arguments, o, None))}
    if files := getattr(arguments, "operators", None):
        paths = [*(os.path.abspath(path) for path in files), os.environ.get(OPERATORS, "")]  # noqa: PTH100
        named[OPERATORS] = os.pathsep.join(filter(None, paths))
    before = {name: os.environ.get(name) for name in named}
    os.environ.update(named)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def build_parser(only: str | None = None) -> Parser:
    """The parser of all commands; with `only` the options of that one alone, which is quicker."""
    parser = Parser(
        prog="tunefarm",
        description="A farm for kernels.",
        epilog="Exit statuses are in docs/command-line.md.",
    )
    parser.add_argument("--version", action="version", version=f"tunefarm {software_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"tunefarm {name}: {summary}")
        if only in (None, name):
            importlib.import_module(f"tunefarm.cli.{name}").add_arguments(command)
    return parser


def _failed(arguments: argparse.Namespace, kind: str, message: str, hint: str, status: int) -> int:
    """Tell what went wrong: one line on stderr, and with --json an object on stdout."""
    line = f"{message} ({hint})" if hint else message
    print(f"tunefarm: {' '.join(line.split())}", file=sys.stderr)
    if getattr(arguments, "json", False):
        error = {"name": kind, "message": message, "hint": hint, "exit": int(status)}
        print(json.dumps({"error": error}))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    named = next((word for word in words if not word.startswith("-")), None)
    arguments = build_parser(named if named in COMMANDS else "").parse_args(words)
    try:
        with _environment_of(arguments):
            return run(arguments)
    except BrokenPipeError:
        # What reads our output went away, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def run(arguments: argparse.Namespace) -> int:
    """Run a command whose words are read. Returns the exit status; what goes wrong is told."""
    try:
        module = importlib.import_module(f"tunefarm.cli.{arguments.command}")
        if getattr(arguments, "operators", None):
            from tunefarm.cli.output import check_operators

            check_operators()  # what is wrong with them is said now
        status: int = module.run(arguments)
        sys.stdout.flush()
        return status
    except TunefarmError as error:
        kind = type(error).__name__
        return _failed(arguments, kind, error.message, error.hint, exit_of(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tunefarm"):
            return _bug(arguments, error)
        hint = f"install it with `{extras.install('all')}`"
        message = f"{arguments.command} needs {error.name}"
        return _failed(arguments, "MissingPackageError", message, hint, Exit.MISSING)
    except BrokenPipeError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        return _failed(arguments, *_of_file(error))
    except Exception as error:
        return _bug(arguments, error)


def _of_file(error: OSError | UnicodeDecodeError) -> tuple[str, str, str, int]:
    if isinstance(error, UnicodeDecodeError):
        return "InvalidRequestError", "a file is no text", "name another", Exit.USAGE
    if error.filename is None:
        return "OSError", str(error), "", Exit.NO
    message = f"{os.fspath(error.filename)}: {error.strerror}"
    return "InvalidRequestError", message, "name another file or folder", Exit.USAGE


def _bug(arguments: argparse.Namespace, error: Exception) -> int:
    if os.environ.get(DEBUG):
        raise error
    message = f"a bug: {type(error).__name__}: {error}"
    return _failed(arguments, "Bug", message, f"{DEBUG}=1 shows where; please tell us", Exit.BUG)
