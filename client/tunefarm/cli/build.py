"""tunefarm build"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tunefarm_proto.errors import BuildFailedError, InvalidRequestError

from tunefarm.cli.output import add_json, print_json

if TYPE_CHECKING:
    from tunefarm_proto.bundle import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "workload", help="as in matmul:m=512,n=512,k=512 or add:n=1048576, or a FILE.c"
    )
    parser.add_argument("--target", default="local", help="what to compile for (default local)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--schedule", metavar="JSON", help="a schedule, as text or @FILE")
    of_c = parser.add_argument_group("of a FILE.c")
    of_c.add_argument(
        "--args",
        metavar="WORDS",
        help='its arguments, as in "a:float32[16] b:out:float32[16]"; out: the kernel writes it',
    )
    of_c.add_argument("--function", metavar="NAME", help="its function (default: the file's name)")
    of_c.add_argument(
        "--flags", metavar="FLAGS", help="for the compiler, after ours, as in '-O2 -DN=4'"
    )
    of_c.add_argument("--verbose", action="store_true", help="show all that the compiler says")
    add_json(parser)


def read_schedule(text: str | None) -> str | None:
    """The schedule's JSON: as given, or from a file where it starts with @."""
    if text is not None and text.startswith("@"):
        return Path(text[1:]).read_text()
    return text


def _build(arguments: argparse.Namespace) -> "Bundle":
    """The bundle of a workload, or of a file in C."""
    if arguments.workload.endswith(".c"):
        return _build_c(arguments)
    for name in ("args", "function", "flags"):
        if getattr(arguments, name) is not None:
            raise InvalidRequestError(
                f"--{name} is of files in C and {arguments.workload} is a workload",
                "name a FILE.c, or leave it out",
            )
    from tunefarm_tuner.bench import build_one

    return build_one(arguments.workload, arguments.target, read_schedule(arguments.schedule))


def _build_c(arguments: argparse.Namespace) -> "Bundle":
    from tunefarm_compiler import foreign

    if arguments.args is None:
        raise InvalidRequestError(f"{arguments.workload} needs its arguments", foreign.HELP)
    if arguments.schedule is not None:
        raise InvalidRequestError("--schedule is of workloads, not of files in C", "leave it out")

    def log(output: str) -> None:
        if arguments.verbose:
            print(output, end="", file=sys.stderr)

    try:
        return foreign.build_c(
            arguments.workload,
            arguments.target,
            arguments.args,
            arguments.function,
            flags=arguments.flags or "",
            log=log,
        )
    except BuildFailedError as error:
        if not error.hint and not arguments.verbose:
            error.hint = "--verbose shows all that the compiler says"
        raise


def run(arguments: argparse.Namespace) -> int:
    """Compile and write the bundle."""
    started = time.perf_counter()
    bundle = _build(arguments)
    seconds = time.perf_counter() - started
    bundle.write(arguments.output)
    if arguments.json:
        print_json(
            {
                "bundle": str(arguments.output),
                "digest": bundle.digest,
                "bytes": len(bundle.data),
                "workload": bundle.manifest.workload,
                "target": arguments.target,
                "schedule": bundle.manifest.schedule,
                "build_s": seconds,
            }
        )
    else:
        print(
            f"{arguments.output}: {bundle.manifest.workload} for {arguments.target}, "
            f"{len(bundle.data)} bytes, sha256 {bundle.digest[:16]}, {seconds:.2f} s"
        )
    return 0
