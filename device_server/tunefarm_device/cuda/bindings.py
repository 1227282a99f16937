"""The CUDA driver, by `cuda.bindings`. Source: CUDA Driver API, of 12.8 and later.

A context lasts as long as its process. Nothing of CUDA begins before `begin`: not in the zygote,
whose children could not use it, and not before the sandbox, which the driver's threads would miss.
"""

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from tunefarm_device.cuda.driver import Driver, DriverError, Traits
from tunefarm_device.cuda.facts import level
from tunefarm_device.launches import Launch

INSTALL = "`pip install cuda-bindings nvidia-ml-py` installs it"
TOO_NEW = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
LOG_BYTES = 8192
_PARTS = ("MAJOR", "MINOR")
BUSY_CYCLES = 100_000
# What the driver reads at its start: its own order of GPUs, kernels loaded when they are asked for,
# not when they are first launched, and no cache of compiled PTX, which it could not write.
SETTINGS = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_MODULE_LOADING": "EAGER",
    "CUDA_CACHE_DISABLE": "1",
}
_BUSY = f"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry tunefarm_busy()
{{
.reg .pred %p<2>; .reg .b64 %rd<4>;
mov.u64 %rd1, %clock64;
again:
mov.u64 %rd2, %clock64;
sub.u64 %rd3, %rd2, %rd1;
setp.lt.u64 %p1, %rd3, {BUSY_CYCLES};
@%p1 bra again;
ret;
}}
"""


def visible(unit: str, environment: Mapping[str, str]) -> str:
    """What CUDA_VISIBLE_DEVICES has to be for one unit alone, among those visible before."""
    given = [word.strip() for word in environment.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return given[int(unit)] if given != [""] and unit.isdigit() else unit


def driver_module() -> Any:
    """`cuda.bindings.driver`. Raises: DriverError, in one line, where there is none."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DriverError("cuda.bindings is not installed", INSTALL) from error
    return driver


class Bindings(Driver):
    """The GPU of that unit, "" for the first; one for each process."""

    def __init__(self, unit: str = "") -> None:
        self._unit = unit or "0"
        self.traits = Traits(0, 0, 0)
        self._allowed: dict[int, int] = {}  # bytes of shared memory, by function

    def _do(self, name: str, *arguments: Any) -> Any:
        """Call a function. Returns what it gives: nothing, a value, or a tuple of them."""
        result = getattr(self._cu, name)(*arguments)
        if result[0]:
            raise self._error(result[0])
        return result[1] if len(result) == 2 else result[1:]

    def _error(self, code: Any, log: str = "") -> DriverError:
        name = getattr(code, "name", str(code))
        with contextlib.suppress(Exception):
            known, text = self._cu.cuGetErrorString(code)
            if not known and not log:
                log = text.decode(errors="replace")
        return DriverError(name, log)

    def begin(self) -> None:
        os.environ.update(SETTINGS)
        os.environ["CUDA_VISIBLE_DEVICES"] = visible(self._unit, os.environ)
        cu = self._cu = driver_module()
        try:
            self._do("cuInit", 0)
        except RuntimeError as error:  # no library of that name
            raise DriverError("the CUDA driver cannot be loaded", first_line(error)) from None
        device = self._device = self._do("cuDeviceGet", 0)
        # The time of a call is the GPU's own, so how this thread waits is not in it.
        self._do("cuDevicePrimaryCtxSetFlags", device, cu.CUctx_flags.CU_CTX_SCHED_SPIN)
        self._context = self._do("cuDevicePrimaryCtxRetain", device)
        self._do("cuCtxSetCurrent", self._context)
        self._stream = self._do("cuStreamCreate", cu.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self.traits = Traits(
            self._attribute(device, "MULTIPROCESSOR_COUNT"),
            self._attribute(device, "L2_CACHE_SIZE"),
            self._attribute(device, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        )
        function = self.function(self.load(_BUSY.encode()), "tunefarm_busy")
        launch = Launch("tunefarm_busy", (1, 1, 1), (1, 1, 1), 0, ())
        self._busy = self.bound(function, launch, [])

    def _attribute(self, device: Any, name: str) -> int:
        attribute = getattr(self._cu.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._do("cuDeviceGetAttribute", attribute, device))

    def allocate(self, size: int) -> int:
        return int(self._do("cuMemAlloc", size))

    def free(self, address: int) -> None:
        self._do("cuMemFree", address)

    def staging(self, size: int) -> tuple[int, memoryview]:
        host = int(self._do("cuMemHostAlloc", size, 0))
        return host, memoryview((ctypes.c_ubyte * size).from_address(host)).cast("B")

    def fill(self, address: int, size: int) -> None:
        self._do("cuMemsetD8Async", address, 0, size, self._stream)

    def copy_in(self, address: int, host: int, size: int) -> None:
        self._do("cuMemcpyHtoDAsync", address, host, size, self._stream)

    def copy_out(self, host: int, address: int, size: int) -> None:
        self._do("cuMemcpyDtoHAsync", host, address, size, self._stream)

    def copy(self, to: int, address: int, size: int) -> None:
        self._do("cuMemcpyDtoDAsync", to, address, size, self._stream)

    def load(self, image: bytes) -> Any:
        option = self._cu.CUjit_option
        log = bytearray(LOG_BYTES)
        options = [option.CU_JIT_ERROR_LOG_BUFFER, option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
        found = self._cu.cuModuleLoadDataEx(image + b"\0", 2, options, [log, LOG_BYTES])
        if found[0]:
            said = bytes(log).partition(b"\0")[0].decode(errors="replace")
            if getattr(found[0], "name", "") == TOO_NEW:
                said = self._too_new(image)
            raise self._error(found[0], " ".join(said.split()))
        return found[1]

    def _too_new(self, image: bytes) -> str:
        """What helps where the driver is older than what made this PTX."""
        version = re.search(rb"\.version\s+([\d.]+)", image)
        written = f" {version[1].decode()}" if version else ""
        cuda = self._do("cuDriverGetVersion")
        own = level(*(self._attribute(self._device, f"COMPUTE_CAPABILITY_{one}") for one in _PARTS))
        return (
            f"the bundle's PTX is of version{written}, which this driver, of CUDA "
            f"{cuda // 1000}.{cuda % 1000 // 10}, does not know: build it for this GPU's own level "
            f"(--target sm_{own}), so that it holds machine code too, or update the driver"
        )

    def function(self, module: Any, name: str) -> Any:
        return self._do("cuModuleGetFunction", module, name.encode())

    def parameters(self, function: Any) -> int | None:
        count = 0
        while True:
            try:
                self._do("cuFuncGetParamInfo", function, count)
            except DriverError as error:
                if error.name == "CUDA_ERROR_INVALID_VALUE":
                    return count
                return None
            except (AttributeError, RuntimeError):  # older than 12.4
                return None
            count += 1

    def bound(self, function: Any, launch: Launch, addresses: list[int]) -> Callable[[], None]:
        # From 48 KiB on a kernel has to be allowed what it gets.
        attribute = self._cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        if launch.shared_bytes > self._allowed.get(int(function), 0):
            self._do("cuFuncSetAttribute", function, attribute, launch.shared_bytes)
            self._allowed[int(function)] = launch.shared_bytes
        values = (ctypes.c_uint64 * max(len(addresses), 1))(*addresses)
        start = ctypes.addressof(values)
        pointers = (ctypes.c_void_p * max(len(addresses), 1))(
            *(start + 8 * place for place in range(len(addresses)))
        )
        call, words = self._cu.cuLaunchKernel, (
            function, *launch.grid, *launch.block, launch.shared_bytes, self._stream,
            ctypes.addressof(pointers), 0,
        )  # fmt: skip

        def put(keep: object = (values, pointers)) -> None:
            (code,) = call(*words)
            if code:
                raise self._error(code)

        return put

    def busy(self) -> None:
        self._busy()

    def captured(self, work: Callable[[], None]) -> Any:
        mode = self._cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._do("cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        except DriverError:
            with contextlib.suppress(DriverError):
                self._do("cuStreamEndCapture", self._stream)
            raise
        graph = self._do("cuStreamEndCapture", self._stream)
        try:
            made = self._do("cuGraphInstantiate", graph, 0)
        finally:
            self._do("cuGraphDestroy", graph)
        self._do("cuGraphUpload", made, self._stream)
        return made

    def run_graph(self, graph: Any) -> None:
        self._do("cuGraphLaunch", graph, self._stream)

    def drop_graph(self, graph: Any) -> None:
        self._do("cuGraphExecDestroy", graph)

    def event(self) -> Any:
        return self._do("cuEventCreate", self._cu.CUevent_flags.CU_EVENT_DEFAULT)

    def record(self, event: Any) -> None:
        self._do("cuEventRecord", event, self._stream)

    def wait(self, event: Any) -> None:
        self._do("cuEventSynchronize", event)

    def elapsed_s(self, start: Any, end: Any) -> float:
        return float(self._do("cuEventElapsedTime", start, end)) * 1e-3


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return str(error).partition("\n")[0]
