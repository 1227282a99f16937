"""Build a matmul for a device, run it there, check it against numpy, and time it.

tunefarm tracker &
tunefarm device --key local &
python examples/matmul.py --device local
"""

import argparse

import numpy as np
from tunefarm import Tracker, request_device
from tunefarm_compiler import build, targets


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="local", help="key of the device")
    parser.add_argument("--tracker", help="HOST:PORT, else TUNEFARM_TRACKER")
    given = parser.parse_args()

    with Tracker(given.tracker) as tracker:
        for device in tracker.devices(given.device):
            print(f"{device.id}: {device.facts.target.triple} {device.facts.target.cpu}")

    m, n, k = 256, 192, 320
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k), np.float32)
    y = rng.standard_normal((k, n), np.float32)
    with request_device(given.device, tracker=given.tracker, timeout=30) as device:
        bundle = build(f"matmul:m={m},n={n},k={k}", targets.from_device(device.target))
        module = device.load(bundle)
        a, b, c = device.array(x), device.array(y), device.empty((m, n))
        module["matmul"](a, b, c)
        print("largest error against numpy:", np.abs(c.numpy() - x @ y).max())
        print(module.time_evaluator("matmul")(a, b, c))


if __name__ == "__main__":
    main()
