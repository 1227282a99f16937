"""A board as it comes: Debian, Python, nothing else; offline; with a real systemd."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import deploy_root
import pytest
from deploy_root import System

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1200)]

TUNEFARM = "/opt/tunefarm/bin/tunefarm"
TRACKER = "127.0.0.1:9190"
SERVICES = ("tunefarm-tracker", "tunefarm-device")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, wheelhouse: Path) -> Iterator[System]:
    if why := deploy_root.lacking():
        pytest.skip(why)
    root = deploy_root.build(tmp_path_factory.mktemp("board"))
    subprocess.run(["cp", "-r", wheelhouse, root / "opt/wheelhouse"], check=True)
    with deploy_root.booted(root) as system:
        yield system


@pytest.fixture(scope="module")
def installed(board: System) -> System:
    """The board after the lines that its owner types."""
    board.run("sh", "/opt/wheelhouse/install.sh")
    board.run(TUNEFARM, "tracker", "install", "--dashboard", "http://tracker.lab:9191")
    said = board.run(TUNEFARM, "device", "install", "--key", "rasp3b", "--tracker", TRACKER)
    assert "tunefarm-device runs" in said
    _wait(board, lambda: [d["state"] for d in _status(board)["devices"]] == ["idle"])
    return board


def _status(board: System) -> dict[str, list[dict[str, str]]]:
    return json.loads(board.run(TUNEFARM, "status", "--json", check=False) or '{"devices": []}')


def _wait(board: System, what, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < end, board.run(
            "journalctl", "-n", "50", "--no-pager", "-o", "cat"
        )
        time.sleep(0.2)


def test_the_root_has_no_pip_and_no_network(board):
    assert "No module named" in board.run("sh", "-c", "python3 -c 'import pip' 2>&1 || true")
    assert board.run("cat", "/proc/net/route").count("\n") == 1


def test_both_services_run_as_users_of_their_own(installed):
    for service in SERVICES:
        assert installed.show(service, "ActiveState") == "active"
        assert installed.show(service, "User") == service
        first = installed.show(service, "MainPID")
        status = installed.run("cat", f"/proc/{first}/status")
        assert not re.search(r"^Uid:\s+0\b", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
        assert installed.show(service, "Type") == "notify"
        mode = installed.run("stat", "-c", "%a %U", f"/var/lib/{service}")
        assert mode == f"700 {service}\n"


def test_the_unit_takes_nothing_from_what_shuts_kernels_in(installed):
    device = _status(installed)["devices"][0]
    held = set(device["attributes"]["isolation"].split(","))
    # What the same server finds where no unit is around it: this machine itself.
    probe = "from tunefarm_device import sandbox; print(','.join(sandbox.probe()))"
    plain = installed.run("/opt/tunefarm/bin/python", "-c", probe).strip().split(",")
    assert set(plain) <= held, "the unit takes away what the system has"


def test_a_kernel_is_built_outside_and_timed_on_the_board(installed):
    words = ["bench", "add:n=4096", "--device", "rasp3b", "--tracker", TRACKER, "--json"]
    done = installed.from_outside(sys.executable, "-m", "tunefarm", *words)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["correct"] is True
    assert measured["url"] == f"http://tracker.lab:9191/results/{measured['result_id']}"


def test_a_server_that_hangs_is_started_again(installed):
    drop_in = installed.root / "etc/systemd/system/tunefarm-device.service.d"
    drop_in.mkdir()
    (drop_in / "quick.conf").write_text("[Service]\nWatchdogSec=2\n")
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "restart", "tunefarm-device")
    first = installed.show("tunefarm-device", "MainPID")
    installed.run("sh", "-c", f"kill -STOP {first}")
    _wait(installed, lambda: installed.show("tunefarm-device", "NRestarts") == "1")
    log = installed.run("journalctl", "-u", "tunefarm-device", "--no-pager", "-o", "cat")
    assert "Watchdog timeout" in log
    _wait(installed, lambda: [d["state"] for d in _status(installed)["devices"]] == ["idle"])
    assert installed.show("tunefarm-device", "MainPID") != first


def test_a_server_that_is_killed_is_started_again_under_its_name(installed):
    before = _status(installed)["devices"][0]["id"]
    first = installed.show("tunefarm-device", "MainPID")
    installed.run("sh", "-c", f"kill -KILL {first}")
    _wait(installed, lambda: installed.show("tunefarm-device", "MainPID") not in ("0", first))
    _wait(installed, lambda: [d["state"] for d in _status(installed)["devices"]] == ["idle"])
    assert _status(installed)["devices"][0]["id"] == before


def test_a_lost_tracker_is_restored_from_a_backup(installed):
    installed.run(TUNEFARM, "tracker", "backup", "/root/farm.tar.gz")
    assert installed.run("stat", "-c", "%a", "/root/farm.tar.gz") == "600\n"
    installed.run("systemctl", "stop", "tunefarm-tracker")
    installed.run("sh", "-c", "rm -rf /var/lib/tunefarm-tracker/*")
    installed.run(TUNEFARM, "tracker", "restore", "/root/farm.tar.gz")
    installed.run("systemctl", "start", "tunefarm-tracker")
    _wait(installed, lambda: [d["state"] for d in _status(installed)["devices"]] == ["idle"])
    assert json.loads(installed.run(TUNEFARM, "results", "--json"))


def test_systemd_finds_nothing_wrong_with_the_units(installed):
    for service in SERVICES:
        assert installed.run("systemd-analyze", "verify", f"{service}.service") == ""
        said = installed.run("systemd-analyze", "security", "--no-pager", f"{service}.service")
        exposure = float(re.findall(r"exposure level for \S+: ([\d.]+)", said)[0])
        assert exposure < 3.0, said


def test_the_doctor_sees_the_farm(installed):
    found = json.loads(
        installed.run(TUNEFARM, "doctor", "--only", "farm", "--tracker", TRACKER, "--json")
    )
    assert all(one["ok"] for one in found), found
    assert any("reached at 127.0.0.1:9200" in one["detail"] for one in found)


def test_what_was_installed_goes_away_and_its_state_stays(installed):
    installed.run(TUNEFARM, "device", "uninstall")
    assert not (installed.root / "etc/systemd/system/tunefarm-device.service").exists()
    assert installed.run("ls", "/var/lib/tunefarm-device").split()
    assert installed.run("systemctl", "is-active", "tunefarm-device", check=False) == "inactive\n"
