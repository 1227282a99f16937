"""What the commands share: options, tables, JSON, colours, a progress line."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import IO, Any, Self

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.security import TLS_CA, TOKEN_FILE

from tunefarm.channel import DEFAULT_TRACKER, TRACKER_VARIABLE
from tunefarm.cli.parsing import number, whole

USUAL_COLUMNS = 80
_STYLES = {"good": "32", "busy": "36", "poor": "33", "bad": "31", "dim": "2", "bold": "1"}
# What a word in a table tells at a glance.
_TONES = {
    **dict.fromkeys(("idle", "good", "yes", "online", "passed", "recovered"), "good"),
    **dict.fromkeys(("leased", "cleaning", "granted", "checked"), "busy"),
    **dict.fromkeys(("draining", "suspect", "recovering", "expired", "timeout"), "poor"),
    **dict.fromkeys(("offline", "quarantined", "retired", "no", "FAILED", "revoked"), "bad"),
}
_PAINT = re.compile(r"\x1b\[[0-9;]*m")


def add_tracker(parser: argparse.ArgumentParser) -> None:
    """--tracker, and what is shown to it: --token-file, --tls-ca."""
    parser.add_argument(
        "--tracker",
        metavar="HOST:PORT",
        help=f"the tracker's address (default: {TRACKER_VARIABLE}, else {DEFAULT_TRACKER})",
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"your token (default: {TOKEN_FILE}, else none)"
    )
    parser.add_argument(
        "--tls-ca", metavar="FILE", help=f"the farm's CA (default: {TLS_CA}, else no TLS)"
    )


def add_server_tls(parser: argparse.ArgumentParser) -> None:
    """--tls-cert, --tls-key and --insecure, of a server."""
    parser.add_argument("--tls-cert", metavar="FILE", help="its certificate (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="the certificate's key (PEM)")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="listen beyond this machine without what makes that safe",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_operators(parser: argparse.ArgumentParser) -> None:
    """The option of a command that reads workloads."""
    parser.add_argument(
        "--operators",
        action="append",
        metavar="FILE",
        help="operators of your own (docs/adding-an-operator.md); may be given again",
    )


def check_operators() -> None:
    """Read users' files of operators. Raises: OperatorInvalidError."""
    from tunefarm_compiler import registry

    registry.own()


def add_request(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Options of a command that leases a device, or, where it may have `several`, devices."""
    add_tracker(parser)
    if several:
        parser.add_argument(
            "--device",
            required=True,
            action="append",
            metavar="KEY[=COUNT]",
            help="key of the devices, and how many of it (default 1); may be given again",
        )
    else:
        parser.add_argument("--device", required=True, metavar="KEY", help="key of the device")
    parser.add_argument(
        "--priority",
        type=whole(-(2**31)),
        default=0,
        metavar="N",
        help="higher goes first (default 0)",
    )
    parser.add_argument(
        "--timeout",
        type=number(0, above=True),
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for the device (default 60)",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="what the device must be, as in 'memory_mb>=2048', cpu=cortex-a72 or label.lab=berlin;"
        " may be given again",
    )
    parser.add_argument(
        "--wait-for-key", action="store_true", help="wait for a key that no device has yet"
    )


def host_port(text: str) -> tuple[str, int]:
    """HOST:PORT in parts. Raises: InvalidRequestError."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 65536):
        raise InvalidRequestError(f"{text!r} is no HOST:PORT", "write it as in 127.0.0.1:9191")
    return host.strip("[]"), int(port)


def where_of(words: Sequence[str]) -> dict[str, str]:
    """Conditions by attribute, from NAME and operator and value. Raises: InvalidRequestError."""
    where: dict[str, str] = {}
    for word in words:
        found = re.fullmatch(r"([\w.-]+?)\s*(>=|<=|!=|==|=|>|<)\s*(.+)", word)
        if found is None:
            raise InvalidRequestError(
                f"--where {word} is no condition", "write it as in 'memory_mb>=2048'"
            )
        name, operator, value = found.groups()
        text = value if operator == "=" else operator + value
        if name.startswith("label."):
            name, text = "labels", f"{name.removeprefix('label.')}={value}"
        where[name] = f"{where[name]},{text}" if name in where else text
    return where


def print_json(value: Any, *, line: bool = False) -> None:
    """Print a value as indented JSON, or as one `line` of a stream of them."""
    if line:
        print(json.dumps(value), flush=True)
    else:
        print(json.dumps(value, indent=2))


def is_terminal(out: IO[str]) -> bool:
    """Whether a person looks at it, on something that understands more than text."""
    return out.isatty() and os.environ.get("TERM", "") != "dumb"


def coloured(out: IO[str] | None = None) -> bool:
    """Whether colours are of use there: a terminal, and no NO_COLOR (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and is_terminal(out or sys.stdout)


def paint(text: str, style: str) -> str:
    """Text in one of the styles "good", "busy", "poor", "bad", "dim", "bold", where it can be."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if coloured() else text


def tone(word: str) -> str:
    """A word of state or health in its colour."""
    return paint(word, _TONES[word]) if word in _TONES else word


def clean(text: str) -> str:
    """Text of somebody else's without what a terminal obeys."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _width(text: str) -> int:
    return len(_PAINT.sub("", text))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns padded to their widest cell; numbers stand to the right, states have colours."""
    cells = [[tone(clean(str(cell))) for cell in row] for row in rows]
    widths = [max(_width(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) or not row[i] for row in rows)
        for i in range(len(head))
    ]

    def line(row: Sequence[str]) -> str:
        padded = (
            " " * (width - _width(cell)) + cell if right else cell + " " * (width - _width(cell))
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([paint(line(list(head)), "bold"), *map(line, cells)])


def columns() -> int:
    """Of the terminal at stderr."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_COLUMNS
    except OSError:
        return USUAL_COLUMNS


class Progress:
    """A progress bar on stderr; silent where that is no terminal."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._shown = is_terminal(sys.stderr)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def update(self, done: int, note: str = "") -> None:
        """Show how much is done."""
        if not self._shown:
            return
        filled = 24 * done // max(self._total, 1)
        elapsed = time.monotonic() - self._started
        line = (
            f"{self._label} [{'#' * filled}{'.' * (24 - filled)}] {done}/{self._total} "
            f"{elapsed:.0f} s {note}"
        )
        # A line that wraps could not be taken back.
        print(f"\r\033[K{line[: columns() - 1]}", end="", file=sys.stderr, flush=True)
