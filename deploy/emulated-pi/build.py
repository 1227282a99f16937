"""Build the root of an emulated Raspberry Pi: `python deploy/emulated-pi/build.py --arch arm64`."""

import argparse
import sys

from tunefarm_device import emulation
from tunefarm_proto.errors import TunefarmError


def main() -> int:
    """Build it, or find it in the cache; print where it is."""
    parser = argparse.ArgumentParser(description="Build the root of an emulated Raspberry Pi.")
    parser.add_argument("--arch", choices=sorted(emulation.BOARDS), default="arm64")
    arguments = parser.parse_args()
    try:
        print(emulation.build_root(arguments.arch, lambda line: print(line, file=sys.stderr)))
    except TunefarmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
