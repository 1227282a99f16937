"""tunefarm build"""

import argparse
import time
from pathlib import Path

from tunefarm.cli.output import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("workload", help="as in matmul:m=512,n=512,k=512 or add:n=1048576")
    parser.add_argument("--target", default="local", help="what to compile for (default local)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--schedule", metavar="JSON", help="a schedule, as text or @FILE")
    add_json(parser)


def read_schedule(text: str | None) -> str | None:
    """The schedule's JSON: as given, or from a file where it starts with @."""
    if text is not None and text.startswith("@"):
        return Path(text[1:]).read_text()
    return text


def run(arguments: argparse.Namespace) -> int:
    """Compile and write the bundle."""
    from tunefarm_tuner.bench import build_one

    started = time.perf_counter()
    bundle = build_one(arguments.workload, arguments.target, read_schedule(arguments.schedule))
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
