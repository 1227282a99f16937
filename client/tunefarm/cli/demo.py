"""tunefarm demo: a whole farm on this machine, measured and tuned."""

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from tunefarm_proto import security

from tunefarm.cli.output import Progress, add_json, print_json, table
from tunefarm.cli.parsing import whole
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm.timing import format_seconds

WORKLOADS = ("matmul:m=512,n=512,k=512", "add:n=1048576")
LOCAL_KEYS = ("local", "local2")
EMULATED = (("rasp3b", "arm64"), ("rasp3b-32", "armhf"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--keep", action="store_true", help="stay up until interrupted")
    parser.add_argument(
        "--trials", type=whole(1), default=32, metavar="N", help="candidates to tune (default 32)"
    )
    parser.add_argument("--no-emulation", action="store_true", help="leave the emulated Pi out")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Start a farm, use it, end it. Exit status 1 where an answer was wrong."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        redirect_stdout(sys.stderr) if arguments.json else nullcontext(),
        tempfile.TemporaryDirectory(prefix="tunefarm-demo-") as scratch,
        LocalFarm(Path(scratch)) as farm,
    ):
        tracker, page = _start(farm)
        keys = [*LOCAL_KEYS]
        if not arguments.no_emulation:
            keys += _start_emulated(farm, tracker)
        farm.wait_for_devices(tracker, keys)
        found: dict[str, Any] = {"tracker": tracker, "dashboard": page}
        found["measured"] = _measure(tracker, keys)
        correct = all(one["correct"] is True for one in found["measured"])
        found["tuned"] = _tune(tracker, arguments.trials, Path(scratch) / "records.jsonl")
        if arguments.keep:
            print(f"\ndashboard: {page}\ntracker:   {tracker}\nCtrl-C ends the farm.")
            _wait_for_interrupt(farm)
        else:
            print(
                "\nThe farm is gone again; `tunefarm demo --keep` leaves it up, dashboard and all."
            )
    if arguments.json:
        print_json(found)
    return 0 if correct else 1


def _start(farm: LocalFarm) -> tuple[str, str]:
    for name in security.VARIABLES:  # they are for the farm of the user's own
        os.environ.pop(name, None)
    tracker = f"127.0.0.1:{free_port(9190)}"
    port = tracker.rpartition(":")[2]
    farm.start("tracker", "tracker", "--port", port, "--state", str(farm.folder / "tracker"))
    farm.wait_for_tracker(tracker)
    for key in LOCAL_KEYS:
        state = str(farm.folder / f"device-{key}")
        farm.start(key, "device", "--key", key, "--tracker", tracker, "--state", state)
    page_port = str(free_port(9191))
    farm.start("dashboard", "dashboard", "--tracker", tracker, "--port", page_port)
    page = f"http://127.0.0.1:{page_port}/"
    print(f"tracker {tracker}, devices {', '.join(LOCAL_KEYS)}, dashboard {page}")
    return tracker, page


def _start_emulated(farm: LocalFarm, tracker: str) -> list[str]:
    from tunefarm_device import emulation

    started = []
    for key, arch in EMULATED:
        if lacking := emulation.available(arch):
            print(f"no emulated {key}: {lacking}")
            continue
        root = emulation.build_root(arch)
        state = farm.folder / f"device-{key}"
        command, env = emulation.command(arch, root, key, tracker, state)
        farm.start_command(key, command, env)
        print(f"emulated {key} ({arch}, qemu-user: its timings say nothing about a real Pi)")
        started.append(key)
    return started


def _measure(tracker: str, keys: list[str]) -> list[dict[str, Any]]:
    from tunefarm_tuner.bench import TimingPlan, bench

    rows: list[list[object]] = []
    found = []
    with Progress("measuring", len(keys) * len(WORKLOADS)) as bar:
        for key in keys:
            emulated = key not in LOCAL_KEYS
            plan = TimingPlan(number=1, repeat=3) if emulated else TimingPlan()
            for workload in WORKLOADS:
                measured = bench(workload, key, tracker=tracker, plan=plan, timeout=60)
                found.append(measured.as_dict())
                rows.append(
                    [
                        workload,
                        key + (" [emulated]" if measured.emulated else ""),
                        measured.target,
                        format_seconds(measured.timing.median),
                        f"{measured.gflops:.2f}",
                        "yes" if measured.correct else "NO",
                    ]
                )
                bar.update(len(rows))
    head = ["WORKLOAD", "DEVICE", "TARGET", "MEDIAN", "GFLOPS", "AGREES WITH NUMPY"]
    print("\n" + table(head, rows))
    return found


def _tune(tracker: str, trials: int, records: Path) -> dict[str, Any]:
    from tunefarm_tuner.tune import tune

    with Progress("tuning", trials) as bar:
        result = tune(
            WORKLOADS[0],
            LOCAL_KEYS[0],
            trials=trials,
            records=records,
            tracker=tracker,
            timeout=60,
            on_record=lambda done, record: bar.update(done, record.summary()),
        )
    if result.interrupted:
        raise KeyboardInterrupt
    (task,) = result.tasks
    print(
        f"\ntuned {task.workload} on {task.device_key}: {task.trials} candidates, "
        f"{task.failed} failed\n"
        f"default {format_seconds(task.default_s)}, best {format_seconds(task.best_s)}: "
        f"{task.gain:.2f} x the default (timed in turns)"
    )
    return result.as_dict()


def _wait_for_interrupt(farm: LocalFarm) -> None:
    try:
        while True:
            farm.check()
            time.sleep(0.5)
    except KeyboardInterrupt:
        print()
