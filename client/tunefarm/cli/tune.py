"""tunefarm tune"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.exits import Exit

from tunefarm.cli.links import page_of, show
from tunefarm.cli.output import Progress, add_json, add_operators, add_request, print_json, where_of
from tunefarm.cli.parsing import whole
from tunefarm.timing import format_seconds

if TYPE_CHECKING:
    from tunefarm_proto.v1 import tracker_pb2 as tpb
    from tunefarm_tuner.foreign_logs import ForeignTask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "workload",
        nargs="*",
        help="as in matmul:m=512,n=512,k=512; with @WEIGHT, as in ...@3, it counts so many times",
    )
    add_request(parser, several=True)
    add_operators(parser)
    parser.add_argument(
        "--trials",
        type=whole(1),
        default=64,
        help="candidates of a workload; several share theirs (default 64)",
    )
    parser.add_argument(
        "--records", type=Path, required=True, metavar="FILE", help="JSON lines; goes on from there"
    )
    parser.add_argument(
        "--strategy", metavar="NAME", help="model (default), evolution, random or grid"
    )
    parser.add_argument(
        "--scheduler",
        default="gradient",
        metavar="NAME",
        help="which of several workloads is next: gradient (default) or round-robin",
    )
    parser.add_argument(
        "--patience",
        type=whole(0),
        default=0,
        metavar="N",
        help="end a workload after so many trials without gain (default 0: never)",
    )
    parser.add_argument(
        "--transfer",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="records of other searches to learn from; may be given again",
    )
    parser.add_argument(
        "--tasks-from",
        type=Path,
        action="append",
        default=[],
        metavar="LOG",
        help="tune the workloads of AutoTVM's log, or of a folder of MetaSchedule's, and show its "
        "cost beside ours; may be given again",
    )
    parser.add_argument(
        "--best", type=Path, metavar="FILE", help="database of the winners (see `tunefarm best`)"
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, help="of whatever is random (default 0)"
    )
    parser.add_argument("--workers", type=whole(1), metavar="N", help="processes that build")
    parser.add_argument(
        "--threads",
        type=whole(1),
        default=1,
        metavar="N",
        help="deal loops out to so many, or to fewer where that is faster (default 1); no more run "
        "than the device has cores",
    )
    parser.add_argument(
        "--quick", action="store_true", help="do not time the best again by the full protocol"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the best so far into a .png, .svg or .pdf"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search, print the winners. Exit status 1 where a workload has none, 130 after Ctrl-C."""
    from tunefarm_compiler.database import default_path
    from tunefarm_compiler.workload import parse
    from tunefarm_tuner.foreign_logs import workloads_of
    from tunefarm_tuner.plots import check_path
    from tunefarm_tuner.tune import DEFAULT_STRATEGY, Tuned, tune

    if arguments.plot:
        check_path(arguments.plot)
    keys = devices_of(arguments.device)
    wanted = [Tuned(*weighted(word)) for word in arguments.workload]
    theirs = logged(arguments.tasks_from)
    named = {str(parse(one.workload)) for one in wanted}
    wanted += [Tuned(one) for one in workloads_of(theirs) if one not in named]
    if not wanted:
        raise InvalidRequestError("no workload to tune", "name one, as in matmul:m=512,n=512,k=512")
    told: list[str] = []
    with Progress("tuning", arguments.trials * len(wanted) * len(keys)) as bar:

        def progress(run: "tpb.TuningRun") -> None:
            if not told:  # before the bar: one looks while it goes on
                told.append(page_of(arguments.tracker, "tuning", run.id))
                show({} if arguments.json else {"tuning": told[0]})
            bar.update(run.trials, line_of(run))

        result = tune(
            wanted,
            keys,
            trials=arguments.trials,
            records=arguments.records,
            strategy=arguments.strategy or DEFAULT_STRATEGY,
            scheduler=arguments.scheduler,
            patience=arguments.patience,
            transfer=arguments.transfer,
            best=arguments.best or default_path(),
            seed=arguments.seed,
            workers=arguments.workers,
            threads=arguments.threads,
            finals=not arguments.quick,
            tracker=arguments.tracker,
            priority=arguments.priority,
            timeout=arguments.timeout,
            wait_for_key=arguments.wait_for_key,
            where=where_of(arguments.where),
            on_progress=progress,
        ).beside(theirs)
    if arguments.json:
        print_json({**result.as_dict(), "url": told[0] if told else ""})
    else:
        print(result)
        print(f"records in {arguments.records}")
        for task in result.tasks:
            print(f"{task.workload} on {task.device_key}: {task.best or 'no candidate worked'}")
    if arguments.plot:
        result.plot(arguments.plot)
    if result.interrupted:
        print("interrupted; the same command goes on", file=sys.stderr)
        return Exit.INTERRUPTED
    return Exit.DONE if all(task.best for task in result.tasks) else Exit.NO


def logged(paths: list[Path]) -> "list[ForeignTask]":
    """The tasks of other tuners' logs; of those that are none of ours stderr is told.

    Raises: InvalidRequestError, OSError.
    """
    from tunefarm_tuner.foreign_logs import read_log, tasks_of

    found = tasks_of(record for path in paths for record in read_log(path))
    strange = [one.task for one in found if not one.workload]
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        print(f"left out, as no workload here is the same: {strange[0]}{more}", file=sys.stderr)
    return found


def devices_of(words: list[str]) -> dict[str, int]:
    """Keys with numbers of devices, from KEY or KEY=COUNT. Raises: InvalidRequestError."""
    keys: dict[str, int] = {}
    for word in words:
        key, equals, count = word.partition("=")
        if not key or (equals and not (count.isdecimal() and 0 < int(count) < 10_000)):
            raise InvalidRequestError(
                f"--device {word} names no devices", "write KEY, or KEY=COUNT as in rasp4b=3"
            )
        keys[key] = keys.get(key, 0) + int(count or 1)
    return keys


def weighted(word: str) -> tuple[str, float]:
    """WORKLOAD or WORKLOAD@WEIGHT. Raises: InvalidRequestError."""
    text, at, weight = word.partition("@")
    try:
        value = float(weight) if at else 1.0
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InvalidRequestError(f"{word}: {weight!r} is no weight", "give a number above 0")
    return text, value


def line_of(run: "tpb.TuningRun") -> str:
    """What a run is at, in one line."""
    words = []
    best = [task for task in run.tasks if task.best_s]
    if len(run.tasks) == 1 and best:
        (task,) = best
        rate = f" {task.operations / task.best_s / 1e9:.1f} GFLOPS" if task.operations else ""
        words.append(f"best {format_seconds(task.best_s)}{rate}")
    elif best:
        words.append(f"{len(best)}/{len(run.tasks)} tasks have a best")
    words.append(f"{run.trials_per_s:.1f}/s")
    if run.trials >= run.trials_wanted > 0:
        words.append("timing the best again")
    elif run.HasField("time_left"):
        words.append(f"{run.time_left.seconds} s left")
    held = sum(device.held_s for device in run.devices)
    if held:
        words.append(f"device use {sum(d.busy_s for d in run.devices) / held:.0%}")
    words += [f"{count} {name}" for name, count in sorted(run.errors.items())]
    return ", ".join(words)
