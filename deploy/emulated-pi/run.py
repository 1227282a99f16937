"""Run the real device server on an emulated Raspberry Pi, in the foreground.

`python deploy/emulated-pi/run.py --key rasp3b --tracker 127.0.0.1:9190`
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from tunefarm_device import emulation
from tunefarm_proto.errors import TunefarmError


def main() -> NoReturn:
    """Build the root where it is missing, then become qemu."""
    parser = argparse.ArgumentParser(
        description="Run the device server on an emulated Raspberry Pi.",
        epilog="Words after -- go to the device server, as in: -- --port 9200",
    )
    parser.add_argument("--key", default="rasp3b", help="what clients request it by")
    parser.add_argument("--arch", choices=sorted(emulation.BOARDS), default="arm64")
    parser.add_argument("--tracker", default="127.0.0.1:9190", metavar="HOST:PORT")
    parser.add_argument("--state", type=Path, metavar="DIR", help="kept between runs")
    parser.add_argument("more", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    state = given.state or _state_home() / f"{given.key}-emulated"
    try:
        root = emulation.build_root(given.arch, lambda line: print(line, file=sys.stderr))
        words, environment = emulation.command(
            given.arch, root, given.key, given.tracker, state, *given.more
        )
    except TunefarmError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    os.execve(words[0], words, {**os.environ, **environment})  # noqa: S606 (no shell is meant)


def _state_home() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "tunefarm" / "devices"


if __name__ == "__main__":
    main()
