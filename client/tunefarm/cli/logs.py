"""tunefarm logs: what has happened on the farm"""

import argparse
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tunefarm_proto.errors import ConnectionFailedError
from tunefarm_proto.exits import Exit
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.cli.output import add_json, add_tracker, clean, paint, print_json, tone
from tunefarm.cli.parsing import whole
from tunefarm.cli.results import time_of
from tunefarm.tracker import Tracker

KINDS = ("device", "request", "lease", "result")
RETRY_S = 1.0
SPANS = (1000, 10_000, 2**62)  # looked through for what is asked for, the last ones first
Event = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "about",
        nargs="*",
        metavar="WHAT",
        help="only what is about one of these: ids of devices, requests, leases or results, keys, "
        "users",
    )
    add_tracker(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on as things happen")
    parser.add_argument("--kind", choices=KINDS, help="only of this kind")
    parser.add_argument("--since", metavar="TIME", help="30m, 12h, 7d ago, or 2026-11-21[T10:00]")
    parser.add_argument(
        "-n",
        "--limit",
        type=whole(0),
        default=100,
        metavar="N",
        help="the last N of what happened before now (default 100; 0: all)",
    )
    add_json(parser)


def _event(message: tpb.WatchEventsResponse) -> Event:
    return {
        "cursor": message.cursor,
        "at": message.at.ToJsonString(),
        "kind": tpb.EventKind.Name(message.kind).removeprefix("EVENT_KIND_").lower(),
        "subject": message.subject,
        "action": message.action,
        "detail": message.detail,
    }


def _line(event: Event) -> str:
    at = datetime.datetime.fromisoformat(event["at"].replace("Z", "+00:00")).astimezone()
    when = paint(at.strftime("%Y-%m-%d %H:%M:%S"), "dim")
    what = f"{event['kind']:7}  {tone(event['action'])}  {clean(event['subject'])}"
    return f"{when}  {what}  {clean(event['detail'])}".rstrip()


def wanted(about: list[str], kind: str | None, since: float | None) -> Callable[[Event], bool]:
    """Which events are asked for: those that name one of `about` as their subject or a word."""

    def matches(event: Event) -> bool:
        if kind is not None and event["kind"] != kind:
            return False
        if since is not None:
            at = datetime.datetime.fromisoformat(event["at"].replace("Z", "+00:00"))
            if at.timestamp() < since:
                return False
        words = {word.strip(":,;()'\"") for word in event["detail"].split()}
        return not about or any(one == event["subject"] or one in words for one in about)

    return matches


def history(
    tracker: Tracker, asked: Callable[[Event], bool], limit: int
) -> tuple[list[Event], int]:
    """The last `limit` events asked for, oldest first (0: all), and the cursor to go on from."""
    end = int(next(tracker.watch()).cursor)
    for span in SPANS if limit else (end,):
        events = [one for one in _between(tracker, max(end - span, 1), end) if asked(one)]
        if (limit and len(events) >= limit) or span >= end:
            break
    return events[-limit:] if limit else events, end


def _between(tracker: Tracker, after: int, end: int) -> Iterator[Event]:
    """Events after a cursor up to another."""
    if after >= end:
        return
    for message in tracker.watch(after=after):
        if message.kind != tpb.EVENT_KIND_UNSPECIFIED:
            yield _event(message)
        if message.cursor >= end:
            return


def follow(address: str | None, cursor: int) -> Iterator[Event]:
    """Events after a cursor as they happen, across restarts of the tracker; without end."""
    away = False
    while True:
        try:
            with Tracker(address) as tracker:
                for message in tracker.watch(after=cursor):
                    away = False
                    if message.kind != tpb.EVENT_KIND_UNSPECIFIED:
                        yield _event(message)
                    cursor = max(cursor, message.cursor)
        except ConnectionFailedError as error:
            if not away:
                print(f"tunefarm: {error.message}; asking again", file=sys.stderr)
            away = True
        time.sleep(RETRY_S)


def run(arguments: argparse.Namespace) -> int:
    """Print what happened, oldest first; with --follow until interrupted.

    Exit status 1: nothing is known of what was named.
    """
    since = None
    if arguments.since:
        since = time_of(arguments.since, datetime.datetime.now().astimezone()).timestamp()
    asked = wanted(arguments.about, arguments.kind, since)

    def show(event: Event) -> None:
        if arguments.json:
            print_json(event, line=True)
        else:
            print(_line(event), flush=arguments.follow)

    with Tracker(arguments.tracker) as tracker:
        events, cursor = history(tracker, asked, arguments.limit)
    for event in events:
        show(event)
    if not events and not arguments.follow:
        about = f" to {' or '.join(arguments.about)}" if arguments.about else " that fits"
        print(f"tunefarm: nothing{about} has happened", file=sys.stderr)
        return Exit.NO if arguments.about else Exit.DONE
    if arguments.follow:
        for event in filter(asked, follow(arguments.tracker, cursor)):
            show(event)
    return 0
