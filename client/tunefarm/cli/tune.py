"""tunefarm tune"""

import argparse
from pathlib import Path

from tunefarm.cli.output import Progress, add_json, add_request, print_json, where_of
from tunefarm.timing import format_seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("workload", help="as in matmul:m=512,n=512,k=512")
    add_request(parser)
    parser.add_argument("--trials", type=int, default=32, help="candidates to measure (default 32)")
    parser.add_argument(
        "--records", type=Path, required=True, metavar="FILE", help="JSON lines; goes on from there"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the order of candidates (default 0)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search, print the winner. Exit status 1 where no candidate worked."""
    from tunefarm_tuner.tune import tune

    with Progress("tuning", arguments.trials) as bar:
        outcome = tune(
            arguments.workload,
            arguments.device,
            trials=arguments.trials,
            records=arguments.records,
            tracker=arguments.tracker,
            seed=arguments.seed,
            priority=arguments.priority,
            timeout=arguments.timeout,
            wait_for_key=arguments.wait_for_key,
            where=where_of(arguments.where),
            on_record=lambda done, record: bar.update(done, record.summary()),
        )
    if arguments.json:
        print_json(outcome.as_dict())
        return 0 if outcome.best else 1
    print(f"{outcome.trials} candidates, {outcome.failed} failed; records in {arguments.records}")
    if outcome.best is None:
        print("no candidate worked; the records say why")
        return 1
    print(f"default  {format_seconds(outcome.default_s)}")
    print(f"best     {format_seconds(outcome.best_s)}  {outcome.gain:.2f} x the default")
    print(f"schedule {outcome.best}")
    return 0
