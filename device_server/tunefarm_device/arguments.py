"""The arguments of a device server, for `tunefarm device` and `python -m tunefarm_device`."""

import argparse
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.security import Access, Credentials, ServerTls

from tunefarm_device import steady
from tunefarm_device.anchor import INTERVAL_S
from tunefarm_device.building import Options
from tunefarm_device.server import RunningServer, serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All but the tracker's address and what is shown to it."""
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="NAME[:OPTION=VALUE,...]",
        help="a device: what it is requested by, as in rasp3b; may be given again, as in "
        "x86:cores=0-3 (options: cores, backend, gpu, unit, label.NAME)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )
    parser.add_argument("--port", type=_port, default=0, help="port (default 0: any free)")
    parser.add_argument("--advertise", metavar="HOST:PORT", help="where clients reach it")
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where its cache and name are kept"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="its certificate (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="the certificate's key (PEM)")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="listen beyond this machine without what makes that safe",
    )
    parser.add_argument(
        "--anchor-interval",
        type=_seconds,
        default=INTERVAL_S,
        metavar="SECONDS",
        help=f"between two timings of the anchors, which show drift (default {INTERVAL_S:g}; "
        "0: never)",
    )
    parser.add_argument(
        "--isolation",
        choices=("full", "basic"),
        default="full",
        help="what shuts kernels in: all that this system has, or only what every system has",
    )
    parser.add_argument(
        "--backend",
        default="native",
        metavar="NAME",
        help="kind of device: native (default), wasm, cuda, nullgpu, or the path of a file",
    )
    parser.add_argument(
        "--random-addresses",
        action="store_true",
        help="let libraries lie elsewhere after each start, as systems do",
    )
    parser.add_argument(
        "--nice",
        type=_niceness,
        default=0,
        metavar="N",
        help="niceness of kernels, as in -10; negative ones need the right to it (default 0)",
    )
    parser.add_argument(
        "--time-together",
        action="store_true",
        help="devices with cores of their own may time at the same moment",
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what it can be asked for by, as in lab=berlin; may be given again",
    )
    found_out = parser.add_argument_group("what is found out where it is left out")
    found_out.add_argument("--emulated", metavar="NAME", help="what emulates this processor")
    found_out.add_argument("--cpu", metavar="NAME", help="LLVM's name of the processor")
    found_out.add_argument(
        "--timing-cpu", type=_processor, metavar="N", help="processor to time on"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON when it serves")


def _port(text: str) -> int:
    if not (re.fullmatch(r"[0-9]{1,5}", text) and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give 0 to 65535")
    return int(text)


def _niceness(text: str) -> int:
    if not (re.fullmatch(r"-?[0-9]{1,2}", text) and -20 <= int(text) <= 19):
        raise argparse.ArgumentTypeError(f"{text!r} is no niceness; give -20 to 19")
    return int(text)


def _processor(text: str) -> int:
    if not (re.fullmatch(r"[0-9]{1,5}", text) and int(text) in os.sched_getaffinity(0)):
        raise argparse.ArgumentTypeError(f"{text!r} is no processor that this process may use")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give seconds, 0 or more")
    return value


def labels_of(words: Sequence[str]) -> dict[str, str]:
    """Labels by name. Raises: InvalidRequestError."""
    labels: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value) or "," in word:
            raise InvalidRequestError(f"--label {word} is no label", "write it as in lab=berlin")
        labels[name] = value
    return labels


def options_of(given: argparse.Namespace) -> Options:
    """What holds for all devices. Raises: InvalidRequestError."""
    return Options(
        state_dir=given.state,
        emulated=given.emulated,
        cpu=given.cpu,
        timing_cpu=given.timing_cpu,
        time_together=given.time_together,
        labels=labels_of(given.label),
        isolation=given.isolation,
        backend=given.backend,
        fixed_addresses=not given.random_addresses,
        nice=given.nice,
        anchor_interval_s=given.anchor_interval,
    )


def _announce(server: RunningServer) -> None:
    devices = [{"id": one.device_id, "key": one.key} for one in server.devices]
    print(json.dumps({"addresses": server.addresses, "devices": devices}), flush=True)


def run(given: argparse.Namespace, tracker: str) -> int:
    """Serve until interrupted, as these arguments say. Raises: InvalidRequestError."""
    steady.stay_awake()
    serve(
        given.key,
        tracker,
        host=given.host,
        port=given.port,
        advertise=given.advertise,
        options=options_of(given),
        access=Access(
            Credentials.from_environment(),
            ServerTls.read(given.tls_cert, given.tls_key),
            given.insecure,
        ),
        on_ready=_announce if given.json else None,
    )
    return 0
