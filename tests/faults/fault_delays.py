"""How long the tracker takes to see a device go, and to free the device of a client that is gone.

`python tests/faults/fault_delays.py`; part of `make faults`.
"""

import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fault_farm import FaultFarm, Member, until
from tunefarm import Tracker
from tunefarm_proto.v1 import tracker_pb2 as tpb

OFFLINE_GOAL_S = 5.0
FREE_GOAL_S = 10.0


@dataclass
class Delays:
    """Seconds, by what happened."""

    took: dict[str, list[float]] = field(default_factory=dict)

    def summary(self) -> str:
        """A line for each."""
        return "\n".join(
            f"{what}: median {statistics.median(took):.2f} s, longest {max(took):.2f} s "
            f"({len(took)} times)"
            for what, took in self.took.items()
        )


def seconds_until(what: str, holds: Callable[[], bool]) -> float:
    """How long it takes."""
    began = time.monotonic()
    until(holds, what, 40)
    return time.monotonic() - began


class Stopwatch:
    """Takes the times on a farm without load, one after another."""

    def __init__(self, farm: FaultFarm, tracker: Tracker, seed: int) -> None:
        self.farm, self.tracker = farm, tracker
        self.random = random.Random(seed)
        self.delays = Delays()

    def state(self, device_id: str) -> tpb.DeviceState.ValueType:
        """Of one device."""
        return next(one.state for one in self.tracker.devices() if one.id == device_id)

    def device(self, number: signal.Signals, what: str, *, leased: bool, times: int) -> None:
        """Signal devices, which a client holds or none does, until they are offline."""
        wanted = tpb.DEVICE_STATE_LEASED if leased else tpb.DEVICE_STATE_IDLE
        for _ in range(times):
            member = self.random.choice(self.farm.of_kind("device"))
            identity = self.farm.device_id(member)
            client = self.holder(identity) if leased else None
            until(lambda: self.state(identity) == wanted, what)  # noqa: B023
            time.sleep(self.random.uniform(0, 1))
            member.send(number)
            took = seconds_until(
                what,
                lambda: self.state(identity) == tpb.DEVICE_STATE_OFFLINE,  # noqa: B023
            )
            self.delays.took.setdefault(what, []).append(took)
            if client is not None:
                client.close()
            self.revive(member, number)
            until(lambda: self.state(identity) == tpb.DEVICE_STATE_IDLE, what)  # noqa: B023

    def client(self, number: signal.Signals, what: str, *, times: int) -> None:
        """Signal clients until what they hold is free."""
        for _ in range(times):
            identity = self.farm.device_id(self.random.choice(self.farm.of_kind("device")))
            client = self.holder(identity)
            until(lambda: self.state(identity) == tpb.DEVICE_STATE_LEASED, what)  # noqa: B023
            time.sleep(self.random.uniform(0, 1))
            client.member.send(number)
            took = seconds_until(
                what,
                lambda: self.state(identity) == tpb.DEVICE_STATE_IDLE,  # noqa: B023
            )
            self.delays.took.setdefault(what, []).append(took)
            client.close()

    def holder(self, identity: str) -> "Holder":
        """A client process that holds a device and works on it."""
        return Holder(self.farm, identity)

    def revive(self, member: Member, number: signal.Signals) -> None:
        """Undo what was done to it."""
        if number == signal.SIGSTOP:
            member.send(signal.SIGCONT)
        else:
            assert member.process is not None
            member.process.wait(20)
            member.start()


HOLD = """
import sys, time
from pathlib import Path
from tunefarm import request_device
from tunefarm_proto.bundle import Bundle
key, device, tracker, bundle = sys.argv[1:]
with request_device(key, where={"id": device}, tracker=tracker, timeout=30) as held:
    module = held.load(Bundle.read(Path(bundle)))
    x = held.array(memoryview(bytes(32)).cast("q"))
    while True:
        module["kernel"](x)
        time.sleep(0.05)
"""


class Holder:
    """A process that holds a device until it is killed."""

    def __init__(self, farm: FaultFarm, identity: str) -> None:
        key = identity.rpartition("-")[0]
        words = [sys.executable, "-c", HOLD, key, identity, farm.address]
        words.append(str(farm.folder / "kernel.tf"))
        self.member = Member("holder", "client", words, farm.folder / "holder.log", farm.mark)
        self.member.start()

    def close(self) -> None:
        """End it, whatever state it is in."""
        self.member.send(signal.SIGCONT)
        self.member.send(signal.SIGKILL)
        assert self.member.process is not None
        self.member.process.wait(20)


def measure_delays(folder: Path, times: int = 10, seed: int = 0) -> Delays:
    """All of them on one farm. A device that is lost often is quarantined: it is let go on."""
    with FaultFarm(folder, devices=6, clients=0) as farm, Tracker(farm.address) as tracker:
        watch = Stopwatch(farm, tracker, seed)
        rounds: list[Callable[[], None]] = [
            lambda: watch.device(signal.SIGKILL, "killed device offline", leased=False, times=1),
            lambda: watch.device(signal.SIGSTOP, "stopped idle device offline",
                                 leased=False, times=1),
            lambda: watch.device(signal.SIGSTOP, "stopped leased device offline",
                                 leased=True, times=1),
            lambda: watch.client(signal.SIGKILL, "killed client's device free", times=1),
            lambda: watch.client(signal.SIGSTOP, "stopped client's device free", times=1),
        ]  # fmt: skip
        for _ in range(times):
            for one in rounds:
                one()
                for device in tracker.devices():
                    if device.health != tpb.DEVICE_HEALTH_GOOD:
                        tracker.manage(device.id, tpb.DEVICE_ACTION_ENABLE, "goes on")
        return watch.delays


def main() -> int:
    """The command. Returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="tunefarm-delays-") as folder:
        print(measure_delays(Path(folder)).summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
