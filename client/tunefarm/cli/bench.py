"""tunefarm bench"""

import argparse

from tunefarm.cli.build import read_schedule
from tunefarm.cli.output import add_json, add_request, print_json, where_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("workload", help="as in matmul:m=512,n=512,k=512 or add:n=1048576")
    add_request(parser)
    parser.add_argument("--target", help="compile for this instead of what the device reports")
    parser.add_argument("--schedule", metavar="JSON", help="a schedule, as text or @FILE")
    parser.add_argument("--repeat", type=int, default=10, help="samples (default 10)")
    parser.add_argument("--number", type=int, default=0, help="calls a sample (0: calibrated)")
    parser.add_argument(
        "--min-repeat-ms", type=float, default=20.0, help="shortest sample (default 20)"
    )
    parser.add_argument(
        "--precision",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="go on until the median's 95%% interval is this narrow to either side, as in 0.01",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="go on no longer than this, and say unconverged (default 5)",
    )
    parser.add_argument(
        "--cold", action="store_true", help="flush the caches before each single call"
    )
    parser.add_argument("--kernel-timeout", type=float, help="seconds of the device's own clock")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print. Exit status 1 where the answer is wrong."""
    from tunefarm_tuner.bench import TimingPlan, bench

    plan = TimingPlan(
        arguments.number,
        arguments.repeat,
        arguments.min_repeat_ms,
        arguments.kernel_timeout,
        arguments.precision,
        arguments.budget,
        "cold" if arguments.cold else "hot",
    )
    measured = bench(
        arguments.workload,
        arguments.device,
        tracker=arguments.tracker,
        target=arguments.target,
        schedule=read_schedule(arguments.schedule),
        plan=plan,
        priority=arguments.priority,
        timeout=arguments.timeout,
        wait_for_key=arguments.wait_for_key,
        where=where_of(arguments.where),
    )
    if arguments.json:
        print_json(measured.as_dict())
    else:
        print(measured)
    return 0 if measured.correct else 1
