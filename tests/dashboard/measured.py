"""Results, jobs and tuning runs as a farm would tell of them, for the dashboard's tests."""

from fake_tracker import FakeTracker, ago, event, lease, result
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

EVIL = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"
MATMUL = "matmul:m=64,n=64,k=64,dtype=float32"


def noisy(count: int, middle: float) -> list[float]:
    """Samples around a middle, always the same."""
    return [middle * (1 + 0.02 * ((n * 37 % 100) / 100 - 0.5)) for n in range(count)]


def rounds(timing: pb.Timing) -> None:
    """Three rounds of ten samples: the second was disturbed and measured again."""
    timing.discarded_s.extend(noisy(10, 2e-3))
    for number in range(3):
        taken = timing.rounds.add(samples=10, discarded=number == 1)
        taken.disturbed = "stolen time 8%" if number == 1 else ""
        taken.after.temperature_celsius = 50 + number
        taken.after.throttle_bits = 4 if number == 2 else 0


def job_of(fake: FakeTracker, name: str = "req-1") -> tpb.Result:
    """A request that waited, held the first device and measured one result, told by its client."""
    device = fake.devices[0]
    held = lease(device, "ada", "bench matmul")
    held.id, held.request_id = "lease-1", name
    held.granted_at.CopyFrom(ago(100))
    fake.past.append(
        tpb.PastLease(lease=held, queued_at=ago(130), ended_at=ago(90), outcome="released")
    )
    made = result("res-1", device, MATMUL, noisy(20, 1e-3), correct=True, operations=2 * 64**3)
    made.lease_id, made.bundle_digest, made.argument_bytes = "lease-1", "ab" * 32, 3 * 64 * 64 * 4
    rounds(made.timing)
    # The client's clock is an hour ahead.
    for part, began, seconds in (
        ("build", 140, 8.0), ("wait", 132, 32.0), ("upload", 100, 1.0), ("time", 98, 5.0)
    ):  # fmt: skip
        made.phases.add(name=part, began_at=ago(began - 3600), seconds=seconds)
    made.recorded_at.CopyFrom(ago(90))
    fake.results.insert(0, made)
    for subject, action, seconds in (("req-1", "queued", 130), ("lease-1", "granted", 100)):
        told = event(device, action, f"{action} to ada", seconds)
        fake.events.setdefault(subject, []).append(told)
    return made


def run_of(name: str = "run-1") -> tpb.TuningRun:
    """A run that goes on."""
    run = tpb.TuningRun(
        id=name, user="ada", state=tpb.TUNING_STATE_RUNNING, strategy="model", trials=30,
        trials_wanted=100, trials_per_s=2.5, started_at=ago(20), updated_at=ago(0),
    )  # fmt: skip
    run.time_left.seconds = 28
    task = run.tasks.add(
        workload=MATMUL, weight=1, operations=2 * 64**3, trials=30, trials_wanted=100, failed=4,
        best_s=1e-5, best_schedule='{"lanes": 16}',
    )  # fmt: skip
    for trial, seconds in ((1, 4e-5), (5, 2e-5), (20, 1e-5)):
        task.points.add(trial=trial, best_s=seconds, at_s=float(trial) / 2)
    run.errors.update({"KernelCrashedError": 3, "BuildFailedError": 1})
    run.devices.add(id="local-1f0a3c", key="local", held=True, trials=30, busy_s=6.0, held_s=12.0)
    return run
