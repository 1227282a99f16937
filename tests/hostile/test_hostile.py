"""Every hostile kernel comes to a named end, leaves nothing, and the next user gets right answers.

On a device as we are, on one of a user without rights, and on one without a sandbox (where what
only a sandbox refuses is left out). `make hostile` runs a thousand in random order.
"""

import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hostile_farm import (
    HostileDevice,
    HostileFarm,
    Outcome,
    measured,
    runs_on,
    survive,
    warm,
)
from hostile_kernels import build_all, corpus

CORPUS = corpus()
DEVICES = ("self", "nobody", "basic")
KERNEL_ERRORS = ("KernelCrashedError", "KernelTimeoutError", "OutOfMemoryError")
RUNS = int(os.environ.get("HOSTILE_RUNS", "1000"))


@pytest.fixture(scope="module")
def bundles():
    return build_all()


@pytest.fixture(scope="module")
def farm(tmp_path_factory, bundles):
    with HostileFarm(tmp_path_factory.mktemp("hostile")) as farm:
        for device in farm.devices:
            warm(farm, device, bundles)
        yield farm
        # Whatever else went wrong: no traceback in any log.
        for log in farm.folder.glob("*.log"):
            assert "Traceback" not in log.read_text(errors="replace"), log


@pytest.fixture(scope="module")
def outcomes(farm, bundles) -> dict[tuple[str, str], Outcome]:
    """Of each device and kernel; devices side by side where their users differ."""

    def of(device: HostileDevice) -> dict[tuple[str, str], Outcome]:
        kernels = [kernel for kernel in CORPUS if runs_on(kernel, device)]
        return {(device.key, k.name): survive(farm, device, k, bundles) for k in kernels}

    apart = len({device.uid for device in farm.devices})
    with ThreadPoolExecutor(apart) as pool:
        return {key: one for all_ in pool.map(of, farm.devices) for key, one in all_.items()}


@pytest.mark.parametrize("kernel", [kernel.name for kernel in CORPUS])
@pytest.mark.parametrize("key", DEVICES)
def test_it_is_survived(outcomes, key, kernel):
    outcome = outcomes.get((key, kernel))
    if outcome is None:
        pytest.skip(f"{kernel} is not run on {key}")
    assert not outcome.wrong, outcome


def test_the_corpus_is_run(farm, outcomes):
    assert len(CORPUS) >= 40
    assert len([name for key, name in outcomes if key == "basic"]) >= 40
    for device in farm.devices:
        refused = [kernel.name for kernel in CORPUS if not runs_on(kernel, device)]
        print(f"{device.key}: user {device.uid}, not run: {', '.join(refused) or 'none'}")


@pytest.mark.hostile
def test_a_thousand_in_random_order(farm, bundles):
    seed = int(os.environ.get("HOSTILE_SEED", time.time_ns() % 1_000_000))
    print(f"\nHOSTILE_SEED={seed}, {RUNS} kernels on each of {[d.key for d in farm.devices]}")

    def of(device: HostileDevice) -> tuple[HostileDevice, list[Outcome], float]:
        order = random.Random(seed + device.uid)
        kernels = [kernel for kernel in CORPUS if runs_on(kernel, device)]
        started, found = time.monotonic(), []
        for number in range(RUNS):
            found.append(survive(farm, device, order.choice(kernels), bundles))
            if found[-1].wrong:
                print(f"{device.key}, number {number}: {found[-1]}", flush=True)
        return device, found, time.monotonic() - started

    with ThreadPoolExecutor(len({device.uid for device in farm.devices})) as pool:
        results = list(pool.map(of, farm.devices))
    for device, found, seconds in results:
        kinds = Counter(one.result for one in found)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        print(f"{device.key} (user {device.uid}): {len(found)} in {seconds:.0f} s: {told}")
    assert not [one for _, found, _ in results for one in found if one.wrong]


@pytest.mark.parametrize("pick", ["bad", pytest.param("all", marks=pytest.mark.hostile)])
def test_among_candidates_each_has_its_own_end(farm, bundles, pick):
    """As a tuner meets them: in one stream, a good one between any two."""
    device = farm.devices[0]
    kernels = [
        kernel
        for kernel in CORPUS
        if runs_on(kernel, device) and (pick == "all" or "returns" not in kernel.expect)
    ]
    random.Random(1).shuffle(kernels)
    names = [name for kernel in kernels for name in (kernel.name, "good")]
    found = measured(farm, device, names, bundles)
    for kernel, hostile, good in zip(kernels, found[::2], found[1::2], strict=True):
        assert good == "right", f"after {kernel.name}"
        # One that returns may come to its end when it is called again and again.
        assert hostile in {*kernel.expect, *KERNEL_ERRORS}, kernel.name
        assert hostile != "returns" or "returns" in kernel.expect, kernel.name
