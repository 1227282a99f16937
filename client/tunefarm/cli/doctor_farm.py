"""What `tunefarm doctor` finds out about a farm: who answers, versions, clocks, TLS, the way."""

import errno
import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from tunefarm_proto import rpc
from tunefarm_proto.errors import (
    AccessError,
    DeviceUnreachableError,
    TrackerUnreachableError,
    TunefarmError,
)
from tunefarm_proto.handshake import client_context
from tunefarm_proto.security import Credentials, host_of, is_loopback
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.channel import connect, named_errors
from tunefarm.cli.findings import Finding
from tunefarm.cli.links import hello
from tunefarm.tracker import Tracker, tracker_unreachable

PROBE_S = 3.0
SKEW_S = 2.0  # of clocks: leases go by the tracker's, conditions by the device's
LEAST_DAYS = 14.0  # that a certificate has left
AT_ONCE = 32
AREA = "farm"


def port_of(address: str) -> str:
    """The port of HOST:PORT."""
    return address.rpartition(":")[2]


def way_to(address: str, what: str) -> tuple[str, str] | None:
    """Why no connection comes about, and what helps; None where one does. Takes up to 3 s."""
    host, port = host_of(address), port_of(address)
    try:
        with socket.create_connection((host, int(port)), PROBE_S):
            return None
    except socket.gaierror:
        return f"no address is known for the name {host}", "use an IP address, or add it to the DNS"
    except TimeoutError:
        return (
            f"{host} swallows what is sent to port {port}: a firewall, or the machine is off",
            f"on {host}: `ufw allow {port}/tcp`, or `nft add rule inet filter input tcp dport "
            f"{port} accept`",
        )
    except ConnectionRefusedError:
        return (
            f"{host} is there, and nothing listens on its port {port}",
            f"start {what} there, or see whether its --port and --host are right",
        )
    except OSError as error:
        reason = error.strerror or str(error)
        wall = error.errno in (errno.EHOSTUNREACH, errno.EACCES, errno.EPERM)
        hint = f"a firewall that refuses port {port}, or no route: `ip route get {host}`"
        return f"{address}: {reason}", hint if wall else f"`ip route get {host}` tells the way"


def _tracker(address: str) -> tuple[Tracker | None, Finding]:
    try:
        tracker = Tracker(address)
    except TrackerUnreachableError as error:
        unknown = error.message == tracker_unreachable(address).message
        why = way_to(address, "`tunefarm tracker`") if unknown else None
        message, fix = why or (error.message, error.hint)
        return None, Finding(AREA, "tracker", False, message, fix)
    except TunefarmError as error:
        return None, Finding(AREA, "tracker", False, error.message, error.hint)
    return tracker, Finding(AREA, "tracker", True, f"answers at {address}")


def look(address: str) -> Iterator[Finding]:
    """Everything about the farm of the tracker at an address. Takes seconds where it is ill."""
    tracker, found = _tracker(address)
    yield found
    if tracker is None:
        return
    with tracker:
        before = time.time()
        said = hello(tracker)
        yield _version(said.peer)
        yield _clock(said, (before + time.time()) / 2)
        yield from _tls(address, tracker.credentials)
        try:
            devices = tracker.devices()
        except AccessError as error:
            yield Finding(AREA, "token", False, error.message, error.hint)
            return
        yield Finding(AREA, "token", True, _shown(tracker.credentials))
        yield from _devices(devices, said.peer.software_version, tracker)


def _shown(credentials: Credentials) -> str:
    return "yours is good" if credentials.token else "none is wanted"


def _version(peer: pb.Peer) -> Finding:
    ours = rpc.software_version()
    same = peer.software_version == ours
    detail = f"tracker {peer.software_version}, this client {ours}, protocol {peer.protocol_major}."
    fix = "" if same else "one version apart is fine; bring both to the newer one"
    return Finding(AREA, "versions", same, f"{detail}{peer.protocol_minor}", fix)


def _clock(said: pb.HelloResponse, now: float) -> Finding:
    if not said.HasField("at"):
        return Finding(AREA, "clock", True, "the tracker is too old to tell its own")
    apart = said.at.ToNanoseconds() * 1e-9 - now
    ok = abs(apart) <= SKEW_S
    detail = f"the tracker's is {round(apart, 1) + 0.0:+.1f} s from this machine's"
    return Finding(AREA, "clock", ok, detail, "" if ok else "`timedatectl set-ntp true` on both")


def _tls(address: str, credentials: Credentials) -> Iterator[Finding]:
    if credentials.ca is None:
        local = is_loopback(host_of(address))
        detail = "none; it is on this machine" if local else "none: whoever is between reads along"
        yield Finding(AREA, "TLS", local, detail, "" if local else "see docs/security.md")
        return
    days = _days_left(address, credentials)
    if days is None:
        yield Finding(AREA, "TLS", True, "the farm's CA holds")
        return
    ok = days >= LEAST_DAYS
    fix = "" if ok else "make another by `tunefarm tls create`, and start the tracker again"
    yield Finding(AREA, "TLS", ok, f"the tracker's certificate holds for {days:.0f} days", fix)


def _days_left(address: str, credentials: Credentials) -> float | None:
    host = host_of(address)
    try:
        with (
            socket.create_connection((host, int(port_of(address))), PROBE_S) as plain,
            client_context(credentials).wrap_socket(plain, server_hostname=host) as secure,
        ):
            ends = (secure.getpeercert() or {}).get("notAfter")
    except (OSError, ValueError):
        return None
    return (ssl.cert_time_to_seconds(ends) - time.time()) / 86400 if isinstance(ends, str) else None


def _devices(devices: Sequence[tpb.Device], version: str, tracker: Tracker) -> Iterator[Finding]:
    if not devices:
        fix = f"on a board: `tunefarm device --key KEY --tracker {tracker.address}`"
        yield Finding(AREA, "devices", False, "none has ever come", fix)
        return
    there = [one for one in devices if one.state != tpb.DEVICE_STATE_OFFLINE]
    for one in devices:
        if one.state == tpb.DEVICE_STATE_OFFLINE and one.health != tpb.DEVICE_HEALTH_RETIRED:
            yield _offline(one, there)
    # Devices of one server share its address.
    servers = {one.addresses[0]: one for one in there if one.addresses}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reached = dict(
            zip(
                servers,
                pool.map(lambda a: _reach(a, tracker), servers),
                strict=True,
            )
        )
    for one in there:
        yield from _device(one, reached.get(one.addresses[0] if one.addresses else ""), version)


def _offline(device: tpb.Device, there: Sequence[tpb.Device]) -> Finding:
    at = device.last_seen.ToDatetime(UTC) if device.HasField("last_seen") else None
    ago = ", not heard of since the tracker was started"
    if at is not None:
        ago = f", last heard of {datetime.now(UTC) - at}".partition(".")[0] + " ago"
    fix = "is the board on, and `tunefarm device` running there? its log says what it cannot reach"
    hosts = {host_of(address) for address in device.addresses}
    for one in there:
        if one.key == device.key and hosts & {host_of(address) for address in one.addresses}:
            fix += f"; if that board is {one.id} now: `tunefarm admin forget {device.id}`"
            break
    return Finding(AREA, device.id, False, f"offline{ago}", fix)


def _reach(address: str, tracker: Tracker) -> Finding | str:
    """The version of the server there, or what keeps us from it."""
    if is_loopback(host_of(address)) and not is_loopback(host_of(tracker.address)):
        return Finding(
            AREA,
            "",
            False,
            f"tells clients to come to {address}, which is their own machine",
            "start it with --host 0.0.0.0 and --advertise BOARD:PORT",
        )
    if why := way_to(address, "`tunefarm device`"):
        return Finding(AREA, "", False, *why)
    unreachable = DeviceUnreachableError(f"what listens at {address} does not answer")
    try:
        channel = connect(address, unreachable, credentials=tracker.credentials)
        with channel, named_errors(unreachable):
            said = pb_grpc.HelloServiceStub(channel).Hello(
                pb.HelloRequest(peer=rpc.this_peer("client")),
                timeout=PROBE_S,
                metadata=rpc.call_metadata(),
            )
    except TunefarmError as error:
        return Finding(AREA, "", False, error.message, error.hint)
    return str(said.peer.software_version)


def _device(device: tpb.Device, reached: "Finding | str | None", version: str) -> Iterator[Finding]:
    address = device.addresses[0] if device.addresses else "no address"
    if isinstance(reached, Finding):
        detail = f"online, and cannot be reached from here: {reached.detail}"
        yield Finding(AREA, device.id, False, detail, reached.fix)
    elif reached is None:
        yield Finding(AREA, device.id, False, "tells no address", "start it with --advertise")
    else:
        apart = f", version {reached}" if reached != version else ""
        yield Finding(AREA, device.id, True, f"reached at {address}{apart}")
    if device.conditions.HasField("read_at") and device.HasField("last_seen"):
        ahead = (
            device.conditions.read_at.ToNanoseconds() - device.last_seen.ToNanoseconds()
        ) * 1e-9
        if abs(ahead) > SKEW_S:
            detail = f"its clock is {ahead:+.1f} s from the tracker's"
            board = re.sub(r":\d+$", "", address)
            fix = f"on {board}: `timedatectl set-ntp true`"
            yield Finding(AREA, f"{device.id} clock", False, detail, fix)
