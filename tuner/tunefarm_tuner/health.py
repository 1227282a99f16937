"""Health checks: a known kernel on each device, its answer and its speed against the device's own.

The check leases the device like any user, at a low priority, also where it is drained or in
quarantine, and tells the tracker how it went: a wrong answer quarantines at once, a slow one counts
as a fault.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunefarm import Tracker, errors, request_device
from tunefarm_compiler import targets, workload
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_tuner.bench import TimingPlan, as_result, build_one, measure

KERNEL = "matmul:m=128,n=128,k=128"
PREFIX = "health "  # of the workload under which a check is recorded
PRIORITY = -100
WAIT_S = 30.0
HISTORY = 20  # earlier checks that count
LEAST_HISTORY = 5
SLOWER = 0.25  # so much above the median of the history is slow, or 4 of its deviations
DEVIATIONS = 4.0


@dataclass(frozen=True)
class Check:
    """How one device did. `passed` None: it was busy, and nothing is known."""

    device_id: str
    passed: bool | None
    detail: str
    severe: bool = False
    median_s: float | None = None


def check_device(tracker: Tracker, device: tpb.Device, wait_s: float = WAIT_S) -> Check:
    """Check one device and tell the tracker. Raises: TrackerUnreachableError and its like."""
    try:
        outcome = _measured(tracker, device, wait_s)
    except (errors.RequestError, errors.CompileError) as error:
        return Check(device.id, None, str(error))
    except (errors.KernelError, errors.ConnectionFailedError, errors.LeaseError) as error:
        if isinstance(error, errors.TrackerUnreachableError):
            raise
        outcome = Check(device.id, False, f"{type(error).__name__}: {error}")
    tracker.record_health_check(device.id, bool(outcome.passed), outcome.detail, outcome.severe)
    return outcome


def _measured(tracker: Tracker, device: tpb.Device, wait_s: float) -> Check:
    bundle = build_one(KERNEL, targets.from_device(device.facts.target), tuned=False)
    history = past_medians(tracker, device.id)
    with request_device(
        device.key,
        where={"id": device.id},
        tracker=tracker.address,
        priority=PRIORITY,
        timeout=wait_s,
        maintenance=True,
        purpose="health check",
    ) as leased:
        measured = measure(leased, workload.parse(KERNEL), bundle, TimingPlan())
        result = as_result(measured, leased)
    result.workload = PREFIX + result.workload
    tracker.record(result)
    median = statistics.median(result.timing.samples_s)
    if not measured.correct:
        return Check(device.id, False, "a wrong answer", severe=True, median_s=median)
    passed, detail = judge(median, history)
    return Check(device.id, passed or device.facts.emulated, detail, median_s=median)


def past_medians(tracker: Tracker, device_id: str) -> list[float]:
    """Medians of the device's last checks that answered rightly, in seconds, newest first."""
    results = tracker.results(PREFIX + str(workload.parse(KERNEL)), device_id, limit=HISTORY)
    return [statistics.median(one.timing.samples_s) for one in results if one.correct]


def judge(median: float, history: Sequence[float]) -> tuple[bool, str]:
    """Whether a time is as the device's own history lets expect, and that in words."""
    if len(history) < LEAST_HISTORY:
        return True, f"right answer; {len(history)} earlier checks are too few to judge its speed"
    usual = statistics.median(history)
    spread = 1.4826 * statistics.median(abs(one - usual) for one in history)
    limit = usual + max(SLOWER * usual, DEVIATIONS * spread)
    word = f"{median / usual:.2f} x the median time of its last {len(history)} checks"
    return median <= limit, f"right answer, {word}"


def check_all(
    tracker: Tracker,
    chosen: Callable[[tpb.Device], bool],
    on_check: Callable[[Check], None],
    wait_s: float = WAIT_S,
) -> list[Check]:
    """Check the chosen devices that are online, one after another."""
    outcomes = []
    for device in tracker.devices():
        gone = device.state == tpb.DEVICE_STATE_OFFLINE
        if gone or device.health == tpb.DEVICE_HEALTH_RETIRED or not chosen(device):
            continue
        outcomes.append(check_device(tracker, device, wait_s))
        on_check(outcomes[-1])
    return outcomes
