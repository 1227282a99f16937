"""Which GPUs there are, as the driver says: `python -I probe.py` prints a JSON object.

In a process of its own, so that the device server never begins CUDA, and lives where the driver
hangs or crashes. It is not shut in: here the driver may load what it still needs, its device nodes
for one, which no runner may make.
"""

import functools
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

LIMIT_S = 60.0
ATTRIBUTES = {
    "major": "COMPUTE_CAPABILITY_MAJOR",
    "minor": "COMPUTE_CAPABILITY_MINOR",
    "multiprocessors": "MULTIPROCESSOR_COUNT",
    "cache_bytes": "L2_CACHE_SIZE",
    "shared_bytes": "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
    "clock_khz": "CLOCK_RATE",
    "memory_clock_khz": "MEMORY_CLOCK_RATE",
    "memory_bus_bits": "GLOBAL_MEMORY_BUS_WIDTH",
    "integrated": "INTEGRATED",
    "ecc": "ECC_ENABLED",
}


@functools.cache
def found() -> dict[str, Any]:
    """What that process printed: `gpus`, or `lacking`, why there are none. Once."""
    command = [sys.executable, "-I", __file__]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"lacking": f"the CUDA driver did not answer in {LIMIT_S:g} s"}
    try:
        told: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        said = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        return {"lacking": f"the CUDA driver cannot be asked: {said}"}
    return told


def ask() -> dict[str, Any]:
    """Ask the driver, in this process."""
    from tunefarm_device.cuda import bindings
    from tunefarm_device.cuda.driver import DriverError

    os.environ.update(bindings.SETTINGS)
    try:
        cu = bindings.driver_module()
    except DriverError as error:
        return {"lacking": str(error)}

    def do(name: str, *arguments: Any) -> Any:
        code, *values = getattr(cu, name)(*arguments)
        if code:
            raise DriverError(code.name, name)
        return values[0] if values else None

    try:
        do("cuInit", 0)
        gpus = [_gpu(cu, do, ordinal) for ordinal in range(do("cuDeviceGetCount"))]
        version = do("cuDriverGetVersion")
    except DriverError as error:
        return {"lacking": f"the CUDA driver says {error}"}
    except RuntimeError as error:
        return {"lacking": f"the CUDA driver cannot be loaded: {bindings.first_line(error)}"}
    if not gpus:
        return {"lacking": "the CUDA driver shows no GPU"}
    return {"gpus": gpus, "cuda": f"{version // 1000}.{version % 1000 // 10}"}


def _gpu(cu: Any, do: Any, ordinal: int) -> dict[str, Any]:
    device = do("cuDeviceGet", ordinal)
    told: dict[str, Any] = {
        "name": do("cuDeviceGetName", 256, device).partition(b"\0")[0].decode(),
        "uuid": str(uuid.UUID(bytes=bytes(do("cuDeviceGetUuid", device).bytes))),
        "pci": do("cuDeviceGetPCIBusId", 32, device).partition(b"\0")[0].decode(),
        "memory_bytes": int(do("cuDeviceTotalMem", device)),
    }
    for name, attribute in ATTRIBUTES.items():
        number = getattr(cu.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{attribute}", None)
        code, value = (1, 0) if number is None else cu.cuDeviceGetAttribute(number, device)
        told[name] = 0 if code else int(value)  # some leave with time: clocks, say
    return told


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    print(json.dumps(ask()))
