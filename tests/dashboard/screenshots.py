"""Takes the pictures of docs/: `python tests/dashboard/screenshots.py docs/screenshots`.

The farm in them is made up, so that there is a bit of everything: a tracker that says what it is
told to, and the real dashboard.
"""

import math
import random
import sys
import tempfile
import time
from pathlib import Path

from browsing import open_browser, scheme, width
from fake_tracker import (
    FakeTracker,
    ago,
    anchor,
    device,
    event,
    lease,
    past_lease,
    result,
    serving_dashboard,
)
from measured import job_of, run_of
from tunefarm.cli.processes import free_port
from tunefarm_proto.v1 import tracker_pb2 as tpb

USERS = ("ada", "grace", "linus", "barbara")
WORK = ("tune matmul:m=1024", "nightly check", "bench conv2d", "bisect 4f2a")
KEYS = {"rasp3b": 12, "rasp4b": 8, "rk3588": 6, "x86-zen4": 4}
PAGES = {
    "fleet": ("/", 1180, "light"),
    "device": ("/devices/rasp4b-03", 1180, "light"),
    "queue": ("/queue", 1180, "dark"),
    "utilisation": ("/utilisation?window=6h", 1180, "light"),
    "result": ("/results/res-1", 1180, "light"),
    "compare": ("/compare?result=res-1&result=res-2", 1180, "light"),
    "job": ("/jobs/req-1", 1180, "dark"),
    "tuning": ("/tunings/run-1", 1180, "light"),
    "fleet-phone": ("/", 390, "dark"),
}


def make(fake: FakeTracker) -> None:
    """A farm of thirty boards."""
    random.seed(5)
    for key, count in KEYS.items():
        for number in range(count):
            fake.devices.append(_device(fake, key, number))
    for position, (user, key, words) in enumerate(
        (("linus", "rk3588", "8 devices: 7 leased, 1 quarantined"),
         ("ada", "rasp3b or rasp4b", "26 devices: 3 idle but kept, 21 leased, 2 offline"),
         ("barbara", "x86-zen4", "barbara holds 3 of the 3 devices of the quota")), 1,
    ):  # fmt: skip
        waiting = tpb.QueuedRequest(
            request=tpb.DeviceRequest(
                request_id=f"r{position}", key=key, priority=5 * (3 - position), user=user,
                purpose=WORK[position],
            ),
            position=tpb.QueuePosition(position=position, waiting=3, reason=words),
            queued_at=ago(40 * position**2),
        )  # fmt: skip
        waiting.position.estimate.seconds = 90 * position
        fake.queue.append(waiting)
    _measured(fake)


def _measured(fake: FakeTracker) -> None:
    """A job with its result, another one to compare with, their device's roofs, a tuning run."""
    made = job_of(fake)
    made.timing.samples_s[:] = [1e-4 * (1 + abs(random.gauss(0, 8e-3))) for _ in range(40)]
    made.timing.discarded_s[:] = [1e-4 * (1.08 + abs(random.gauss(0, 2e-2))) for _ in range(10)]
    made.timing.median_low_s, made.timing.median_high_s = 1.004e-4, 1.0075e-4
    del made.timing.rounds[:]
    for number in range(5):
        taken = made.timing.rounds.add(samples=10, discarded=number == 2)
        taken.disturbed = "throttled: 1200 MHz instead of 1400" if number == 2 else ""
    for now, celsius in ((made.timing.before, 51.5), (made.timing.after, 58.2)):
        now.temperature_celsius, now.frequency_hz, now.load_average = celsius, 1_400_000_000, 0.08
    made.schedule = '{"lanes":4,"loops":[["k",64],["j",32],["i",4]],"unroll":2}'
    other = tpb.Result()
    other.CopyFrom(made)
    other.id, other.device_id, other.lease_id = "res-2", fake.devices[1].id, ""
    other.timing.samples_s[:] = [1.21e-4 * (1 + abs(random.gauss(0, 8e-3))) for _ in range(40)]
    other.timing.median_low_s, other.timing.median_high_s = 1.214e-4, 1.222e-4
    fake.results.insert(0, other)
    for board in fake.devices[:2]:
        memory = anchor(board, 2e-2, 600)
        memory.id, memory.workload = f"memory-{board.id}", "anchor memory"
        memory.argument_bytes = 64 << 20
        fake.results.append(memory)
    fake.results.append(result("peak", fake.devices[0], "peak", [1e-3], operations=96 * 10**5))
    run = run_of()
    points = [(n, 9e-5 * 0.93**n) for n in range(1, 30)]
    del run.tasks[0].points[:]
    for n, seconds in points:
        run.tasks[0].points.add(trial=n, best_s=seconds, at_s=n * 0.6)
    run.tasks[0].best_s = points[-1][1]
    run.devices[0].id = fake.devices[0].id
    fake.tunings.append(run)


def _device(fake: FakeTracker, key: str, number: int) -> tpb.Device:
    made = device(f"{key}-{number:02}", key, emulated=key.startswith("r"), labels={"lab": "b2"})
    made.facts.emulated = False
    made.facts.emulator = ""
    made.conditions.read_at.CopyFrom(ago(1))
    made.conditions.temperature_celsius = random.uniform(41, 68)
    made.conditions.frequency_hz = random.choice((1_400_000_000, 1_500_000_000))
    luck = random.random()
    if luck < 0.05:
        made.state = tpb.DEVICE_STATE_OFFLINE
        made.last_seen.CopyFrom(ago(5000))
    elif luck < 0.12:
        made.health = tpb.DEVICE_HEALTH_QUARANTINED
        made.health_reason = "three kernels crashed that run elsewhere"
    elif luck < 0.7:
        made.state = tpb.DEVICE_STATE_LEASED
        made.lease.CopyFrom(lease(made, random.choice(USERS), random.choice(WORK)))
        fake.leases.append(made.lease)
    if key == "rasp3b" and number == 4:
        made.conditions.temperature_celsius, made.conditions.throttle_bits = 82.0, 4
    at = 6 * 3600 - 120 * random.random()
    while at > 600:
        length = random.expovariate(1 / 1500)
        if random.random() < 0.75:
            fake.past.append(past_lease(made, random.choice(USERS), at, max(at - length, 300)))
        at -= length + 200 * random.random()
    if (key, number) == ("rasp4b", 3):
        _history(fake, made)
    return made


def _history(fake: FakeTracker, made: tpb.Device) -> None:
    told = (
        ("good", "enabled by grace: new power supply", 9000),
        ("quarantined", "power dips: throttled in 5 rounds", 30000),
        ("recovered", "step 1, power cycle: back after 41 s", 52000),
        ("recovering", "step 1, power cycle", 52041),
        ("offline", "not heard of for 3 s", 52100),
    )
    fake.events[made.id] = [event(made, *one) for one in told]
    for n in range(120):
        reading = anchor(
            made, 1e-3 * (1 + 0.004 * math.sin(n / 9) + random.gauss(0, 6e-4)), 300 * n
        )
        fake.results.append(reading)
    matmul = "matmul:m=512,n=512,k=512,dtype=float32"
    for n in range(4):
        samples = [0.0412 + random.gauss(0, 1e-4) for _ in range(20)]
        fake.results.append(result(str(n), made, matmul, samples, correct=True, user=USERS[n]))


def main() -> None:
    """Take them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    fake = FakeTracker(free_port(0))
    make(fake)
    fake.start()
    with (
        tempfile.TemporaryDirectory() as profile,
        serving_dashboard(fake.address) as url,
        open_browser(Path(profile)) as browser,
    ):
        for _ in range(12):  # readings for the charts
            time.sleep(2)
            for one in fake.devices:
                one.conditions.read_at.CopyFrom(ago(0))
                one.conditions.temperature_celsius += random.gauss(0, 0.5)
        for name, (path, pixels, shade) in PAGES.items():
            scheme(browser, shade)
            width(browser, pixels)
            browser.get(url + path)
            time.sleep(1)
            tall = browser.execute_script("return document.documentElement.scrollHeight")
            width(browser, pixels, min(tall, 1250 if pixels > 700 else 900))
            time.sleep(1)
            # No scroll bar in the picture.
            browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
            browser.save_screenshot(str(folder / f"{name}.png"))
    fake.stop()


if __name__ == "__main__":
    main()
