"""Random faults, by seed, on a farm under load; then what devices and clients wrote is checked.

`python tests/faults/fault_campaign.py --faults 1000 --seed 1` (or `make faults`).
"""

import argparse
import heapq
import itertools
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fault_evidence import (
    Evidence,
    Requests,
    check_calls,
    check_requests,
    client_steps,
    device_spans,
)
from fault_farm import FaultFarm, Member, until
from tunefarm import Tracker, request_device
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.v1 import tracker_pb2 as tpb

KINDS = {"kill": 3, "stop": 3, "term": 1, "cut": 2, "stall": 2, "delay": 1}
TARGETS = {"tracker": 1, "device": 9, "client": 7}
AT_ONCE = 6  # members under a fault
GAP_S = 0.25  # mean, between two faults
LAST_S = (0.8, 8.0)  # mean and longest of a fault
START_S = 10.0  # until it takes SIGTERM gracefully
END_S = 20.0  # for a graceful end
HEAL_S = 60.0


@dataclass
class Fault:
    """One fault. Times of the monotonic clock; `over` is when it was healed."""

    number: int
    kind: str
    member: str
    link: str
    at: float
    lasts: float
    over: float = 0.0
    pid: int = 0


class Watcher:
    """Asks the tracker all the time how its devices are; lets quarantined ones go on."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._leaving = threading.Event()
        self.online: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        self.enabled = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._leaving.wait(0.05):
            try:
                with Tracker(self._address) as tracker:
                    while not self._leaving.wait(0.05):
                        self._look(tracker)
            except TunefarmError:
                continue

    def _look(self, tracker: Tracker) -> None:
        devices = tracker.devices()
        now = time.monotonic()
        for device in devices:
            there = device.state != tpb.DEVICE_STATE_OFFLINE
            seen = self.online[device.id]
            if not seen or seen[-1][1] != there:
                seen.append((now, there))
            if device.health == tpb.DEVICE_HEALTH_QUARANTINED:
                tracker.manage(device.id, tpb.DEVICE_ACTION_ENABLE, "the campaign goes on")
                self.enabled += 1

    def close(self) -> None:
        """Stop asking."""
        self._leaving.set()
        self._thread.join(20)


@dataclass
class Outcome:
    """What a campaign found."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    requests: Requests = field(default_factory=Requests)
    calls: int = 0
    leases: int = 0
    enabled: int = 0
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    silence_s: float = 0.0
    seconds: float = 0.0

    def summary(self) -> str:
        """A few lines for people."""
        kinds = Counter(f"{one.kind} {one.link or one.member.split('-')[0]}" for one in self.faults)
        asked = self.requests
        lines = [
            f"seed {self.seed}: {len(self.faults)} faults in {self.seconds:.0f} s",
            "faults: " + ", ".join(f"{n} x {kind}" for kind, n in sorted(kinds.items())),
            f"requests: {asked.asked} asked, {asked.acknowledged} acknowledged, {asked.granted} "
            f"granted, {asked.died} of killed clients, longest wait {asked.longest_s:.1f} s",
            f"errors: {dict(asked.errors.most_common())}",
            f"leases in the devices' logs: {self.leases}; calls checked: {self.calls}",
            f"quarantined and enabled again: {self.enabled}; "
            f"longest time without a call: {self.silence_s:.1f} s",
        ]
        for kind, took in self.recoveries.items():
            if took:
                lines.append(
                    f"back after a fault of the {kind}: median {statistics.median(took):.2f} s, "
                    f"longest {max(took):.2f} s ({len(took)} times)"
                )
        return "\n".join([*lines, *(f"PROBLEM {one[:1000]}" for one in self.problems[:40])])


class Campaign:
    """Faults on a farm."""

    def __init__(self, farm: FaultFarm, seed: int, faults: int, say: Callable[[str], None]) -> None:
        self.farm, self.count, self.say = farm, faults, say
        self.random = random.Random(seed)
        self.outcome = Outcome(seed)
        self._due: list[tuple[float, int, Callable[[], bool]]] = []
        self._number = 0
        self._struck: set[str] = set()

    def run(self) -> Outcome:
        """Carry it out. The outcome has every problem that was found."""
        began = time.monotonic()
        watcher = Watcher(self.farm.address)
        try:
            self._strike_all()
            self._come_to_rest()
        finally:
            watcher.close()
        self.outcome.seconds = time.monotonic() - began
        self.outcome.enabled = watcher.enabled
        self._check(watcher)
        return self.outcome

    def _strike_all(self) -> None:
        for number in range(self.count):
            pause = self.random.expovariate(1 / GAP_S)
            self._work_until(time.monotonic() + pause)
            fault = self._choose(number)
            self.outcome.faults.append(fault)
            self._strike(fault)
            if number % 50 == 49:
                self.say(f"{number + 1} faults")
        while self._due:
            self._work_until(time.monotonic() + 0.1)

    def _choose(self, number: int) -> Fault:
        """The next fault, on a member that has none now."""
        draw = self.random
        while True:
            target = draw.choices(list(TARGETS), TARGETS.values())[0]
            kind = draw.choices(list(KINDS), KINDS.values())[0]
            member = draw.choice(self.farm.of_kind(target))
            link = draw.choice(sorted(member.links)) if member.links else ""
            lasts = min(draw.expovariate(1 / LAST_S[0]), LAST_S[1])
            lasts = draw.uniform(2, LAST_S[1]) if draw.random() < 0.1 else lasts
            while len(self._struck) >= AT_ONCE:
                self._work_until(time.monotonic() + 0.02)
            if member.name in self._struck or (kind in ("cut", "stall", "delay") and not link):
                continue
            link = link if kind in ("cut", "stall", "delay") else ""
            name = f"{target} - {link}" if link else ""
            self._struck.add(member.name)
            return Fault(number, kind, member.name, name, time.monotonic(), lasts)

    def _strike(self, fault: Fault) -> None:
        member = self.farm.members[fault.member]
        fault.pid = member.pid
        if fault.link:
            link = member.links[fault.link.rpartition(" ")[2]]
            network = self.farm.network
            if fault.kind == "delay":
                network.delay(link, self.random.uniform(0.01, 0.3))
            else:
                {"cut": network.cut, "stall": network.stall}[fault.kind](link)
            self._later(fault, lambda: bool(network.heal(link) or True))
        elif fault.kind == "stop":
            member.send(signal.SIGSTOP)
            self._later(fault, lambda: bool(member.send(signal.SIGCONT) or True))
        else:
            member.send(signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM)
            self._later(fault, lambda: self._restart(fault, member))

    def _restart(self, fault: Fault, member: Member) -> bool:
        if member.alive:
            # A client ends after its round, a server at once.
            limit = END_S + (40 if member.kind == "client" else 0)
            if time.monotonic() > fault.at + fault.lasts + limit:
                self.outcome.problems.append(f"{member.name} does not end: {fault}")
                member.send(signal.SIGKILL)
            return False
        code = member.process.returncode if member.process else 0
        unready = code == -signal.SIGTERM and fault.at - member.started < START_S
        if fault.kind == "term" and code != 0 and not unready:
            self.outcome.problems.append(f"{member.name} ended with {code} on SIGTERM")
        member.start()
        return True

    def _later(self, fault: Fault, heal: Callable[[], bool]) -> None:
        def work() -> bool:
            if not heal():
                return False
            fault.over = time.monotonic()
            self._struck.discard(fault.member)
            return True

        self._push(fault.at + fault.lasts, work)

    def _push(self, at: float, work: Callable[[], bool]) -> None:
        self._number += 1
        heapq.heappush(self._due, (at, self._number, work))

    def _work_until(self, limit: float) -> None:
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, work = heapq.heappop(self._due)
                if not work():
                    self._push(now + 0.05, work)
            if now >= limit:
                return
            self._notice_deaths()
            time.sleep(min(limit - now, 0.02))

    def _notice_deaths(self) -> None:
        for member in self.farm.members.values():
            if not member.alive and member.name not in self._struck:
                code = member.process.returncode if member.process else 0
                self.outcome.problems.append(f"{member.name} died by itself with {code}")
                member.start()

    def _come_to_rest(self) -> None:
        """Let the clients end, and use each device once more."""
        farm, problems = self.farm, self.outcome.problems
        for client in farm.of_kind("client"):
            client.send(signal.SIGTERM)
        try:
            until(lambda: not any(one.alive for one in farm.of_kind("client")), "clients", HEAL_S)
        except AssertionError:
            for one in farm.of_kind("client"):
                if one.alive:
                    problems.append(f"{one.name} hangs; where is in its log")
                    one.send(signal.SIGUSR1)
        try:
            until(self._idle, "every device idle, no queue, no lease", HEAL_S)
        except AssertionError as error:
            problems.append(f"{error}: {self._standing()}")
        for device in farm.of_kind("device"):
            self._use(device)
        try:
            until(lambda: not farm.runners(), "no runner", 10)
        except AssertionError:
            problems.append(f"runners are left: {farm.runners()}")
        self._end_servers()

    def _idle(self) -> bool:
        with Tracker(self.farm.address) as tracker:
            idle = [one for one in tracker.devices() if one.state == tpb.DEVICE_STATE_IDLE]
            rest = [*tracker.queue(), *tracker.leases()]
        return len(idle) == len(self.farm.of_kind("device")) and not rest

    def _standing(self) -> str:
        with Tracker(self.farm.address) as tracker:
            states = {one.id: tpb.DeviceState.Name(one.state) for one in tracker.devices()}
            return f"{states}, queue {tracker.queue()}, leases {tracker.leases()}"

    def _use(self, member: Member) -> None:
        identity = self.farm.device_id(member)
        key = identity.rpartition("-")[0]
        try:
            with request_device(
                key, where={"id": identity}, tracker=self.farm.address, timeout=20
            ) as device:
                module = device.load(Bundle.read(self.farm.folder / "kernel.tf"))
                x = device.array(memoryview(bytes(32)).cast("q"))
                module["kernel"](x)
                assert memoryview(x.tobytes()).cast("q")[2] > 0
        except Exception as error:
            self.outcome.problems.append(f"{identity} is of no use: {error!r}")

    def _end_servers(self) -> None:
        for member in self.farm.of_kind("device"):
            member.send(signal.SIGTERM)
        until(lambda: not any(one.alive for one in self.farm.of_kind("device")), "devices end")
        left = [line for line in self.farm.marked() if line[0] != self.farm.members["tracker"].pid]
        if left:
            self.outcome.problems.append(f"processes are left: {left}")

    def _check(self, watcher: Watcher) -> None:
        farm, outcome = self.farm, self.outcome
        evidence = Evidence(problems=outcome.problems)
        for device in farm.of_kind("device"):
            spans = device_spans(device.log, farm.clock_offset, evidence.problems)
            evidence.spans[farm.device_id(device)] = spans
        for client in farm.of_kind("client"):
            evidence.steps[client.name] = client_steps(farm.folder / f"{client.name}.jsonl")
        outcome.calls = check_calls(evidence)
        killed = {one.pid for one in outcome.faults if one.kind == "kill"}
        outcome.requests = check_requests(evidence, killed)
        outcome.leases = len(
            {(device, one.lease) for device, spans in evidence.spans.items() for one in spans}
        )
        if not outcome.calls:
            outcome.problems.append("no call succeeded at all: nothing was shown")
        for member in farm.members.values():
            if "Traceback" in member.log.read_text(errors="replace"):
                outcome.problems.append(f"there is a traceback in {member.log}")
        self._reckon(evidence, watcher)

    def _reckon(self, evidence: Evidence, watcher: Watcher) -> None:
        """How long it took to come back, where no other fault came in between."""
        steps = [step for own in evidence.steps.values() for step in own]
        calls = sorted(step["heard"] for step in steps if step["what"] == "call")
        self.outcome.silence_s = max((b - a for a, b in itertools.pairwise(calls)), default=0.0)
        names = {one.name: self.farm.device_id(one) for one in self.farm.of_kind("device")}
        took: dict[str, list[float]] = {"device": [], "client": [], "tracker": []}
        for fault in self.outcome.faults:
            kind = fault.member.split("-")[0]
            if kind == "client":
                own = evidence.steps[fault.member]
                back = [s["heard"] for s in own if s["what"] == "call" and s["heard"] > fault.over]
            elif kind == "device":
                seen = watcher.online[names[fault.member]]
                there = [was for at, was in seen if at <= fault.over]
                back = [at for at, was in seen if at > fault.over and was]
                back = [fault.over] if there and there[-1] else back
            else:
                back = [call for call in calls if call > fault.over]
            later = [
                one.at
                for one in self.outcome.faults
                if one.at > fault.over and one.member in (fault.member, "tracker")
            ]
            if back and not (later and min(later) < back[0]):
                took[kind].append(back[0] - fault.over)
        self.outcome.recoveries = took


def campaign(
    folder: Path,
    seed: int,
    faults: int,
    *,
    devices: int = 6,
    clients: int = 8,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """A farm in a folder, a campaign on it."""
    with FaultFarm(folder, devices, clients) as farm:
        until(lambda: sum(one.state == tpb.DEVICE_STATE_IDLE or one.HasField("lease")
                          for one in farm.devices()) == devices, "devices")  # fmt: skip
        return Campaign(farm, seed, faults, say).run()


def main() -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--devices", type=int, default=6)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tunefarm-faults-"))
    print(f"seed {given.seed}, logs in {folder}", flush=True)
    outcome = campaign(
        folder, given.seed, given.faults, devices=given.devices, clients=given.clients,
        say=lambda text: print(text, flush=True),
    )  # fmt: skip
    print(outcome.summary())
    if not outcome.problems:
        shutil.rmtree(folder)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
