"""What `gpu.py` compares with, in a process of its own: `python bench/_gpu_peers.py`.

Reads a JSON object a line, `{"what": ..., "m": ...}`, and answers each with a line: `seconds` of
one call, the median of its samples by the GPU's own events, or `lacking`. The copy is the CUDA
driver's, through the device server's driver interface, and is to be asked of a process that is
asked nothing else; the rest are torch's, and Triton's tutorial matmul.
"""

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

SAMPLES, WARM = 20, 5
SAMPLE_S = 0.02


def median_s(work: Callable[[], Any]) -> float:
    """Seconds a call, by torch's events around calls that last 20 ms."""
    import torch

    def sample(number: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(100_000)  # all calls are in line when the first event comes by
        start.record()
        for _ in range(number):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / number

    once = min(sample(1) for _ in range(WARM))
    number = max(1, int(SAMPLE_S / once))
    return statistics.median(sample(number) for _ in range(SAMPLES))


def torch_work(what: str, m: int, n: int, k: int, dtype: str) -> Callable[[], Any]:
    """One call of torch's."""
    import torch
    from torch.nn import functional

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    kind = {"device": "cuda", "dtype": getattr(torch, dtype)}
    if what == "matmul":
        a, b, c = (torch.randn(*shape, **kind) for shape in ((m, k), (k, n), (m, n)))
        return lambda: torch.matmul(a, b, out=c)
    x, y = torch.randn(m, n, **kind), torch.randn(m, n, **kind)
    if what == "add":
        out = torch.empty_like(x)
        return lambda: torch.add(x, y, out=out)
    if what == "softmax":
        return lambda: torch.softmax(x, 1)
    if what == "layer_norm":
        scale, shift = torch.randn(n, **kind), torch.randn(n, **kind)
        return lambda: functional.layer_norm(x, (n,), scale, shift)
    raise ValueError(what)


def copy_work(size: int) -> float:
    """Seconds of a copy of so many bytes within the device, by the driver."""
    from tunefarm_device.cuda.bindings import Bindings
    from tunefarm_device.cuda.device import Clock

    driver = Bindings()
    driver.begin()
    clock = Clock(driver)
    source, target = driver.allocate(size), driver.allocate(size)
    driver.fill(source, size)

    def work() -> None:
        for _ in range(8):
            driver.copy(target, source, size)

    times = [clock.time_s(work) / 8 for _ in range(SAMPLES + WARM)][WARM:]
    driver.free(source)
    driver.free(target)
    return statistics.median(times)


def versions() -> dict[str, str]:
    """Of what is compared with."""
    found = {}
    for name in ("torch", "triton"):
        try:
            found[name] = __import__(name).__version__
        except Exception as error:
            found[name] = f"none ({type(error).__name__})"
    if "torch" in sys.modules:  # cuBLAS comes with it
        found["torch's CUDA"] = str(sys.modules["torch"].version.cuda)
    return found


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """One line's answer."""
    what = asked["what"]
    if what == "versions":
        return versions()
    if what == "copy":
        return {"seconds": copy_work(asked["bytes"])}
    sizes = asked["m"], asked["n"], asked.get("k", 0)
    if what == "triton":
        import _gpu_triton

        return {"seconds": median_s(_gpu_triton.matmul(*sizes))}
    return {"seconds": median_s(torch_work(what, *sizes, asked["dtype"]))}


def main() -> None:
    """Until end of file."""
    for line in sys.stdin:
        try:
            told = answer(json.loads(line))
        except Exception as error:
            told = {"lacking": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
