"""Whether timings can be believed: beside a loop in C, and verdicts on kernels of known work.

    .venv/bin/python bench/timing.py agree [--trials 20]
    .venv/bin/python bench/timing.py verdicts [--trials 100] [--disturbed] [--budget 20]

`agree`: a kernel of about 20 us, timed by a device of ours and by a program in C that loads the
same library, in turns and on the same core; ratio of the medians, ours by C's, for each trial.
`verdicts`: `compare` of a kernel with itself, with 2% more work and with 2% less, beside a load
that comes and goes where --disturbed is given; how often each verdict was said.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ziglang
from tunefarm import Bundle, Device, compare, request_device
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_compiler.foreign import build_c

ZIG = Path(ziglang.__file__).parent / "zig"
WORK = 20_000  # turns of the loop: some 20 us on a core of 2024
KERNEL = """#include <stdint.h>
int32_t work(void *const *args) {{
  float *x = args[0], sum = x[1];
  for (int i = 0; i < {turns}; ++i) {{ sum += 1.0f; __asm__ volatile("" : "+x"(sum)); }}
  x[0] = sum;
  return 0;
}}
"""
LOOP = """#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static double now(void) {
  struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + 1e-9 * t.tv_nsec;
}
int main(int count, char **words) {
  int32_t (*work)(void *const *) = (int32_t (*)(void *const *))dlsym(
      dlopen(words[1], RTLD_NOW), "work");
  long number = atol(words[2]), repeat = atol(words[3]);
  float *x = calloc(16, sizeof(float)); void *args[] = {x};
  for (long i = 0; i < number; ++i) if (work(args)) return 1;
  for (long r = 0; r < repeat; ++r) {
    double start = now();
    for (long i = 0; i < number; ++i) if (work(args)) return 1;
    printf("%.9e\\n", (now() - start) / number);
  }
  return 0;
}
"""


@contextmanager
def leased(folder: Path, cpu: int) -> Iterator[Device]:
    """A device of a farm of its own that times on that processor."""
    address = f"127.0.0.1:{free_port(0)}"
    with LocalFarm(folder) as processes:
        words = ("--port", address.split(":")[1], "--state", str(folder / "t"))
        processes.start("tracker", "tracker", *words)
        processes.wait_for_tracker(address)
        words = ("--tracker", address, "--state", str(folder / "d"), "--timing-cpu", str(cpu))

        command = [sys.executable, "-m", "tunefarm_device", "--key", "bench", *words]
        processes.start_command("device", command)
        processes.wait_for_devices(address, ("bench",))
        with request_device("bench", tracker=address, timeout=60) as device:
            yield device


def kernel(folder: Path, turns: int) -> Bundle:
    """The loop of so many turns."""
    source = folder / str(turns) / "work.c"
    source.parent.mkdir(exist_ok=True)
    source.write_text(KERNEL.format(turns=turns))
    return build_c(source, "local", "x:out:float32[16]")


def agree(folder: Path, trials: int, cpu: int) -> dict[str, object]:
    """Ratios of medians, ours by those of the loop in C."""
    bundle = kernel(folder, WORK)
    library, source, program = folder / "work.so", folder / "loop.c", folder / "loop"
    library.write_bytes(bundle.library(bundle.manifest.libraries[0]))
    source.write_text(LOOP)
    subprocess.run([str(ZIG), "cc", "-O2", "-o", str(program), str(source), "-ldl"], check=True)
    ratios, seconds = [], []
    with leased(folder, cpu) as device:
        module, x = device.load(bundle), device.empty((16,), "float32")
        number = module.time_evaluator("work", repeat=3, min_repeat_ms=5)(x).number
        evaluate = module.time_evaluator("work", number=number, repeat=4)
        command = ["taskset", "-c", str(cpu), str(program), str(library), str(number), "4"]
        for _ in range(trials):
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(10):
                for who in random.sample((0, 1), 2):
                    if who:
                        ours += evaluate(x).samples
                    else:
                        said = subprocess.run(command, check=True, capture_output=True, text=True)
                        theirs += map(float, said.stdout.split())
            ratios.append(statistics.median(ours) / statistics.median(theirs))
            seconds.append(statistics.median(ours))
    return {
        "kernel_us": 1e6 * statistics.median(seconds),
        "ratios": ratios,
        "within_1_percent": sum(abs(one - 1) <= 0.01 for one in ratios),
        "trials": trials,
    }


def load(stop: "multiprocessing.synchronize.Event") -> None:
    """Work for a while, rest for a while."""
    while not stop.is_set():
        until = time.monotonic() + random.uniform(0.02, 0.5)
        while time.monotonic() < until:
            sum(range(10_000))
        time.sleep(random.uniform(0.02, 0.5))


def verdicts(folder: Path, trials: int, cpu: int, disturbed: bool, budget: float) -> object:
    """How often each verdict was said of each pair."""
    said: dict[str, Counter[str]] = {}
    took, rounds, wrong = [], [], []
    right = {"itself": "same", "2% more": "slower", "2% less": "faster"}
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    loads = [spawn.Process(target=load, args=(stop,)) for _ in os.sched_getaffinity(0)]
    with leased(folder, cpu) as device:
        plain = device.load(kernel(folder, WORK))
        others = {
            "itself": device.load(kernel(folder, WORK)),
            "2% more": device.load(kernel(folder, WORK + WORK // 50)),
            "2% less": device.load(kernel(folder, WORK - WORK // 50)),
        }
        x = device.empty((16,), "float32")
        for process in loads if disturbed else ():
            process.start()
        try:
            for _ in range(trials):
                for name, other in others.items():
                    began = time.monotonic()
                    pair = (plain["work"], (x,)), (other["work"], (x,))
                    found = compare(*pair, budget=budget)
                    said.setdefault(name, Counter())[found.verdict.value] += 1
                    took.append(time.monotonic() - began)
                    rounds.append(found.rounds)
                    if found.verdict.value not in (right[name], "not decidable"):
                        wrong.append([name, str(found)])
        finally:
            stop.set()
            for process in loads if disturbed else ():
                process.join()
    return {
        "disturbed": disturbed,
        "load_cpu_s": sum(os.times()[2:4]),
        "trials": trials,
        "said": said,
        "wrong": wrong,
        "median_s": statistics.median(took),
        "median_rounds": statistics.median(rounds),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("agree", "verdicts"))
    parser.add_argument("--trials", type=int)
    parser.add_argument("--disturbed", action="store_true")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of each comparison")
    given = parser.parse_args()
    cpu = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        if given.what == "agree":
            found: object = agree(Path(name), given.trials or 20, cpu)
        else:
            found = verdicts(Path(name), given.trials or 100, cpu, given.disturbed, given.budget)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
