"""tunefarm results"""

import argparse
import datetime
import re
import statistics
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.cli.output import add_json, add_tracker, print_json, table
from tunefarm.cli.parsing import whole
from tunefarm.export import as_record, write_jsonl, write_parquet
from tunefarm.timing import format_seconds
from tunefarm.tracker import Tracker

_AGES = {"m": 60.0, "h": 3600.0, "d": 86400.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_tracker(parser)
    for name in ("workload", "device", "key", "user"):
        parser.add_argument(f"--{name}", default="", help=f"only of this {name}")
    parser.add_argument("--since", metavar="TIME", help="30m, 12h, 7d ago, or 2026-11-21[T10:00]")
    parser.add_argument("--until", metavar="TIME", help="likewise")
    parser.add_argument(
        "--limit",
        type=whole(0),
        default=20,
        metavar="N",
        help="at most so many (default 20; 0: all)",
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write all of it to FILE.jsonl or FILE.parquet"
    )
    add_json(parser)


def time_of(text: str, now: datetime.datetime) -> datetime.datetime:
    """A point in time: an age or a date. Raises: InvalidRequestError."""
    if found := re.fullmatch(r"(\d+)([mhd])", text):
        with suppress(OverflowError):
            return now - datetime.timedelta(seconds=int(found[1]) * _AGES[found[2]])
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            f"{text!r} is no time", "write 30m, 12h, 7d, or a date as in 2026-11-21T10:00"
        ) from None


def run(arguments: argparse.Namespace) -> int:
    """Print or export results."""
    now = datetime.datetime.now().astimezone()
    since, until = (
        time_of(text, now).timestamp() if text else None
        for text in (arguments.since, arguments.until)
    )
    with Tracker(arguments.tracker) as tracker:
        found = tracker.iterate_results(
            workload=arguments.workload,
            device_id=arguments.device,
            device_key=arguments.key,
            user=arguments.user,
            since=since,
            until=until,
        )
        if arguments.export is not None:
            count = export(found, arguments.export)
            if arguments.json:
                print_json({"results": count, "file": str(arguments.export)})
            else:
                print(f"{count} results in {arguments.export}")
            return 0
        limit = arguments.limit or None
        results = [one for one, _ in zip(found, range(limit or 2**62), strict=False)]
    if arguments.json:
        print_json([as_record(one) for one in results])
    else:
        print(_table(results) if results else "no results")
    return 0


def export(results: Iterator[tpb.Result], path: Path) -> int:
    """Write results by the file's ending. Returns how many. Raises: InvalidRequestError."""
    writers = {".jsonl": write_jsonl, ".parquet": write_parquet}
    if path.suffix not in writers:
        raise InvalidRequestError(f"{path} names no known format", "end it in .jsonl or .parquet")
    return writers[path.suffix](results, path)


def _table(results: list[tpb.Result]) -> str:
    rows = []
    for one in results:
        samples = list(one.timing.samples_s)
        median = format_seconds(statistics.median(samples)) if samples else ""
        failed = one.error.message if one.HasField("error") else ""
        wrong = "wrong answer" if one.HasField("correct") and not one.correct else ""
        mark = " [emulated]" if one.timing.emulated else ""
        mark += " [timed beside others]" if one.timing.before.time_together else ""
        at = one.recorded_at.ToDatetime(datetime.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        rows.append([at, one.workload, one.device_id, one.user, median + mark, failed or wrong])
    return table(["RECORDED", "WORKLOAD", "DEVICE", "USER", "MEDIAN", "FAILURE"], rows)
