"""`python -m tunefarm_device`: the device server where the command line is not installed."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.security import Access, Credentials, ServerTls

from tunefarm_device.building import Options
from tunefarm_device.server import serve


def main(words: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tunefarm_device", description=__doc__)
    parser.add_argument(
        "--key",
        required=True,
        action="append",
        metavar="NAME[:OPTION=VALUE,...]",
        help="a device: what it is requested by, as in rasp3b or x86:cores=0-3; may be given again",
    )
    parser.add_argument("--tracker", default="127.0.0.1:9190", metavar="HOST:PORT")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port (default 0: any free)")
    parser.add_argument("--advertise", metavar="HOST:PORT", help="where clients reach it")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where cache and name are kept")
    parser.add_argument("--emulated", metavar="NAME", help="what emulates this processor")
    parser.add_argument("--cpu", metavar="NAME", help="LLVM's name of the processor")
    parser.add_argument("--timing-cpu", type=int, metavar="N", help="processor to time on")
    parser.add_argument(
        "--random-addresses",
        action="store_true",
        help="let libraries lie elsewhere after each start, as systems do",
    )
    parser.add_argument(
        "--nice",
        type=int,
        default=0,
        metavar="N",
        help="niceness of kernels, as in -10; negative ones need the right to it (default 0)",
    )
    parser.add_argument(
        "--time-together",
        action="store_true",
        help="devices with cores of their own may time at the same moment",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="its certificate (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="the certificate's key (PEM)")
    parser.add_argument("--insecure", action="store_true", help="listen anywhere without TLS")
    parser.add_argument(
        "--anchor-interval",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="between two timings of the anchors, which show drift (default 1800; 0: never)",
    )
    parser.add_argument(
        "--isolation", choices=("full", "basic"), default="full", help="what shuts kernels in"
    )
    parser.add_argument(
        "--backend", default="native", metavar="NAME", help="native, wasm, or a backend's file"
    )
    given = parser.parse_args(words)
    try:
        serve(
            given.key,
            given.tracker,
            given.host,
            given.port,
            given.advertise,
            options=Options(
                state_dir=given.state,
                emulated=given.emulated,
                cpu=given.cpu,
                timing_cpu=given.timing_cpu,
                time_together=given.time_together,
                isolation=given.isolation,
                backend=given.backend,
                fixed_addresses=not given.random_addresses,
                nice=given.nice,
                anchor_interval_s=given.anchor_interval,
            ),
            access=Access(
                Credentials.from_environment(),
                ServerTls.read(given.tls_cert, given.tls_key),
                given.insecure,
            ),
        )
    except TunefarmError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
