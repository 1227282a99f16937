"""What runs kernels: obeys frames, has a backend load, hold and call, and times. Standard library.

Loaded by the zygote and run in a process of its own for each session. It obeys frames on one
socket: a prefix (length of the header, length of the payload), a JSON header, raw bytes. Each is
answered by one frame. A header `{"failed": KIND, "text": ...}` says why there is no result; the
server, which checks everything that can be checked, gives it its name. Kinds "crash" and "timeout"
are the last answer of a runner.
"""

import array
import contextlib
import ctypes
import functools
import gc
import hashlib
import json
import math
import mmap
import os
import resource
import signal
import socket
import statistics
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunefarm_device.answers import MOST_FAILED
from tunefarm_device.backend import (
    Array,
    Backend,
    Device,
    Kernel,
    KernelEnded,
    Library,
    RunnerError,
)
from tunefarm_device.counters import Counters, difference
from tunefarm_device.launches import plan_of
from tunefarm_device.profile import Profile
from tunefarm_device.timing_core import TimingCore

PREFIX = struct.Struct("<IQ")
NUMBER = b', "id": '  # what each header ends with
ISOLATION = ("own-process", "process-group", "rlimits", "no-new-privileges")
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
FILE_BYTES = 1 << 20  # most that a kernel can write to any file
# Where a driver begins: it has files in memory of its own (64 MiB of libcuda's), which the limit
# cannot tell from others.
DRIVER_FILE_BYTES = 1 << 30
MOST_FILES = 512  # at once
MOST_PROCESSES = 8192  # of this server's user, threads too; root is not held by it
MEMORY_SHARE = 0.9
WARMUP_S = 0.2
WARMUP_BATCH = 5
WARMUP_AGREE = 0.05
MOST_CALLS = 1 << 40
UNKNOWN_CACHE = 32 << 20
MOST_COPIED = 64 << 20
MOST_KERNELS = 1000  # kept ready
HASHED_BYTES = 256 << 10  # at a time: what is read stays in a cache
KERNEL_RUNS = ("call", "many", "time", "sample", "turns")
POPULATED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)

Header = dict[str, Any]


def encode(header: Header, payload_bytes: int = 0) -> bytes:
    """A frame but for its payload."""
    text = json.dumps(header).encode()
    return PREFIX.pack(len(text), payload_bytes) + text


def warm_up(kernel: Kernel, first_s: float, limit_s: float = WARMUP_S) -> int:
    """Call until two batches' medians agree within 5%, or for `limit_s`. Returns the calls made."""
    number = max(1, min(MOST_CALLS, int(1e-3 / max(first_s, 1e-9))))
    calls, before, spent = 0, math.inf, first_s
    while spent < limit_s:
        batch: list[float] = []
        while len(batch) < WARMUP_BATCH and spent < limit_s:
            batch.append(kernel.sample(number))
            spent += batch[-1]
            calls += number
        now = statistics.median(batch)
        if abs(now - before) <= WARMUP_AGREE * before < math.inf:
            break
        before = now
    return calls


def calibrate(kernel: Kernel, min_repeat_s: float) -> tuple[int, int]:
    """How many calls last `min_repeat_s`, and how many calls it took to find out."""
    number, calls = 1, 0
    while True:
        seconds = kernel.sample(number)
        calls += number
        if seconds >= min_repeat_s or number >= MOST_CALLS:
            return number, calls
        growth = 1.1 * min_repeat_s / max(seconds, 1e-9)
        number = math.ceil(number * min(max(growth, 1.1), 10.0))


def lost_share(took_s: float, ran_s: float, switches: int) -> float:
    """What part of a round other programs had its processor, of what never slept in it.

    `ran_s` is the processor time of the whole process: where a kernel's threads share a processor,
    one of them runs while another does not. Not pushed off it lost nothing, whatever a coarse clock
    of processor time says.
    """
    return max(0.0, 1 - ran_s / took_s) if switches and took_s > 0 else 0.0


class Compute(Kernel):
    """An anchor: a checksum of what fits into the first caches."""

    data = bytes(range(256)) * 128
    right = 0x217726B2

    def run(self, number: int) -> int:
        """Status 1 where the sum is wrong."""
        return int(any(zlib.crc32(self.data) != self.right for _ in range(number)))


class Memory(Kernel):
    """An anchor: a copy of what fits into no cache."""

    def __init__(self) -> None:
        size = copied_bytes()
        self.source, self.target = (bytearray(b"\1") * size for _ in range(2))

    def run(self, number: int) -> int:
        """Always 0."""
        for _ in range(number):
            self.target[:] = self.source
        return 0


def copied_bytes() -> int:
    """What the anchor "memory" copies in a call."""
    return min(2 * largest_cache(), MOST_COPIED)


ANCHORS: dict[str, type[Compute] | type[Memory]] = {"compute": Compute, "memory": Memory}


class Runner:
    """The state of one session: libraries, arrays, and what has been called."""

    def __init__(self, device: Device, counters: Counters) -> None:
        self.device = device
        self.counters = counters
        self.libraries: dict[int, Library] = {}
        self.kernels: dict[tuple[Any, ...], Kernel] = {}
        self.profile: Profile | None = None
        self.arrays: dict[int, Array] = {}
        self.first_s: dict[tuple[int, str], float] = {}
        self.evicting: mmap.mmap | None = None
        self.anchors: dict[str, Kernel] = {}

    def obey(self, header: Header, payload: bytearray) -> tuple[Header, bytes]:
        """Carry out one frame."""
        kind = header["do"]
        if kind == "write":
            self.arrays[header["array"]].write(header["offset"], payload)
            return {}, b""
        if kind == "read":
            return {}, self.arrays[header["array"]].read(header["start"], header["end"])
        if kind == "allocate":
            self.arrays[header["array"]] = self.device.array(header["size"])
            return {}, b""
        if kind == "free":
            self.kernels.clear()  # they hold addresses
            self.arrays.pop(header["array"]).close()
            return {}, b""
        if kind == "profile":
            told = self.profile.told() if self.profile is not None else []
            self.profile = Profile(self.counters) if header["begin"] else None
            return {"functions": told}, b""
        if kind == "digest":
            return self.digest(header), b""
        usual_floats()
        if kind == "call":
            with self.device.limited(header.get("limit_s", math.inf)):
                return self.call(header), b""
        does = {
            "load": self.load,
            "time": self.time,
            "sample": self.sample,
            "turns": self.turns,
        }
        with self.device.limited(header.get("limit_s", math.inf)):
            if kind == "many":
                return self.many(header, payload)
            return does[kind](header), b""

    def load(self, header: Header) -> Header:
        """Load a library and look its functions up."""
        start = time.perf_counter()
        if plans := {name: plan_of(data) for name, data in header.get("plans", {}).items()}:
            library = self.device.load_plans(header["path"], plans)
        else:
            library = self.device.load(header["path"], header["functions"])
        self.libraries[header["module"]] = library
        return {"load_s": time.perf_counter() - start}

    def kernel(self, header: Header) -> tuple[Kernel, tuple[int, str]]:
        """The function and arguments that a frame names, or the anchor."""
        if "anchor" in header:
            name = header["anchor"]
            if name not in self.anchors:
                self.anchors[name] = self.device.anchor(name) or ANCHORS[name]()
            return self.anchors[name], (0, name)
        key = (header["module"], header["function"])
        whole = (*key, *header["arrays"])
        kernel = self.kernels.get(whole)
        if kernel is None:
            arrays = [self.arrays[identity] for identity in header["arrays"]]
            if len(self.kernels) >= MOST_KERNELS:
                self.kernels.clear()
            kernel = self.kernels[whole] = self.libraries[key[0]].kernel(key[1], arrays)
        kernel.prepare()
        return kernel, key

    def once(self, kernel: Kernel, key: tuple[int, str]) -> float:
        """Call it once; seconds."""
        elapsed = kernel.sample(1) if self.profile is None else self.profile.call(key, kernel)
        self.first_s.setdefault(key, elapsed)
        return elapsed

    def call(self, header: Header) -> Header:
        """Call once; with `outputs`, tell the digest of these arrays then."""
        elapsed = self.once(*self.kernel(header))
        if "outputs" not in header:
            return {"elapsed_s": elapsed}
        return {"elapsed_s": elapsed, **self.digest(header)}

    def digest(self, header: Header) -> Header:
        """sha256 of arrays, one after another; `outputs` are their ids and sizes."""
        whole = hashlib.sha256()
        for identity, size in header["outputs"]:
            for start in range(0, size, HASHED_BYTES):
                end = min(start + HASHED_BYTES, size)
                whole.update(self.arrays[identity].read(start, end))
        return {"digest": whole.hexdigest()}

    def many(self, header: Header, order: bytearray) -> tuple[Header, bytes]:
        """Calls back to back, `order` naming them by their place in the header; seconds of each.

        It ends at the first that fails unless it is to go on.
        """
        calls = [self.kernel(call) for call in header["calls"]]
        elapsed = array.array("d")
        failed: list[tuple[int, str, str]] = []
        for index, which in enumerate(memoryview(order).cast("I")):
            start = time.perf_counter()
            kernel, key = calls[which]
            try:
                kernel.prepare()
                elapsed.append(self.once(kernel, key))
            except RunnerError as error:
                elapsed.append(time.perf_counter() - start)
                if len(failed) < MOST_FAILED:
                    failed.append((index, error.kind, str(error)))
                if not header["keep_going"]:
                    break
        return {"failed_calls": failed}, elapsed.tobytes()

    def time(self, header: Header) -> Header:
        """First call apart, warm up, calibrate once, then the samples.

        With `outputs`, tell the digest of these arrays after the first call.
        """
        kernel, key = self.kernel(header)
        if key not in self.first_s:
            self.first_s[key] = kernel.sample(1)
        told = self.digest(header) if "outputs" in header else {}
        first_s, worth_s = self.first_s[key], header.get("abandon_above_s", 0.0)
        if 0 < worth_s < first_s:
            second = self.samples(kernel, header | {"number": 1, "repeat": 1})
            if second["samples_s"][0] > worth_s:
                ended = {"number": 1, "first_call_s": first_s, "warmup_calls": 0}
                return {**second, **ended, **told, "abandoned": True}
        warmup_calls = warm_up(kernel, first_s, header.get("warmup_s", WARMUP_S))
        number = header["number"]
        if number == 0:
            number, calls = calibrate(kernel, header["min_repeat_s"])
            warmup_calls += calls
        return {
            **self.samples(kernel, header | {"number": number}),
            "number": number,
            "first_call_s": first_s,
            "warmup_calls": warmup_calls,
            **told,
        }

    def sample(self, header: Header) -> Header:
        """More samples of what has been timed."""
        return self.samples(self.kernel(header)[0], header)

    def samples(self, kernel: Kernel, header: Header) -> Header:
        """One round: `repeat` samples of `number` calls each."""
        return self.in_turns([(kernel, header["number"])] * header["repeat"], header["cache"])

    def turns(self, header: Header) -> Header:
        """Samples of several functions, in the order that `order` tells by their places."""
        calls = [(self.kernel(call)[0], call["number"]) for call in header["calls"]]
        return self.in_turns([calls[which] for which in header["order"]], header["cache"])

    def in_turns(self, turns: list[tuple[Kernel, int]], cache: str) -> Header:
        """A sample of each kernel of so many calls; seconds for one call."""
        before = resource.getrusage(resource.RUSAGE_SELF)
        counted = self.counters.read()
        samples = []
        ran, began = time.process_time(), time.perf_counter()
        for kernel, number in turns:
            kernel.prepare()
            if cache == "cold":
                self.flush()
            samples.append(kernel.sample(number) / number)
        took, ran = time.perf_counter() - began, time.process_time() - ran
        counters = difference(counted, self.counters.read())
        after = resource.getrusage(resource.RUSAGE_SELF)
        switches, slept = after.ru_nivcsw - before.ru_nivcsw, after.ru_nvcsw - before.ru_nvcsw
        lost = 0.0 if slept or turns[0][0].own_clock else lost_share(took, ran, switches)
        return {"samples_s": samples, "switches": switches, "lost": lost, "counters": counters}

    def flush(self) -> None:
        """Read twice the largest cache, so that nothing else is left in any.

        It reads: large writes go past the caches on many processors. A populated map of zeros:
        untouched pages would all be one page.
        """
        if self.device.flush():
            return
        if self.evicting is None:
            size = 2 * largest_cache()
            try:
                self.evicting = mmap.mmap(-1, size, flags=POPULATED)
            except OSError as error:
                raise RunnerError("memory", f"{size} bytes: {error}") from None
        self.evicting.find(b"\1")


def largest_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache of the first processor; 32 MiB where the system does not say."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = []
    for file in root.glob("index*/size"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            text = file.read_text().strip()
            sizes.append(int(text[:-1]) * units[text[-1]])
    return max(sizes, default=UNKNOWN_CACHE)


def usual_floats() -> None:
    """Rounding and subnormals as a process begins: what was called before may have changed them."""
    with contextlib.suppress(OSError, AttributeError):
        _libm().fesetenv(ctypes.c_void_p(-1))  # FE_DFL_ENV


@functools.cache
def _libm() -> ctypes.CDLL:
    return ctypes.CDLL("libm.so.6")


def isolate(parent: int, driver: bool = False) -> None:
    """Put this process where it can do little harm and leaves nothing. `driver`: begins in it."""
    os.setsid()
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(70)
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, DRIVER_FILE_BYTES if driver else FILE_BYTES)
    limit(resource.RLIMIT_NOFILE, MOST_FILES)
    limit(resource.RLIMIT_NPROC, MOST_PROCESSES)
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        limit(resource.RLIMIT_DATA, int(free["MemAvailable"] * MEMORY_SHARE))
    with contextlib.suppress(OSError):  # where memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit(resource_id: int, most: int) -> None:
    """Lower a limit for good."""
    with contextlib.suppress(OSError, ValueError, OverflowError):
        resource.setrlimit(resource_id, (most, most))


def main(session_fd: int, parent: int, shut_in: Callable[[], None], backend: Backend) -> None:
    """Obey frames until the socket closes. `parent`: end at once if that is not our parent.

    `shut_in` applies the sandbox, after all that needs the rest of the system and before all that
    makes threads: it holds the thread that it is applied to, and those that this one starts.
    """
    isolate(parent, backend.driver)
    device = backend.open()
    counters = Counters()  # the sandbox lets nobody open any
    shut_in()
    device.begin()
    gc.disable()
    runner = Runner(device, counters)
    header: Header = {}
    last = b""
    with socket.socket(fileno=session_fd) as connection:
        core = TimingCore(connection)
        connection.sendall(encode({"ready": True}))
        while True:
            core.await_next()
            prefix = connection.recv(PREFIX.size, socket.MSG_WAITALL)
            if len(prefix) < PREFIX.size:
                return
            header_bytes, payload_bytes = PREFIX.unpack(prefix)
            text = connection.recv(header_bytes, socket.MSG_WAITALL)
            head, _, rest = text.rpartition(NUMBER)
            if head == last:  # the same call again
                header["id"] = int(rest[:-1])
            else:
                header, last = json.loads(text), head
            if header["do"] in KERNEL_RUNS:
                core.enter(header.get("cpu"))
            else:
                core.leave()
            payload = bytearray(payload_bytes)
            if payload:
                connection.recv_into(payload, payload_bytes, socket.MSG_WAITALL)
            try:
                began = time.perf_counter()
                answer, data = runner.obey(header, payload)
                if header["do"] in KERNEL_RUNS:
                    answer["busy_s"] = time.perf_counter() - began
            except RunnerError as error:
                answer, data = {"failed": error.kind, "text": str(error)}, b""
            except KernelEnded as error:
                answer = {"id": header["id"], "failed": error.kind, "text": str(error)}
                connection.sendall(encode(answer))
                return
            connection.sendall(encode({"id": header["id"], **answer}, len(data)) + data)
