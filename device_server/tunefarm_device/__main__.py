"""`python -m tunefarm_device`: the device server of a board that has nothing else."""

import argparse
import sys
from pathlib import Path

from tunefarm_proto.errors import TunefarmError

from tunefarm_device.server import serve


def main() -> int:
    """Run until interrupted. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tunefarm_device")
    parser.add_argument("--key", required=True)
    parser.add_argument("--tracker", default="127.0.0.1:9190", metavar="HOST:PORT")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--advertise", metavar="HOST:PORT")
    parser.add_argument("--state", type=Path, metavar="DIR")
    given = parser.parse_args()
    try:
        serve(
            given.key,
            given.tracker,
            host=given.host,
            port=given.port,
            advertise=given.advertise,
            state_dir=given.state,
        )
    except TunefarmError as error:
        print(f"tunefarm_device: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
