"""Tuning under random kills of tracker, device servers, build workers, the proposer and the tuner.

    python tests/tuner/tuning_campaign.py FOLDER ADDRESS TRIALS    the tuner of a campaign

`Campaign` runs that as a process, kills what the dice say, and starts again what was killed.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from faulty_kernels import build_libraries, expected_error, kernels
from tunefarm import Tracker
from tunefarm.cli.processes import free_port
from tunefarm_proto import errors
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_tuner.records import SCREEN, Record, read
from tunefarm_tuner.tune import tune

KEY = "board"
DEVICES = 2
CHILDREN = {"worker": "tunefarm_compiler.worker", "proposer": "tunefarm_tuner.proposer"}
SHAPES = ("m=32,n=32,k=32", "m=48,n=32,k=16", "m=16,n=64,k=64", "m=64,n=16,k=40")
KINDS = ("tracker", "device", "worker", "proposer", "tuner")


def workloads(trials: int) -> list[str]:
    """Matmuls that are built by workers, half of all trials."""
    return [f"matmul:{shape}" for shape in SHAPES[: max(1, min(len(SHAPES), trials // 100))]]


def trials_of_each(trials: int) -> int:
    """So many for each task."""
    return trials // (1 + len(workloads(trials)))


def run_tuner(folder: Path, address: str, trials: int) -> None:
    """Tune until all is done; goes on from the records."""
    tune(
        [kernels(folder, 20 * trials), *workloads(trials)],
        {KEY: DEVICES},
        trials=trials_of_each(trials),
        records=folder / "records.jsonl",
        strategy="evolution" if trials < 100 else "model",
        scheduler="round-robin",
        workers=1 if trials < 100 else 2,
        finals=False,
        tracker=address,
    )


class Campaign:
    """One campaign; `run` returns what was killed."""

    def __init__(self, folder: Path, trials: int, seed: int) -> None:
        self.folder = folder
        self.trials = trials
        self.rng = random.Random(seed)
        self.port = free_port(0)
        self.address = f"127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: Counter[str] = Counter()
        self.log = (folder / "log.txt").open("ab")
        build_libraries(folder)

    def start(self, name: str) -> None:
        """Start a process of that name, as it was started before."""
        state = str(self.folder / name)
        farm = [sys.executable, "-m", "tunefarm"]
        if name == "tracker":
            words = [*farm, "tracker", "--port", str(self.port), "--state", state]
        elif name == "tuner":
            script = [sys.executable, str(Path(__file__))]
            words = [*script, str(self.folder), self.address, str(self.trials)]
        else:
            words = [*farm, "device", "--key", KEY, "--tracker", self.address, "--state", state]
        self.processes[name] = subprocess.Popen(words, stdout=self.log, stderr=self.log)

    def run(self, limit_s: float, every: int) -> Counter[str]:
        """Until the tuner is through, with a kill each time that about so many records came."""
        names = ["tracker", *(f"device{n}" for n in range(DEVICES)), "tuner"]
        try:
            for name in names:
                self.start(name)
            until, due = time.monotonic() + limit_s, 1
            while time.monotonic() < until:
                time.sleep(0.2)
                self._enable()
                ended = self.processes["tuner"].poll()
                if ended == 0:
                    return self.killed
                if ended is not None:
                    self.start("tuner")  # killed, or its tracker was away as it began
                held = self._records()
                if held >= due:
                    due = held + round(every * self.rng.uniform(0.2, 1.8))
                    self._kill(self.rng.choice(KINDS))
            raise AssertionError(f"not through after {limit_s:g} s, {dict(self.killed)} killed")
        finally:
            for process in self.processes.values():
                process.kill()
                process.wait()
            self.log.close()

    def _records(self) -> int:
        path = self.folder / "records.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def _enable(self) -> None:
        """What an operator does: devices that failed so often are quarantined."""
        try:
            with Tracker(self.address) as tracker:
                for device in tracker.devices():
                    if device.health == tpb.DEVICE_HEALTH_QUARANTINED:
                        tracker.manage(device.id, tpb.DEVICE_ACTION_ENABLE, "the campaign did it")
        except errors.TunefarmError:
            pass  # it was just killed

    def _kill(self, kind: str) -> None:
        if kind in CHILDREN:
            children = children_of(self.processes["tuner"].pid, CHILDREN[kind])
            if children:
                os.kill(self.rng.choice(children), signal.SIGKILL)
                self.killed[kind] += 1
            return
        names = [name for name in self.processes if name.startswith(kind)]
        name = self.rng.choice(names)
        self.processes[name].kill()
        self.processes[name].wait()
        self.killed[kind] += 1
        self.start(name)

    def judge(self) -> Counter[str]:
        """Each trial once, nothing wrong taken as good. Returns what became of them."""
        records = [one for one in read(self.folder / "records.jsonl") if one.tier == SCREEN]
        assert len({one.trial for one in records}) == len(records), "a trial was recorded twice"
        wanted, tasks = (
            trials_of_each(self.trials),
            Counter(one.workload for one in records if not one.duplicate_of),
        )
        assert len(tasks) == 1 + len(workloads(self.trials)), tasks
        for task, count in tasks.items():
            assert count == wanted, f"{task}: {count} trials, {wanted} were asked for"
        for one in records:
            self._judge(one)
        return Counter(one.error or "good" for one in records if not one.duplicate_of)

    @staticmethod
    def _judge(record: Record) -> None:
        assert bool(record.samples_s) != bool(record.error), record
        right = expected_error(record.schedule) if record.workload == "twice" else ""
        if right:
            assert record.error, f"a wrong answer was recorded as good: {record}"
        assert record.error in (right, "DeviceLostError", "LeaseLostError"), record


def children_of(pid: int, module: str) -> list[int]:
    """Processes of a process that run a module."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            every = [int(word) for word in task.read_text().split()]
            found += [one for one in every if module in Path(f"/proc/{one}/cmdline").read_text()]
        except OSError:
            continue
    return found


if __name__ == "__main__":
    run_tuner(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
