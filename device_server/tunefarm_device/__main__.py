"""`python -m tunefarm_device`: the device server where the command line is not installed."""

import argparse
import sys
from collections.abc import Sequence

from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.exits import exit_of

from tunefarm_device.arguments import add_arguments, run


def main(words: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tunefarm_device", description=__doc__)
    parser.add_argument("--tracker", default="127.0.0.1:9190", metavar="HOST:PORT")
    add_arguments(parser)
    given = parser.parse_args(words)
    try:
        return run(given, given.tracker)
    except TunefarmError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return exit_of(error)


if __name__ == "__main__":
    sys.exit(main())
