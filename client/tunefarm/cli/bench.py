"""tunefarm bench"""

import argparse
from typing import TYPE_CHECKING

from tunefarm_proto.errors import InvalidRequestError

from tunefarm.cli.build import read_schedule
from tunefarm.cli.links import page_of, show
from tunefarm.cli.output import add_json, add_operators, add_request, print_json, where_of
from tunefarm.cli.parsing import number, whole

if TYPE_CHECKING:
    from tunefarm_tuner.bench import Measurement, TimingPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "workload",
        help="as in matmul:m=512,n=512,k=512 or add:n=1048576; a bundle: FILE.tf; or peak: what a "
        "core reaches in float32",
    )
    add_request(parser)
    add_operators(parser)
    parser.add_argument("--target", help="compile for this instead of what the device reports")
    parser.add_argument("--schedule", metavar="JSON", help="a schedule, as text or @FILE")
    parser.add_argument(
        "--threads",
        type=whole(1),
        metavar="N",
        help="of the default schedule (default 1); no more run than the device has cores",
    )
    parser.add_argument(
        "--untuned",
        action="store_true",
        default=None,
        help="the default schedule, even where a better one is known (see `tunefarm best`)",
    )
    parser.add_argument("--repeat", type=whole(1), default=10, help="samples (default 10)")
    parser.add_argument("--number", type=whole(0), default=0, help="calls a sample (0: calibrated)")
    parser.add_argument(
        "--min-repeat-ms", type=number(0), default=20.0, help="shortest sample (default 20)"
    )
    parser.add_argument(
        "--precision",
        type=number(0, most=1),
        default=0.0,
        metavar="SHARE",
        help="go on until the median's 95%% interval is this narrow to either side, as in 0.01",
    )
    parser.add_argument(
        "--budget",
        type=number(0),
        default=5.0,
        metavar="SECONDS",
        help="go on no longer than this, and say unconverged (default 5)",
    )
    parser.add_argument(
        "--cold", action="store_true", help="flush the caches before each single call"
    )
    parser.add_argument(
        "--cooldown",
        type=number(0),
        default=0.0,
        metavar="SECONDS",
        help="rest before each ten samples (default 0)",
    )
    parser.add_argument(
        "--kernel-timeout",
        type=number(0, above=True),
        metavar="SECONDS",
        help="a kernel that takes longer is ended (default: 60; 600 for a timing, not its first)",
    )
    of_bundle = parser.add_argument_group("of a FILE.tf, whose answer is not checked")
    of_bundle.add_argument("--function", metavar="NAME", help="of the bundle, where it has several")
    of_bundle.add_argument(
        "--fill",
        choices=("seeded", "zeros"),
        help="what its float arguments hold; integers are 0 (default seeded)",
    )
    of_bundle.add_argument(
        "--seed", type=whole(0), metavar="N", help="of --fill seeded (default 0)"
    )
    add_json(parser)


def _refuse(arguments: argparse.Namespace, names: tuple[str, ...], what: str) -> None:
    for name in names:
        if getattr(arguments, name) is not None:
            raise InvalidRequestError(
                f"--{name} is of {what}, which {arguments.workload} is not", "leave it out"
            )


def _measure(arguments: argparse.Namespace, plan: "TimingPlan") -> "Measurement":
    """Measure a workload, a bundle in a file, or what a core reaches at all."""
    if arguments.workload == "peak":
        from tunefarm_tuner.peak import bench_peak

        _refuse(arguments, ("target", "schedule", "threads", "untuned"), "workloads")
        _refuse(arguments, ("function", "fill", "seed"), "bundles")
        return bench_peak(
            arguments.device,
            tracker=arguments.tracker,
            plan=plan,
            priority=arguments.priority,
            timeout=arguments.timeout,
            wait_for_key=arguments.wait_for_key,
            where=where_of(arguments.where),
        )
    if arguments.workload.endswith(".tf"):
        from tunefarm_tuner.bundles import bench_bundle

        _refuse(arguments, ("target", "schedule", "threads", "untuned"), "workloads")
        return bench_bundle(
            arguments.workload,
            arguments.device,
            function=arguments.function,
            fill=arguments.fill or "seeded",
            seed=arguments.seed or 0,
            tracker=arguments.tracker,
            plan=plan,
            priority=arguments.priority,
            timeout=arguments.timeout,
            wait_for_key=arguments.wait_for_key,
            where=where_of(arguments.where),
        )
    from tunefarm_tuner.bench import bench

    _refuse(arguments, ("function", "fill", "seed"), "bundles")
    if arguments.schedule is not None and arguments.threads is not None:
        raise InvalidRequestError(
            "--threads is of the default schedule", "put threads into the --schedule"
        )
    return bench(
        arguments.workload,
        arguments.device,
        tracker=arguments.tracker,
        target=arguments.target,
        schedule=read_schedule(arguments.schedule),
        threads=1 if arguments.threads is None else arguments.threads,
        tuned=not arguments.untuned,
        plan=plan,
        priority=arguments.priority,
        timeout=arguments.timeout,
        wait_for_key=arguments.wait_for_key,
        where=where_of(arguments.where),
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print. Exit status 1 where the answer is wrong."""
    from tunefarm_tuner.bench import TimingPlan

    plan = TimingPlan(
        arguments.number,
        arguments.repeat,
        arguments.min_repeat_ms,
        arguments.kernel_timeout,
        arguments.precision,
        arguments.budget,
        "cold" if arguments.cold else "hot",
        arguments.cooldown,
    )
    measured = _measure(arguments, plan)
    page = page_of(arguments.tracker, "result", measured.result_id)
    if arguments.json:
        print_json({**measured.as_dict(), "url": page})
    else:
        print(measured)
        show({"result": page})
    return 1 if measured.correct is False else 0
