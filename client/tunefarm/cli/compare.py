"""tunefarm compare"""

import argparse

from tunefarm.cli.links import page_of, show
from tunefarm.cli.output import add_json, add_operators, add_request, print_json, where_of
from tunefarm.cli.parsing import number

VERDICTS = ("faster", "slower", "same", "not decidable")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    what = "a bundle FILE.tf, a record FILE.jsonl[:LINE] (else the best), a workload, or with --of"
    parser.add_argument("first", metavar="A", help=f"{what} a schedule")
    parser.add_argument("second", metavar="B", help="likewise; the verdict is about this one")
    add_request(parser)
    add_operators(parser)
    parser.add_argument(
        "--of",
        metavar="WORKLOAD",
        help="A and B are of this: schedules (JSON, @FILE, the word default) or records FILE.jsonl",
    )
    parser.add_argument("--function", metavar="NAME", help="of bundles that have several")
    parser.add_argument(
        "--margin",
        type=number(0, most=1),
        default=0.01,
        help="a difference that is none (default 0.01)",
    )
    parser.add_argument(
        "--confidence",
        type=number(0, above=True, most=1),
        default=0.99,
        help="of the interval (default 0.99)",
    )
    parser.add_argument(
        "--budget",
        type=number(0, above=True),
        default=20.0,
        help="seconds to measure for, at most (default 20)",
    )
    parser.add_argument(
        "--min-repeat-ms", type=number(0), default=1.0, help="length of a sample (default 1)"
    )
    parser.add_argument(
        "--cold", action="store_true", help="flush the caches before each single call"
    )
    parser.add_argument(
        "--kernel-timeout",
        type=number(0, above=True),
        metavar="SECONDS",
        help="a kernel that takes longer is ended (default: 60; 600 for a timing, not its first)",
    )
    parser.add_argument(
        "--fail-if",
        choices=VERDICTS,
        action="append",
        default=[],
        help="exit with status 3 at this verdict; may be given again",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print. Exit status 1 where an answer is wrong, 3 at a verdict of --fail-if."""
    from tunefarm_tuner.compare import compare

    found = compare(
        arguments.first,
        arguments.second,
        arguments.device,
        of=arguments.of,
        functions=(arguments.function, arguments.function),
        margin=arguments.margin,
        confidence=arguments.confidence,
        budget=arguments.budget,
        min_repeat_ms=arguments.min_repeat_ms,
        cache="cold" if arguments.cold else "hot",
        kernel_timeout=arguments.kernel_timeout,
        tracker=arguments.tracker,
        priority=arguments.priority,
        timeout=arguments.timeout,
        wait_for_key=arguments.wait_for_key,
        where=where_of(arguments.where),
    )
    page = page_of(arguments.tracker, "job", found.request_id)
    if arguments.json:
        print_json({**found.as_dict(), "url": page})
    else:
        print(found)
        show({"job": page})
    if False in found.correct:
        return 1
    return 3 if found.comparison.verdict.value in arguments.fail_if else 0
