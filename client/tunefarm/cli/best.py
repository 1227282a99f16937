"""tunefarm best"""

import argparse
from pathlib import Path

from tunefarm_proto.exits import Exit

from tunefarm.cli.output import add_json, add_operators, print_json, table
from tunefarm.timing import format_seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "workload", nargs="?", default="", help="only those whose workload contains this"
    )
    parser.add_argument("--cpu", default="", help="only those of this processor, as in cortex-a72")
    parser.add_argument(
        "--best",
        type=Path,
        metavar="FILE",
        help="the database (default: TUNEFARM_BEST, else one of this user)",
    )
    parser.add_argument(
        "--import",
        dest="imported",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="add what another database has that is faster; may be given again",
    )
    parser.add_argument(
        "--records",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="add the best of these tuning records; may be given again",
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write what is selected into a database"
    )
    add_operators(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Import, then show or export. Exit status 1 where nothing is selected."""
    from tunefarm_compiler.database import Database, default_path
    from tunefarm_tuner.experience import entries_of
    from tunefarm_tuner.records import read

    path = arguments.best or default_path()
    given = [entry for one in arguments.imported for entry in Database.read(_there(one))]
    given += [entry for one in arguments.records for entry in entries_of(read(_there(one)))]
    if given and (taken := Database.put(path, given)):
        print(f"{taken} added to {path}")
    selected = Database.read(path).select(arguments.workload, arguments.cpu)
    if arguments.export is not None:
        selected.write(arguments.export)
        print(f"{len(selected)} written to {arguments.export}")
    elif arguments.json:
        print_json([entry.__dict__ | {"features": list(entry.features)} for entry in selected])
    elif selected:
        rows = [[e.workload, e.cpu, format_seconds(e.seconds), e.schedule] for e in selected]
        print(table(["WORKLOAD", "CPU", "LATENCY", "SCHEDULE"], rows))
    else:
        print(f"nothing of that kind in {path}; `tunefarm tune` puts its winners there")
    return Exit.DONE if len(selected) else Exit.NO


def _there(path: Path) -> Path:
    """Raises: FileNotFoundError, where a database would just be empty."""
    path.stat()
    return path
