"""Versions side by side: the one before this and this one, in every part, and a queue in between.

The version before is taken out of this repository's own history.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tunefarm.cli.processes import LocalFarm, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPO = Path(__file__).parents[2]
# The last commit before the command line and the services were as they are now.
BEFORE = os.environ.get("TUNEFARM_BEFORE", "7c6bb51319e684f090e60d2061e25fd5fdbc44fe")
PARTS = ("proto", "tracker", "device_server", "compiler", "client", "tuner", "dashboard")

HOLD = """
import sys
from tunefarm import request_device

def waits(position):
    print("waits", flush=True)

words = {"tracker": sys.argv[1], "timeout": 120, "purpose": sys.argv[2], "on_wait": waits}
with request_device("one", **words) as device:
    print("held", flush=True)
    sys.stdin.readline()
    print(device.empty(4).numpy().tolist(), flush=True)
"""


@dataclass(frozen=True)
class Version:
    """One version of everything, as processes run it."""

    name: str
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": os.pathsep.join(str(self.root / part) for part in PARTS)}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`tunefarm WORDS`."""
        return subprocess.run(
            [sys.executable, "-m", "tunefarm", *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Version]:
    root, archive = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("git") / "x.tar"
    taken = subprocess.run(
        ["git", "-C", str(REPO), "archive", "-o", str(archive), BEFORE, *PARTS],
        capture_output=True,
        text=True,
        check=False,
    )
    if taken.returncode != 0:
        pytest.skip(f"the version before is not in this clone: {taken.stderr.strip()}")
    with tarfile.open(archive) as files:
        files.extractall(root, filter="data")
    return {"old": Version("old", root), "new": Version("new", REPO)}


@dataclass
class Farm:
    """A tracker's place, whatever version runs there."""

    processes: LocalFarm
    folder: Path
    address: str

    def start(self, version: Version, name: str, *words: str) -> None:
        command = [sys.executable, "-m", "tunefarm", *words]
        self.processes.start_command(name, command, version.environment)

    def tracker(self, version: Version, name: str) -> None:
        port, state = self.address.split(":")[1], str(self.folder / "tracker")
        self.start(version, name, "tracker", "--port", port, "--state", state)
        self.processes.wait_for_tracker(self.address)

    def device(self, version: Version, name: str = "device") -> None:
        state = str(self.folder / "device")
        self.start(version, name, "device", "--key", "one", "--tracker", self.address,
                   "--state", state)  # fmt: skip
        self.processes.wait_for_devices(self.address, ["one"])

    def client(self, version: Version, purpose: str) -> "subprocess.Popen[str]":
        """One that asks for the device and keeps it until told."""
        return subprocess.Popen(
            [sys.executable, "-c", HOLD, self.address, purpose],
            env={**os.environ, **version.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with LocalFarm(tmp_path) as processes:
        yield Farm(processes, tmp_path, f"127.0.0.1:{free_port(0)}")


def test_the_versions_are_two(versions):
    script = "import tunefarm_tracker as t; print(t.__file__)"
    places = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **one.environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for one in versions.values()
    }
    assert len(places) == 2


@pytest.mark.parametrize("client", ["old", "new"])
@pytest.mark.parametrize(("tracker", "device"), [("old", "new"), ("new", "old"), ("old", "old")])
def test_any_mixture_measures(farm, versions, tracker, device, client):
    farm.tracker(versions[tracker], "tracker")
    farm.device(versions[device])
    words = ("bench", "add:n=4096", "--device", "one", "--tracker", farm.address, "--json")
    done = versions[client].run(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["correct"] is True
    status = versions[client].run("status", "--tracker", farm.address, "--json")
    assert [one["health"] for one in json.loads(status.stdout)["devices"]] == ["good"]
    if client == "new":
        found = json.loads(
            versions[client]
            .run("doctor", "--only", "farm", "--tracker", farm.address, "--json")
            .stdout
        )
        assert all(one["ok"] for one in found), found


def _line(client: "subprocess.Popen[str]", start: str) -> str:
    assert client.stdout is not None
    while not (line := client.stdout.readline()).startswith(start):
        assert line, f"it ended before it said {start}"
    return line


@pytest.mark.parametrize(
    ("first", "second"), [("old", "new"), ("new", "old")], ids=["upgrade", "way back"]
)
def test_the_tracker_is_replaced_under_a_queue(farm, versions, first, second):
    farm.tracker(versions[first], "first")
    farm.device(versions["old"])
    words = ("bench", "add:n=4096", "--device", "one", "--tracker", farm.address)
    assert versions["old"].run(*words).returncode == 0
    with farm.client(versions["old"], "holds") as holder:
        _line(holder, "held")
        with farm.client(versions["new"], "waits") as waiter:
            try:
                _line(waiter, "waits")
                farm.processes.end("first")
                farm.tracker(versions[second], "second")
                asked = versions["new"].run("status", "--tracker", farm.address, "--json")
                status = json.loads(asked.stdout)
                assert [one["purpose"] for one in status["leases"]] == ["holds"]
                assert [one["purpose"] for one in status["queue"]] == ["waits"]
                for one in (holder, waiter):
                    if one is waiter:
                        _line(one, "held")
                    one.stdin.write("go\n")
                    one.stdin.flush()
                    assert _line(one, "[") == "[0.0, 0.0, 0.0, 0.0]\n"
            finally:
                holder.kill()
                waiter.kill()
    kept = versions["new"].run("results", "--tracker", farm.address, "--json")
    assert [one["workload"] for one in json.loads(kept.stdout)] == ["add:n=4096,dtype=float32"]


@pytest.mark.parametrize(("first", "second"), [("old", "new"), ("new", "old")])
def test_a_device_server_is_replaced_and_keeps_its_name(farm, versions, first, second):
    farm.tracker(versions["new"], "tracker")
    names = []
    for name, version in (("first", first), ("second", second)):
        farm.device(versions[version], name)
        status = versions["new"].run("status", "--tracker", farm.address, "--json")
        names.append([one["id"] for one in json.loads(status.stdout)["devices"]])
        words = ("bench", "add:n=4096", "--device", "one", "--tracker", farm.address, "--json")
        done = versions["new"].run(*words)
        assert done.returncode == 0, done.stderr
        farm.processes.end(name)
    assert names[0] == names[1] and len(names[0]) == 1
