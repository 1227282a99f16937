"""The `tunefarm` command line: one module for each command; each loads its part when it runs.

Exit status: 0 done, 1 a TunefarmError (one line on stderr), 2 wrong usage, 130 interrupted.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.rpc import software_version
from tunefarm_proto.security import TLS_CA, TOKEN_FILE

COMMANDS = {
    "tracker": "run the tracker that brokers the devices",
    "device": "run the device server of this machine",
    "status": "show devices, queue and leases",
    "build": "compile a workload into a bundle",
    "bench": "build a workload, run it on a device, check and time it",
    "compare": "say which of two kernels is faster on a device, and how sure that is",
    "results": "show or export what was measured",
    "check": "check the health of devices by a known kernel",
    "admin": "drain, enable, quarantine or retire devices; revoke leases; set quotas",
    "tune": "search the fastest schedules of workloads on devices",
    "token": "say who may use the farm",
    "audit": "show who did what, and who was refused",
    "tls": "make certificates to try TLS out, and for small farms",
    "dashboard": "show the farm in a browser",
    "demo": "try all of it on this machine",
    "doctor": "say what this machine can do and what is missing",
}


@contextmanager
def _credentials_of(arguments: argparse.Namespace) -> Iterator[None]:
    """Let --token-file and --tls-ca hold as if the environment said so: paths, never secrets."""
    given = {TOKEN_FILE: "token_file", TLS_CA: "tls_ca"}
    named = {name: str(path) for name, o in given.items() if (path := getattr(arguments, o, None))}
    before = {name: os.environ.get(name) for name in named}
    os.environ.update(named)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="tunefarm", description="A farm for kernels.")
    parser.add_argument("--version", action="version", version=f"tunefarm {software_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"tunefarm {name}: {summary}")
        importlib.import_module(f"tunefarm.cli.{name}").add_arguments(command)
    arguments = parser.parse_args(argv)
    module = importlib.import_module(f"tunefarm.cli.{arguments.command}")
    try:
        with _credentials_of(arguments):
            status: int = module.run(arguments)
    except TunefarmError as error:
        print(f"tunefarm: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tunefarm"):
            raise
        print(
            f"tunefarm: {arguments.command} needs {error.name} "
            "(install it with `pip install 'tunefarm[all]'`)",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:
        # What reads our output went away, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"tunefarm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status
