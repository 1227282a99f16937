"""What the tables show, read off the tracker's messages. Plain data in, plain data out."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from tunefarm.timing import Timing
from tunefarm.tracker import wanted
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

# Bits of the Raspberry Pi's firmware: under voltage, frequency capped, throttled, soft limit.
THROTTLED_NOW = 0xF


def throttled(now: pb.Conditions) -> bool:
    """Whether the device held its clocks down."""
    return bool(now.throttle_bits & THROTTLED_NOW or now.throttle_reasons)


@dataclass(frozen=True)
class Snapshot:
    """The farm at one moment: devices by id, and as rows ordered by key and id.

    `since` holds when a device took its state, where that was seen. `awaiting`: the tracker was
    started a moment ago and has yet to hear of some.

    Where `connected` is false everything else is what was last known, at `read_at`, and `trouble`
    says in one line why.
    """

    tracker: str
    connected: bool = False
    trouble: str = ""
    read_at: datetime | None = None
    devices: Mapping[str, tpb.Device] = field(default_factory=dict)
    rows: "tuple[DeviceRow, ...]" = ()
    queue: tuple[tpb.QueuedRequest, ...] = ()
    leases: tuple[pb.Lease, ...] = ()
    since: dict[str, datetime] = field(default_factory=dict)
    awaiting: bool = False


@dataclass(frozen=True)
class DeviceRow:
    """A device. Times are ISO 8601 in UTC, "" where unknown; `since` is of its state.

    `temperature_c` in degrees Celsius and `frequency_mhz` are None where the device cannot tell.
    """

    id: str
    key: str
    address: str
    state: str
    health: str
    health_reason: str
    holder: str
    purpose: str
    since: str
    target: str
    emulated: bool
    draining: bool
    lease_id: str
    request_id: str
    temperature_c: float | None
    frequency_mhz: float | None
    throttled: bool
    labels: str


@dataclass(frozen=True)
class QueueRow:
    """A waiting request. `estimate_s`: how long it may still wait, None where nothing is known."""

    request_id: str
    position: int
    key: str
    user: str
    purpose: str
    priority: int
    reason: str
    estimate_s: float | None
    queued_at: str


@dataclass(frozen=True)
class LeaseRow:
    """A live lease."""

    id: str
    device: str
    device_key: str
    emulated: bool
    holder: str
    purpose: str
    granted_at: str
    deadline: str


@dataclass(frozen=True)
class ResultRow:
    """A result. Seconds for one call; `spread` is MAD / median; None where there is no number."""

    id: str
    workload: str
    device: str
    device_key: str
    target: str
    emulated: bool
    user: str
    recorded_at: str
    median_s: float | None
    spread: float | None
    samples: int
    number: int
    gflops: float | None
    correct: bool | None
    error: str


def iso(moment: datetime | None) -> str:
    """A moment as ISO 8601 in UTC with milliseconds, "" for none."""
    if moment is None:
        return ""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(message: Any, name: str) -> datetime | None:
    """A timestamp field as a datetime; None where it is absent or no date at all."""
    if not message.HasField(name):
        return None
    stamp: Timestamp = getattr(message, name)
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _word(enum: Any, value: int, prefix: str) -> str:
    """An enum's value in one lower-case word, whoever sent it."""
    try:
        return str(enum.Name(value)).removeprefix(prefix).lower()
    except ValueError:
        return f"unknown ({value})"


def target_text(target: pb.Target) -> str:
    """Triple and CPU."""
    return f"{target.triple} {target.cpu}".strip()


def next_snapshot(
    before: Snapshot, devices: Iterable[tpb.Device], *, whole: bool, **fields: Any
) -> Snapshot:
    """The snapshot after these devices were read, which are all where `whole` is true.

    Rows of devices that are as before are the same objects as before.
    """
    read = {device.id: device for device in devices}
    known = read if whole else {**before.devices, **read}
    since = {name: at for name, at in before.since.items() if name in known}
    old = {row.id: row for row in before.rows}
    rows = before.rows
    if whole or read:
        made = {
            name: _kept(old.get(name), device_row(device, since)) for name, device in read.items()
        }
        found = {**({} if whole else old), **made}
        rows = tuple(sorted(found.values(), key=lambda row: (row.key, row.id)))
    return replace(before, devices=known, rows=rows, since=since, **fields)


def _kept(old: DeviceRow | None, new: DeviceRow) -> DeviceRow:
    return old if old == new and old is not None else new


def device_row(device: tpb.Device, since: Mapping[str, datetime]) -> DeviceRow:
    """One line of the table of devices."""
    state = _word(tpb.DeviceState, device.state, "DEVICE_STATE_")
    start = since.get(device.id)
    if device.HasField("lease") and state == "leased":
        start = moment_of(device.lease, "granted_at")
    elif state == "offline":
        start = moment_of(device, "last_seen")
    now = device.conditions
    online = state != "offline"
    warm = online and now.HasField("temperature_celsius") and math.isfinite(now.temperature_celsius)
    return DeviceRow(
        id=device.id,
        key=device.key,
        address=device.addresses[0] if device.addresses else "",
        state=state,
        health=_word(tpb.DeviceHealth, device.health, "DEVICE_HEALTH_"),
        health_reason=device.health_reason,
        holder=device.lease.holder,
        purpose=device.lease.purpose,
        since=iso(start),
        target=target_text(device.facts.target),
        emulated=device.facts.emulated,
        draining=device.draining,
        lease_id=device.lease.id,
        request_id=device.lease.request_id,
        temperature_c=round(now.temperature_celsius, 1) if warm else None,
        frequency_mhz=round(now.frequency_hz / 1e6) if online and now.frequency_hz else None,
        throttled=online and throttled(now),
        labels=", ".join(f"{name}={value}" for name, value in sorted(device.labels.items())),
    )


def queue_row(waiting: tpb.QueuedRequest) -> QueueRow:
    """One line of the queue."""
    place = waiting.position
    known = place.HasField("estimate")
    return QueueRow(
        request_id=waiting.request.request_id,
        position=place.position,
        key=wanted(waiting.request),
        user=waiting.request.user,
        purpose=waiting.request.purpose,
        priority=waiting.request.priority,
        reason=place.reason,
        estimate_s=place.estimate.ToTimedelta().total_seconds() if known else None,
        queued_at=iso(moment_of(waiting, "queued_at")),
    )


def lease_row(lease: pb.Lease, emulated: frozenset[str]) -> LeaseRow:
    """One line of the table of leases."""
    return LeaseRow(
        id=lease.id,
        device=lease.device_id,
        device_key=lease.device_key,
        emulated=lease.device_id in emulated,
        holder=lease.holder,
        purpose=lease.purpose,
        granted_at=iso(moment_of(lease, "granted_at")),
        deadline=iso(moment_of(lease, "deadline")),
    )


def result_row(result: tpb.Result, emulated: frozenset[str]) -> ResultRow:
    """One line of the table of results. `emulated`: ids of the emulated devices."""
    timing = Timing.from_proto(result.timing)
    usable = bool(timing.samples) and all(math.isfinite(s) and s > 0 for s in timing.samples)
    median = timing.median if usable else None
    return ResultRow(
        id=result.id,
        workload=result.workload,
        device=result.device_id,
        device_key=result.device_key,
        target=target_text(result.target),
        emulated=timing.emulated or result.device_id in emulated,
        user=result.user,
        recorded_at=iso(moment_of(result, "recorded_at")),
        median_s=median,
        spread=timing.mad / median if median else None,
        samples=len(timing.samples),
        number=timing.number,
        gflops=result.operations / median / 1e9 if median and result.operations else None,
        correct=result.correct if result.HasField("correct") else None,
        error=error_text(result),
    )


def error_text(result: tpb.Result) -> str:
    """Why there is no timing: the error's name and words, "" where there is none."""
    if not result.HasField("error"):
        return ""
    name = _word(pb.ErrorCode, result.error.code, "ERROR_CODE_").replace("_", " ")
    return f"{name}: {result.error.message}" if result.error.message else name


def emulated_ids(snapshot: Snapshot) -> frozenset[str]:
    """The ids of the emulated devices."""
    return frozenset(row.id for row in snapshot.rows if row.emulated)


def device_facts(device: tpb.Device) -> list[tuple[str, str]]:
    """Facts and conditions of a device as names and texts; what is unknown is left out."""
    facts, now = device.facts, device.conditions
    pairs = [
        ("Target", target_text(facts.target)),
        ("Features", ", ".join(facts.target.features)),
        ("Machine", facts.machine_model),
        ("Processor", facts.cpu_model),
        ("Processors", str(facts.cpu_count or "")),
        ("Its own processors", facts.cores),
        ("Timed", "beside other devices of its server" if facts.time_together else ""),
        ("Memory", f"{facts.memory_bytes / 2**30:.1f} GiB" if facts.memory_bytes else ""),
        ("Highest frequency", _megahertz(facts.max_frequency_hz)),
        ("Governor", facts.governor),
        ("Operating system", facts.os),
        ("Kernel", facts.kernel),
        ("Emulated by", facts.emulator),
        ("Isolation", ", ".join(facts.isolation)),
        ("Steadied by", ", ".join(facts.steadied)),
        ("Addresses", ", ".join(device.addresses)),
        *(_labelled(name, text) for name, text in sorted(facts.extra.items())),
        ("Frequency now", _megahertz(now.frequency_hz)),
        *_optional(now, "temperature_celsius", "Temperature", "{:.1f} °C"),
        *_optional(now, "load_average", "Load", "{:.2f}"),
        *_optional(now, "steal_fraction", "Stolen time", "{:.1%}"),
        *_optional(now, "throttle_bits", "Throttle bits", "{:#x}"),
        ("Throttled by", ", ".join(now.throttle_reasons)),
        *_optional(now, "power_watts", "Power", "{:.0f} W"),
    ]
    return [(name, text) for name, text in pairs if text]


# What backends tell by names of their own, for people: a label and the unit that it is told in.
_LABELS = {
    "compute_capability": ("Compute capability", ""),
    "cuda": ("CUDA", ""),
    "ecc": ("ECC", ""),
    "gpu": ("GPU", ""),
    "gpu_driver": ("Driver", ""),
    "gpu_pci": ("PCI address", ""),
    "gpu_uuid": ("UUID", ""),
    "l2_bytes": ("Second cache", "bytes"),
    "memory_bus_bits": ("Memory bus", "bits"),
    "max_gpu_clock_hz": ("Highest clock of the GPU", "hz"),
    "max_gpu_memory_clock_hz": ("Highest clock of its memory", "hz"),
    "memory_clock_hz": ("Memory clock", "hz"),
    "mig": ("MIG", ""),
    "multiprocessors": ("Multiprocessors", ""),
    "persistence": ("Persistence mode", ""),
    "power_limit_w": ("Power limit", "W"),
    "shared_bytes": ("Shared memory of a block", "bytes"),
}


def _labelled(name: str, text: str) -> tuple[str, str]:
    """A fact of a backend as people read it; what is no number of its unit stays as it is."""
    label, unit = _LABELS.get(name, (name, ""))
    if not unit or not text.isdecimal():
        return label, text
    number = int(text)
    told = {
        "bytes": f"{number / 2**20:,.1f} MiB" if number >= 2**20 else f"{number / 2**10:,.0f} KiB",
        "hz": _megahertz(number),
        "bits": f"{number} bits",
        "W": f"{number} W",
    }
    return label, told[unit] if number else ""


def _optional(message: Any, name: str, label: str, form: str) -> list[tuple[str, str]]:
    return [(label, form.format(getattr(message, name)))] if message.HasField(name) else []


def _megahertz(hertz: int) -> str:
    return f"{hertz / 1e6:,.0f} MHz" if hertz else ""
