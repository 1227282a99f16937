"""A tracker and devices of three kinds, and what is seen of them from outside."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from hostile_kernels import SHORT_S, Kernel
from tunefarm import Device, Tracker, request_device
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_proto import errors
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import tracker_pb2 as tpb

ROOT = Path(__file__).parents[2]
PARTS = ("proto", "tracker", "device_server", "compiler", "client", "tuner")
UIDS = {"nobody": 65534, "basic": 65533}
MOST_FILES = 64
MARK = "tunefarm-hostile"
VARIABLE = "TUNEFARM_HOSTILE"
SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")
RIGHT = np.array([i / 3 for i in range(15)], "float32").tolist()
LATER_S = 2.0
READY_S = 60.0


def python_of(uid: int) -> list[str]:
    """How a user without rights runs Python with our parts; empty where that cannot be."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    packages = [path for path in sys.path if path.endswith("-packages")]
    path = ":".join([*(str(ROOT / part) for part in PARTS), *packages])
    drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    for python in (sys.executable, "/usr/bin/python3"):
        words = [*drop, "env", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1", python]
        probe = [*words, "-c", "import tunefarm_device.server"]
        if subprocess.run(probe, capture_output=True, check=False, cwd="/").returncode == 0:
            return words
    return []


def objects(kind: str, uid: int) -> list[str]:
    """System V objects of a user."""
    head, *lines = Path("/proc/sysvipc", kind).read_text().splitlines()
    column = head.split().index("uid")
    return [f"{kind}: {line}" for line in lines if line.split()[column] == str(uid)]


@dataclass
class HostileDevice:
    """A device server that is to survive; `seen` is what of it is there when it is idle."""

    key: str
    uid: int
    state: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    isolation: frozenset[str] = frozenset()
    idle: tuple[object, ...] = ()

    def marked(self) -> set[int]:
        """Processes that descend from it, wherever they hide: its environment is theirs."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.add(int(folder.name))
            except OSError:
                continue
        return found

    def seen(self) -> tuple[object, ...]:
        """Its processes, and those with too many files; its scratch folder; what is shared."""
        processes = self.marked()
        greedy = [
            pid for pid in processes if len(list(Path(f"/proc/{pid}/fd").iterdir())) > MOST_FILES
        ]
        files = [str(path) for shared in SHARED for path in Path(shared).glob(f"{MARK}*")]
        system_v = [line for kind in ("shm", "sem", "msg") for line in objects(kind, self.uid)]
        return processes, greedy, list((self.state / "scratch").iterdir()), files, system_v


def priority(policy: int) -> None:
    """Of all our threads, and of what they start, where we may."""
    least = os.sched_param(os.sched_get_priority_min(policy))
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setscheduler(int(thread.name), policy, least)


class HostileFarm:
    """A context manager: the tracker and its devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._local = LocalFarm(folder)
        self._states: list[Path] = []
        self.address = f"127.0.0.1:{free_port(0)}"
        self.devices: list[HostileDevice] = []

    def __enter__(self) -> Self:
        # Tracker and user are on other machines as a rule: kernels do not keep them from running.
        priority(os.SCHED_RR)
        self._local.__enter__()
        port = self.address.split(":")[1]
        state = str(self.folder / "tracker-state")
        self._local.start("tracker", "tracker", "--port", port, "--state", state)
        self._local.wait_for_tracker(self.address)
        self._start("self")
        self._start("nobody")
        self._start("basic", "--isolation", "basic")
        self._local.wait_for_devices(self.address, [device.key for device in self.devices])
        self._tracker = Tracker(self.address)  # one connection for thousands of questions
        for device in self.devices:
            (known,) = self._tracker.devices(device.key)
            device.isolation = frozenset(known.facts.isolation)
        return self

    def _start(self, key: str, *more: str) -> None:
        """As a user without rights where it says so and we may; nobody else is nobody."""
        python = python_of(UIDS[key]) if key in UIDS else []
        if key == "nobody" and not python:
            return
        uid = UIDS[key] if python else os.getuid()
        state = Path(tempfile.mkdtemp(prefix="tunefarm-device-"))
        os.chown(state, uid, -1)
        python = python or [sys.executable]
        device = HostileDevice(key, uid, state)
        self.devices.append(device)
        words = ["-m", "tunefarm_device", "--key", key, "--tracker", self.address]
        command = [*python, *words, "--state", str(state), *more]
        self._local.start_command(key, command, {VARIABLE: device.mark})

    def __exit__(self, *exc: object) -> None:
        self._tracker.__exit__(*exc)
        self._local.__exit__(*exc)
        priority(os.SCHED_OTHER)
        for device in self.devices:
            shutil.rmtree(device.state, ignore_errors=True)

    def wait_until_idle(self, key: str) -> None:
        """Until the device says that it is clean."""
        limit = time.monotonic() + READY_S
        while self._tracker.devices(key)[0].state != tpb.DEVICE_STATE_IDLE:
            assert time.monotonic() < limit, f"{key} is not idle again"
            time.sleep(0.005)


@dataclass(frozen=True)
class Outcome:
    """What became of a kernel, of a good one after it, and what was wrong."""

    kernel: str
    result: str
    later: str
    wrong: tuple[str, ...]


def load_within(device: Device, bundle: Bundle, limit_s: float) -> None:
    """Load with a time limit, which Device.load has not: a library may hang when it is loaded."""
    load = dpb.SessionRequest(load=dpb.LoadModule(digest=bundle.digest))
    device._session.request(load, limit_s)


def answer_of_good(device: Device, bundle: Bundle, limit_s: float) -> str:
    """ "right", "wrong", or an error's name."""
    try:
        device.upload(bundle.data, bundle.digest)
        load_within(device, bundle, limit_s)
        module, x = device.load(bundle), device.empty(16)
        module["good"](x, timeout=limit_s)
        found = x.numpy().tolist()
    except errors.TunefarmError as error:
        return type(error).__name__
    return "right" if found[:15] == RIGHT and 0 < found[15] < 1e-38 else f"wrong: {found}"


def call_of(device: Device, kernel: Kernel, bundle: Bundle) -> str:
    """ "returns" or an error's name."""
    try:
        device.upload(bundle.data, bundle.digest)
        load_within(device, bundle, kernel.limit_s)
        module, x = device.load(bundle), device.empty(16)
        module[kernel.name](x, timeout=kernel.limit_s)
    except errors.TunefarmError as error:
        return type(error).__name__
    return "returns"


def survive(
    farm: HostileFarm, device: HostileDevice, kernel: Kernel, bundles: dict[str, Bundle]
) -> Outcome:
    """Run a kernel in a lease of its own, look at what is left, see whether the device is well."""
    wrong, later = [], ""
    with request_device(device.key, tracker=farm.address, timeout=READY_S) as leased:
        result = call_of(leased, kernel, bundles[kernel.name])
        if result not in kernel.expect:
            wrong.append(f"it came to {result}")
        if result == "returns":
            later = answer_of_good(leased, bundles["good"], LATER_S)
            if later not in kernel.later and ("any" not in kernel.later or "Internal" in later):
                wrong.append(f"the session's next answer was {later}")
    farm.wait_until_idle(device.key)
    if (seen := device.seen()) != device.idle:
        wrong.append(f"left behind: {seen}, idle is {device.idle}")
    with request_device(device.key, tracker=farm.address, timeout=READY_S) as leased:
        if (answer := answer_of_good(leased, bundles["good"], 30.0)) != "right":
            wrong.append(f"the next user's answer was {answer}")
    farm.wait_until_idle(device.key)
    return Outcome(kernel.name, result, later, tuple(wrong))


def measured(
    farm: HostileFarm, device: HostileDevice, names: list[str], bundles: dict[str, Bundle]
) -> list[str]:
    """What becomes of each in one Measure stream: an error's name, "returns", of good "right"."""
    with request_device(device.key, tracker=farm.address, timeout=READY_S) as leased:
        for name in set(names):
            leased.upload(bundles[name].data, bundles[name].digest)

        def requests() -> Iterator[dpb.MeasureRequest]:
            for index, name in enumerate(names):
                one = dpb.MeasureRequest(id=index, bundle_digest=bundles[name].digest)
                one.function, one.return_outputs = name, name == "good"
                one.options.number, one.options.repeat = 1, 2
                one.timeout.FromNanoseconds(int((30 if name == "good" else SHORT_S) * 1e9))
                yield one

        answers = list(leased.measure(requests()))
    assert [answer.id for answer in answers] == list(range(len(names)))
    return [_end_of(name, answer) for name, answer in zip(names, answers, strict=True)]


def _end_of(name: str, answer: dpb.MeasureResponse) -> str:
    if answer.HasField("error"):
        return type(errors.from_proto(answer.error)).__name__
    if name != "good":
        return "returns"
    found = np.frombuffer(answer.outputs[0], "float32").tolist()
    return "right" if found[:15] == RIGHT and 0 < found[15] < 1e-38 else f"wrong: {found}"


def warm(farm: HostileFarm, device: HostileDevice, bundles: dict[str, Bundle]) -> None:
    """Use it once, and see what is there when it is idle."""
    with request_device(device.key, tracker=farm.address, timeout=READY_S) as leased:
        assert answer_of_good(leased, bundles["good"], 30.0) == "right"
    farm.wait_until_idle(device.key)
    device.idle = device.seen()


def runs_on(kernel: Kernel, device: HostileDevice) -> bool:
    """Whether what it needs to be kept from doing harm holds there."""
    return kernel.needs <= device.isolation
