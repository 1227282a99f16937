"""The tuner's pipeline: candidates a second, tiny measurements, device use, two boards of one key.

    python bench/tuning.py [speed] [tiny] [use] [boards] [--trials N] [--tvm PYTHON]

speed   candidates measured end to end (proposed, built, uploaded, loaded, checked, timed by the
        screening tier) on matmul 512x512x512 float32, through a tracker and one device over gRPC,
        proposed by chance and by the learned model in turns; with --tvm, beside TVM MetaSchedule's
        LocalBuilder and RPCRunner, on the same machine and with as many build workers. PYTHON is
        one of an environment with
        pip install apache-tvm==0.27 apache-tvm-ffi==0.1.14.post1 tornado cloudpickle psutil xgboost
tiny    complete measurements (call, answer back and compared, timing of three samples) of a kernel
        of 16 elements in one session, a few on their way at once
use     the share of the device's time in which its kernels run, by its own account: matmul 512 and
        1024, each once as it comes and once with all candidates built before
boards  trials with two boards of one key by those with one. The kernel sleeps (4 ms a call), so
        that both boards can be this machine; then one of the two is ten times as slow

Each figure is of one process on one machine; where two are compared they are taken in turns, and
medians are given.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import ziglang
from tunefarm import Bundle, request_device
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm.session import Pending
from tunefarm_compiler import build, targets, workload
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_tuner.records import read
from tunefarm_tuner.tasks import Custom
from tunefarm_tuner.tune import tune

HERE = Path(__file__).parent
CUBE = "matmul:m=512,n=512,k=512"
WORKERS = max(1, len(os.sched_getaffinity(0)) - 1)


@contextmanager
def farm(*keys: str, slow: int = 0) -> Iterator[tuple[str, Path]]:
    """A tracker and a device server for each key, on loopback; its address, and a folder."""
    with tempfile.TemporaryDirectory() as name, LocalFarm(Path(name)) as processes:
        folder, address = Path(name), f"127.0.0.1:{free_port(0)}"
        processes.start(
            "tracker", "tracker", "--port", address.split(":")[1], "--state", str(folder / "t")
        )
        processes.wait_for_tracker(address)
        for index, key in enumerate(keys):
            state = str(folder / f"d{index}")
            more = ("--tracker", address, "--state", state, "--anchor-interval", "0")
            if index >= len(keys) - slow:
                os.environ["SLOW"] = "1"  # kernels of `sleepers` look for it
            processes.start(f"d{index}", "device", "--key", key, *more)
            os.environ.pop("SLOW", None)
        processes.wait_for_devices(address, sorted(set(keys)))
        yield address, folder


def steady(times: list[float]) -> float:
    """Records a second, the first tenth of them left out: workers start meanwhile."""
    rest = times[len(times) // 10 :]
    return (len(rest) - 1) / (rest[-1] - rest[0])


def ours(
    trials: int, seed: int, text: str = CUBE, strategy: str = "random", cache: str = "off"
) -> tuple[float, float]:
    """Candidates a second, and the device's use. `cache`: a folder of what was built before."""
    times: list[float] = []
    os.environ["TUNEFARM_BUILD_CACHE"] = cache
    with farm("board") as (address, folder):
        result = tune(
            text,
            "board",
            trials=trials,
            records=folder / "records.jsonl",
            strategy=strategy,
            seed=seed,
            finals=False,
            workers=WORKERS,
            tracker=address,
            on_record=lambda done, record: times.append(time.perf_counter()),
        )
        bad = [r for r in read(folder / "records.jsonl") if r.error]
    if bad:
        print(f"  {len(bad)} failed: {bad[0].error}: {bad[0].message}")
    return steady(times), result.devices[0].use


def theirs(python: str, trials: int) -> float:
    """TVM's candidates a second."""
    spec = targets.resolve("local")
    target = json.dumps({"kind": "llvm", "mcpu": spec.cpu, "num-cores": 1})
    words = ["rate", "512", str(trials), str(WORKERS), target]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, str(HERE / "_metaschedule.py"), *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"TVM said: {done.stderr[-2000:]}")
    return float(json.loads(lines[-1])["rate"])


def speed(trials: int, python: str | None) -> None:
    """Candidates a second."""
    other, rates = [], {}
    for seed in range(3):
        for strategy in ("random", "model"):
            rate, share = ours(trials, seed, strategy=strategy)
            rates.setdefault(strategy, []).append(rate)
            print(f"  {strategy}: {rate:.1f}/s, device use {share:.0%}, {WORKERS} workers")
        if python:
            other.append(theirs(python, 16))
            print(f"  MetaSchedule {other[-1]:.2f}/s", flush=True)
    for strategy, found in rates.items():
        print(f"speed: {statistics.median(found):.1f} candidates/s by {strategy} (15 asked for)")
        if other:
            ratio = statistics.median(a / b for a, b in zip(found, other, strict=True))
            print(f"speed: {ratio:.1f} x MetaSchedule (10 asked for)", flush=True)


def tiny(seconds: float = 5.0) -> None:
    """Complete measurements of a kernel of 16 elements in one session."""
    bundle = build("add:n=16", "local", tuned=False)
    left, right = (np.arange(16, dtype=np.float32) + i for i in range(2))
    with farm("board") as (address, _), request_device("board", tracker=address) as device:
        function = device.load(bundle)["add"]
        arrays = [device.array(left), device.array(right), device.empty(16)]
        options = pb.TimingOptions(number=1, repeat=3)
        options.warmup.FromNanoseconds(0)
        call = function.request(tuple(arrays))
        session = function.session
        operations = [
            dpb.SessionRequest(call=call),
            dpb.SessionRequest(read=dpb.ReadArray(array_id=arrays[2].handle(session))),
            dpb.SessionRequest(time=dpb.TimeFunction(call=call, options=options)),
        ]
        function(*arrays)  # opens the lane
        on_way: deque[list[Pending]] = deque()
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            on_way.append([session.send(one) for one in operations])
            session.flush()
            if len(on_way) > 4:
                _, outputs, timing = map(session.wait, on_way.popleft())
                assert outputs.data.data == (left + right).tobytes()
                assert len(timing.timing.samples_s) == 3
                done += 1
        rate = done / (time.perf_counter() - began)
    print(f"tiny: {rate:.0f} complete measurements/s in one session (500 asked for)")


def use(trials: int) -> None:
    """The device's own account."""
    for size in (512, 1024):
        text = f"matmul:m={size},n={size},k={size}"
        with tempfile.TemporaryDirectory() as cache:
            for how in ("as it comes", "built before"):
                rate, share = ours(trials, 0, text, cache=cache)
                words = f"{share:.0%} of the device's time at its kernels, {rate:.1f}/s"
                print(f"use: matmul {size}, {how}: {words} (80% asked for)", flush=True)


SLEEPER = """
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
int32_t add(void *const *args) {
  const float *a = args[0], *b = args[1]; float *c = args[2];
  for (int i = 0; i < 16; ++i) c[i] = a[i] + b[i];
  struct timespec t = {0, 4000000 * (getenv("SLOW") ? 10 : 1)};
  nanosleep(&t, 0);
  return 0;
}
"""


class Numbers:
    """A space of so many numbers; a `Space`."""

    def __init__(self, count: int) -> None:
        self.count = count

    def default(self) -> str | None:
        return None

    def candidates(self) -> Iterator[str]:
        return iter(map(str, range(self.count)))

    def sample(self, rng: random.Random) -> str:
        return str(rng.randrange(self.count))

    def mutate(self, candidate: str, rng: random.Random) -> str:
        return self.sample(rng)

    def cross(self, one: str, other: str, rng: random.Random) -> str:
        return rng.choice((one, other))

    def features(self, candidate: str) -> list[float]:
        return [float(candidate)]


def sleepers(folder: Path, count: int) -> Custom:
    """Kernels that take 4 ms without using the processor, each with code of its own."""
    parsed = workload.parse("add:n=16")
    zig = Path(ziglang.__file__).parent / "zig"
    source, library = folder / "s.c", folder / "s.so"
    source.write_text(SLEEPER)
    command = [str(zig), "cc", "-shared", "-O1", "-fno-sanitize=all", "-o", str(library)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    whole = library.read_bytes()

    def build_one(candidate: str, spec: targets.TargetSpec) -> Bundle:
        # What follows the last section belongs to nothing: it makes the code another one.
        data = whole + int(candidate).to_bytes(8, "little")
        manifest = bpb.BundleManifest(workload=str(parsed), functions=[parsed.signature()])
        return bundle_file.pack(manifest, [(pb.Target(triple=spec.triple), data)])

    return Custom("sleep", Numbers(count), build_one, parsed.signature(), parsed.reference)


def boards(trials: int) -> None:
    """Trials a second of two boards by those of one, in turns; then with one of them slow."""
    ratios, slowed = [], []
    for _ in range(3):
        rates = [boards_once(trials, count, slow=0) for count in (1, 2)]
        ratios.append(rates[1] / rates[0])
        with_slow = boards_once(trials, 2, slow=1)
        slowed.append(with_slow / rates[0])
        print(f"  one board {rates[0]:.1f}/s, two {rates[1]:.1f}/s, a slow one {with_slow:.1f}/s")
    print(f"boards: two of one key do {statistics.median(ratios):.2f} x the trials of one (1.8)")
    print(f"boards: one with one ten times as slow {statistics.median(slowed):.2f} x one alone")


def boards_once(trials: int, count: int, slow: int) -> float:
    """Trials a second of so many boards, the last `slow` of them ten times as slow."""
    times: list[float] = []
    with farm(*["board"] * count, slow=slow) as (address, folder):
        tune(
            sleepers(folder, trials * 2),
            {"board": count},
            trials=trials,
            strategy="random",
            records=folder / "r.jsonl",
            finals=False,
            tracker=address,
            on_record=lambda *_: times.append(time.perf_counter()),
        )
        bad = [r for r in read(folder / "r.jsonl") if r.error]
        assert not bad, bad[0].message
    return steady(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="speed, tiny, use, boards; all of them if none")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--tvm", metavar="PYTHON")
    arguments = parser.parse_args()
    what = arguments.what or ["speed", "tiny", "use", "boards"]
    random.seed(0)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)
    if "speed" in what:
        speed(arguments.trials, arguments.tvm)
    if "tiny" in what:
        tiny()
    if "use" in what:
        use(max(arguments.trials // 4, 40))
    if "boards" in what:
        boards(min(arguments.trials, 200))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
