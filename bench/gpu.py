"""What kernels reach on a GPU, through the farm, beside a copy, cuBLAS and Triton on the same card.

    python bench/gpu.py [--device KEY --tracker HOST:PORT] [--check] [--tune TRIALS] [--rounds N]
                        [--backend cuda] [--tiny] [--only WORD] [--into bench/results]

Without --device it starts a farm of its own, with this machine's first GPU. Rounds are taken in
turns: each kernel through the farm, then what it is compared with, in processes of its own; figures
are medians of the rounds' ratios. Every kernel's answer is compared with numpy first; --check does
that for every operator and type on small shapes. --tune looks for schedules of the matmuls on the
device first; it goes on from INTO/gpu-DEVICE-tuning.jsonl, the winners are in -best.json beside it.
--only takes the workloads that have such a word in them. --tiny is for a trial without a GPU
(--backend nullgpu): its figures mean nothing. What is not there to compare with (torch, Triton) is
left out, saying so. Writes a table, and INTO/gpu-DEVICE.json with date, versions, command, facts
and every sample.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunefarm import Device, request_device
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_compiler import build, targets, workload
from tunefarm_compiler.database import Database
from tunefarm_proto import errors
from tunefarm_tuner.tune import tune

HERE = Path(__file__).parent
COPIED = 1 << 30
# What is moved or computed, and the share of the peer's speed that is asked for.
MEMORY = (
    "add:n=67108864",
    "softmax:m=8192,n=8192",
    "layer_norm:m=8192,n=8192",
)
PRODUCTS = (
    ("matmul:m=4096,n=4096,k=4096,dtype=float32", "matmul", 0.70),
    ("matmul:m=4096,n=4096,k=4096,dtype=float16", "matmul", 0.60),
    ("matmul:m=4096,n=4096,k=4096,dtype=float16", "triton", 1.00),
)
OF_COPY = 0.85
FLOATS = ("float32", "float16", "bfloat16")
CHECKED = (
    *(f"{name}:m=67,n=131,dtype={t}" for name in ("softmax", "layer_norm", "sum", "max", "mean")
      for t in FLOATS),
    *(f"{name}:n=1027,dtype={t}" for name in ("add", "mul", "relu", "gelu", "exp", "tanh")
      for t in FLOATS),
    *(f"matmul:m={m},n={n},k={k},dtype={t}" for m, n, k in ((64, 64, 64), (129, 67, 93))
      for t in (*FLOATS, "int8")),
    *(f"matmul:m=33,n=65,k=47,b=3,ta=1,dtype={t}" for t in FLOATS),
    *(f"conv2d:c=32,h=14,w=15,k=48,r=3,s=3,pad=1,dtype={t}" for t in (*FLOATS, "int8")),
    "conv2d:c=16,h=13,w=13,k=24,r=3,s=3,stride=2,pad=1,layout=nchw",
    "depthwise_conv2d:c=24,h=14,w=14,r=3,s=3,pad=1", "max_pool2d:c=8,h=14,w=14,r=2,s=2,stride=2",
    "dense:m=17,n=63,k=95,act=gelu", "gemv:m=129,n=257", "transpose:m=65,n=33",
    "bias_act:m=65,n=129", "sum:m=129,n=65,axis=0",
)  # fmt: skip
TINY = {"67108864": "4096", "8192": "64", "4096": "64"}


@contextlib.contextmanager
def farm(backend: str) -> Iterator[tuple[str, str]]:
    """A tracker and a device server of this machine's first GPU: its key and the address."""
    with tempfile.TemporaryDirectory() as name, LocalFarm(Path(name)) as processes:
        folder, address = Path(name), f"127.0.0.1:{free_port(0)}"
        port = address.split(":")[1]
        processes.start("tracker", "tracker", "--port", port, "--state", str(folder / "t"))
        processes.wait_for_tracker(address)
        words = ("--key", "gpu:gpu=0", "--backend", backend, "--tracker", address)
        processes.start("gpu", "device", *words, "--state", str(folder / "d"))
        processes.wait_for_devices(address, ["gpu"])
        yield "gpu", address


class Peers:
    """The processes of what is compared with.

    The copy has one of its own: there the driver begins as it does for the device server, which
    would have torch load all of its kernels. Both count GPUs as the device server does.
    """

    def __init__(self) -> None:
        self.copies, self.others = self._start(), self._start()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "_gpu_peers.py")]
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE,
            env=os.environ | order,
        )  # fmt: skip

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Its answer; `lacking` where it has none, or has ended."""
        process = self.copies if what == "copy" else self.others
        try:
            process.stdin.write(json.dumps({"what": what, **more}) + "\n")
            process.stdin.flush()
            return dict(json.loads(process.stdout.readline()))
        except (OSError, ValueError):
            return {"lacking": f"the process for {what} ended"}

    def close(self) -> None:
        """End them."""
        for process in (self.copies, self.others):
            process.stdin.close()
            process.wait(30)


class Subject:
    """A workload on the device: its arguments there, its answer checked."""

    def __init__(self, device: Device, text: str, best: Database | None) -> None:
        self.text, parsed = text, workload.parse(text)
        spec = targets.from_device(device.target)
        schedule = best.schedule(parsed, spec) if best is not None else None
        self.tuned = schedule is not None
        self.bundle = build(parsed, spec, schedule, tuned=False)
        self.schedule = json.loads(self.bundle.manifest.schedule or "null")
        self.module, self.function = device.load(self.bundle), parsed.function
        self.parsed, inputs = parsed, parsed.inputs(0)
        self.expected = parsed.reference(inputs)
        outputs = [device.empty(one.shape, str(one.dtype)) for one in self.expected]
        self.arrays = [*(device.array(one) for one in inputs), *outputs]
        self.moved = sum(one.nbytes for one in (*inputs, *self.expected))
        self.module[self.function](*self.arrays)
        self.correct = bool(parsed.check([one.numpy() for one in outputs], self.expected))

    def time(self) -> dict[str, Any]:
        """A timing: seconds a call, and what the device said of itself."""
        timing = self.module.time_evaluator(self.function, repeat=10)(*self.arrays)
        after = timing.raw.after
        return {
            "seconds": timing.median,
            "samples": list(timing.raw.samples_s),
            "clock_hz": after.frequency_hz,
            "celsius": after.temperature_celsius,
            "watts": after.power_watts,
            "throttled": list(after.throttle_reasons),
        }


def check(device: Device, texts: tuple[str, ...]) -> list[str]:
    """Which of these are wrong, or fail."""
    wrong = []
    for text in texts:
        try:
            subject = Subject(device, text, None)
            if not subject.correct:
                wrong.append(f"{text}: wrong answer")
        except errors.TunefarmError as error:
            wrong.append(f"{text}: {type(error).__name__}: {error}")
    return wrong


def compare(
    device: Device,
    peers: Peers,
    wanted: tuple[str, str, float],
    best: Database | None,
    rounds: int,
) -> dict[str, Any]:
    """Rounds in turns of a kernel and its peer; the ratio of speeds."""
    text, peer, asked = wanted
    subject = Subject(device, text, best)
    sizes = {name: int(value) for name, value in re.findall(r"\b([mnk])=(\d+)", text)}
    dtype = "float16" if "float16" in text else "float32"
    words = {"bytes": COPIED} if peer == "copy" else {**sizes, "dtype": dtype}
    row: dict[str, Any] = {
        "workload": text, "peer": peer, "asked": asked, "correct": subject.correct,
        "tuned": subject.tuned, "schedule": subject.schedule, "rounds": [],
    }  # fmt: skip
    ratios = []
    for _ in range(rounds):
        ours, theirs = subject.time(), peers.ask(peer, **words)
        row["rounds"].append({"ours": ours, "peer": theirs})
        if "lacking" in theirs:
            row["lacking"] = theirs["lacking"]
            break
        ours_s, theirs_s = ours["seconds"], theirs["seconds"]
        if peer == "copy":
            ratios.append(subject.moved / ours_s / (2 * COPIED / theirs_s))
        else:
            ratios.append(theirs_s / ours_s)
    seconds = statistics.median(one["ours"]["seconds"] for one in row["rounds"])
    row |= {"seconds": seconds, "ratio": statistics.median(ratios) if ratios else None}
    row["gbytes_per_s"] = subject.moved / seconds / 1e9
    row["tflops"] = subject.parsed.operations / seconds / 1e12
    return row


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "failed" in row:
        return f"{row['workload']:46} FAILED: {row['failed']}"
    ratio = f"{row['ratio']:.3f}" if row["ratio"] is not None else row.get("lacking", "?")
    speed = (
        f"{row['gbytes_per_s']:8.0f} GB/s"
        if row["peer"] == "copy"
        else f"{row['tflops']:6.1f} TFLOPS"
    )
    marks = ("tuned" if row["tuned"] else "default", "correct" if row["correct"] else "WRONG")
    return (
        f"{row['workload']:46} {row['seconds'] * 1e6:10.1f} us {speed:>16}  x {row['peer']:7}"
        f" {ratio} (asked {row['asked']:.2f}) {', '.join(marks)}"
    )


def smaller(text: str) -> str:
    """The same of a size that a null GPU can do."""
    for large, small in TINY.items():
        text = text.replace(f"={large}", f"={small}")
    return text


def named(device: Device) -> str:
    """The GPU's name, as in "nvidia-h100-pcie"."""
    name = device.facts.extra.get("gpu", "none")
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def tuned(texts: list[str], key: str, trials: int, tracker: str, into: Path) -> Database | None:
    """The best schedules that a search on the device finds, its records kept beside the results."""
    with request_device(key, tracker=tracker, timeout=120) as device:
        stem = into / f"gpu-{named(device)}"
    records, best = Path(f"{stem}-tuning.jsonl"), Path(f"{stem}-best.json")
    if texts:
        print(tune(texts, key, trials=trials, records=records, best=best, tracker=tracker))
    return Database.read(best) if best.exists() else None


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device")
    parser.add_argument("--tracker")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tune", type=int, default=0, metavar="TRIALS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--into", type=Path, default=HERE / "results")
    given = parser.parse_args()
    shrink = smaller if given.tiny else str
    given.into.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        key, tracker = given.device, given.tracker
        if key is None:
            key, tracker = stack.enter_context(farm(given.backend))
        best = None
        if given.tune:
            texts = list(dict.fromkeys(shrink(text) for text, *_ in PRODUCTS if given.only in text))
            best = tuned(texts, key, given.tune, tracker, given.into)
        peers = Peers()
        stack.callback(peers.close)
        device = stack.enter_context(request_device(key, tracker=tracker, timeout=120))
        wrong = check(device, CHECKED) if given.check else None
        if wrong is not None:
            right = f"{len(CHECKED) - len(wrong)} of {len(CHECKED)} kernels answer rightly"
            print(right, *wrong, sep="\n  ")
        wanted = [(text, "copy", OF_COPY) for text in MEMORY] + list(PRODUCTS)
        rows = []
        for text, *rest in (one for one in wanted if given.only in one[0]):
            try:
                rows.append(compare(device, peers, (shrink(text), *rest), best, given.rounds))
            except errors.TunefarmError as error:  # the others' figures are kept
                said = f"{type(error).__name__}: {error}"
                rows.append({"workload": shrink(text), "peer": rest[0], "failed": said})
            print(line(rows[-1]), flush=True)
        facts = device.facts
        report = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
            "device": facts.cpu_model,
            "emulated": device.emulated,
            "facts": dict(facts.extra),
            "versions": peers.ask("versions"),
            "checked": None if wrong is None else {"kernels": len(CHECKED), "wrong": wrong},
            "tuned_trials": given.tune,
            "rows": rows,
        }
    path = given.into / f"gpu-{named(device)}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
