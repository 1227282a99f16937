"""tunefarm best"""

import argparse
import math
from pathlib import Path

from tunefarm_proto.errors import InvalidRequestError
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
        "--log",
        type=Path,
        metavar="LOG",
        help="show what AutoTVM's log, or a folder of MetaSchedule's, holds: workloads and cost",
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write what is selected into a database"
    )
    add_operators(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Import, then show or export. Exit status 1 where nothing is selected."""
    if arguments.log is not None:
        return _show_log(arguments)
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
        rows = [
            [e.workload, e.cpu, str(e.threads), format_seconds(e.seconds), e.schedule]
            for e in selected
        ]
        print(table(["WORKLOAD", "CPU", "THREADS", "LATENCY", "SCHEDULE"], rows))
    else:
        print(f"nothing of that kind in {path}; `tunefarm tune` puts its winners there")
    return Exit.DONE if len(selected) else Exit.NO


def _show_log(arguments: argparse.Namespace) -> int:
    """What another tuner's log says of each of its tasks."""
    from tunefarm_compiler.workload import parse
    from tunefarm_tuner.foreign_logs import read_log, tasks_of

    if arguments.imported or arguments.records or arguments.export:
        raise InvalidRequestError(
            "--log shows another tuner's log, which has no schedules of ours", "name it alone"
        )
    found = [
        one
        for one in tasks_of(read_log(arguments.log))
        if arguments.workload in (one.workload or one.task) and arguments.cpu in one.target
    ]
    if arguments.json:
        print_json(
            [vars(one) | {"best_s": one.best_s if one.best_s < math.inf else None} for one in found]
        )
        return Exit.DONE if found else Exit.NO
    rows = []
    for one in found:
        worked, known = one.best_s < math.inf, one.workload
        rate = f"{parse(known).operations / one.best_s / 1e9:.1f}" if worked and known else "-"
        latency = format_seconds(one.best_s) if worked else "-"
        counts = [str(one.trials), str(one.failed)]
        rows.append([known or f"({one.task})", latency, rate, *counts, one.target])
    if rows:
        print(table(["WORKLOAD", "LATENCY", "GFLOPS", "TRIALS", "FAILED", "TARGET"], rows))
    else:
        print(f"nothing of that kind in {arguments.log}")
    return Exit.DONE if rows else Exit.NO


def _there(path: Path) -> Path:
    """Raises: FileNotFoundError, where a database would just be empty; InvalidRequestError."""
    from tunefarm_tuner.foreign_logs import is_log

    path.stat()
    if is_log(path):
        raise InvalidRequestError(
            f"{path} is another tuner's log, whose schedules do not carry over",
            "see what it holds by --log; `tunefarm tune --tasks-from` tunes its workloads",
        )
    return path
